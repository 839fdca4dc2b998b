"""What can be wrong with image folders by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.data.images import ImageStore, is_hidden
from benchmark.data.verification import Progress, Report, compare_pictures, inspect_images
from benchmark.errors import DataError
from benchmark.tasks.imagenet.reader import LAYOUT, classes_without_images, list_samples

#: Numbers of classes and of images of the official splits.
OFFICIAL = {"train": (1000, 1_281_167), "val": (1000, 50_000)}


def verify_split(report: Report, root: Path, split: str, progress: Progress) -> None:
    """Note what is wrong with a split: classes without images, surplus files, images that are broken."""
    place = root / split
    if not place.is_dir():
        report.add(split, "unusable split", f"no such folder: {place}", LAYOUT)
        return
    try:
        classes, samples = list_samples(root, split)
    except DataError as error:
        report.add(split, "unusable split", str(error), "without this nothing can be read")
        return
    names = [name for name, _ in samples]
    absent = classes_without_images(classes, samples)
    report.counts[split] = {"images": len(names), "classes": len(classes) - len(absent)}
    number, official = OFFICIAL.get(split, (0, 0))
    if len(classes) == number and len(names) != official:
        remedy = f"ImageNet has {official}; unpack it again"
        report.add(split, "incomplete set", f"{len(names)} images in {place}", remedy, serious=False)
    for name in absent:
        report.add(split, "class without images", str(place / name), "copy its images there", serious=split == "train")
    known = set(names)
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_file() and name not in known and not is_hidden(name):
            remedy = "not used: no image, or not in a class folder"
            report.add(split, "surplus file", str(path), remedy, serious=False)
    inspect_images(report, split, ImageStore(place), names, progress)


def compare_splits(report: Report, root: Path, splits: Sequence[str]) -> None:
    """Note pictures that are in several splits."""
    pictures = {}
    for split in splits:
        if not (root / split).is_dir():  # noted already, as what follows
            continue
        try:
            names = [name for name, _ in list_samples(root, split)[1]]
        except DataError:
            continue
        pictures[split] = ImageStore(root / split), names
    if pictures:
        compare_pictures(report, pictures)
