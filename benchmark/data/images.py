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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from benchmark.data.digests import digest_files, kept_digests, state_of
from benchmark.errors import DataError, one_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
CACHE_BYTES = 1 << 30  # of decoded images that a reader keeps in memory


def decode(content: bytes | Path, name: str) -> torch.Tensor:
    """Decode an image to RGB.

    Grey, palette and CMYK images become RGB; EXIF orientation is ignored, as COCO's tools do. One channel of 16 bits or
    more is refused: conversion would clip it to white.

    Parameters
    ----------
    content : bytes or Path
        The encoded file, or where it lies.
    name : str
        How to name it in an error.

    Returns
    -------
    Tensor, uint8, (3, H, W)

    Raises
    ------
    DataError
        If the file is missing, truncated, no image, or has more than 8 bits a channel.
    """
    with _opened(content, name) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def inspect(content: bytes | Path, name: str) -> tuple[int, int]:
    """Decode an image as coarsely as its format allows, to see whether it is whole; return (height, width).

    Raises
    ------
    DataError
        If the file is missing, truncated or no image.
    """
    with _opened(content, name) as image:
        width, height = image.size
        image.draft("RGB", (1, 1))  # JPEG: an eighth of the resolution, several times faster
        image.load()
    return height, width


@contextlib.contextmanager
def _opened(content: bytes | Path, name: str) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
            if image.mode[0] in "IF":  # Pillow's modes of 16 and 32 bits
                raise ValueError(f"it has more than 8 bits a channel (mode {image.mode}); convert it to 8")
            yield image
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
        here = self.listing()
        # `os.path.isfile`, which takes a name that is too long for one that is not there; `Path.is_file` raises.
        return [name for name in names if name not in here and not os.path.isfile(self.place / name)]

    def listing(self) -> set[str]:
        """Return the names of all images that lie here, at the first level."""
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

    def read(self, name: str) -> torch.Tensor:
        """Return image `name`, uint8, (3, H, W); the caller may change it.

        Raises
        ------
        DataError
            If it is missing or cannot be decoded.
        """
        kept = self._kept.get(name)
        if kept is not None:
            return kept.clone()
        image = decode(self._content(name), self.where(name))
        if image.numel() <= self._room:
            self._room -= image.numel()
            self._kept[name] = image.clone()
        return image

    def inspect(self, name: str) -> tuple[int, int]:
        """Return (height, width) of image `name`, having made sure that it can be decoded.

        Raises
        ------
        DataError
            If it is missing or cannot be decoded.
        """
        return inspect(self._content(name), self.where(name))

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


def extent(size: Sequence[Any]) -> str:
    """Return a size (height, width) as people write it: ``width x height``, without the spaces."""
    height, width = size
    return f"{width}x{height}"


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
