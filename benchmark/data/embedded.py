"""The embedded sets: rendered pictures written in the format of a task's real data.

They are made on first use and read back by the same readers as the real data. What a scene looks like is the business
of `scenes`, in which format it is written a task's; nothing here knows about either, or about models.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.errors import DataError, UsageError

#: Version of the rendered scenes and of the project's own sets.
VERSION = 4
MANIFEST = "manifest.json"
STALE_SECONDS = 6 * 3600  # a set is made in minutes

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Size:
    """Extent of an embedded set.

    Attributes
    ----------
    height, width : int
        Of an image, pixels.
    images : mapping
        Number of images by split.
    style : object
        How the images look, in the terms of the task's renderer; None for its usual way.
    """

    height: int
    width: int
    images: dict[str, int]
    style: Any = None

    @property
    def label(self) -> str:
        """What a set's name says of pixels and style: ``-256px-period5-side33``; "" without a style."""
        return "" if self.style is None else f"-{self.height}px-{self.style.label(min(self.height, self.width))}"


@dataclass(frozen=True)
class EmbeddedSet:
    """How the embedded set of a task is made.

    Attributes
    ----------
    task : str
        Name of the task.
    sizes : mapping
        Extent by scale.
    classes : sequence of str
        Names of the classes.
    write : callable
        Called as ``write(size, seed, folder)``: writes the set into an empty folder and yields after each image. The
        bytes depend on the arguments and on nothing else.
    per_class : bool
        Whether the numbers of images are those of each class.
    version : int
        Raise it whenever the rendered bytes change: sets are then made anew, under another name.

    Examples
    --------
    >>> folder = find_task("coco").embedded.make("mini", Path("data"))
    """

    task: str
    sizes: Mapping[str, Size]
    classes: Sequence[str]
    write: Callable[[Size, int, Path], Iterator[None]]
    per_class: bool = False
    version: int = VERSION

    def make(
        self,
        scale: str,
        root: str | os.PathLike[str],
        seed: int = 0,
        *,
        size: Size | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Write the set below `root`, unless it is there already.

        It is written under a temporary name and renamed when complete: an interrupted call leaves no half set.
        The same seed gives the same bytes (with the same versions of NumPy and Pillow).

        Parameters
        ----------
        scale : str
            A key of `sizes`.
        root : path
            Folder that holds embedded sets; made if need be.
        seed : int
            Another seed gives other scenes.
        size : Size, optional
            Another extent.
        progress : callable, optional
            Called as ``progress(images_done, images_in_all)`` after each image.

        Returns
        -------
        Path
            The set's folder, to be given to a reader.

        Raises
        ------
        UsageError
            If there is no embedded set at this scale.
        DataError
            If the folder cannot be written.
        """
        if scale not in self.sizes:
            known = ", ".join(self.sizes)
            raise UsageError(
                f"no embedded set for task {self.task!r} at scale {scale!r}: there is {known}; else give --data"
            )
        folder = Path(root) / self.name(scale, seed, size)
        size = size or self.sizes[scale]
        if (folder / MANIFEST).is_file():
            return folder
        partial = None
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _clear_stale(folder)
            partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
            partial.mkdir()  # not by tempfile, which makes it ours alone: sets are shared
            self._write(size, seed, partial, progress or (lambda done, total: None))
            write_json(partial / MANIFEST, self._manifest(scale, size, seed))
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

    def varied(self, scale: str, pixels: int | None, images: Mapping[str, int] | None, **style: Any) -> Size:
        """Return a scale's extent with some of the renderer's knobs turned; None leaves one as it is.

        Parameters
        ----------
        pixels : int
            Height; the width keeps its share of it.
        images : mapping
            Number of images by split.
        **style
            Fields of the scale's style.

        Raises
        ------
        UsageError
            For a scale whose scenes have no knobs, or values that cannot be drawn.
        """
        usual = self.sizes.get(scale)
        if usual is None or usual.style is None:
            turnable = ", ".join(name for name, size in self.sizes.items() if size.style is not None) or "none"
            raise UsageError(
                f"the scenes of {self.task} at scale {scale!r} have no knobs; scales that have: {turnable}"
            )
        height = pixels or usual.height
        turned = {name: value for name, value in style.items() if value is not None}
        return replace(
            usual,
            height=height,
            width=round(usual.width * height / usual.height),
            images={**usual.images, **(images or {})},
            style=replace(usual.style, **turned),
        )

    def name(self, scale: str, seed: int = 0, size: Size | None = None) -> str:
        """Return what the set's folder is called, and the data set in records; see `make`."""
        extent = (
            "" if size is None or size == self.sizes.get(scale) else f"{size.label}-{_digest(repr(size).encode())[:8]}"
        )
        return f"{self.task}-{scale}{extent}-v{self.version}-seed{seed}"

    def _write(self, size: Size, seed: int, folder: Path, progress: Progress) -> None:
        total = sum(size.images.values()) * (len(self.classes) if self.per_class else 1)
        for done, _ in enumerate(self.write(size, seed, folder), start=1):
            progress(done, total)

    def _manifest(self, scale: str, size: Size, seed: int) -> dict[str, Any]:
        return {
            "generator": self.version, "task": self.task, "scale": scale, "seed": seed, "height": size.height,
            "width": size.width, "images": size.images, "classes": list(self.classes),
            **({} if size.style is None else {"style": asdict(size.style)}),
        }  # fmt: skip


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


def write_json(path: Path, content: object) -> None:
    """Write JSON on one line; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def save_jpeg(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a picture (H, W, 3) with little loss."""
    Image.fromarray(picture).save(path, format="JPEG", quality=92, subsampling=0)
