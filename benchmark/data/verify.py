"""Check a data folder as a whole and say, file by file, what is wrong and what to do.

The readers stop at the first fault that they meet; this goes on to the end. It changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.data import cityscapes, coco, imagenet
from benchmark.data.images import EXTENSIONS, ImageStore
from benchmark.errors import DataError, UsageError

SPLITS = ("train", "val")
#: Number of images of the complete official sets, and what gives one away (a city; the number of classes).
OFFICIAL_CITYSCAPES = {"train": ("aachen", 2975), "val": ("frankfurt", 500)}
OFFICIAL_IMAGENET = {"train": (1000, 1_281_167), "val": (1000, 50_000)}
SHOWN = 10  # files named per problem on the screen; `Report.to_dict` has them all
_SLACK = 1.0  # pixels by which rounded boxes may leave their image

Progress = Callable[[int, int], None]


@dataclass
class Problem:
    """One kind of fault of a split.

    Attributes
    ----------
    split : str
        Where it was found.
    kind : str
        What is wrong, e.g. ``missing image``.
    remedy : str
        What to do.
    serious : bool
        Whether the set cannot be used as it is; otherwise the readers cope with it.
    where : list of str
        The files or annotations concerned.
    """

    split: str
    kind: str
    remedy: str
    serious: bool
    where: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What was found in a data folder.

    Attributes
    ----------
    task, root : str
        What was checked.
    counts : dict
        Numbers of images, classes, annotations, … by split.
    problems : list of Problem
        Empty if all is well.
    """

    task: str
    root: str
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the set can be used: no serious problem."""
        return not any(problem.serious for problem in self.problems)

    def add(self, split: str, kind: str, where: str, remedy: str, serious: bool = True) -> None:
        """Note one fault; faults of one kind with one remedy are gathered."""
        for problem in self.problems:
            if (problem.split, problem.kind, problem.remedy, problem.serious) == (
                split,
                kind,
                remedy,
                serious,
            ):
                problem.where.append(where)
                return
        self.problems.append(Problem(split, kind, remedy, serious, [where]))

    def lines(self) -> list[str]:
        """Return the report as lines of plain text."""
        lines = [f"{self.task}: {self.root}"]
        for split, counts in self.counts.items():
            lines.append(f"  {split}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
        for problem in self.problems:
            mark = "error" if problem.serious else "warning"
            lines.append(f"{mark}: {problem.split}: {len(problem.where)} x {problem.kind}: {problem.remedy}")
            lines += [f"    {where}" for where in problem.where[:SHOWN]]
            if len(problem.where) > SHOWN:
                lines.append(f"    and {len(problem.where) - SHOWN} more")
        serious = sum(len(problem.where) for problem in self.problems if problem.serious)
        lines.append("all is well" if not self.problems else "usable" if self.ok else f"{serious} faults to mend")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "task": self.task,
            "root": self.root,
            "ok": self.ok,
            "counts": self.counts,
            "problems": [vars(problem) for problem in self.problems],
        }


def verify(
    task: str,
    root: str | os.PathLike[str],
    splits: Iterable[str] = SPLITS,
    progress: Progress | None = None,
) -> Report:
    """Check a data folder: counts, missing and surplus files, unreadable images, labels, boxes.

    Every image is decoded, as coarsely as its format allows.

    Parameters
    ----------
    task : {"coco", "cityscapes", "imagenet"}
        Whose format is expected.
    root : path
        The data set's folder.
    splits : iterable of str
        What to check.
    progress : callable, optional
        Called as ``progress(images_done, images_of_the_split)``.

    Raises
    ------
    UsageError
        If there is no such task.
    DataError
        If there is no such folder.
    """
    checks = {"coco": _verify_coco, "cityscapes": _verify_cityscapes, "imagenet": _verify_imagenet}
    if task not in checks:
        raise UsageError(f"no data format for task {task!r}; there is {', '.join(checks)}")
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"no such data folder: {folder}")
    report = Report(task, str(folder))
    for split in splits:
        checks[task](report, folder, split, progress or (lambda done, total: None))
    if task == "coco":
        _compare_categories(report, folder, list(splits))
    return report


def _inspect(
    report: Report, split: str, images: ImageStore, names: list[str], progress: Progress
) -> dict[str, tuple[int, int]]:
    """Decode the named images; note those that cannot be, and return (height, width) of the others."""

    def look(name: str) -> tuple[int, int] | None:
        try:
            return images.inspect(name)
        except DataError:
            return None

    sizes: dict[str, tuple[int, int]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter
        for done, (name, size) in enumerate(zip(names, pool.map(look, names), strict=True), start=1):
            if size is None:
                report.add(split, "unreadable image", images.where(name), "broken: fetch it again")
            else:
                sizes[name] = size
            progress(done, len(names))
    return sizes


# --- COCO ---------------------------------------------------------------------------------------------------


def _verify_coco(report: Report, root: Path, split: str, progress: Progress) -> None:
    try:
        place, path = coco.find_split(root, split)
        content = coco.read_annotations(path)
        images = ImageStore(place)
    except DataError as error:
        report.add(split, "unusable split", str(error), "without this nothing can be read")
        return
    listed = {image["id"]: image for image in content["images"]}
    report.counts[split] = {
        "images": len(content["images"]),
        "annotations": len(content["annotations"]),
        "crowds": sum(bool(annotation.get("iscrowd")) for annotation in content["annotations"]),
        "categories": len(content["categories"]),
        "images without annotations": len(set(listed) - {a["image_id"] for a in content["annotations"]}),
    }
    for fault in coco.faults(content):
        report.add(split, fault.kind, f"{path}: {fault.where}", fault.remedy)
    names = [image["file_name"] for image in content["images"]]
    missing = set(images.missing(names))
    for name in sorted(missing):
        report.add(split, "missing image", images.where(name), "copy it there or take it off the list")
    for name in sorted(images.listing() - set(names)):
        report.add(split, "surplus image", images.where(name), "it is in no annotation: not used", serious=False)
    sizes = _inspect(report, split, images, [name for name in names if name not in missing], progress)
    for image in content["images"]:
        size = sizes.get(image["file_name"])
        said = (image.get("height"), image.get("width"))
        if size is not None and None not in said and said != size:
            where = f"{images.where(image['file_name'])}: {_extent(size)}, listed as {_extent(said)}"
            report.add(split, "other size than listed", where, "fetch the image or the annotations again")
    for annotation in content["annotations"]:
        image = listed.get(annotation["image_id"])
        if image is None or not coco.is_box(annotation["bbox"]):
            continue
        size = sizes.get(image["file_name"], (image.get("height"), image.get("width")))
        _verify_annotation(report, split, f"{path}: annotation {annotation.get('id')}", annotation, size)


def _verify_annotation(
    report: Report, split: str, name: str, annotation: dict[str, Any], size: tuple[Any, Any]
) -> None:
    left, top, width, height = annotation["bbox"]
    box = f"{name} of image {annotation['image_id']}, bbox {annotation['bbox']}"
    if width <= 0 or height <= 0:
        report.add(split, "empty box", box, "ignored in training; remove it or mend it", serious=False)
    if None in size:
        return
    rows, columns = size
    if left >= columns or top >= rows or left + width < 0 or top + height < 0:
        report.add(split, "annotation outside its image", f"{box}, {_extent(size)}", "remove it or mend it")
    elif min(left, top) < -_SLACK or left + width > columns + _SLACK or top + height > rows + _SLACK:
        remedy = "clipped by the reader; mend it if that is not meant"
        report.add(split, "box that leaves its image", f"{box}, {_extent(size)}", remedy, serious=False)
    shape = annotation.get("segmentation")
    if isinstance(shape, dict) and list(shape.get("size", ())) != [rows, columns]:
        where = f"{name}: RLE of size {shape.get('size')} on an image of {[rows, columns]}"
        report.add(split, "mask of another size", where, "fetch the annotations again", serious=False)


def _compare_categories(report: Report, root: Path, splits: list[str]) -> None:
    found = {}
    for split in splits:
        try:
            content = coco.read_annotations(coco.find_split(root, split)[1])
        except DataError:  # noted already
            continue
        found[split] = sorted((category["id"], category["name"]) for category in content["categories"])
    first = next(iter(found), None)
    for split, categories in found.items():
        if first is not None and categories != found[first]:
            where = f"{len(categories)} categories, {len(found[first])} in {first}, or other ids or names"
            report.add(split, "other categories", where, f"use the categories of {first} in both files")


# --- Cityscapes ---------------------------------------------------------------------------------------------


def _verify_cityscapes(report: Report, root: Path, split: str, progress: Progress) -> None:
    place, truth = root / "leftImg8bit" / split, root / "gtFine" / split
    pictures = cityscapes.find_pictures(place)
    if not pictures:
        report.add(split, "unusable split", f"no images in {place}", cityscapes.LAYOUT)
        return
    labels: dict[str, Path] = {}
    for ending in (
        "_gtFine_polygons.json",
        "_gtFine_labelIds.png",
    ):  # the second is read where both are there
        for path in truth.glob(f"*/*{ending}"):
            labels[f"{path.parent.name}/{path.name.removesuffix(ending)}"] = path
    cities = {key.split("/")[0] for key in pictures}
    report.counts[split] = {"images": len(pictures), "cities": len(cities), "label maps": len(labels)}
    city, official = OFFICIAL_CITYSCAPES.get(split, ("", 0))
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
        if path.suffix.lower() in EXTENSIONS and name not in known:
            remedy = "not used: another file of its name, or no <city>/<name>_leftImg8bit.<type>"
            report.add(split, "surplus image", str(path), remedy, serious=False)
    sizes = _inspect(report, split, ImageStore(place), sorted(pictures.values()), progress)
    for key in sorted(set(pictures) & set(labels)):
        _verify_labels(report, split, labels[key], sizes.get(pictures[key]))


def _verify_labels(report: Report, split: str, path: Path, size: tuple[int, int] | None) -> None:
    try:
        label_ids = cityscapes.read_label_ids(path)
    except DataError as error:
        kind = "label out of range" if "label id" in str(error) or "has label" in str(error) else "unreadable labels"
        report.add(split, kind, str(error), "see the file's line")
        return
    if size is not None and label_ids.shape != size:
        where = f"{path}: {_extent(label_ids.shape)}, its image {_extent(size)}"
        report.add(split, "labels of another size", where, "fetch both again")
    if (cityscapes.TRAIN_IDS[label_ids] == cityscapes.IGNORED).all():
        report.add(split, "no evaluated label", str(path), "the image counts for nothing", serious=False)


# --- ImageNet -----------------------------------------------------------------------------------------------


def _verify_imagenet(report: Report, root: Path, split: str, progress: Progress) -> None:
    place = root / split
    if not place.is_dir():
        report.add(split, "unusable split", f"no such folder: {place}", imagenet.LAYOUT)
        return
    try:
        classes, samples = imagenet.list_samples(root, split)
    except DataError as error:
        report.add(split, "unusable split", str(error), "without this nothing can be read")
        return
    names = [name for name, _ in samples]
    absent = imagenet.classes_without_images(classes, samples)
    report.counts[split] = {"images": len(names), "classes": len(classes) - len(absent)}
    number, official = OFFICIAL_IMAGENET.get(split, (0, 0))
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
    _inspect(report, split, ImageStore(place), names, progress)


def _extent(size: Iterable[Any]) -> str:
    height, width = size
    return f"{width}x{height}"
