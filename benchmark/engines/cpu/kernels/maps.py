"""Whole maps: pooling, and images with channels last."""

from __future__ import annotations

from benchmark.engines.base import Floats
from benchmark.engines.cpu.kernels import checks, library
from benchmark.engines.cpu.kernels.geometry import REACH_LIMIT, Geometry

POOL_LIMIT = 15
"""The largest kernel of a max pooling (`MAX_POOL` of kernels.h)."""


def max_pool(
    x: Floats,
    size: tuple[int, int],
    out: Floats,
    *,
    kernel: int,
    stride: int,
    padding: int,
    first_row: int = 0,
    rows: tuple[int, int] | None = None,
    threads: int = 1,
) -> None:
    """Max pooling of ``x``, which holds rows ``first_row`` on of a map of ``size``, into rows ``rows`` of ``out``."""
    library.require()
    geometry = Geometry(1, kernel, stride, padding)
    checks.size("size", size)
    out_height, out_width = geometry.out_size(*size)
    begin, end = rows or (0, out_height)
    if kernel > POOL_LIMIT or padding > kernel // 2 or out_height < 1 or out_width < 1:
        raise ValueError(f"no pooling of {size} with kernel {kernel}, padding {padding}")
    x = checks.floats("x", x, (None, None))
    if x.shape[1] < 1:
        raise ValueError(f"x has shape {x.shape}: no channels")
    out = checks.floats("out", out, (out_height * out_width, x.shape[1]))
    needed = range(max(0, begin * stride - padding), min(size[0], (end - 1) * stride - padding + kernel))
    held = range(first_row, first_row + x.shape[0] // size[1])
    if x.shape[0] % size[1] or not 0 <= begin <= end <= out_height:
        raise ValueError(f"x has shape {x.shape} for a map of {size}, rows {rows}")
    if begin == end:
        return
    if needed.start < held.start or needed.stop > held.stop:
        raise ValueError(f"x holds map rows {held}, but output rows {rows} need {needed}")
    library.compiled.max_pool(
        x.reshape(-1),
        first_row,
        size[0],
        size[1],
        x.shape[1],
        kernel,
        stride,
        padding,
        begin,
        end,
        out_width,
        out.reshape(-1),
        checks.threads(threads),
    )


def channels_last(image: Floats, *, border: int = 0, out: Floats | None = None, threads: int = 1) -> Floats:
    """Return ``(C, H, W)`` as rows ``((H + 2 border) * (W + 2 border), C)`` with a zero border."""
    library.require()
    image = checks.floats("image", image, (None, None, None))
    if image.size == 0 or not 0 <= border <= REACH_LIMIT:
        raise ValueError(f"image of shape {image.shape}, border {border}")
    channels, height, width = image.shape
    checks.size("image with its border", (height + 2 * border, width + 2 * border))
    shape = ((height + 2 * border) * (width + 2 * border), channels)
    out = library.empty(*shape) if out is None else checks.floats("out", out, shape)
    if not library.compiled.channels_last(image, border, out.reshape(-1), checks.threads(threads)):
        raise ValueError(f"image with shape {image.shape} holds NaN or infinity")
    return out
