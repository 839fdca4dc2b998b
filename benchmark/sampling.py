"""Which positions a network computes for an image: what pictures of masks are drawn from, and the file that keeps it.

A record keeps the masks of its first validation images in one small file (`SAMPLING`), so that reports can draw where
its network looked without weights, data or PyTorch. `benchmark.cells.looking` fills a `Sampling`; nothing here knows a
network.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmark.errors import StoreError, one_line

__all__ = ["SAMPLING", "Sampling", "pack", "read"]

#: A record's file of the masks of its first validation images.
SAMPLING = "sampling.npz"
KEPT_SIDE = 512  # pixels of the longer side of a kept picture: enough to recognise it
_QUALITY = 90
_LEVELS = 255  # a kept confidence is one byte


@dataclass(frozen=True)
class Sampling:
    """The masks of one image, in one draw or several.

    Attributes
    ----------
    image
        ``(H, W, 3)``, uint8: what the backbone reads, with its padding.
    identifier
        The image's name, which keyed its noise.
    seeds
        Seed of each draw; a single one where the masks do not depend on it.
    masks
        By name, such as ``layer1.0.mask1``, in the order in which they are decided: bool ``(draws, h, w)``, True where
        the position is computed. ``h, w`` are the resolution of the governed map.
    confidences
        By name, of the masks that are drawn by one (paper §3.2): float ``(h, w)``, 0 to 1, of the first draw.
    """

    image: npt.NDArray[np.uint8]
    identifier: str
    seeds: Sequence[int]
    masks: Mapping[str, npt.NDArray[np.bool_]]
    confidences: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def density(self, draw: int | None = None) -> npt.NDArray[np.float64]:
        """Return for each pixel ``(H, W)`` the share of the masks that compute it, in one draw or in all of them.

        Every mask counts alike; a position of a coarse map stands for all the pixels that it covers.
        """
        chosen = slice(None) if draw is None else slice(draw, draw + 1)
        size = self.image.shape[0], self.image.shape[1]
        total = np.zeros(size)
        for mask in self.masks.values():
            total += stretch(mask[chosen].mean(0), size)
        return total / len(self.masks)

    def shares(self, draw: int = 0) -> dict[str, float]:
        """Return the share of positions that each mask computes in a draw."""
        return {name: float(mask[draw].mean()) for name, mask in self.masks.items()}


def stretch(values: npt.NDArray[np.float64], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return a map ``(h, w)`` at a larger size ``(H, W)``: each position repeated over what it covers."""
    rows, columns = (np.arange(long) * short // long for long, short in zip(size, values.shape, strict=True))
    return values[np.ix_(rows, columns)]


def pack(samplings: Sequence[Sampling]) -> bytes:
    """Return the content of a `SAMPLING` file: pictures as JPEG, masks as bits, confidences as bytes.

    The same samplings give the same bytes.
    """
    arrays: dict[str, npt.NDArray[np.generic]] = {"count": np.array(len(samplings))}
    for number, each in enumerate(samplings):
        names = list(each.masks)
        parts = {
            "image": np.frombuffer(_jpeg(each.image), dtype=np.uint8),
            "identifier": np.array(each.identifier),
            "seeds": np.array(each.seeds, dtype=np.int64),
            "names": np.array(names),
            "sizes": np.array([each.masks[name].shape[1:] for name in names], dtype=np.int64),
            "bits": np.packbits(np.concatenate([each.masks[name].ravel() for name in names])),
            "confident": np.array([name in each.confidences for name in names]),
            "confidences": np.concatenate([
                np.zeros(0, dtype=np.uint8),
                *(np.rint(_LEVELS * each.confidences[name]).astype(np.uint8).ravel()
                  for name in names if name in each.confidences),
            ]),
        }  # fmt: skip
        arrays |= {f"{number}.{key}": value for key, value in parts.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read(path: Path, content: bytes | None = None) -> list[Sampling]:
    """Read a `SAMPLING` file; nothing in it is executed.

    Parameters
    ----------
    content
        What is in it, where that was read already.

    Raises
    ------
    StoreError
        Where it is broken, in one line that names it.
    """
    try:
        with np.load(path if content is None else io.BytesIO(content), allow_pickle=False) as stored:
            return [_unpack(stored, number) for number in range(int(stored["count"]))]
    except Exception as error:  # of bytes that nobody has foreseen
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise StoreError(
            f"{path}: broken ({reason}); delete it, and make it again with `saibench show --checkpoint "
            f"{path.parent.name} --keep`"
        ) from error


def _unpack(stored: Mapping[str, npt.NDArray[np.generic]], number: int) -> Sampling:
    part = {key: stored[f"{number}.{key}"] for key in ("names", "sizes", "bits", "confident", "confidences", "seeds")}
    names, sizes = [str(name) for name in part["names"]], [(int(h), int(w)) for h, w in part["sizes"]]
    draws = len(part["seeds"])
    cells = [height * width for height, width in sizes]
    if min(map(min, sizes), default=1) < 1 or draws * sum(cells) > 8 * len(part["bits"]):
        raise ValueError("its sizes are not those of its masks")  # and would ask for any amount of memory
    bits = np.unpackbits(part["bits"].astype(np.uint8), count=draws * sum(cells)).astype(bool)
    ends = np.cumsum([draws * count for count in cells])
    masks = {
        name: each.reshape(draws, *size)
        for name, size, each in zip(names, sizes, np.split(bits, ends[:-1]), strict=True)
    }
    kept = [(name, size) for name, size, there in zip(names, sizes, part["confident"], strict=True) if there]
    stops = np.cumsum([height * width for _, (height, width) in kept])
    levels = np.split(part["confidences"].astype(np.float64) / _LEVELS, stops[:-1]) if kept else []
    confidences = {name: each.reshape(size).astype(np.float32) for (name, size), each in zip(kept, levels, strict=True)}
    with Image.open(io.BytesIO(stored[f"{number}.image"].tobytes())) as picture:
        image = np.array(picture.convert("RGB"))
    return Sampling(image, str(stored[f"{number}.identifier"]), part["seeds"].tolist(), masks, confidences)


def _jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((KEPT_SIDE, KEPT_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()
