"""What can be wrong with a folder in COCO's format."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.data.images import ImageStore, extent
from benchmark.data.verification import Progress, Report, compare_pictures, inspect_images
from benchmark.errors import DataError
from benchmark.tasks.coco.reader import (
    OUTSIDE,
    THINNEST,
    doubts,
    faults,
    find_split,
    is_box,
    is_seen,
    match_categories,
    read_annotations,
)  # fmt: skip

_SLACK = 1.0  # pixels by which rounded boxes may leave their image


def verify_split(report: Report, root: Path, split: str, progress: Progress) -> None:
    """Note what is wrong with a split: annotations, and images missing, surplus, broken or of another size."""
    try:
        place, path = find_split(root, split)
        content = read_annotations(path)
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
    _note_faults(report, split, path, content)
    names = [image["file_name"] for image in content["images"]]
    missing = set(images.missing(names))
    for name in sorted(missing):
        report.add(split, "missing image", images.where(name), "copy it there or take it off the list")
    for name in sorted(images.listing() - set(names)):
        report.add(split, "surplus image", images.where(name), "it is in no annotation: not used", serious=False)
    said_sizes = {
        image["file_name"]: (image["height"], image["width"])
        for image in content["images"]
        if "height" in image and "width" in image
    }
    there = [name for name in dict.fromkeys(names) if name not in missing]
    sizes = inspect_images(report, split, images, there, progress, said_sizes)
    for image in content["images"]:
        size = sizes.get(image["file_name"])
        said = (image.get("height"), image.get("width"))
        if size is not None and None not in said and said != size:
            where = f"{images.where(image['file_name'])}: {extent(size)}, listed as {extent(said)}"
            report.add(split, "other size than listed", where, "fetch the image or the annotations again")
    for annotation in content["annotations"]:
        image = listed.get(annotation["image_id"])
        if image is None or not is_box(annotation["bbox"]):
            continue
        size = sizes.get(image["file_name"], (image.get("height"), image.get("width")))
        _verify_annotation(report, split, f"{path}: annotation {annotation.get('id')}", annotation, size)


def _note_faults(report: Report, split: str, path: Path, content: dict[str, Any]) -> None:
    """Note what makes annotations unusable, or what is doubtful in them."""
    broken = list(faults(content))
    for fault in broken:
        report.add(split, fault.kind, f"{path}: {fault.where}", fault.remedy)
    for doubt in [] if broken else doubts(content):
        if doubt.kind != OUTSIDE:  # noted with those of images whose size is not listed
            report.add(split, doubt.kind, f"{path}: {doubt.where}", doubt.remedy, serious=False)


def _verify_annotation(
    report: Report, split: str, name: str, annotation: dict[str, Any], size: tuple[Any, Any]
) -> None:
    left, top, width, height = annotation["bbox"]
    box = f"{name} of image {annotation['image_id']}, bbox {annotation['bbox']}"
    if None in size:
        return
    rows, columns = size
    if min(width, height) >= THINNEST and not is_seen(annotation, {"height": rows, "width": columns}):
        report.add(split, OUTSIDE, f"{box}, {extent(size)}", "remove it or mend it")
    elif min(left, top) < -_SLACK or left + width > columns + _SLACK or top + height > rows + _SLACK:
        remedy = "clipped by the reader; mend it if that is not meant"
        report.add(split, "box that leaves its image", f"{box}, {extent(size)}", remedy, serious=False)
    shape = annotation.get("segmentation")
    if isinstance(shape, dict) and shape.get("size") != [rows, columns]:
        where = f"{name}: RLE of size {reprlib.repr(shape.get('size'))} on an image of {[rows, columns]}"
        report.add(split, "mask of another size", where, "fetch the annotations again", serious=False)


def compare_splits(report: Report, root: Path, splits: Sequence[str]) -> None:
    """Note splits whose categories are not those of the first."""
    found = {}
    for split in splits:
        try:
            place, path = find_split(root, split)
            content = read_annotations(path)
            images = ImageStore(place)
        except DataError:  # noted already
            continue
        if any(True for _ in faults(content)):
            continue
        names = [image["file_name"] for image in content["images"]]
        missing = set(images.missing(names))
        found[split] = path, content, (images, [name for name in names if name not in missing])
    first = next(iter(found), None)
    if first is None:
        return
    train = sorted(found[first][1]["categories"], key=lambda category: category["id"])
    for split, (path, content, _) in found.items():
        try:
            if match_categories(content, path, train):
                where = f"{path}: other categories than {first}, or other ids"
                report.add(split, "other categories", where, "they are matched by name", serious=False)
        except DataError as error:
            report.add(split, "other categories", str(error), f"use the categories of {first} in both files")
    compare_pictures(report, {split: pictures for split, (_, _, pictures) in found.items()})
