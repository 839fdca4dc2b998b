"""The embedded classification set: pictures of single objects in image folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmark.data import scenes
from benchmark.data.embedded import EmbeddedSet, Size, save_jpeg

#: Images count for each class.
SIZES = {
    "mini": Size(80, 80, {"train": 300, "val": 480}),
    "small": Size(160, 160, {"train": 600, "val": 100}),
}


def wordnet_id(label: int) -> str:
    """Return the folder name of class `label`: in the form of a WordNet id, but none of WordNet's own."""
    return f"n9900{label:04d}"


def _write(size: Size, seed: int, folder: Path) -> Iterator[None]:
    for split, count in size.images.items():
        for label in range(len(scenes.OBJECT_CLASSES)):
            wnid = wordnet_id(label)
            (folder / split / wnid).mkdir(parents=True)
            for index in range(count):
                rng = scenes.generator(seed, "imagenet", split, label, index)
                picture = scenes.render_object(rng, size.height, label)
                save_jpeg(picture, folder / split / wnid / f"{wnid}_{split}_{index:05d}.JPEG")
                yield


EMBEDDED = EmbeddedSet("imagenet", SIZES, scenes.OBJECT_CLASSES, _write, per_class=True)
