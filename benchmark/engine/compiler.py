"""From a trained backbone to a plan that runs on the CPU with real sparsity.

`Engine` folds batch norm, packs every weight once and then computes a backbone's stage maps for one image at a time:
convolutions only at sampled positions, interpolation only where a later layer reads it, conv3 on the samples or on the
filled map, whichever `benchmark.nn.sparsity.conv3_plan` (shared with the counter) says. It keeps a tally of what it
executes. Not here: training, necks and heads (they stay in PyTorch), batches, other architectures than the blocks of
`benchmark.nn`.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmark.engine import kernels
from benchmark.engine.kernels import Convolution, Floats, Geometry, MaskConvolution, NarrowConvolution, Positions
from benchmark.errors import SaibenchError
from benchmark.nn import sparsity
from benchmark.nn.blocks import BasicBlock, Bottleneck, ResidualBlock
from benchmark.nn.interpolation import Interpolation, Nearest, Reuse
from benchmark.nn.masks import FixedMask, GumbelMask, LearnedMask, Mask
from benchmark.nn.noise import logistic_threshold
from benchmark.nn.resnet import ResNet

BAND_BYTES = 3 << 20
"""Bytes that one kernel leaves to the next at a time: they stay in cache between the two."""

Size = tuple[int, int]


@dataclass
class Row:
    """What one layer executed: its kind, multiply-accumulates and seconds."""

    kind: str
    macs: int = 0
    seconds: float = 0.0


@dataclass
class Result:
    """What the engine computed for one image.

    Attributes
    ----------
    stages
        Stage maps by name, ``(H, W, C)`` float32: views of the engine's buffers, valid until its next call.
    tally
        By layer, in the counter's names: kind, multiply-accumulates, seconds.
    masks
        By mask layer (``layer1.0.mask1``): M, ``(H, W)`` float32.
    """

    stages: dict[str, Floats]
    tally: dict[str, Row]
    masks: dict[str, Floats]

    @property
    def macs(self) -> int:
        """Multiply-accumulates executed."""
        return sum(row.macs for row in self.tally.values())


@dataclass
class _Call:
    """State of one run: the image's identity, given masks, the tally."""

    image: str | int
    seed: int
    given: Mapping[str, Floats]
    threads: int
    tally: dict[str, Row] = field(default_factory=dict)
    masks: dict[str, Floats] = field(default_factory=dict)
    noise: Mapping[str, Future[Floats]] = field(default_factory=dict)
    following: kernels.Follow | None = None
    followed: bool = False

    def expect(self, masks: _Masks | None, memory: _Memory, size: Size) -> None:
        """Make the masks of the next block known, whose products can be had while this block's map is written."""
        self.followed = False
        self.following = None if masks is None else masks.follow(memory, size[0] * size[1])

    def follow(self) -> kernels.Follow | None:
        """Return what computes the next block's mask products, for the one who finishes this block's rows."""
        self.followed = self.following is not None
        return self.following

    def timed(self, layer: str, kind: str) -> _Timed:
        """Add what happens inside of a ``with`` block to a layer's seconds; gives the layer's row."""
        row = self.tally.get(layer)
        if row is None:
            row = self.tally[layer] = Row(kind)
        return _Timed(row)


class _Timed:
    """A clock for one row; thousands of them run for an image, so it is no generator."""

    __slots__ = ("row", "start")

    def __init__(self, row: Row) -> None:
        self.row = row

    def __enter__(self) -> Row:
        self.start = time.perf_counter()
        return self.row

    def __exit__(self, *exception: object) -> None:
        self.row.seconds += time.perf_counter() - self.start


class _Memory:
    """Buffers that live as long as the engine: named maps, and scratch that each block takes anew."""

    def __init__(self) -> None:
        self._named: dict[str, Floats] = {}
        self._scratch = kernels.empty(0)
        self._taken = 0

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return self._scratch.nbytes + sum(buffer.nbytes for buffer in self._named.values())

    def named(self, name: str, rows: int, channels: int) -> Floats:
        """Return the map of that name, uninitialised if it had to grow."""
        size = rows * channels
        if name not in self._named or self._named[name].size < size:
            self._named.pop(name, None)
            self._named[name] = kernels.empty(size)
        return self._named[name][:size].reshape(rows, channels)

    def scratch(self, rows: int, channels: int) -> Floats:
        """Take scratch memory that lasts until `release`."""
        size = -(-rows * channels // 16) * 16
        begin, self._taken = self._taken, self._taken + size
        if self._taken > self._scratch.size:
            return kernels.empty(rows, channels)
        return self._scratch[begin : begin + rows * channels].reshape(rows, channels)

    def spaced(self, rows: int, channels: int) -> Floats:
        """Take scratch memory for rows that an interpolation reads: they lie `kernels.row_distance` apart."""
        return self.scratch(rows, kernels.row_distance(channels))[:, :channels]

    def release(self) -> None:
        """Give all scratch back; next time there is enough in one piece."""
        if self._taken > self._scratch.size:
            self._scratch = kernels.empty(self._taken)
        self._taken = 0


@lru_cache(maxsize=64)
def _all_positions(count: int) -> Positions:
    return np.arange(count, dtype=np.int32)


def _bands(rows: int, row_bytes: float) -> Iterator[tuple[int, int]]:
    count = max(1, min(rows, math.ceil(rows * row_bytes / BAND_BYTES)))
    edges = [rows * i // count for i in range(count + 1)]
    return itertools.pairwise(edges)


def _ring_pieces(begin: int, end: int, ring: int) -> Iterator[tuple[int, int]]:
    """Split ``[begin, end)`` where a ring of that many rows wraps."""
    while begin < end:
        until = min(end, begin + ring - begin % ring)
        yield begin, until
        begin = until


def _array(tensor: torch.Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())


def _folded(convolution: Any, norm: nn.Module | None) -> tuple[Floats, Floats]:
    """Return weight and bias of a convolution with the batch norm behind it, as it acts at inference."""
    weight = convolution.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    if convolution.bias is not None:
        bias = convolution.bias.detach().double()
    if norm is not None:
        mean, variance, gamma, beta = (
            cast(torch.Tensor, getattr(norm, name)).detach().double()
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        factor = gamma / torch.sqrt(variance + cast(float, getattr(norm, "eps", 1e-5)))
        weight, bias = weight * factor[:, None, None, None], beta + (bias - mean) * factor
    return _array(weight), _array(bias)


def _places(norm: nn.Module) -> Positions | None:
    """Return the places of a pruned layer's channels in the map that it is added to, None if it has all."""
    index = getattr(norm, "index", None)
    return None if index is None else np.ascontiguousarray(index.cpu().numpy())


def _geometry(convolution: Any, *, row_taps: bool = False) -> Geometry:
    (kernel, kernel_w), (stride, stride_w) = convolution.kernel_size, convolution.stride
    (padding, padding_w), (dilation, dilation_w) = convolution.padding, convolution.dilation
    square = (kernel, stride, padding, dilation) == (kernel_w, stride_w, padding_w, dilation_w)
    if not square or convolution.groups != 1:
        raise SaibenchError(f"the engine runs square, ungrouped convolutions, not {convolution}")
    return Geometry(convolution.in_channels, kernel, stride, padding, dilation, row_taps)


def _compile(convolution: Any, norm: nn.Module | None = None, *, row_taps: bool = False) -> Convolution:
    return Convolution(*_folded(convolution, norm), _geometry(convolution, row_taps=row_taps))


class _Fill:
    """A block's fill, ready to run."""

    def __init__(self, module: Interpolation) -> None:
        self.module = module
        self.window = module.window or 1
        self.linear = module.linear
        self.numerator: Floats | None = None
        self.denominator: Floats | None = None
        if module.window:
            self.numerator = _array(cast(Any, module).kernel())
            self.denominator = np.abs(self.numerator)

    def nearest(self, mask: Floats, samples: kernels.SampleIndex) -> Positions | None:
        """Return the row that fills each position, for the nearest fill."""
        if not isinstance(self.module, Nearest):
            return None
        index = self.module.index(torch.from_numpy(mask)).numpy()
        inner = samples.window // 2
        rows = samples.index[inner : inner + mask.shape[0], inner : inner + mask.shape[1]].reshape(-1)
        return np.ascontiguousarray(rows[index].reshape(mask.shape))

    def __call__(
        self,
        call: _Call,
        layer: str,
        mask: Floats,
        samples: kernels.SampleIndex,
        rows: Floats,
        out: Floats,
        source: Floats | None,
        *,
        follow: bool = False,
        **options: Any,
    ) -> None:
        """Fill the listed positions; `options` are those of `kernels.blend`.

        `source` is the block's input, matched; `follow`: this finishes the block, so the next one's masks may follow.
        """
        with call.timed(layer, "interpolation") as row:
            if source is not None:
                _reuse(mask, samples, rows, out, source, **options)
                return
            squared = bool(getattr(self.module, "squared_mask", False))
            pairs = kernels.blend(
                samples,
                rows,
                out,
                numerator=self.numerator,
                denominator=self.denominator,
                nearest=self.nearest(mask, samples),
                squared=squared,
                follow=call.follow() if follow else None,
                threads=call.threads,
                **options,
            )
            row.macs += pairs * rows.shape[1]


def _reuse(
    mask: Floats,
    samples: kernels.SampleIndex,
    rows: Floats,
    out: Floats,
    source: Floats,
    *,
    wanted: NDArray[np.bool_] | None = None,
    bias: Floats | None = None,
    residual: Floats | None = None,
    relu: bool = False,
) -> None:
    """Fill with the block's input, ``M Y + (1 - M) X``: an ablation of the paper, in NumPy, not a way to be fast."""
    positions = _all_positions(mask.size) if wanted is None else np.flatnonzero(wanted)
    inner = samples.window // 2
    index = samples.index[inner : inner + mask.shape[0], inner : inner + mask.shape[1]].reshape(-1)[positions]
    value = np.where(index[:, None] >= 0, rows[index], 0.0) if len(rows) else np.zeros((len(positions), out.shape[1]))
    value = value + (1 - mask.reshape(-1)[positions, None]) * source[positions]
    value = value if bias is None else value + bias
    value = value if residual is None else value + residual[positions]
    out[positions] = np.maximum(value, 0) if relu else value


class _Masks:
    """The masks of one block, their convolutions in one pass."""

    def __init__(self, block: ResidualBlock) -> None:
        self.modules: list[tuple[int, Mask]] = []
        for index in (1, 2, 3):
            module = cast(Mask | None, getattr(block, f"mask{index}"))
            if module is not None:
                # A copy in evaluation mode: the model may go on training, on any device.
                self.modules.append((index, copy.deepcopy(module).cpu().eval()))
        self.learned = [(i, m) for i, m in self.modules if isinstance(m, LearnedMask)]
        self.groups: list[tuple[list[tuple[int, LearnedMask]], MaskConvolution]] = []
        # Two 3x3 masks are 18 products, the narrow kernel's limit is 20: a third mask takes a pass of its own.
        for start in range(0, len(self.learned), 2):
            group = self.learned[start : start + 2]
            convolution = MaskConvolution(
                [_array(m.conv.weight) for _, m in group],
                [float(m.conv.bias.detach()) if m.conv.bias is not None else 0.0 for _, m in group],
                [_geometry(m.conv) for _, m in group],
            )
            self.groups.append((group, convolution))

    def follow(self, memory: _Memory, rows: int) -> kernels.Follow | None:
        """Return what computes the first pass's products of a map of that many rows while another kernel writes it."""
        if not self.groups:
            return None
        convolution = self.groups[0][1]
        # In the memory of the stem's map: the first block has read it before the first products are written.
        return convolution.follow(memory.named("layer0", rows, convolution.columns))

    def decide(self, call: _Call, memory: _Memory, x: Floats, size: Size) -> dict[int, kernels.Samples]:
        """Decide the masks from the block's input; return each masked convolution's sampled positions."""
        samples = {i: _listed(call, m, _fixed(m, size)) for i, m in self.modules if not isinstance(m, LearnedMask)}
        for number, (group, convolution) in enumerate(self.groups):
            if number == 0 and call.followed and call.following is not None:
                products = call.following.out
            else:
                products = memory.scratch(x.shape[0], convolution.columns)
                with call.timed(group[0][1].layer, "mask"):
                    convolution.products(x, size, products, threads=call.threads)
            for which, (index, module) in enumerate(group):
                with call.timed(module.layer, "mask") as row:
                    row.macs += convolution.macs(which, size)
                    mask = _decide(call, module, convolution, which, products, size)
                    samples[index] = _listed(call, module, mask)
        return samples

    def noisy(self, size: Size) -> Iterator[tuple[str, Size]]:
        """Yield the layers that draw noise for an input map of this size, and the sizes of their masks."""
        for group, convolution in self.groups:
            for (_, module), geometry in zip(group, convolution.geometries, strict=True):
                if type(module) is GumbelMask and module.stochastic and not module.soft_inference:
                    yield module.layer, geometry.out_size(*size)


def _listed(call: _Call, module: Mask, mask: Floats) -> kernels.Samples:
    """List a mask's samples, or those of the mask that the caller gave: to decide it has cost what it would cost."""
    if module.layer in call.given:
        mask = _checked_mask(module.layer, call.given[module.layer], mask.shape)
    call.masks[module.layer] = mask
    try:
        return kernels.Samples(mask, threads=call.threads)
    except ValueError as error:
        raise ValueError(f"{module.layer}: {error}") from None


def _decide(
    call: _Call, module: LearnedMask, convolution: MaskConvolution, which: int, products: Floats, size: Size
) -> Floats:
    """Return one learned mask's M of its products."""
    if type(module) is not GumbelMask or module.soft_inference:
        return _values(module, convolution.logits(which, products, size, threads=call.threads))
    threshold = call.noise[module.layer].result() if module.stochastic else None
    return convolution.decide(which, products, size, threshold, grid=module.grid_stride, threads=call.threads)


def _values(module: LearnedMask, logits: Floats) -> Floats:
    """Return M as the module's own forward makes it of its logits (whole maps only)."""
    with torch.no_grad():
        values = module.values(torch.from_numpy(logits)[None, None])
        if module.grid_stride is not None:
            grid = torch.zeros_like(values)
            grid[..., :: module.grid_stride, :: module.grid_stride] = 1
            values = torch.maximum(values, grid)
    return _array(values[0, 0])


def _fixed(module: Mask, size: Size) -> Floats:
    if not isinstance(module, FixedMask):
        raise SaibenchError(f"{module.layer}: the engine does not know masks of class {type(module).__name__}")
    with torch.no_grad():
        return _array(module(torch.empty(1, 1, *size))[0, 0])


def _checked_mask(layer: str, given: object, shape: tuple[int, ...]) -> Floats:
    """Check a mask that the caller gave in place of the block's own."""
    if not isinstance(given, np.ndarray) or given.dtype != np.float32:
        kind = given.dtype if isinstance(given, np.ndarray) else type(given).__name__
        raise TypeError(f"mask {layer} must be a float32 array, not {kind}")
    if given.shape != shape:
        raise ValueError(f"mask {layer} has shape {given.shape}, the map is {shape}")
    return np.ascontiguousarray(given)


class _Block:
    """What both kinds of block share: the first convolution with its fill, and the shortcut."""

    def __init__(self, block: ResidualBlock) -> None:
        self.name = block.name
        self.block = block
        self.masks = _Masks(block)
        self.fills = {
            index: _Fill(fill)
            for index in (1, 2, 3)
            if (fill := cast(Interpolation | None, getattr(block, f"interpolation{index}"))) is not None
        }
        self.conv1 = _compile(block.conv1, cast(nn.Module, block.bn1))
        self.downsample: Convolution | None = None
        if block.downsample is not None:
            self.downsample = _compile(block.downsample[0], cast(nn.Module, block.downsample[1]))

    def out_size(self, size: Size) -> Size:
        """Return the size of the block's map for an input of this size."""
        return cast(Convolution, cast(Any, self).conv2).geometry.out_size(*self.conv1.geometry.out_size(*size))

    def shortcut(self, call: _Call, memory: _Memory, x: Floats, size: Size, stage: str, rows: int) -> Floats:
        """Return the map that the block ends in: the projection's output, or the input itself."""
        if self.downsample is None:
            return x
        out = memory.named(stage, rows, self.downsample.outputs)
        with call.timed(f"{self.name}.downsample.0", "conv") as row:
            row.macs += self.downsample(x, size, out, threads=call.threads)
        return out

    def source(self, index: int, x: Floats, size: Size, out_size: Size, channels: int) -> Floats | None:
        """Return the block's input brought to a map's shape, for the reuse fill."""
        if not isinstance(self.fills[index].module, Reuse):
            return None
        tensor = torch.from_numpy(x.reshape(1, *size, -1)).permute(0, 3, 1, 2)
        matched = Reuse.match(tensor, torch.empty(1, channels, *out_size))
        return _array(matched[0].permute(1, 2, 0).reshape(-1, channels))

    def first(self, call: _Call, memory: _Memory, x: Floats, size: Size, samples: kernels.Samples | None) -> _First:
        """Run conv1 at its sampled positions (None: all)."""
        out_size = self.conv1.geometry.out_size(*size)
        features = memory.named("features", out_size[0] * out_size[1], self.conv1.outputs)
        rows, listed = features, None
        if samples is not None:
            listed = samples.positions
            if not samples.binary:
                # A gate's rows are scaled by M, and so cannot stand in the map that is filled from them.
                rows = memory.scratch(len(samples), self.conv1.outputs)
        with call.timed(f"{self.name}.conv1", "conv") as row:
            row.macs += self.conv1(
                x,
                size,
                rows,
                positions=listed,
                scatter=rows is features and listed is not None,
                scale=None if samples is None else samples.scale,
                relu=True,
                threads=call.threads,
            )
        return _First(features, rows, out_size, samples)

    def fill_first(
        self,
        call: _Call,
        first: _First,
        x: Floats,
        size: Size,
        read_by: kernels.Samples | None,
        *,
        everywhere: bool = False,
    ) -> Floats:
        """Fill conv1's map where conv2 reads it and return it.

        `read_by` are conv2's samples (None: all positions); a deformable conv2 may read `everywhere`.
        """
        samples = first.samples
        if samples is None:
            return first.features
        layer, fill = f"{self.name}.interpolation1", self.fills[1]
        with call.timed(layer, "interpolation"):
            index = kernels.SampleIndex(samples, fill.window, compact=not samples.binary, threads=call.threads)
            wanted = self.wanted(call, samples, first.size, read_by, everywhere)
            source = self.source(1, x, size, first.size, self.conv1.outputs)
        fill(call, layer, samples.mask, index, first.rows, first.features, source, wanted=wanted)
        return first.features

    def wanted(
        self, call: _Call, samples: kernels.Samples, size: Size, read_by: kernels.Samples | None, everywhere: bool
    ) -> NDArray[np.bool_]:
        """Return the positions of conv1's map to write; of a gate's, whose rows lie elsewhere, the sampled ones too."""
        geometry = cast(Convolution, cast(Any, self).conv2).geometry
        if everywhere:
            return samples.mask != 1 if samples.binary else np.ones(size, dtype=bool)
        if samples.binary and read_by is not None:
            return kernels.missing_read(samples, read_by, geometry, threads=call.threads)
        mask = None if read_by is None else read_by.mask
        walk = (geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
        read = sparsity.positions_read(mask, *walk, size)
        return np.ascontiguousarray(read & (samples.mask != 1) if samples.binary else read)


class _First(NamedTuple):
    """conv1's map, the rows that were computed of it (the map itself but for a gate), its size and its samples."""

    features: Floats
    rows: Floats
    size: Size
    samples: kernels.Samples | None


class _Bottleneck(_Block):
    """1x1, 3x3 (deformable on request), 1x1."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__(block)
        self.conv2 = _compile(block.conv2, block.bn2)
        self.conv3 = _compile(block.conv3, block.bn3)
        self.bias3 = _folded(block.conv3, block.bn3)[1]
        self.offset: NarrowConvolution | None = None
        if block.offset is not None:
            self.offset = NarrowConvolution(*_folded(block.offset, None), _geometry(block.offset))

    def __call__(
        self,
        call: _Call,
        memory: _Memory,
        x: Floats,
        size: Size,
        stage: str,
        following: _Masks | None,
    ) -> tuple[Floats, Size]:
        """Run the block on ``x`` (H * W, C); the result takes the input's memory where shapes allow."""
        out_size = self.conv2.geometry.out_size(*size)
        samples = self.masks.decide(call, memory, x, size)
        call.expect(following, memory, out_size)
        first = self.first(call, memory, x, size, samples.get(1))
        samples2 = self.second_samples(call, samples)
        sampled2 = _all_positions(out_size[0] * out_size[1]) if samples2 is None else samples2.positions
        offsets = self.offsets(call, memory, x, size, sampled2)
        y = self.fill_first(call, first, x, size, samples2, everywhere=self.offset is not None)
        out = self.shortcut(call, memory, x, size, stage, out_size[0] * out_size[1])
        second = _Second(self, call, y, size, sampled2, offsets)
        if samples2 is None:
            self.end_dense(call, memory, second, out, out_size)
        elif 3 in samples:
            self.end_with_own_mask(call, memory, second, x, size, out, out_size, samples2, samples[3])
        else:
            self.end_sharing(call, memory, second, x, size, out, out_size, samples2)
        return out, out_size

    def second_samples(self, call: _Call, samples: dict[int, kernels.Samples]) -> kernels.Samples | None:
        """Return conv2's sampled positions: its own mask's, or conv1's at conv2's stride (Fig. 3a)."""
        if 2 in samples or 1 not in samples:
            return samples.get(2)
        stride = self.conv2.geometry.stride
        return kernels.Samples(np.ascontiguousarray(samples[1].mask[::stride, ::stride]), threads=call.threads)

    def offsets(self, call: _Call, memory: _Memory, x: Floats, size: Size, positions: Positions) -> Floats | None:
        """Run the offset convolution at conv2's positions."""
        if self.offset is None:
            return None
        offsets = memory.scratch(len(positions), self.offset.outputs)
        with call.timed(f"{self.name}.offset", "offset") as row:
            row.macs += self.offset(x, size, offsets, positions=positions, threads=call.threads)
        return offsets

    def end_dense(self, call: _Call, memory: _Memory, second: _Second, out: Floats, size: Size) -> None:
        """Run conv2 and conv3 densely, band by band."""
        bands = list(_bands(size[0], size[1] * self.conv2.outputs * 4))
        buffer = memory.scratch(max(b - a for a, b in bands) * size[1], self.conv2.outputs)
        follow = call.follow()
        for first, last in bands:
            here = slice(first * size[1], last * size[1])
            features = buffer[: here.stop - here.start]
            second.compact(here, features)
            with call.timed(f"{self.name}.conv3", "conv") as row:
                row.macs += self.conv3(
                    features,
                    (last - first, size[1]),
                    out[here],
                    residual=out[here],
                    relu=True,
                    follow=None if follow is None else follow.rows(here),
                    threads=call.threads,
                )

    def end_sharing(
        self,
        call: _Call,
        memory: _Memory,
        second: _Second,
        x: Floats,
        in_size: Size,
        out: Floats,
        size: Size,
        samples: kernels.Samples,
    ) -> None:
        """Run conv2 and conv3 under one mask: conv3 on the samples, or densely after the fill."""
        fill = self.fills[2]
        layer = f"{self.name}.interpolation2"
        with call.timed(layer, "interpolation"):
            on_samples = self.conv3_on_samples(samples, fill)
        if on_samples:
            self.end_on_samples(call, memory, second, fill, layer, out, size, samples)
            return
        filled = self.fill_second(call, memory, second, x, in_size, size, samples, None)
        with call.timed(f"{self.name}.conv3", "conv") as row:
            row.macs += self.conv3(
                filled, size, out, residual=out, relu=True, follow=call.follow(), threads=call.threads
            )

    def conv3_on_samples(self, samples: kernels.Samples, fill: _Fill) -> bool:
        """Whether conv3 runs on the samples. The pairs need no counting if so many as there could be are few enough."""
        mask, window = samples.mask, fill.module.window
        channels = (self.conv3.geometry.channels, self.conv3.outputs)
        most = (mask.size - len(samples) if samples.binary else mask.size) * window**2
        if sparsity.conv3_plan(len(samples), most, mask.size, *channels, fill.linear).on_samples:
            return True
        pairs = int(sparsity.neighbour_pairs(mask, None, window))
        return bool(sparsity.conv3_plan(len(samples), pairs, mask.size, *channels, fill.linear).on_samples)

    def end_on_samples(
        self,
        call: _Call,
        memory: _Memory,
        second: _Second,
        fill: _Fill,
        layer: str,
        out: Floats,
        size: Size,
        samples: kernels.Samples,
    ) -> None:
        """Run conv3 on conv2's rows and interpolate its output, adding bias, shortcut and ReLU in the same pass.

        The map's rows are walked in bands; the samples of a band and of the window around it live in a ring.
        """
        height = size[0]
        nearest = isinstance(fill.module, Nearest)  # whose one row may be anywhere: all rows are kept
        sample_bytes = 4 * (self.conv2.outputs + self.conv3.outputs)
        bands = list(_bands(height, len(samples) / height * sample_bytes))
        radius = fill.window // 2
        with call.timed(layer, "interpolation"):
            starts = samples.starts.tolist()
            held = len(samples)
            if not nearest:
                held = max(starts[last] - starts[max(0, first - 2 * radius)] for first, last in bands)
            index = kernels.SampleIndex(samples, fill.window, compact=True, ring=held, threads=call.threads)
        scale = samples.scale
        rows = memory.spaced(held, self.conv3.outputs)
        features = memory.scratch(max(starts[last] - starts[first] for first, last in bands), self.conv2.outputs)
        done = 0
        for first, last in bands:
            here = slice(starts[first], starts[last])
            second.compact(here, features[: here.stop - here.start], scale)
            with call.timed(f"{self.name}.conv3", "conv") as row:
                for begin, end in _ring_pieces(here.start, here.stop, held):
                    row.macs += self.conv3(
                        features[begin - here.start : end - here.start],
                        (1, end - begin),
                        rows[begin % held : begin % held + end - begin],
                        with_bias=False,
                        threads=call.threads,
                    )
            if nearest and last < height:
                continue
            ready = height if last == height else max(done, last - radius)
            fill(
                call,
                layer,
                samples.mask,
                index,
                rows,
                out,
                None,
                map_rows=(done, ready),
                bias=self.bias3,
                residual=out,
                relu=True,
                follow=True,
            )
            done = ready

    def fill_second(
        self,
        call: _Call,
        memory: _Memory,
        second: _Second,
        x: Floats,
        in_size: Size,
        size: Size,
        samples: kernels.Samples,
        read: Any | None,
    ) -> Floats:
        """Run conv2 and fill its map at the positions that are read (None: all)."""
        fill, layer = self.fills[2], f"{self.name}.interpolation2"
        with call.timed(layer, "interpolation"):
            index = kernels.SampleIndex(samples, fill.window, compact=True, threads=call.threads)
        rows = memory.scratch(len(samples), self.conv2.outputs)
        second.compact(slice(0, len(samples)), rows, samples.scale)
        filled = memory.scratch(samples.mask.size, self.conv2.outputs)
        source = self.source(2, x, in_size, size, self.conv2.outputs)
        fill(call, layer, samples.mask, index, rows, filled, source, wanted=read)
        return filled

    def end_with_own_mask(
        self,
        call: _Call,
        memory: _Memory,
        second: _Second,
        x: Floats,
        in_size: Size,
        out: Floats,
        size: Size,
        samples2: kernels.Samples,
        samples3: kernels.Samples,
    ) -> None:
        """Run conv3 at the samples of its own mask, on conv2's map filled where conv3 reads it."""
        filled = self.fill_second(call, memory, second, x, in_size, size, samples2, samples3.mask > 0)
        fill, layer = self.fills[3], f"{self.name}.interpolation3"
        with call.timed(layer, "interpolation"):
            index = kernels.SampleIndex(samples3, fill.window, compact=True, threads=call.threads)
        rows = memory.spaced(len(samples3), self.conv3.outputs)
        with call.timed(f"{self.name}.conv3", "conv") as row:
            row.macs += self.conv3(
                filled, size, rows, positions=samples3.positions, threads=call.threads, scale=samples3.scale
            )
        source = self.source(3, x, in_size, size, self.conv3.outputs)
        fill(call, layer, samples3.mask, index, rows, out, source, residual=out, relu=True, follow=True)


@dataclass
class _Second:
    """conv2 of a bottleneck at listed positions, any run of them at a time."""

    owner: _Bottleneck
    call: _Call
    features: Floats
    size: Size
    sampled: Positions
    offsets: Floats | None

    def compact(self, which: slice, out: Floats, scale: Floats | None = None) -> None:
        """Compute the rows of ``sampled[which]`` into ``out``."""
        conv, name, positions = self.owner.conv2, self.owner.name, self.sampled[which]
        scale = None if scale is None else scale[which]
        if self.offsets is None:
            with self.call.timed(f"{name}.conv2", "conv") as row:
                row.macs += conv(
                    self.features,
                    self.size,
                    out,
                    positions=positions,
                    scale=scale,
                    relu=True,
                    threads=self.call.threads,
                )
            return
        with self.call.timed(f"{name}.conv2", "conv") as row:
            row.macs += conv.deform(
                self.features,
                self.size,
                self.offsets[which],
                out,
                positions=positions,
                scale=scale,
                relu=True,
                threads=self.call.threads,
            )
        with self.call.timed(f"{name}.conv2.bilinear", "bilinear") as row:
            row.macs += len(positions) * conv.geometry.kernel**2 * conv.geometry.channels * sparsity.BILINEAR_MACS


class _BasicBlock(_Block):
    """Two 3x3 convolutions."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__(block)
        self.conv2 = _compile(block.conv2, block.bn2)
        self.places = _places(block.bn2)

    def __call__(
        self,
        call: _Call,
        memory: _Memory,
        x: Floats,
        size: Size,
        stage: str,
        following: _Masks | None,
    ) -> tuple[Floats, Size]:
        """Run the block on ``x`` (H * W, C); the result takes the input's memory where shapes allow."""
        out_size = self.conv1.geometry.out_size(*size)
        decided = self.masks.decide(call, memory, x, size)
        call.expect(following, memory, out_size)
        first, samples = self.first(call, memory, x, size, decided.get(1)), decided.get(2)
        y = self.fill_first(call, first, x, size, samples)
        out = self.shortcut(call, memory, x, size, stage, out_size[0] * out_size[1])
        if samples is None:
            self.end_dense(call, memory, y, out, out_size)
        else:
            self.end_filled(call, memory, y, x, size, out, out_size, samples)
        return out, out_size

    def end_dense(self, call: _Call, memory: _Memory, y: Floats, out: Floats, size: Size) -> None:
        """Run conv2 everywhere and add it to the shortcut."""
        with call.timed(f"{self.name}.conv2", "conv") as row:
            if self.places is None:
                row.macs += self.conv2(
                    y, size, out, residual=out, relu=True, follow=call.follow(), threads=call.threads
                )
                return
            rows = memory.scratch(size[0] * size[1], self.conv2.outputs)
            row.macs += self.conv2(y, size, rows, threads=call.threads)
            out[:, self.places] += rows
            np.maximum(out, 0, out=out)

    def end_filled(
        self,
        call: _Call,
        memory: _Memory,
        y: Floats,
        x: Floats,
        in_size: Size,
        out: Floats,
        size: Size,
        samples: kernels.Samples,
    ) -> None:
        """Run conv2 at its samples, interpolate its output and add it to the shortcut."""
        fill, layer = self.fills[2], f"{self.name}.interpolation2"
        with call.timed(layer, "interpolation"):
            index = kernels.SampleIndex(samples, fill.window, compact=True, threads=call.threads)
        rows = memory.spaced(len(samples), self.conv2.outputs)
        with call.timed(f"{self.name}.conv2", "conv") as row:
            row.macs += self.conv2(
                y, size, rows, positions=samples.positions, threads=call.threads, scale=samples.scale
            )
        source = self.source(2, x, in_size, size, self.conv2.outputs)
        fill(call, layer, samples.mask, index, rows, out, source, residual=out, relu=True, follow=True)


class _Stem:
    """The stem's convolutions and the max pooling; of a single convolution only a band is ever in memory."""

    def __init__(self, model: ResNet) -> None:
        convs = [(n, m) for n, m in model.conv1.named_modules(prefix="conv1") if isinstance(m, nn.Conv2d)]
        norms: list[nn.Module] = [m for m in model.conv1.modules() if isinstance(m, nn.BatchNorm2d)]
        norms.append(cast(nn.Module, model.bn1))
        self.convs = [
            (name, _compile(conv, norm, row_taps=i == 0))
            for i, ((name, conv), norm) in enumerate(zip(convs, norms, strict=True))
        ]
        self.places, self.width = _places(norms[-1]), int(getattr(norms[-1], "width", 0))
        pool = cast(nn.MaxPool2d, model.maxpool)
        self.pool = {
            key: int(cast(int, getattr(pool, f"{key}{s}")))
            for key, s in (("kernel", "_size"), ("stride", ""), ("padding", ""))
        }

    def out_size(self, size: Size) -> Size:
        """Return the size of the pooled map for an image of this size."""
        for _, conv in self.convs:
            size = conv.geometry.out_size(*size)
        return Geometry(1, self.pool["kernel"], self.pool["stride"], self.pool["padding"]).out_size(*size)

    def __call__(self, call: _Call, memory: _Memory, image: Floats) -> tuple[Floats, Size]:
        """Run the stem on ``(3, H, W)``."""
        size: Size = (image.shape[1], image.shape[2])
        first = self.convs[0][1]
        border = first.geometry.padding
        padded = memory.scratch(first.geometry.in_rows(*size), image.shape[0])
        with call.timed(self.convs[0][0], "conv"):
            x = kernels.channels_last(image, border=border, out=padded, threads=call.threads)
        for name, conv in self.convs[:-1]:
            out_size = conv.geometry.out_size(*size)
            y = memory.scratch(out_size[0] * out_size[1], conv.outputs)
            with call.timed(name, "conv") as row:
                row.macs += conv(x, size, y, relu=True, threads=call.threads)
            x, size = y, out_size
        return self._last(call, memory, x, size)

    def _last(self, call: _Call, memory: _Memory, x: Floats, size: Size) -> tuple[Floats, Size]:
        """Run the last convolution and the pooling in bands; a row that two bands pool is kept, not recomputed."""
        name, conv = self.convs[-1]
        height, width = conv.geometry.out_size(*size)
        kernel, stride, padding = self.pool["kernel"], self.pool["stride"], self.pool["padding"]
        pooled_size = Geometry(1, kernel, stride, padding).out_size(height, width)
        out = memory.named("layer0", pooled_size[0] * pooled_size[1], conv.outputs)
        bands = list(_bands(pooled_size[0], 4 * width * conv.outputs * stride))
        held = max(b - a for a, b in bands) * stride + kernel
        band = memory.scratch(held * width, conv.outputs)
        positions = _all_positions(height * width)
        computed = begin = 0
        for first, last in bands:
            need = max(0, first * stride - padding)
            keep = band[(need - begin) * width : (computed - begin) * width]
            band[: len(keep)] = keep.copy()
            begin = need
            until = height if last == pooled_size[0] else min(height, (last - 1) * stride - padding + kernel)
            with call.timed(name, "conv") as row:
                if until > computed:
                    row.macs += conv(
                        x,
                        size,
                        band[(computed - begin) * width : (until - begin) * width],
                        positions=positions[computed * width : until * width],
                        relu=True,
                        threads=call.threads,
                    )
            computed = until
            with call.timed("maxpool", "uncounted"):
                kernels.max_pool(
                    band[: (computed - begin) * width],
                    (height, width),
                    out,
                    first_row=begin,
                    rows=(first, last),
                    threads=call.threads,
                    **self.pool,
                )
        if self.places is None:
            return out, pooled_size
        wide = memory.named("scattered", len(out), self.width)
        wide[:] = 0
        wide[:, self.places] = out
        return wide, pooled_size


class Engine:
    """A backbone of `benchmark.nn`, compiled for the CPU.

    Parameters
    ----------
    model
        The backbone, on any device, in evaluation or training mode; the engine always computes what it computes in
        evaluation mode. Later changes of its weights are not seen.
    threads
        OpenMP threads; by default as many as OpenMP offers.

    Raises
    ------
    EngineUnavailable
        If the kernels were not compiled.
    SaibenchError
        If the model is no backbone of `benchmark.nn`.
    """

    def __init__(self, model: nn.Module, *, threads: int | None = None) -> None:
        kernels.require()
        if not isinstance(model, ResNet):
            raise SaibenchError(f"the engine runs backbones of benchmark.nn, not {type(model).__name__}")
        self.threads = threads or kernels.max_threads()
        self._memory = _Memory()
        self._stem = _Stem(model)
        self._stages: list[tuple[str, list[_Bottleneck | _BasicBlock]]] = []
        for name, child in model.named_children():
            if name.startswith("layer"):
                blocks = cast(nn.Sequential, child)
                self._stages.append((name, [_compile_block(cast(ResidualBlock, block)) for block in blocks]))
        self._masks = [m for _, blocks in self._stages for b in blocks for _, m in b.masks.modules]

    @property
    def memory_bytes(self) -> int:
        """Bytes of feature maps and scratch held after the calls so far (weights not included)."""
        return self._memory.bytes

    @property
    def mask_layers(self) -> list[str]:
        """Names of the masks, in the order in which they run."""
        return [mask.layer for mask in self._masks]

    def __call__(
        self, image: Floats, *, identifier: str | int = 0, seed: int = 0, masks: Mapping[str, Floats] | None = None
    ) -> Result:
        """Compute the stage maps of one image.

        Parameters
        ----------
        image
            Normalised image, ``(3, H, W)`` float32, C-contiguous.
        identifier, seed
            What keys the inference noise of stochastic masks (`benchmark.nn.noise`).
        masks
            Masks by layer to use instead of the block's own, ``(H, W)`` float32 at the governed map's size. The
            mask convolutions still run, so that time and tally stay those of a sparse network.

        Raises
        ------
        TypeError, ValueError
            For an image or a mask of the wrong type, shape or layout, or with NaN.
        """
        call = _Call(identifier, seed, masks or {}, self.threads)
        unknown = set(call.given) - set(self.mask_layers)
        if unknown:
            raise ValueError(f"no mask layers {sorted(unknown)}; there are {self.mask_layers}")
        image = _checked(image)
        with self._drawing(call, (image.shape[1], image.shape[2])):
            return self._run(call, image)

    @contextmanager
    def _drawing(self, call: _Call, size: Size) -> Iterator[None]:
        """Draw all masks' noise beside the first kernels: NumPy draws on one thread and lets others go on."""
        fields = []
        size = self._stem.out_size(size)
        for block in (b for _, blocks in self._stages for b in blocks):
            fields += list(block.masks.noisy(size))
            size = block.out_size(size)
        with ThreadPoolExecutor(1) as pool:
            call.noise = {
                layer: pool.submit(logistic_threshold, call.seed, call.image, layer, shape) for layer, shape in fields
            }
            yield

    def _run(self, call: _Call, image: Floats) -> Result:
        x, size = self._stem(call, self._memory, image)
        self._memory.release()
        stages = {}
        followers = iter([b.masks for _, blocks in self._stages for b in blocks][1:])
        for name, blocks in self._stages:
            for index, block in enumerate(blocks):
                if index == 0 and block.downsample is None:
                    x = self._own_memory(x, name)
                x, size = block(call, self._memory, x, size, name, next(followers, None))
                self._memory.release()
            stages[name] = x.reshape(*size, -1)
        return Result(stages, call.tally, call.masks)

    def _own_memory(self, x: Floats, stage: str) -> Floats:
        """Copy a stage's input: its blocks write into it, and it is the result of the stage before."""
        copied = self._memory.named(stage, *x.shape)
        copied[:] = x
        return copied


def _compile_block(block: ResidualBlock) -> _Bottleneck | _BasicBlock:
    if isinstance(block, Bottleneck):
        return _Bottleneck(block)
    if isinstance(block, BasicBlock):
        return _BasicBlock(block)
    raise SaibenchError(f"{block.name}: the engine does not know blocks of class {type(block).__name__}")


def _checked(image: object) -> Floats:
    if not isinstance(image, np.ndarray) or image.dtype != np.float32:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"image must be a float32 array, not {kind}")
    if image.ndim != 3 or image.shape[0] != 3 or image.size == 0:
        raise ValueError(f"image has shape {image.shape}, expected (3, height, width)")
    if not image.flags.c_contiguous:
        raise ValueError(f"image with shape {image.shape} is not C-contiguous (strides {image.strides})")
    return image
