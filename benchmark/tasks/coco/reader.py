"""Detection data in COCO's format, over pycocotools: COCO itself, other sets in its format, the embedded set.

It gives images and boxes; resizing, flipping and batching are the task's, metrics pycocotools'.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import reprlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pycocotools.coco import COCO

from benchmark.data.images import CACHE_BYTES, ImageStore
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
    return content


def _check_entry(where: str, key: str, fields: Sequence[str], entry: object) -> None:
    """Refuse an entry that lacks a field, or in which one has another form."""
    lacking = [f for f in fields if f not in entry] if isinstance(entry, dict) else list(fields)
    if lacking or not isinstance(entry, dict):
        raise DataError(f"{where} lacks {', '.join(lacking)}; add it")
    for name, (fits, words) in _FORMS[key].items():
        if name in entry and not fits(entry[name]):
            raise DataError(f"{where} has {name} {reprlib.repr(entry[name])}; it must be {words}")


class Fault(NamedTuple):
    """What makes an annotation file unusable: what kind, what exactly, and what to do."""

    kind: str
    where: str
    remedy: str


def faults(content: dict[str, Any]) -> Iterator[Fault]:
    """Go through annotations that `read_annotations` read and give what makes them unusable."""
    for key in FIELDS:
        ids = Counter(entry["id"] for entry in content[key] if "id" in entry)
        for value, count in ids.items():
            if count > 1:
                yield Fault("repeated id", f"id {value} occurs {count} times in {key!r}", "make the ids unique")
        if len({type(value) for value in ids}) > 1:
            yield Fault("mixed ids", f"ids of {key!r} are numbers and texts", "use numbers alone")
    if content["images"] and not content["annotations"]:
        yield Fault("no annotations", "it has images and no annotations", "fetch it again: nothing can be evaluated")
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


def load_annotations(path: Path) -> dict[str, Any]:
    """Read an annotation file and make sure that it is complete and consistent.

    What COCO's tools need but some sets leave out is filled in: ``iscrowd`` 0, ``area`` of the box.
    Annotations are numbered anew if an id is missing, a text or 0: pycocotools keeps the ids of matches as numbers, and
    takes 0 for no match.

    Raises
    ------
    DataError
        If the file is no JSON, lacks a key, repeats an id, or has an annotation of an unknown image or category.
    """
    content = read_annotations(path)
    for fault in faults(content):
        raise DataError(f"{path}: {fault.where}; {fault.remedy}")
    annotations = content["annotations"]
    for annotation in annotations:
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    ids = [annotation.get("id") for annotation in annotations]
    if not all(isinstance(value, int) and value for value in ids):
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
    return content


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

    Attributes
    ----------
    classes : list of str
        Names of the categories; label k is ``classes[k - 1]``.
    category_ids : list of int
        Their ids in the file, ascending; label k is ``category_ids[k - 1]``.
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
    ) -> None:
        self.root, self.split, self.training = Path(root), split, training
        place, self.annotation_file = find_split(self.root, split)
        self.images = ImageStore(place, CACHE_BYTES if cache else 0)
        self.coco = index_annotations(load_annotations(self.annotation_file))
        missing = self.images.missing(image["file_name"] for image in self.coco.dataset["images"])
        if missing:
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(
                f"no such image: {self.images.where(missing[0])}{others}, listed in {self.annotation_file}; "
                f"copy it there, or run `saibench data verify coco --data {self.root}` for all of them"
            )
        categories = sorted(self.coco.dataset["categories"], key=lambda category: category["id"])
        self.category_ids: list[int] = [category["id"] for category in categories]
        self.classes: list[str] = [category["name"] for category in categories]
        self.labels = {category: label for label, category in enumerate(self.category_ids, start=1)}
        keep_empty = not training if keep_empty is None else keep_empty
        self.ids: list[int] = [
            image["id"]
            for image in self.coco.dataset["images"]
            if keep_empty or any(self._usable(annotation) for annotation in self.coco.imgToAnns[image["id"]])
        ]
        if not self.ids:
            raise DataError(f"{self.annotation_file} leaves no image to use; is it the right file?")

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
        image = self.images.read(listed["file_name"])
        height, width = image.shape[1:]
        if (listed.get("height", height), listed.get("width", width)) != (height, width):
            raise DataError(
                f"{self.images.where(listed['file_name'])} is {width}x{height} pixels, but "
                f"{self.annotation_file} says {listed.get('width')}x{listed.get('height')}; fetch it again"
            )
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
