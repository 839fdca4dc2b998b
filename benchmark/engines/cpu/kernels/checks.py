"""What every kernel checks of the arrays that it is given: type, shape, layout."""

from __future__ import annotations

import operator

import numpy as np
from numpy.typing import NDArray

from benchmark.engines.base import Floats

Positions = NDArray[np.int32]

THREAD_LIMIT = 256
"""Threads at most: those of the pool (`MAX_THREADS` of threads.h)."""

POSITION_LIMIT = 2**31 - 1
"""Positions of a map at most: a position is an int32."""

_FLOAT32, _INT32 = np.dtype(np.float32), np.dtype(np.int32)


def floats(name: str, array: object, shape: tuple[int | None, ...]) -> Floats:
    """Check a contiguous float32 array and return it; None stands for any length."""
    checked = _typed(name, array, shape)
    if not checked.flags.c_contiguous:
        raise ValueError(f"{name} with shape {checked.shape} is not C-contiguous (strides {checked.strides})")
    return checked


def rows(name: str, array: object, shape: tuple[int | None, int | None]) -> Floats:
    """Check rows of which each is contiguous; they may lie further apart than they are long."""
    checked = _typed(name, array, shape)
    apart, step = checked.strides
    if not checked.flags.c_contiguous and (step != 4 or apart % 4 or apart < 4 * checked.shape[1]):
        raise ValueError(
            f"{name} with shape {checked.shape} has rows that are not contiguous (strides {(apart, step)})"
        )
    return checked


def ints(name: str, array: object, shape: tuple[int | None, ...]) -> Positions:
    """Check a contiguous int32 array and return it; None stands for any length."""
    if not isinstance(array, np.ndarray) or (array.dtype is not _INT32 and array.dtype != _INT32):
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be an int32 array, not {kind}")
    if not _fits(array.shape, shape):
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} with shape {array.shape} is not C-contiguous (strides {array.strides})")
    return array


def threads(threads: int) -> int:
    """Check a number of threads and return it."""
    if not 1 <= threads <= THREAD_LIMIT:
        raise ValueError(f"threads must be 1 to {THREAD_LIMIT}, not {threads}")
    return operator.index(threads)


def size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Check height and width of a map and return them."""
    if len(size) != 2 or min(size) < 1 or size[0] * size[1] > POSITION_LIMIT:
        raise ValueError(f"{name} must be (height, width) of at least one position and below 2^31, not {size}")
    return operator.index(size[0]), operator.index(size[1])


def finite(name: str, array: Floats) -> Floats:
    """Check that there is neither NaN nor infinity in an array and return it."""
    if not np.isfinite(array).all():
        raise ValueError(f"{name} of shape {array.shape} holds NaN or infinity")
    return array


def _typed(name: str, array: object, shape: tuple[int | None, ...]) -> Floats:
    if not isinstance(array, np.ndarray) or (array.dtype is not _FLOAT32 and array.dtype != _FLOAT32):
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be a float32 array, not {kind}")
    # The usual case first: this runs thousands of times for an image.
    if array.shape != shape and not _fits(array.shape, shape):
        wanted = tuple("any" if w is None else w for w in shape)
        raise ValueError(f"{name} has shape {array.shape}, expected {wanted}")
    return array


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))
