"""What runs when a network is sparse: the rules shared by the counter and by the CPU engine.

Pure functions on mask arrays: which positions of a map a convolution reads, which positions an
interpolation has to fill and from how many neighbours, and whether the last convolution of a bottleneck
runs before or after the interpolation. The counter multiplies these numbers with channels, the engine runs
these positions, so both agree by construction (docs/design.md §4). Where the engine takes the other order of
interpolation and last convolution because it is faster, it says so beside. Nothing here computes a feature,
knows a module or holds a state.

A mask ``M`` is a real array ``(..., H, W)`` of NumPy or PyTorch (any device); leading axes are images or
layers and are independent. With it, the output of an interpolated layer is

    out(p) = M(p) Y(p) + (1 - M(p)) C(p),    C(p) = sum_q w(p - q) M(q) Y(q) / (sum_q w(p - q) M(q) + 1e-5)

with q in the odd square window around p, and zero padding outside of the map (paper, §3.3). Hence

* ``Y`` is computed where ``M(p) > 0``: the *sampled* positions;
* ``C`` is needed where ``M(p) != 1``: the *missing* positions. For a hard mask these are the ones with M(p)
  = 0; a position with a real value (ReLU gating) is both sampled and missing, and is a neighbour of itself;
* the pairs (missing position, sampled neighbour) are what an interpolation costs, once per channel.

All counts are exact integers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

#: A NumPy array or a PyTorch tensor; a function returns the kind that it was given.
Array = Any

#: Multiply-accumulates of one bilinear sample of one channel (deformable convolution, RoIAlign).
BILINEAR_MACS = 4


class Conv3Plan(NamedTuple):
    """How the last convolution of a bottleneck runs, from :func:`conv3_plan`.

    Attributes
    ----------
    on_samples
        True: at the sampled positions, then interpolation of its output channels. False: interpolation of
        its input channels, then densely.
    convolution_macs, interpolation_macs
        Multiply-accumulates of the two steps.
    """

    on_samples: Any
    convolution_macs: Any
    interpolation_macs: Any


def sampled(mask: Array) -> Array:
    """Return the positions that the masked convolution computes, ``M > 0``: boolean, like ``mask``."""
    return mask if _is_boolean(mask) else mask > 0


def missing(mask: Array) -> Array:
    """Return the positions that need the interpolated value, ``M != 1``: boolean, like ``mask``."""
    return ~mask if _is_boolean(mask) else mask != 1


def output_size(
    input_size: tuple[int, int],
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
) -> tuple[int, int]:
    """Return height and width of a convolution's output, ``floor((n + 2p - d(k - 1) - 1) / s) + 1`` each."""
    kernel, stride, padding, dilation = map(_pair, (kernel, stride, padding, dilation))
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(input_size, kernel, stride, padding, dilation, strict=True)
    )
    return height, width


def positions_read(
    mask: Array | None,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    input_size: tuple[int, int],
) -> Array:
    """Return the input positions that a convolution reads when it runs at its output's sampled positions.

    ``read(x) = any over sampled p and taps k of [x = p * stride - padding + k * dilation]``.

    Parameters
    ----------
    mask
        Mask of the convolution's **output**, ``(..., H_out, W_out)``; None for a dense convolution.
    kernel, stride, padding, dilation
        Of the convolution; one number or (vertical, horizontal). A deformable convolution reads anywhere:
        do not ask here, but take every position as read.
    input_size
        Height and width of the convolution's input.

    Returns
    -------
    Array
        Boolean, ``(..., H_in, W_in)``; ``(H_in, W_in)`` of NumPy when ``mask`` is None.

    Raises
    ------
    ValueError
        The mask does not have the size of the convolution's output.
    """
    kernel, stride, padding, dilation = map(_pair, (kernel, stride, padding, dilation))
    rows, columns = output_size(input_size, kernel, stride, padding, dilation)
    computed = np.ones((rows, columns), dtype=bool) if mask is None else sampled(mask)
    if tuple(computed.shape[-2:]) != (rows, columns):
        raise ValueError(
            f"the mask is {tuple(computed.shape[-2:])}, but a convolution with kernel {kernel}, "
            f"stride {stride}, padding {padding} and dilation {dilation} on {tuple(input_size)} gives "
            f"{(rows, columns)}"
        )
    # The taps form a grid, so columns and rows spread one after the other: K_h + K_w steps, not K_h * K_w.
    height, width = (n + 2 * p for n, p in zip(input_size, padding, strict=True))
    across = _zeros(computed, (rows, width))
    for tap in range(kernel[1]):
        start = tap * dilation[1]
        across[..., start : start + (columns - 1) * stride[1] + 1 : stride[1]] |= computed
    read = _zeros(computed, (height, width))
    for tap in range(kernel[0]):
        start = tap * dilation[0]
        read[..., start : start + (rows - 1) * stride[0] + 1 : stride[0], :] |= across
    return read[..., padding[0] : height - padding[0], padding[1] : width - padding[1]]


def neighbour_counts(mask: Array, window: int) -> Array:
    """Count the sampled positions in the window around each: ``n(p) = #{q : |p - q| <= r, M(q) > 0}``.

    Parameters
    ----------
    mask
        ``(..., H, W)``; outside of the map nothing is sampled.
    window
        Side of the square window, odd; ``r = (window - 1) / 2`` in the maximum norm. 0 for a fill that
        reads no window (zeros, a copy of the nearest row or of the block's input): no neighbours.

    Returns
    -------
    Array
        Integers (the smallest type that holds ``window ** 2``), the shape of ``mask``.

    Raises
    ------
    ValueError
        The window is even and not 0, or negative.
    """
    if window < 0 or (window > 0 and window % 2 == 0):
        raise ValueError(f"the interpolation window is {window}; it must be odd, or 0 for none")
    counts = _as_type(sampled(mask), "uint8" if window**2 <= np.iinfo(np.uint8).max else "int32")
    if window == 0:
        return counts * 0
    height, width = counts.shape[-2:]
    radius = window // 2
    padded = _zeros(counts, (height + 2 * radius, width + 2 * radius))
    padded[..., radius : radius + height, radius : radius + width] = counts
    return _window_sum(_window_sum(padded, window, -1), window, -2)


def neighbour_pairs(mask: Array, needed: Array | None, window: int) -> Array:
    """Count the pairs of a position to fill and a sampled neighbour in its window.

    Parameters
    ----------
    mask
        ``(..., H, W)``.
    needed
        Boolean ``(..., H, W)``: the positions whose value something reads; None for all. Only missing
        positions among them are filled.
    window
        Side of the window, odd; 0 for a fill that reads no window.

    Returns
    -------
    Array
        int64, the leading axes of ``mask``: multiply-accumulates of the interpolation, per channel. The sum
        of the weights below the fraction and the division are not among them (docs/flops.md).
    """
    filled = missing(mask) if needed is None else missing(mask) & needed
    return total(neighbour_counts(mask, window) * filled)


def conv3_plan(samples: Any, pairs: Any, positions: int, in_channels: int, out_channels: int) -> Conv3Plan:
    """Decide how conv3 (1x1) of a bottleneck runs when it shares conv2's mask: the way with fewer MACs.

    For a convolution that commutes with the fill before it (`benchmark.nn.work.Convolution.commutes`) alone.

    On samples: ``n Cin Cout`` for the convolution and ``pairs Cout`` for the interpolation after it
    (weights that sum to 1 commute with a 1x1 convolution up to epsilon; its bias and batch norm come
    after). Densely: ``pairs Cin`` for the interpolation before it and ``H W Cin Cout`` for the convolution.
    On samples when equal.

    Parameters
    ----------
    samples
        Sampled positions of conv2: an integer, or int64 NumPy array with one entry per image.
    pairs
        (Missing position, sampled neighbour) pairs over **all** missing positions; the same kind as
        ``samples``.
    positions
        ``H * W`` of conv2's output.
    in_channels, out_channels
        Of conv3: C and 4C.

    Returns
    -------
    Conv3Plan
        Fields of the kind of ``samples``.
    """
    sparse = (samples * in_channels * out_channels, pairs * out_channels)
    dense = (samples * 0 + positions * in_channels * out_channels, pairs * in_channels)
    on_samples = sparse[0] + sparse[1] <= dense[0] + dense[1]
    if isinstance(on_samples, bool):
        return Conv3Plan(on_samples, *(sparse if on_samples else dense))
    return Conv3Plan(on_samples, *(np.where(on_samples, s, d) for s, d in zip(sparse, dense, strict=True)))


def total(array: Array) -> Array:
    """Sum the last two axes to int64: the positions of a boolean map, or the pairs of an integer one."""
    if isinstance(array, torch.Tensor):
        return array.sum(dim=(-2, -1), dtype=torch.int64)
    if array.dtype.itemsize > 1:
        return array.sum(axis=(-2, -1), dtype=np.int64)
    # Rows first, in the narrowest type that holds their sum: NumPy adds those five times as fast as 64-bit integers.
    largest = array.shape[-2] * (1 if array.dtype == bool else np.iinfo(np.uint8).max)
    rows = array.sum(axis=-2, dtype=np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32)
    return rows.sum(axis=-1, dtype=np.int64)


def _is_boolean(mask: Array) -> bool:
    return mask.dtype == (torch.bool if isinstance(mask, torch.Tensor) else np.bool_)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _as_type(array: Array, name: str) -> Array:
    if isinstance(array, torch.Tensor):
        return array.to(getattr(torch, name))
    return array.astype(name)


def _zeros(like: Array, size: tuple[int, int]) -> Array:
    """Make zeros of the type and leading axes of ``like``, and in its memory order."""
    shape = (*like.shape[:-2], *size)
    if isinstance(like, torch.Tensor):
        return like.new_zeros(shape)
    return np.zeros_like(like, shape=shape, order="K")


def _window_sum(array: Array, window: int, axis: int) -> Array:
    """Sum ``window`` consecutive entries along an axis from sums of 1, 2, 4, … entries: few additions."""
    length = array.shape[axis] - window + 1
    result: Array = None
    offset, width, remaining, partial = 0, 1, window, array
    while True:
        if remaining & 1:
            piece = _slice(partial, axis, offset, offset + length)
            result = piece if result is None else result + piece
            offset += width
        remaining >>= 1
        if not remaining:
            return result
        size = partial.shape[axis]
        partial = _slice(partial, axis, 0, size - width) + _slice(partial, axis, width, size)
        width *= 2


def _slice(array: Array, axis: int, start: int, stop: int) -> Array:
    return array[..., start:stop] if axis == -1 else array[..., start:stop, :]
