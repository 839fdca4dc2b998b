"""Detection data in COCO's format, over pycocotools: COCO itself, other sets in its format, the embedded set.

It gives images and boxes; resizing, flipping and batching are the task's, metrics pycocotools'.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import reprlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from pycocotools.coco import COCO

from benchmark.data.digests import state_of
from benchmark.data.images import CACHE_BYTES, ImageStore, extent, told_turned
from benchmark.data.reader import Sample
from benchmark.errors import DataError

LAYOUT = "expected {split}2017/ (or {split}2017.zip) beside annotations/instances_{split}2017.json"
#: The lists of an annotation file and the fields that their entries need.
FIELDS = {
    "images": ("id", "file_name"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id", "bbox"),
}
#: No image comes near it, in pixels; sums and products of such numbers stay finite.
_LARGEST = 1e9
#: Kind of a fault that both a reader and the verification note.
OUTSIDE = "annotation outside its image"
#: Side of the thinnest box, in pixels: nobody draws such, and below it rounding in a network leaves nothing.
THINNEST = 0.01


#: A file with its state.
State: TypeAlias = tuple[str, int, int, int, int]


def _is_text(value: object) -> bool:
    """Tell whether a value is a text that can stand in a table or a message: JSON may hold line breaks and worse."""
    return isinstance(value, str) and value.isprintable()


def _is_id(value: object) -> bool:
    return _is_text(value) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63)


def _is_inside(value: object) -> bool:
    """Tell whether a value is a path that stays below its folder."""
    parts = value.replace("\\", "/").split("/") if isinstance(value, str) and _is_text(value) else [""]
    return bool(parts[0]) and ".." not in parts and "\0" not in parts[-1]


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST


def _is_number(value: object, least: float = -_LARGEST, most: float = _LARGEST) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


#: What the fields of an entry, where they are there, must be: a test of the value, and its words.
_FORMS: dict[str, dict[str, tuple[Callable[[object], bool], str]]] = {
    "images": {
        "id": (_is_id, "a whole number"),
        "file_name": (_is_inside, "a path below the folder of the images"),
        "height": (_is_side, "a whole number of pixels"),
        "width": (_is_side, "a whole number of pixels"),
    },
    "categories": {"id": (_is_id, "a whole number"), "name": (_is_text, "a text on one line")},
    "annotations": {
        "id": (_is_id, "a whole number"),
        "image_id": (_is_id, "the id of an image"),
        "category_id": (_is_id, "the id of a category"),
        "area": (lambda value: _is_number(value, 0, _LARGEST**2), "a number of pixels, 0 or more"),
        "iscrowd": (lambda value: _is_number(value, 0, 1) and value in (0, 1), "0 or 1"),
    },
}


def find_split(root: Path, split: str) -> tuple[Path, Path]:
    """Find the images and the annotation file of a split.

    Parameters
    ----------
    root : Path
        The data set's folder.
    split : str
        ``train`` or ``val``, or the exact name of a split, such as ``val2017``.

    Returns
    -------
    images, annotations : Path
        A folder or zip archive, and a JSON file.

    Raises
    ------
    DataError
        If one of them is missing; the message says which layout is expected.
    """
    layout = LAYOUT.format(split=split.removesuffix("2017"))
    if not root.is_dir():
        raise DataError(f"no such data folder: {root}; {layout}")
    names = list(dict.fromkeys([f"{split}2017", split, split.removesuffix("2017")]))
    prefix = "instances_"
    names += sorted(
        path.stem.removeprefix(prefix)
        for path in (root / "annotations").glob(f"{prefix}{split}*.json")
        if path.stem.removeprefix(prefix) not in names
    )
    found = [name for name in names if (root / "annotations" / f"{prefix}{name}.json").is_file()]
    if not found:
        raise DataError(f"no annotation file for split {split!r} in {root / 'annotations'}; {layout}")
    for name in found:
        for place in (root / name, root / "images" / name, root / f"{name}.zip"):
            if place.exists():
                return place, root / "annotations" / f"{prefix}{name}.json"
    raise DataError(f"no images for split {split!r} in {root}: neither {found[0]}/ nor {found[0]}.zip; {layout}")


def read_annotations(path: Path) -> dict[str, Any]:
    """Read an annotation file and make sure that its lists and their fields are there.

    Raises
    ------
    DataError
        If the file is no JSON, lacks a key, or has a field of another form.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}; fetch it again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; make it readable") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no COCO annotations: the top level is no object; fetch it again")
    for key, fields in FIELDS.items():
        entries = content.get(key)
        if not isinstance(entries, list):
            raise DataError(f"{path} has no list {key!r}; it needs images, annotations and categories")
        for number, entry in enumerate(entries):
            _check_entry(f"{path}: entry {number} of {key!r}", key, fields, entry)
    if not content["categories"]:
        raise DataError(f"{path} lists no categories; a detector needs at least one")
    _categories[_state(path)] = content["categories"]
    return content


def _check_entry(where: str, key: str, fields: Sequence[str], entry: object) -> None:
    """Refuse an entry that lacks a field, or in which one has another form."""
    lacking = [f for f in fields if f not in entry] if isinstance(entry, dict) else list(fields)
    if lacking or not isinstance(entry, dict):
        raise DataError(f"{where} lacks {', '.join(lacking)}; add it")
    for name, (fits, words) in _FORMS[key].items():
        if name in entry and not fits(entry[name]):
            raise DataError(f"{where} has {name} {reprlib.repr(entry[name])}; it must be {words}")


def read_categories(path: Path) -> list[dict[str, Any]]:
    """Return an annotation file's categories, ascending by id; a file that was read before is not read again.

    Raises
    ------
    DataError
        As `read_annotations`.
    """
    if _state(path) not in _categories:
        read_annotations(path)
    return sorted(_categories[_state(path)], key=lambda category: category["id"])


#: Categories of the files that were read: those of the training split are asked for again, and its file takes seconds.
_categories: dict[State, list[dict[str, Any]]] = {}


def _state(path: Path) -> State:
    return (str(path.resolve()), *state_of(path))


def match_categories(content: dict[str, Any], path: Path, train: Sequence[dict[str, Any]]) -> bool:
    """Order a split's categories as those of the training split, by name; return whether ids or order were others.

    A category without annotations that the training split lacks is dropped, and one that is missing gets an id of its
    own: neither counts in the metric.

    Raises
    ------
    DataError
        If an annotated category is not one of the training split, or a name stands for several.
    """
    own = sorted(content["categories"], key=lambda category: category["id"])
    if [(each["id"], each["name"]) for each in own] == [(each["id"], each["name"]) for each in train]:
        content["categories"] = own
        return False
    ids = {each["name"]: each["id"] for each in own}
    names = [each["name"] for each in train]
    if len(ids) < len(own) or len(set(names)) < len(names):
        raise DataError(f"{path}: categories share a name, and ids are not those of train; make the names unique")
    used = {annotation["category_id"] for annotation in content["annotations"]}
    strange = [name for name, value in ids.items() if value in used and name not in names]
    if strange:
        raise DataError(
            f"{path} has annotations of category {strange[0]!r}, which train does not have; use the categories of "
            "train in both files"
        )
    free = 1 + max(ids.values())
    for name in names:
        if name not in ids:
            ids[name], free = free, free + 1
    content["categories"] = [{"id": ids[name], "name": name} for name in names]
    return True


class Fault(NamedTuple):
    """What makes an annotation file unusable: what kind, what exactly, and what to do."""

    kind: str
    where: str
    remedy: str


def faults(content: dict[str, Any]) -> Iterator[Fault]:
    """Go through annotations that `read_annotations` read and give what makes them unusable."""
    yield from _faults_of_lists(content)
    yield from _faults_of_annotations(content)


def _faults_of_lists(content: dict[str, Any]) -> Iterator[Fault]:
    for key in FIELDS:
        ids = Counter(entry["id"] for entry in content[key] if "id" in entry)
        for value, count in ids.items():
            if count > 1:
                yield Fault("repeated id", f"id {value} occurs {count} times in {key!r}", "make the ids unique")
        if len({type(value) for value in ids}) > 1:
            yield Fault("mixed ids", f"ids of {key!r} are numbers and texts", "use numbers alone")
        elif key != "annotations" and any(isinstance(value, str) for value in ids):
            yield Fault("texts as ids", f"ids of {key!r} are texts, such as {next(iter(ids))!r}", "use whole numbers")
    files = Counter(image["file_name"] for image in content["images"])
    for name, count in files.items():
        if count > 1:
            remedy = "give each file one entry, with all of its annotations: others' objects would count as wrong"
            yield Fault("repeated file", f"{name} is listed {count} times in 'images'", remedy)
    if content["images"] and not content["annotations"]:
        yield Fault("no annotations", "it has images and no annotations", "fetch it again: nothing can be evaluated")


def _faults_of_annotations(content: dict[str, Any]) -> Iterator[Fault]:
    images = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    for number, annotation in enumerate(content["annotations"]):
        name = f"annotation {annotation.get('id', number)}"
        image, category, box = annotation["image_id"], annotation["category_id"], annotation["bbox"]
        if image not in images:
            yield Fault("unknown image", f"{name} is for image {image}, which is not listed", "remove it")
        if category not in categories:
            yield Fault("unknown category", f"{name} has category {category}, which is not listed", "add it")
        if not is_box(box):
            remedy = "it must be [left, top, width, height] in pixels"
            yield Fault("broken box", f"{name} has bbox {reprlib.repr(box)}", remedy)
    boxes = [annotation["bbox"] for annotation in content["annotations"] if is_box(annotation["bbox"])]
    if boxes and all(max(box) <= 1 for box in boxes):
        remedy = "multiply them by the images' widths and heights: [left, top, width, height] in pixels"
        yield Fault("boxes in shares", f"all {len(boxes)} boxes lie within 0 to 1", remedy)


def doubts(content: dict[str, Any]) -> Iterator[Fault]:
    """Give what may mean something else than what is read in annotations without `faults`, and what is done."""
    images = {image["id"]: image for image in content["images"]}
    leaving = 0
    for number, annotation in enumerate(content["annotations"]):
        image, (left, top, width, height) = images[annotation["image_id"]], annotation["bbox"]
        name = f"annotation {annotation.get('id', number)} of image {image['id']}, bbox {annotation['bbox']}"
        if not is_seen(annotation, image):
            kind = "empty box" if min(width, height) < THINNEST else OUTSIDE
            yield Fault(kind, name, "left out: nothing of it lies in its image; remove it or mend it")
            continue
        if annotation.get("area") == 0:
            yield Fault("area of 0", name, "that of its box is used; write the object's area in pixels")
        if annotation.get("ignore") and not annotation.get("iscrowd"):
            remedy = "`ignore` is not read, as by pycocotools: the object counts; write iscrowd 1, or remove it"
            yield Fault("object to be ignored", name, remedy)
        sides = (image.get("width", math.inf), image.get("height", math.inf))
        leaving += left + width > sides[0] + 1 or top + height > sides[1] + 1
    if 2 * leaving > len(content["annotations"]):
        remedy = "they are clipped; are they [left, top, right, bottom]? [left, top, width, height] is read"
        yield Fault("boxes that leave their images", f"{leaving} of {len(content['annotations'])}", remedy)


def is_seen(annotation: dict[str, Any], image: dict[str, Any]) -> bool:
    """Return whether something of an annotation's box lies in its image, as far as its size is listed."""
    left, top, width, height = annotation["bbox"]
    across = min(left + width, image.get("width", math.inf)) - max(left, 0)
    down = min(top + height, image.get("height", math.inf)) - max(top, 0)
    return min(width, height, across, down) >= THINNEST


def load_annotations(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Read an annotation file, make sure that it is complete and consistent, and say what is doubtful in it.

    What COCO's tools need but some sets leave out is filled in: ``iscrowd`` 0, ``area`` of the box, also for 0.
    Annotations of nothing in their image are left out: no detection can match them. Annotations are numbered anew if an
    id is missing, a text, 0 or below: pycocotools keeps the ids of matches as numbers, and takes 0 for no match.

    Returns
    -------
    content : dict
        What the file says, as it is read.
    doubts : list of str
        One line for each kind of doubt, with its remedy.

    Raises
    ------
    DataError
        If the file is no JSON, lacks a key, repeats an id, or has an annotation of an unknown image or category.
    """
    content = read_annotations(path)
    for fault in faults(content):
        raise DataError(f"{path}: {fault.where}; {fault.remedy}")
    found: dict[tuple[str, str], list[str]] = {}
    for doubt in doubts(content):
        found.setdefault((doubt.kind, doubt.remedy), []).append(doubt.where)
    told = [f"{path}: {len(where)} x {kind}, such as {where[0]}: {remedy}" for (kind, remedy), where in found.items()]
    images = {image["id"]: image for image in content["images"]}
    annotations = [each for each in content["annotations"] if is_seen(each, images[each["image_id"]])]
    content["annotations"] = annotations
    for annotation in annotations:
        annotation.setdefault("iscrowd", 0)
        annotation["area"] = annotation.get("area") or annotation["bbox"][2] * annotation["bbox"][3]
    ids = [annotation.get("id") for annotation in annotations]
    if not all(isinstance(value, int) and value > 0 for value in ids):
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
    return content, told


def is_box(box: object) -> bool:
    """Return whether `box` is a list of four numbers of pixels."""
    return isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)


def index_annotations(content: dict[str, Any]) -> COCO:
    """Return pycocotools' object over annotations in memory, without its prints."""
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


class CocoDetection:
    """One split of a detection set in COCO's format.

    A sample's target holds ``boxes`` float32 (N, 4) as x1, y1, x2, y2 in pixels, clipped to the image and never empty;
    ``labels`` int64 (N,) in 1..K; ``area`` float32 (N,) in pixels; ``iscrowd`` int64 (N,). Its identifier is COCO's
    id of the image.

    Parameters
    ----------
    root : path
        Folder with ``<split>2017/`` or ``<split>2017.zip``, and ``annotations/instances_<split>2017.json``.
    split : str
        ``train``, ``val`` or a split's exact name.
    training : bool
        Leave crowd annotations out of the targets, and images on which nothing is left to learn out of the
        set, as mmdetection does. Evaluation needs both.
    keep_empty : bool, optional
        Keep images without boxes; by default as `training` says.
    cache : bool
        Keep decoded images in memory, up to `CACHE_BYTES`.
    like : sequence of dict, optional
        The training split's categories, to which this one's are matched by name; see `match_categories`.

    Attributes
    ----------
    classes : list of str
        Names of the categories; label k is ``classes[k - 1]``.
    category_ids : list of int
        Their ids in the file, ascending or in the training split's order; label k is ``category_ids[k - 1]``.
    doubts : list of str
        What may mean something else than what is read, a line each.
    ids : list of int
        COCO's ids of the images, by index.
    labels : dict of int to int
        The inverse: label of a category id.
    coco : pycocotools.coco.COCO
        All annotations of the split, for COCOeval.

    Raises
    ------
    DataError
        If the folder, the annotations or listed images are missing or broken; an image that cannot be decoded
        raises it when it is read.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "val",
        *,
        training: bool = False,
        keep_empty: bool | None = None,
        cache: bool = False,
        like: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        self.root, self.split, self.training = Path(root), split, training
        place, self.annotation_file = find_split(self.root, split)
        self.images = ImageStore(place, CACHE_BYTES if cache else 0)
        content, self.doubts = load_annotations(self.annotation_file)
        if like is None:
            content["categories"].sort(key=lambda category: category["id"])
        elif match_categories(content, self.annotation_file, like):
            self.doubts.append(f"{self.annotation_file} has other categories than train, or other ids: matched by name")
        self.coco = index_annotations(content)
        missing = self.images.missing(image["file_name"] for image in self.coco.dataset["images"])
        if missing:
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(
                f"no such image: {self.images.where(missing[0])}{others}, listed in {self.annotation_file}; "
                f"copy it there, or run `saibench data verify coco --data {self.root}` for all of them"
            )
        categories = content["categories"]
        self.category_ids: list[int] = [category["id"] for category in categories]
        self.classes: list[str] = [category["name"] for category in categories]
        self.labels = {category: label for label, category in enumerate(self.category_ids, start=1)}
        keep_empty = not training if keep_empty is None else keep_empty
        self.ids: list[int] = [
            image["id"]
            for image in self.coco.dataset["images"]
            if keep_empty or any(self._usable(annotation) for annotation in self.coco.imgToAnns[image["id"]])
        ]
        #: File names by index.
        self.names: list[str] = [self.coco.imgs[identifier]["file_name"] for identifier in self.ids]
        if not self.ids:
            raise DataError(f"{self.annotation_file} leaves no image to use; is it the right file?")

    def examine(self) -> list[str]:
        """Look at every image; return what is doubtful in the split, a line each.

        Raises
        ------
        DataError
            For an image that cannot be decoded, or has another size than listed.
        """
        listed = [self.coco.imgs[identifier] for identifier in self.ids]
        names, sizes = self.names, [_listed_size(image) for image in listed]
        turned = []
        for name, size, look in zip(names, sizes, self.images.inspect_all(names, sizes), strict=True):
            self._check_size(name, size, look.size)
            turned += [name] if look.turned else []
        return [*self.doubts, *told_turned(self.images, turned)]

    def _check_size(self, name: str, listed: tuple[int, int] | None, size: Sequence[int]) -> None:
        if listed not in (None, tuple(size)):
            raise DataError(
                f"{self.images.where(name)} is {extent(size)} pixels, but {self.annotation_file} says "
                f"{extent(listed or size)}; fetch it again"
            )

    def _usable(self, annotation: dict[str, Any]) -> bool:
        width, height = annotation["bbox"][2:]
        return width > 0 and height > 0 and not (self.training and annotation["iscrowd"])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    def category_id(self, label: int) -> int:
        """Return the id that the file gives to the category of label `label`, 1..K."""
        return self.category_ids[label - 1]

    def size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of an image as the annotations give it; decodes the image if they do not."""
        image = self.coco.imgs[self.ids[index]]
        if "height" in image and "width" in image:
            return int(image["height"]), int(image["width"])
        height, width = self.images.read(image["file_name"]).shape[1:]
        return height, width

    def __getitem__(self, index: int) -> Sample:
        """Return an image, its boxes and its id."""
        listed = self.coco.imgs[self.ids[index]]
        image = self.images.read(listed["file_name"], _listed_size(listed))
        height, width = image.shape[1:]
        self._check_size(listed["file_name"], _listed_size(listed), (height, width))
        annotations = [a for a in self.coco.imgToAnns[listed["id"]] if self._usable(a)]
        boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        target = {
            "boxes": boxes[inside],
            "labels": torch.tensor([self.labels[a["category_id"]] for a in annotations], dtype=torch.int64)[inside],
            "area": torch.tensor([a["area"] for a in annotations], dtype=torch.float32)[inside],
            "iscrowd": torch.tensor([a["iscrowd"] for a in annotations], dtype=torch.int64)[inside],
        }
        return Sample(image, target, listed["id"])

    def fingerprint(self) -> str:
        """Return a hash of the annotation file and of the listed images' names and contents."""
        return self._fingerprint(self.images.digests)

    def former_fingerprint(self) -> str:
        """Return the hash of earlier versions: of the images' sizes on disk in place of their contents."""
        return self._fingerprint(self.images.sizes)

    def _fingerprint(self, describe: Callable[[Sequence[str]], Sequence[object]]) -> str:
        digest = hashlib.blake2b(self.annotation_file.read_bytes(), digest_size=16)
        names = sorted(image["file_name"] for image in self.coco.dataset["images"])
        digest.update(json.dumps([names, describe(names)]).encode())
        return digest.hexdigest()


def _listed_size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Return the height and width that annotations give an image, if they do."""
    return (image["height"], image["width"]) if "height" in image and "width" in image else None
