"""The embedded segmentation set: rendered scenes in Cityscapes' folders, as label maps and as polygons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.data import scenes
from benchmark.data.embedded import EmbeddedSet, Size, write_json
from benchmark.data.outlines import signed_area, trace

SIZES = {
    "mini": Size(128, 256, {"train": 800, "val": 340}),
    "small": Size(256, 512, {"train": 2000, "val": 250}),
}
#: Cityscapes labels of `scenes.SCENE_CLASSES`, and the ids of these and of `scenes.BACKGROUNDS`. Cityscapes
#: evaluates all but the ego vehicle.
OBJECT_LABELS = {
    "disc-bands": "person", "disc-bars": "rider", "disc-rings": "car", "disc-dots": "truck",
    "tile-bands": "bus", "tile-bars": "traffic sign", "tile-rings": "motorcycle", "tile-dots": "bicycle",
}  # fmt: skip
LABEL_IDS = {
    "sky": 23, "building": 11, "vegetation": 21, "road": 7, "sidewalk": 8, "terrain": 22, "ego vehicle": 1,
    "traffic light": 19,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "traffic sign": 20, "motorcycle": 32,
    "bicycle": 33,
}  # fmt: skip
CITY = "scenes"


def _write(size: Size, seed: int, folder: Path) -> Iterator[None]:
    names = [OBJECT_LABELS[name] for name in scenes.SCENE_CLASSES]
    for split, count in size.images.items():
        pictures, truth = folder / "leftImg8bit" / split / CITY, folder / "gtFine" / split / CITY
        pictures.mkdir(parents=True)
        truth.mkdir(parents=True)
        for index in range(count):
            rng = scenes.generator(seed, "cityscapes", split, index)
            scene = scenes.render_scene(rng, size.height, size.width, crowds=False, hood=True)
            layers = [(scenes.BACKGROUNDS[kind], mask) for kind, mask in scene.layers]
            layers += [(names[instance.label], instance.outline) for instance in scene.instances]
            labels = np.zeros((size.height, size.width), np.uint8)
            objects = []
            for name, mask in layers:
                labels[mask] = LABEL_IDS[name]
                objects += [{"label": name, "polygon": polygon} for polygon in _pixel_polygons(mask)]
            stem = f"{CITY}_{index:06d}_000000"
            Image.fromarray(scene.image).save(pictures / f"{stem}_leftImg8bit.png")
            Image.fromarray(labels).save(truth / f"{stem}_gtFine_labelIds.png")
            write_json(
                truth / f"{stem}_gtFine_polygons.json",
                {"imgHeight": size.height, "imgWidth": size.width, "objects": objects},
            )
            yield


def _pixel_polygons(mask: NDArray[np.bool_]) -> list[list[list[int]]]:
    """Return the parts of a mask as polygons through their border pixels, as cityscapesscripts draws them.

    Holes are lost, which does no harm to layers that are drawn from back to front and have none.
    """
    polygons = []
    for loop in trace(mask):
        if signed_area(loop) < 0:
            continue
        ahead = np.sign(np.roll(loop, -1, axis=0) - loop)
        behind = np.roll(ahead, 1, axis=0)
        # The pixel to the right of the edge that leaves a corner, and of the one that reaches it.
        reaching = loop + np.minimum(_right(behind) - behind, 0)
        leaving = loop + np.minimum(_right(ahead) + ahead, 0)
        points = np.stack([reaching, leaving], axis=1).reshape(-1, 2)
        keep = np.any(points != np.roll(points, 1, axis=0), axis=1)
        polygons.append((points[keep] if keep.any() else points[:1]).tolist())
    return polygons


def _right(direction: NDArray[np.int64]) -> NDArray[np.int64]:
    """Turn unit steps (N, 2) by a right angle to the right (y points down)."""
    return np.stack([-direction[:, 1], direction[:, 0]], axis=1)


EMBEDDED = EmbeddedSet("cityscapes", SIZES, scenes.SCENE_CLASSES, _write)
