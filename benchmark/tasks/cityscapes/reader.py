"""Segmentation data in the folder layout of Cityscapes, with cityscapesscripts' label table.

It gives images and label maps; cropping, scaling and batching are the task's, the metric cityscapesscripts'.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.helpers.labels import id2label, labels, name2label
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from numpy.typing import NDArray
from PIL import Image

from benchmark.cores import usable_cores
from benchmark.data.digests import digest_files
from benchmark.data.images import CACHE_BYTES, EXTENSIONS, ImageStore, extent, is_hidden, told_turned
from benchmark.data.reader import Sample
from benchmark.errors import DataError, one_line

LAYOUT = (
    "expected leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtFine/<split>/<city>/*_gtFine_labelIds.png "
    "(or *_gtFine_polygons.json)"
)
IGNORED = 255
#: Names of the classes that are evaluated, by train id.
CLASSES = [label.name for label in sorted(labels, key=lambda label: label.trainId) if 0 <= label.trainId < IGNORED]
#: Label ids by train id, (19,); the inverse of `TRAIN_IDS` on the evaluated classes.
LABEL_IDS = np.array([name2label[name].id for name in CLASSES], np.uint8)
_UNKNOWN = 254
_PIXELS = 1 << 28  # of a label map, ten times the largest picture of any camera here


def _train_ids() -> NDArray[np.uint8]:
    table = np.full(256, _UNKNOWN, np.uint8)
    table[IGNORED] = IGNORED  # how some tools write the label id -1
    for label in id2label.values():
        if label.id >= 0:
            table[label.id] = label.trainId if 0 <= label.trainId < IGNORED else IGNORED
    return table


#: Train id by label id, (256,): 0..18, 255 for what is not evaluated, 254 for ids unknown to Cityscapes.
TRAIN_IDS = _train_ids()


def read_label_ids(path: Path) -> NDArray[np.uint8]:
    """Read a label map (H, W) of Cityscapes label ids from ``labelIds.png`` or from ``polygons.json``.

    Polygons are drawn by cityscapesscripts (`json2labelImg`).

    Raises
    ------
    DataError
        If the file is missing, broken or has a label that Cityscapes does not know.
    """
    if path.suffix == ".json":
        return _draw_polygons(path)
    try:
        with Image.open(path) as image:
            label_ids = np.array(image)
    except FileNotFoundError as error:
        raise DataError(f"no such label file: {path}; {LAYOUT}") from error
    except Exception as error:  # a decoder meets bytes that nobody has foreseen
        raise DataError(f"cannot decode {path}: {one_line(error)}; fetch it again") from error
    if label_ids.ndim != 2 or label_ids.dtype != np.uint8:
        raise DataError(f"{path} is no label map: it must have one channel of 8 bits; is it the colour image?")
    unknown = TRAIN_IDS[label_ids] == _UNKNOWN
    if unknown.any():
        raise DataError(
            f"{path} has label id {label_ids[unknown][0]}; Cityscapes has 0 to {max(id2label)} and 255: map it to these"
        )
    return label_ids


def _draw_polygons(path: Path) -> NDArray[np.uint8]:
    annotation = Annotation()
    try:
        annotation.fromJsonText(path.read_text(encoding="utf-8"))
        if min(annotation.imgWidth, annotation.imgHeight) < 1 or annotation.imgWidth * annotation.imgHeight > _PIXELS:
            raise ValueError(f"its size is {annotation.imgWidth}x{annotation.imgHeight}")
        names = {thing.label for thing in annotation.objects}
        unknown = sorted(n for n in names if n not in name2label and n.removesuffix("group") not in name2label)
        if unknown:
            raise DataError(f"{path} has label {unknown[0]!r}, which Cityscapes does not know; rename it")
        return np.array(createLabelImage(annotation, "ids"), np.uint8)
    except FileNotFoundError as error:
        raise DataError(f"no such label file: {path}; {LAYOUT}") from error
    except DataError:
        raise
    except Exception as error:  # of cityscapesscripts, which trusts its files
        what = f"{type(error).__name__} {one_line(error)}"
        raise DataError(f"{path} holds no polygons of Cityscapes: {what}; fetch it again") from error


class CityscapesSegmentation:
    """One split of a segmentation set in Cityscapes' layout.

    A sample's target are its labels, uint8 (H, W), train ids 0..18 and 255 for what is not evaluated. Its identifier is
    ``<city>_<sequence>_<frame>``.

    Parameters
    ----------
    root : path
        Folder with ``leftImg8bit/`` and ``gtFine/``.
    split : str
        ``train``, ``val`` or ``test``.
    cache : bool
        Keep decoded images and label maps in memory, up to `CACHE_BYTES` of images.

    Attributes
    ----------
    classes : list of str
        Names by train id.
    stems : list of str
        The images' identifiers, by index.

    Raises
    ------
    DataError
        If folders, images or labels are missing; a file that cannot be decoded raises it when it is read.
    """

    classes = CLASSES

    def __init__(self, root: str | Path, split: str = "val", *, cache: bool = False) -> None:
        self.root, self.split = Path(root), split
        place = self.root / "leftImg8bit" / split
        if not place.is_dir():
            raise DataError(f"no such folder: {place}; {LAYOUT}")
        pictures = find_pictures(place)
        if not pictures:
            raise DataError(f"no images in {place}; {LAYOUT}")
        self.names = sorted(pictures.values())
        self.stems = [Path(name).stem.removesuffix("_leftImg8bit") for name in self.names]
        twice = [stem for stem, count in Counter(self.stems).items() if count > 1]
        if twice:
            places = [place / name for name, stem in zip(self.names, self.stems, strict=True) if stem == twice[0]]
            raise DataError(
                f"two images have the name {twice[0]}: {places[0]} and {places[1]}; rename one and its labels"
            )
        self.label_paths = [
            self._label_path(Path(name).parent.name, stem) for name, stem in zip(self.names, self.stems, strict=True)
        ]
        self.images = ImageStore(place, CACHE_BYTES if cache else 0)
        self._cache = cache
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def _label_path(self, city: str, stem: str) -> Path:
        folder = self.root / "gtFine" / self.split / city
        for ending in ("labelIds.png", "polygons.json"):
            path = folder / f"{stem}_gtFine_{ending}"
            if path.is_file():
                return path
        raise DataError(f"no labels for {stem}: neither labelIds.png nor polygons.json in {folder}; {LAYOUT}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def label_ids(self, index: int) -> NDArray[np.uint8]:
        """Return Cityscapes' own label ids, uint8 (H, W): what its evaluation compares."""
        kept = self._kept.get(index)
        if kept is None:
            kept = read_label_ids(self.label_paths[index])
            if self._cache:
                self._kept[index] = kept
        return kept

    def __getitem__(self, index: int) -> Sample:
        """Return an image, its labels and its identifier."""
        label_ids = self.label_ids(index)
        height, width = label_ids.shape
        image = self.images.read(self.names[index], (height, width))
        self._check_size(index, label_ids.shape, image.shape[1:])
        return Sample(image, torch.from_numpy(TRAIN_IDS[label_ids]), self.stems[index])

    def examine(self) -> list[str]:
        """Look at every image and label map; return what is doubtful in the split, a line each.

        Raises
        ------
        DataError
            For a file that cannot be decoded, sizes that differ, labels of which none is evaluated, and train ids in
            place of label ids.
        """
        with ThreadPoolExecutor(usable_cores()) as pool:
            maps = list(pool.map(_count, self.label_paths))
        counts, place = sum((counts for _, counts in maps), np.zeros(256, np.int64)), self.root / "gtFine" / self.split
        if not counts[len(CLASSES) > TRAIN_IDS].any():
            raise DataError(f"{place} shows no class that Cityscapes evaluates: is it a split without labels?")
        if are_train_ids(counts):
            raise DataError(f"the label maps of {place} hold train ids, 0 to {len(CLASSES) - 1}: {TRAIN_IDS_REMEDY}")
        sizes = [size for size, _ in maps]
        turned = []
        looks = self.images.inspect_all(self.names, sizes)
        for index, (name, look) in enumerate(zip(self.names, looks, strict=True)):
            self._check_size(index, sizes[index], look.size)
            turned += [name] if look.turned else []
        return told_turned(self.images, turned)

    def _check_size(self, index: int, labels: Sequence[int], image: Sequence[int]) -> None:
        if tuple(labels) != tuple(image):
            raise DataError(
                f"{self.label_paths[index]} is {extent(labels)} pixels, but its image is {extent(image)}; "
                "fetch both again"
            )

    def fingerprint(self) -> str:
        """Return a hash of the images' and the label files' names and contents."""
        truth = self.root / "gtFine" / self.split
        labels = [path.relative_to(truth).as_posix() for path in self.label_paths]
        content = [self.names, self.images.digests(self.names), labels, digest_files(truth, labels)]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()

    def former_fingerprint(self) -> str:
        """Return the hash of earlier versions: of the images' sizes on disk in place of their contents."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([self.names, self.images.sizes(self.names)]).encode())
        for path in self.label_paths:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()


def _count(path: Path) -> tuple[tuple[int, int], NDArray[np.int64]]:
    """Return a label map's size and its pixels by id."""
    label_ids = read_label_ids(path)
    height, width = label_ids.shape
    return (height, width), np.bincount(label_ids.ravel(), minlength=256)


def are_train_ids(counts: NDArray[np.int64]) -> bool:
    """Return whether label maps hold train ids, 0 to 18, in place of label ids.

    Nothing above 18 is there, and a third of the pixels is of ids that Cityscapes does not evaluate: train ids of
    buildings, sidewalks, cars and the sky are label ids of such.

    Parameters
    ----------
    counts
        ``(256,)``: pixels of a split by the id in its files.
    """
    named = counts[1:IGNORED]
    unevaluated = named[TRAIN_IDS[1:IGNORED] == IGNORED].sum()
    return bool(named.sum() and not counts[len(CLASSES) : IGNORED].any() and 3 * unevaluated > named.sum())


#: What to do with train ids.
TRAIN_IDS_REMEDY = "write label ids, 0 to 33 (cityscapesscripts' labels.py has both)"


def find_pictures(place: Path) -> dict[str, str]:
    """Return the images below ``leftImg8bit/<split>``: name by ``<city>/<stem>``, PNG preferred."""
    pictures: dict[str, str] = {}
    for path in sorted(place.glob("*/*_leftImg8bit.*")):
        if path.suffix.lower() in EXTENSIONS and not is_hidden(path.relative_to(place).as_posix()):
            key = f"{path.parent.name}/{path.stem.removesuffix('_leftImg8bit')}"
            if key not in pictures or path.suffix.lower() == ".png":
                pictures[key] = f"{path.parent.name}/{path.name}"
    return pictures
