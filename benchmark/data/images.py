"""Images as tensors, out of a folder or a zip archive, with errors that name the file.

Shared by the readers; it knows nothing of labels.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from benchmark.cores import usable_cores
from benchmark.data.digests import digest_files, kept_digests, state_of
from benchmark.errors import DataError, one_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
CACHE_BYTES = 1 << 30  # of decoded images that a reader keeps in memory
_STRIP = 50  # times as long as wide: no photograph comes near it
_ACROSS = 5  # the first EXIF orientation that lays an image on its side


class Look(NamedTuple):
    """What a coarse look at an image says.

    Attributes
    ----------
    size : tuple of int
        Height and width, as `decode` gives them.
    turned : bool
        Whether EXIF data have it turned or mirrored.
    """

    size: tuple[int, int]
    turned: bool


def decode(content: bytes | Path, name: str, listed: tuple[int, int] | None = None) -> torch.Tensor:
    """Decode an image to RGB.

    Grey, palette and CMYK images become RGB. One channel of 16 bits or more is refused: conversion would clip it to
    white. An image with an EXIF orientation is turned as every viewer does, and as those saw it who labelled it. Only
    where labels say the size of the stored pixels, and the turned image has another, they are of these pixels.

    Parameters
    ----------
    content : bytes or Path
        The encoded file, or where it lies.
    name : str
        How to name it in an error.
    listed : (height, width), optional
        The size that the labels say.

    Returns
    -------
    Tensor, uint8, (3, H, W)

    Raises
    ------
    DataError
        If the file is missing, truncated, no image, or has more than 8 bits a channel.
    """
    with _opened(content, name) as image:
        upright = ImageOps.exif_transpose(image) if _is_turned(image, listed) else image
        pixels = np.array(upright.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def inspect(content: bytes | Path, name: str, listed: tuple[int, int] | None = None) -> Look:
    """Decode an image as coarsely as its format allows, to see whether it is whole.

    Raises
    ------
    DataError
        If the file is missing, truncated or no image.
    """
    with _opened(content, name) as image:
        turned, across = _is_turned(image, listed), _orientation(image) >= _ACROSS
        width, height = image.size
        if max(image.size) > _STRIP * min(image.size):
            raise DataError(
                f"cannot use {name}: a strip of {width}x{height} pixels, of which resizing leaves nothing; take it out"
            )
        image.draft("RGB", (1, 1))  # JPEG: an eighth of the resolution, several times faster
        image.load()
    return Look((width, height) if turned and across else (height, width), turned)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation: 1 is upright, from 5 on height and width change places."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF data may be anything; the picture does not need them
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _is_turned(image: Image.Image, listed: tuple[int, int] | None) -> bool:
    stored, orientation = (image.height, image.width), _orientation(image)
    upright = stored[::-1] if orientation >= _ACROSS else stored
    return orientation != 1 and not (listed == stored and upright != stored)


@contextlib.contextmanager
def _opened(content: bytes | Path, name: str) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
            if image.mode[0] in "IF":  # Pillow's modes of 16 and 32 bits
                raise DataError(
                    f"cannot decode {name}: it has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits"
                )
            yield image
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"no such image: {name}; copy it there or take it out of the annotations") from error
    except UnidentifiedImageError as error:
        raise DataError(f"cannot decode {name}: not an image that Pillow knows; fetch it again") from error
    except Exception as error:  # a decoder meets bytes that nobody has foreseen
        raise DataError(f"cannot decode {name}: {one_line(error)}; fetch it again") from error


class ImageStore:
    """The images of one split, in a folder or in a zip archive.

    Parameters
    ----------
    place : Path
        A folder, or a ``.zip`` whose members are the images, with or without folders around them.
    cache : int
        Bytes of decoded images to keep in memory; 0 keeps none. Each worker process keeps its own.
    """

    def __init__(self, place: Path, cache: int = 0) -> None:
        self.place = place
        self.zipped = place.is_file()
        self._room = cache
        self._kept: dict[str, torch.Tensor] = {}
        self._archive: zipfile.ZipFile | None = None
        self._owner = -1  # the process that opened the archive: a file position cannot be shared with a fork
        self._members: dict[str, str] = {}
        if self.zipped:
            try:
                names = [name for name in self._open().namelist() if not name.endswith("/")]
            except Exception as error:  # of bytes that nobody has foreseen
                raise DataError(f"cannot read {place}: {one_line(error)}; fetch it again or unpack it") from error
            self._members = {name: name for name in names}
            for name in names:
                self._members.setdefault(name.removeprefix(place.stem + "/"), name)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open archive and the kept images behind when a worker process is started."""
        return {**self.__dict__, "_archive": None, "_owner": -1, "_kept": {}}

    def _open(self) -> zipfile.ZipFile:
        if self._archive is None or self._owner != os.getpid():
            self._archive = zipfile.ZipFile(self.place)
            self._owner = os.getpid()
        return self._archive

    def where(self, name: str) -> str:
        """Return how to name image `name` to a person."""
        return f"{self.place}:{name}" if self.zipped else str(self.place / name)

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that are not here."""
        if self.zipped:
            return [name for name in names if name not in self._members]
        here = self._names()
        # `os.path.isfile`, which takes a name that is too long for one that is not there; `Path.is_file` raises.
        return [name for name in names if name not in here and not os.path.isfile(self.place / name)]

    def listing(self) -> set[str]:
        """Return the names of all images that lie here, at the first level, hidden files aside."""
        return {name for name in self._names() if not is_hidden(name)}

    def _names(self) -> set[str]:
        if self.zipped:
            names: Iterable[str] = (n.removeprefix(self.place.stem + "/") for n in self._open().namelist())
        else:
            with os.scandir(self.place) as entries:
                names = [entry.name for entry in entries]
        return {name for name in names if name.lower().endswith(EXTENSIONS)}

    def sizes(self, names: Iterable[str]) -> list[int]:
        """Return the size in bytes of each named file; -1 if it is missing."""
        if self.zipped:
            archive = self._open()
            return [archive.getinfo(self._members[n]).file_size if n in self._members else -1 for n in names]
        return [_size(os.path.join(self.place, name)) for name in names]

    def digests(self, names: Sequence[str]) -> list[str]:
        """Return a digest of the content of each named file, kept while the file is unchanged; see `data.digests`.

        Files in a folder and members of an archive have the same.

        Raises
        ------
        DataError
            Naming a file that is missing or cannot be read.
        """
        if not self.zipped:
            return digest_files(self.place, names)

        def digest(index: int) -> bytes:
            content = self._content(names[index])
            assert isinstance(content, bytes)
            return hashlib.blake2b(content, digest_size=16).digest()

        return kept_digests(self.place, names, [state_of(self.place)] * len(names), digest, threads=False)

    def read(self, name: str, listed: tuple[int, int] | None = None) -> torch.Tensor:
        """Return image `name`, uint8, (3, H, W); the caller may change it. `listed` is the size that labels say.

        Raises
        ------
        DataError
            If it is missing or cannot be decoded.
        """
        kept = self._kept.get(name)
        if kept is not None:
            return kept.clone()
        image = decode(self._content(name), self.where(name), listed)
        if image.numel() <= self._room:
            self._room -= image.numel()
            self._kept[name] = image.clone()
        return image

    def inspect(self, name: str, listed: tuple[int, int] | None = None) -> Look:
        """Return what a coarse look at image `name` says, having made sure that it can be decoded.

        Raises
        ------
        DataError
            If it is missing or cannot be decoded.
        """
        return inspect(self._content(name), self.where(name), listed)

    def inspect_all(self, names: Sequence[str], listed: Sequence[tuple[int, int] | None] = ()) -> Iterator[Look]:
        """Give what a coarse look at each image says, in order, from several threads.

        Raises
        ------
        DataError
            For the first that is missing or cannot be decoded.
        """
        with ThreadPoolExecutor(usable_cores()) as pool:  # decoding releases the interpreter
            yield from pool.map(self.inspect, names, listed or [None] * len(names))

    def _content(self, name: str) -> bytes | Path:
        if not self.zipped:
            return self.place / name
        if name not in self._members:
            raise DataError(f"no image {name} in {self.place}; the archive and the annotations do not match")
        try:
            return self._open().read(self._members[name])
        except Exception as error:  # of bytes that nobody has foreseen
            raise DataError(
                f"cannot read {name} in {self.place}: {one_line(error)}; fetch the archive again"
            ) from error


def told_turned(images: ImageStore, names: Sequence[str]) -> list[str]:
    """Return a line about the images that EXIF data turn, if there are any."""
    if not names:
        return []
    return [f"{len(names)} x image that EXIF data turn, such as {images.where(names[0])}: {TURNED}"]


#: What is done with images that EXIF data turn, and what to do where that is wrong.
TURNED = "turned as every viewer does; where the labels are of the stored pixels, remove the EXIF orientation"


def is_hidden(name: str) -> bool:
    """Return whether a path leads to what file managers, macOS and notebooks hide: no data of anybody's."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def extent(size: Sequence[Any]) -> str:
    """Return a size (height, width) as people write it: ``width x height``, without the spaces."""
    height, width = size
    return f"{width}x{height}"


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
