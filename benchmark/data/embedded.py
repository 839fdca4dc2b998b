"""The embedded sets: rendered scenes written in the formats of COCO, Cityscapes and ImageNet.

They are made on first use and read back by the same readers as the real data. What a scene looks like is the
business of `scenes`; nothing here knows about models.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.data import scenes
from benchmark.errors import DataError, UsageError

#: Raise it whenever the rendered bytes change: sets are then made anew, under another name.
VERSION = 3
MANIFEST = "manifest.json"
STALE_SECONDS = 6 * 3600  # a set is made in minutes

#: Cityscapes labels of `scenes.SCENE_CLASSES`, and the ids of these and of `scenes.BACKGROUNDS`. Cityscapes
#: evaluates all but the ego vehicle.
OBJECT_LABELS = {
    "disc-bands": "person", "disc-bars": "rider", "disc-rings": "car", "disc-dots": "truck",
    "tile-bands": "bus", "tile-bars": "traffic sign", "tile-rings": "motorcycle", "tile-dots": "bicycle",
}  # fmt: skip
LABEL_IDS = {
    "sky": 23, "building": 11, "vegetation": 21, "road": 7, "sidewalk": 8, "terrain": 22, "ego vehicle": 1,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "traffic sign": 20, "motorcycle": 32,
    "bicycle": 33,
}  # fmt: skip
CITY = "scenes"


@dataclass(frozen=True)
class Size:
    """Extent of an embedded set; `images` counts per split (for ImageNet per split and class)."""

    height: int
    width: int
    images: dict[str, int]


SIZES = {
    ("coco", "mini"): Size(128, 128, {"train": 1600, "val": 200}),
    ("coco", "small"): Size(256, 256, {"train": 4000, "val": 500}),
    ("cityscapes", "mini"): Size(128, 256, {"train": 800, "val": 120}),
    ("cityscapes", "small"): Size(256, 512, {"train": 2000, "val": 250}),
    ("imagenet", "mini"): Size(80, 80, {"train": 300, "val": 50}),
    ("imagenet", "small"): Size(160, 160, {"train": 600, "val": 100}),
}

Progress = Callable[[int, int], None]


def make(
    task: str,
    scale: str,
    root: str | os.PathLike[str],
    seed: int = 0,
    *,
    size: Size | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the embedded set of a task below `root`, unless it is there already.

    It is written under a temporary name and renamed when complete: an interrupted call leaves no half set.
    The same seed gives the same bytes (with the same versions of NumPy and Pillow).

    Parameters
    ----------
    task : {"coco", "cityscapes", "imagenet"}
        The format and the kind of picture.
    scale : {"mini", "small"}
        The extent, see `SIZES`.
    root : path
        Folder that holds embedded sets; made if need be.
    seed : int
        Another seed gives other scenes.
    size : Size, optional
        Another extent, for tests.
    progress : callable, optional
        Called as ``progress(images_done, images_in_all)`` after each image.

    Returns
    -------
    Path
        The set's folder, to be given to a reader.

    Raises
    ------
    UsageError
        If there is no embedded set for this task and scale.
    DataError
        If the folder cannot be written.
    """
    if (task, scale) not in SIZES:
        known = ", ".join(" ".join(key) for key in SIZES)
        raise UsageError(f"no embedded set for task {task!r} at scale {scale!r}: there is {known}; else give --data")
    size = size or SIZES[task, scale]
    extent = "" if size == SIZES[task, scale] else f"-{_digest(repr(size).encode())[:8]}"
    folder = Path(root) / f"{task}-{scale}{extent}-v{VERSION}-seed{seed}"
    if (folder / MANIFEST).is_file():
        return folder
    partial = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_stale(folder)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
        partial.chmod(0o755)  # mkdtemp makes it ours alone, but sets are shared
        _write(task, size, seed, partial, progress or (lambda done, total: None))
        manifest = {
            "generator": VERSION, "task": task, "scale": scale, "seed": seed, "height": size.height,
            "width": size.width, "images": size.images,
            "classes": list(scenes.OBJECT_CLASSES if task == "imagenet" else scenes.SCENE_CLASSES),
        }  # fmt: skip
        _write_json(partial / MANIFEST, manifest)
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / MANIFEST).is_file():  # else another process was faster, with the same bytes
                raise
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write {folder}: {reason}; make room or choose another folder") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _clear_stale(folder: Path) -> None:
    """Remove what killed calls left behind."""
    for partial in folder.parent.glob(f".{folder.name}.*.partial"):
        with contextlib.suppress(FileNotFoundError):  # another process may clear it, too
            if time.time() - partial.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)


def fingerprint(folder: str | os.PathLike[str]) -> str:
    """Return a hash of all files below `folder`: their relative names and their bytes."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"no such folder: {root}")
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root).as_posix()
        digest.update(f"{name}\0{_digest(path.read_bytes())}".encode())
    return digest.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def _write(task: str, size: Size, seed: int, folder: Path, progress: Progress) -> None:
    writer = {"coco": _write_coco, "cityscapes": _write_cityscapes, "imagenet": _write_imagenet}[task]
    total = sum(size.images.values()) * (len(scenes.OBJECT_CLASSES) if task == "imagenet" else 1)
    for done, _ in enumerate(writer(size, seed, folder), start=1):
        progress(done, total)


# --- COCO ---------------------------------------------------------------------------------------------------


def _save_jpeg(picture: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(picture).save(path, format="JPEG", quality=92, subsampling=0)


def _write_coco(size: Size, seed: int, folder: Path) -> Iterator[None]:
    categories = [
        {"id": 1 + label, "name": name, "supercategory": name.split("-")[0]}
        for label, name in enumerate(scenes.SCENE_CLASSES)
    ]
    for number, (split, count) in enumerate(size.images.items()):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        (folder / f"{split}2017").mkdir()
        for index in range(count):
            scene = scenes.render_scene(scenes.generator(seed, "coco", split, index), size.height, size.width)
            image_id = 1 + index + 1_000_000 * number  # ids are unique over the splits, as COCO's are
            name = f"{image_id:012d}.jpg"
            _save_jpeg(scene.image, folder / f"{split}2017" / name)
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
        _write_json(folder / "annotations" / f"instances_{split}2017.json", content)


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


def trace(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the closed boundaries between the pixels of a mask and the rest.

    Parameters
    ----------
    mask : ndarray, bool, (H, W)
        Any mask; pixels that touch only at a corner belong to different parts.

    Returns
    -------
    list of ndarray, int64, (N, 2)
        Corners (x, y) in pixel edges, without repeating the first; outer boundaries run clockwise on the
        screen (positive `signed_area`), holes the other way.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # Directed edges with the pixel on their right-hand side (y points down): start corner and direction.
    sides = {
        (1, 0): (inside & ~padded[:-2, 1:-1], (0, 0)),  # top, to the right
        (0, 1): (inside & ~padded[1:-1, 2:], (1, 0)),  # right, down
        (-1, 0): (inside & ~padded[2:, 1:-1], (1, 1)),  # bottom, to the left
        (0, -1): (inside & ~padded[1:-1, :-2], (0, 1)),  # left, up
    }
    leaving: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for direction, (edge, (dx, dy)) in sides.items():
        for y, x in np.argwhere(edge).tolist():
            leaving.setdefault((x + dx, y + dy), []).append(direction)
    loops = []
    while leaving:
        corner = start = next(iter(leaving))
        last: tuple[int, int] | None = None
        corners: list[tuple[int, int]] = []
        while True:
            ways = leaving[corner]
            # Where two pixels touch at a corner, turn right: stay with the pixel that we are going around.
            way = ways[0] if len(ways) == 1 or last is None else (-last[1], last[0])
            ways.remove(way)
            if not ways:
                del leaving[corner]
            if way != last:
                corners.append(corner)
            last = way
            corner = (corner[0] + way[0], corner[1] + way[1])
            if corner == start and (-way[1], way[0]) not in leaving.get(corner, ()):
                break
        loops.append(np.array(corners, np.int64))
    return loops


def signed_area(loop: NDArray[np.int64]) -> float:
    """Return the area within a closed polygon (N, 2); positive if it runs clockwise on the screen."""
    x, y = loop[:, 0], loop[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


# --- Cityscapes ---------------------------------------------------------------------------------------------


def _write_cityscapes(size: Size, seed: int, folder: Path) -> Iterator[None]:
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
            _write_json(
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


# --- ImageNet -----------------------------------------------------------------------------------------------


def wordnet_id(label: int) -> str:
    """Return the folder name of class `label`: in the form of a WordNet id, but none of WordNet's own."""
    return f"n9900{label:04d}"


def _write_imagenet(size: Size, seed: int, folder: Path) -> Iterator[None]:
    for split, count in size.images.items():
        for label in range(len(scenes.OBJECT_CLASSES)):
            wnid = wordnet_id(label)
            (folder / split / wnid).mkdir(parents=True)
            for index in range(count):
                rng = scenes.generator(seed, "imagenet", split, label, index)
                picture = scenes.render_object(rng, size.height, label)
                _save_jpeg(picture, folder / split / wnid / f"{wnid}_{split}_{index:05d}.JPEG")
                yield
