"""What can be wrong with image folders by class."""

from __future__ import annotations

from pathlib import Path

from benchmark.data.images import ImageStore
from benchmark.data.verification import Progress, Report, inspect_images
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
        if path.is_file() and path.relative_to(place).as_posix() not in known:
            remedy = "not used: no image, or not in a class folder"
            report.add(split, "surplus file", str(path), remedy, serious=False)
    inspect_images(report, split, ImageStore(place), names, progress)
