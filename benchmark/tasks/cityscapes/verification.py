"""What can be wrong with a folder in Cityscapes' layout."""

from __future__ import annotations

from pathlib import Path

from benchmark.data.images import EXTENSIONS, ImageStore, extent
from benchmark.data.verification import Progress, Report, inspect_images
from benchmark.errors import DataError
from benchmark.tasks.cityscapes.reader import IGNORED, LAYOUT, TRAIN_IDS, find_pictures, read_label_ids

#: A city of each official split, and the split's number of images.
OFFICIAL = {"train": ("aachen", 2975), "val": ("frankfurt", 500)}


def verify_split(report: Report, root: Path, split: str, progress: Progress) -> None:
    """Note what is wrong with a split: images and label maps without each other, broken, or out of range."""
    place, truth = root / "leftImg8bit" / split, root / "gtFine" / split
    pictures = find_pictures(place)
    if not pictures:
        report.add(split, "unusable split", f"no images in {place}", LAYOUT)
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
        if path.suffix.lower() in EXTENSIONS and name not in known:
            remedy = "not used: another file of its name, or no <city>/<name>_leftImg8bit.<type>"
            report.add(split, "surplus image", str(path), remedy, serious=False)
    sizes = inspect_images(report, split, ImageStore(place), sorted(pictures.values()), progress)
    for key in sorted(set(pictures) & set(labels)):
        _verify_labels(report, split, labels[key], sizes.get(pictures[key]))


def _verify_labels(report: Report, split: str, path: Path, size: tuple[int, int] | None) -> None:
    try:
        label_ids = read_label_ids(path)
    except DataError as error:
        kind = "label out of range" if "label id" in str(error) or "has label" in str(error) else "unreadable labels"
        report.add(split, kind, str(error), "see the file's line")
        return
    if size is not None and label_ids.shape != size:
        where = f"{path}: {extent(label_ids.shape)}, its image {extent(size)}"
        report.add(split, "labels of another size", where, "fetch both again")
    if (TRAIN_IDS[label_ids] == IGNORED).all():
        report.add(split, "no evaluated label", str(path), "the image counts for nothing", serious=False)
