"""The embedded detection set: rendered scenes as JPEG files with COCO's annotations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data import scenes
from benchmark.data.embedded import VERSION, EmbeddedSet, Size, save_jpeg, write_json
from benchmark.data.outlines import trace

SIZES = {
    "mini": Size(128, 128, {"train": 1600, "val": 1500}),
    "small": Size(256, 256, {"train": 4000, "val": 500}),
    # Objects that span many positions of a map of stride 16, and detail that half the pixels cannot show.
    "evidence": Size(
        256,
        256,
        {"train": 1600, "val": 1000},
        scenes.Style(shares=(0.04, 0.7), period=5, smallest=11, faint=(0.3, 0.95)),
    ),
}

# Detection finds the scenes' own objects too easily: a network trained for half an hour came near an AP of 0.8, where
# all that is left is a matter of pixels. Smaller objects with fainter patterns leave it something to do.
STYLE = scenes.Style(smallest=11, faint=(0.3, 0.95))


def _write(size: Size, seed: int, folder: Path) -> Iterator[None]:
    categories = [
        {"id": 1 + label, "name": name, "supercategory": name.split("-")[0]}
        for label, name in enumerate(scenes.SCENE_CLASSES)
    ]
    for number, (split, count) in enumerate(size.images.items()):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        (folder / f"{split}2017").mkdir()
        for index in range(count):
            rng = scenes.generator(seed, "coco", split, index)
            scene = scenes.render_scene(rng, size.height, size.width, style=size.style or STYLE)
            image_id = 1 + index + 1_000_000 * number  # ids are unique over the splits, as COCO's are
            name = f"{image_id:012d}.jpg"
            save_jpeg(scene.image, folder / f"{split}2017" / name)
            images.append({"id": image_id, "file_name": name, "height": size.height, "width": size.width})
            for instance in scene.instances:
                key = {"id": len(annotations) + 1 + 10_000_000 * number, "image_id": image_id}
                annotations.append({**key, **_annotation(instance)})
            yield
        description = f"Saibench rendered scenes, generator {VERSION}, seed {seed}"
        content = {
            "info": {"description": description, "version": str(VERSION)}, "licenses": [], "images": images,
            "annotations": annotations, "categories": categories,
        }  # fmt: skip
        write_json(folder / "annotations" / f"instances_{split}2017.json", content)


def _annotation(instance: scenes.Instance) -> dict[str, Any]:
    rows, columns = np.flatnonzero(instance.mask.any(1)), np.flatnonzero(instance.mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    loops = trace(instance.mask)
    segmentation: object
    if instance.crowd or len(loops) > 1:
        segmentation = {"size": list(instance.mask.shape), "counts": run_lengths(instance.mask)}
    else:
        segmentation = [[int(value) for value in loops[0].ravel()]]
    return {
        "category_id": 1 + instance.label,
        "iscrowd": int(instance.crowd),
        "area": int(instance.mask.sum()),
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "segmentation": segmentation,
    }


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Return COCO's uncompressed RLE counts of a mask (H, W): runs down the columns, zeros first."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


EMBEDDED = EmbeddedSet("coco", SIZES, scenes.SCENE_CLASSES, _write)
