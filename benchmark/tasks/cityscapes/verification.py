"""What can be wrong with a folder in Cityscapes' layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.data.images import EXTENSIONS, ImageStore, extent, is_hidden
from benchmark.data.verification import Progress, Report, compare_pictures, inspect_images
from benchmark.errors import DataError
from benchmark.tasks.cityscapes.reader import (
    CLASSES,
    IGNORED,
    LAYOUT,
    TRAIN_IDS,
    TRAIN_IDS_REMEDY,
    are_train_ids,
    find_pictures,
    read_label_ids,
)  # fmt: skip

#: A city of each official split, and the split's number of images.
OFFICIAL = {"train": ("aachen", 2975), "val": ("frankfurt", 500)}


def verify_split(report: Report, root: Path, split: str, progress: Progress) -> None:
    """Note what is wrong with a split: images and label maps without each other, broken, or out of range."""
    place, truth = root / "leftImg8bit" / split, root / "gtFine" / split
    pictures = find_pictures(place)
    if not pictures:
        report.add(split, "unusable split", f"no images in {place}", LAYOUT)
        return
    labels = _find_labels(truth)
    cities = {key.split("/")[0] for key in pictures}
    report.counts[split] = {"images": len(pictures), "cities": len(cities), "label maps": len(labels)}
    city, official = OFFICIAL.get(split, ("", 0))
    if city in cities and len(pictures) != official:
        remedy = f"Cityscapes has {official}; unpack it again"
        report.add(split, "incomplete set", f"{len(pictures)} images in {place}", remedy, serious=False)
    for key in sorted(set(pictures) - set(labels)):
        remedy = "put labelIds.png or polygons.json into gtFine, or remove the image"
        report.add(split, "image without labels", str(place / pictures[key]), remedy)
    for key in sorted(set(labels) - set(pictures)):
        report.add(split, "labels without image", str(labels[key]), "not used", serious=False)
    known = set(pictures.values())
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.suffix.lower() in EXTENSIONS and name not in known and not is_hidden(name):
            remedy = "not used: another file of its name, or no <city>/<name>_leftImg8bit.<type>"
            report.add(split, "surplus image", str(path), remedy, serious=False)
    sizes = inspect_images(report, split, ImageStore(place), sorted(pictures.values()), progress)
    counts = np.zeros(256, np.int64)
    for key in sorted(set(pictures) & set(labels)):
        counts += _verify_labels(report, split, labels[key], sizes.get(pictures[key]))
    if are_train_ids(counts):
        where = f"{truth}: no label id above {len(CLASSES) - 1}, and many that are not evaluated"
        report.add(split, "train ids in place of label ids", where, TRAIN_IDS_REMEDY)
    _verify_names(report, split, {key: str(place / name) for key, name in pictures.items()})


def _verify_names(report: Report, split: str, places: Mapping[str, str]) -> None:
    """Note images, by ``<city>/<stem>``, that have the name of another one in another city."""
    stems = Counter(key.split("/")[1] for key in places)
    for key in sorted(places):
        if stems[key.split("/")[1]] > 1:
            remedy = "rename it and its labels: images are known by their names"
            report.add(split, "repeated name", places[key], remedy)


def _find_labels(truth: Path) -> dict[str, Path]:
    """Return the label files of a split by ``<city>/<stem>``: the image where there are polygons, too."""
    labels: dict[str, Path] = {}
    for ending in ("_gtFine_polygons.json", "_gtFine_labelIds.png"):
        for path in truth.glob(f"*/*{ending}"):
            if not is_hidden(path.relative_to(truth).as_posix()):
                labels[f"{path.parent.name}/{path.name.removesuffix(ending)}"] = path
    return labels


def _verify_labels(report: Report, split: str, path: Path, size: tuple[int, int] | None) -> NDArray[np.int64]:
    """Note what is wrong with a label map, and return its pixels by id."""
    try:
        label_ids = read_label_ids(path)
    except DataError as error:
        kind = "label out of range" if "label id" in str(error) or "has label" in str(error) else "unreadable labels"
        report.add(split, kind, str(error), "see the file's line")
        return np.zeros(256, np.int64)
    if size is not None and label_ids.shape != size:
        where = f"{path}: {extent(label_ids.shape)}, its image {extent(size)}"
        report.add(split, "labels of another size", where, "fetch both again")
    if (TRAIN_IDS[label_ids] == IGNORED).all():
        report.add(split, "no evaluated label", str(path), "the image counts for nothing", serious=False)
    return np.bincount(label_ids.ravel(), minlength=256)


def compare_splits(report: Report, root: Path, splits: Sequence[str]) -> None:
    """Note pictures that are in several splits."""
    pictures = {}
    for split in splits:
        place = root / "leftImg8bit" / split
        names = sorted(find_pictures(place).values())
        if names:
            pictures[split] = ImageStore(place), names
    if pictures:
        compare_pictures(report, pictures)
