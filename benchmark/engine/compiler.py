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
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

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

BAND_BYTES = 6 << 20
"""Bytes of a block's input that are walked at a time: a band stays in the last-level cache between its readers."""

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

    def release(self) -> None:
        """Give all scratch back; next time there is enough in one piece."""
        if self._taken > self._scratch.size:
            self._scratch = kernels.empty(self._taken)
        self._taken = 0


@lru_cache(maxsize=64)
def _all_positions(count: int) -> Positions:
    return np.arange(count, dtype=np.int32)


def _bands(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    count = max(1, min(rows, round(rows * row_bytes / BAND_BYTES)))
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
        **options: Any,
    ) -> None:
        """Fill the listed positions; `options` are those of `kernels.blend`. `source` is the block's input, matched."""
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

    def hard(self, call: _Call) -> bool:
        """Whether all values are 0 or 1: a band of rows can then be decided before the next is computed."""
        given = (call.given[m.layer] for _, m in self.modules if m.layer in call.given)
        return all(type(m) is GumbelMask and not m.soft_inference for _, m in self.learned) and all(
            bool(((mask == 0) | (mask == 1)).all()) for mask in given
        )

    def walk(self, call: _Call, memory: _Memory, x: Floats, size: Size) -> Iterator[dict[int, tuple[Floats, int, int]]]:
        """Decide the masks over bands of the input's rows, so that a band is still in cache for who reads it next.

        Yields, for each band, each masked convolution's M and the rows of it that this band decided.
        """
        height, width = size
        bands = list(_bands(height, width * x.shape[1] * 4)) if self.hard(call) else [(0, height)]
        deciders = {index: self._decider(call, module, size) for index, module in self.modules}
        products = [memory.scratch(x.shape[0], convolution.columns) for _, convolution in self.groups]
        done = dict.fromkeys(deciders, 0)
        computed = 0
        for last in (last for _, last in bands):
            # One row more than the band: the 3x3 kernel of the band's last row reads it.
            until = min(height, last + 1)
            for (group, convolution), out in zip(self.groups, products, strict=True):
                with call.timed(group[0][1].layer, "mask"):
                    convolution.products(x, size, out, rows=(computed, until), threads=call.threads)
            computed = until
            decided = {}
            for index, decider in deciders.items():
                ready = decider.ready(computed)
                decider.decide(call, products, done[index], ready)
                decided[index] = (decider.mask, done[index], ready)
                done[index] = ready
            yield decided

    def _decider(self, call: _Call, module: Mask, size: Size) -> _Decider:
        for number, (group, convolution) in enumerate(self.groups):
            for which, (_, learned) in enumerate(group):
                if learned is module:
                    return _Decider(call, module, size, number, convolution, which)
        return _Decider(call, module, size)


class _Decider:
    """One mask of one image: its logits, its threshold and what came of it, row by row."""

    def __init__(
        self,
        call: _Call,
        module: Mask,
        size: Size,
        group: int = 0,
        convolution: MaskConvolution | None = None,
        which: int = 0,
    ) -> None:
        self.module = module
        self.size = size
        self.group = group
        self.convolution = convolution
        self.which = which
        self.threshold: Any = 0.0
        given = call.given.get(module.layer)
        if convolution is None:
            self.mask = _fixed(module, size)
        else:
            shape = convolution.geometries[which].out_size(*size)
            self.logits = np.empty(shape, dtype=np.float32)
            self.mask = np.empty(shape, dtype=np.float32)
            if getattr(module, "stochastic", False):
                self.threshold = logistic_threshold(call.seed, call.image, module.layer, shape)
        # A given mask takes the place of the decided one at the end: to decide it costs what it would cost.
        self.decided = self.mask
        if given is not None:
            self.mask = _checked_mask(module.layer, given, self.mask.shape)
        call.masks[module.layer] = self.mask

    def ready(self, computed: int) -> int:
        """Return how many rows of the mask are decided by the products of the input's first rows."""
        if computed == self.size[0]:
            return len(self.mask)
        stride = self.module.stride if self.convolution is None else self.convolution.geometries[self.which].stride
        return min(len(self.mask), max(0, (computed - 2) // stride + 1))

    def decide(self, call: _Call, products: list[Floats], first: int, last: int) -> None:
        """Decide rows ``[first, last)``."""
        if self.convolution is None:
            return
        with call.timed(self.module.layer, "mask") as row:
            row.macs += self.convolution.logits(
                self.which, products[self.group], self.size, self.logits, rows=(first, last), threads=call.threads
            )
            module = cast(LearnedMask, self.module)
            if type(module) is GumbelMask and not module.soft_inference:
                threshold = self.threshold[first:last] if isinstance(self.threshold, np.ndarray) else 0.0
                np.greater(self.logits[first:last], threshold, out=self.decided[first:last], casting="unsafe")
                if module.grid_stride is not None:
                    start = -(-first // module.grid_stride) * module.grid_stride
                    self.decided[start : last : module.grid_stride, :: module.grid_stride] = 1.0
                return
            self.decided[first:last] = _values(module, self.logits)[first:last]


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
    if not np.isfinite(given).all() or (given < 0).any():
        raise ValueError(f"mask {layer} of shape {given.shape} holds NaN, infinity or negative values")
    return np.ascontiguousarray(given)


def _sampled_rows(mask: Floats, first: int, last: int) -> Positions:
    """Return the sampled positions of rows ``[first, last)``."""
    found = np.flatnonzero(mask[first:last])
    return (found + first * mask.shape[1]).astype(np.int32)


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

    def begin(self, call: _Call, memory: _Memory, x: Floats, size: Size) -> _Begun:
        """Decide the masks and run what reads the block's input under them: conv1 and the offsets, band by band."""
        begun = _Begun(self, call, memory, x, size)
        if not self.masks.modules:
            begun.conv1_everywhere()
            begun.offsets_at(begun.all_positions)
            return begun
        for decided in self.masks.walk(call, memory, x, size):
            begun.extend(decided)
        begun.end()
        return begun

    def fill_first(self, begun: _Begun, read: Any | None) -> Floats:
        """Fill conv1's map at the positions that are read (None: all) and return it."""
        if begun.mask1 is None:
            return begun.features
        call, layer, fill = begun.call, f"{self.name}.interpolation1", self.fills[1]
        with call.timed(layer, "interpolation"):
            mask, binary = begun.mask1, begun.binary
            samples = kernels.SampleIndex(mask, fill.window, compact=not binary, sampled=begun.sampled1)
            wanted = mask != 1 if binary else np.ones(mask.shape, dtype=bool)
            wanted = wanted if read is None else wanted & read
            source = self.source(1, begun.x, begun.size, begun.first_size, self.conv1.outputs)
        fill(call, layer, mask, samples, begun.rows1, begun.features, source, wanted=wanted)
        return begun.features


class _Begun:
    """The first half of a block: masks, conv1's rows at sampled positions, offsets."""

    def __init__(self, block: _Block, call: _Call, memory: _Memory, x: Floats, size: Size) -> None:
        self.block, self.call, self.memory, self.x, self.size = block, call, memory, x, size
        self.first_size = block.conv1.geometry.out_size(*size)
        self.features = memory.named("features", self.first_size[0] * self.first_size[1], block.conv1.outputs)
        self.rows1 = self.features
        self.mask1: Floats | None = None
        self.masks: dict[int, Floats] = {}
        self.binary = block.masks.hard(call)
        self._sampled: dict[int, list[Positions]] = {1: [], 2: []}
        self._sampled2: Positions | None = None
        self.offset = cast(NarrowConvolution | None, getattr(block, "offset", None))
        self._offsets: Floats | None = None
        self._offset_rows = 0

    @property
    def all_positions(self) -> Positions:
        """Every position of conv2's map."""
        conv2 = cast(Any, self.block).conv2
        size = conv2.geometry.out_size(*self.first_size)
        return _all_positions(size[0] * size[1])

    @property
    def sampled1(self) -> Positions:
        """Sampled positions of conv1's map."""
        return np.concatenate(self._sampled[1])

    @property
    def sampled2(self) -> Positions:
        """Sampled positions of conv2's map, all of them without a mask."""
        if self._sampled2 is None:
            self._sampled2 = np.concatenate(self._sampled[2]) if self._sampled[2] else self.all_positions
        return self._sampled2

    @property
    def offsets(self) -> Floats | None:
        """Offsets at conv2's sampled positions."""
        return None if self._offsets is None else self._offsets[: self._offset_rows]

    def conv1_everywhere(self) -> None:
        """Run conv1 without a mask."""
        conv = self.block.conv1
        with self.call.timed(f"{self.block.name}.conv1", "conv") as row:
            row.macs += conv(self.x, self.size, self.features, relu=True, threads=self.call.threads)

    def offsets_at(self, positions: Positions) -> None:
        """Run the offset convolution at more of conv2's positions."""
        if self.offset is None:
            return
        if self._offsets is None:
            self._offsets = self.memory.scratch(len(self.all_positions), self.offset.outputs)
        begin, self._offset_rows = self._offset_rows, self._offset_rows + len(positions)
        with self.call.timed(f"{self.block.name}.offset", "offset") as row:
            row.macs += self.offset(
                self.x,
                self.size,
                self._offsets[begin : self._offset_rows],
                positions=positions,
                threads=self.call.threads,
            )

    def extend(self, decided: dict[int, tuple[Floats, int, int]]) -> None:
        """Run conv1 and the offsets at the positions that a band has decided."""
        self.masks.update({index: mask for index, (mask, _, _) in decided.items()})
        if 1 in decided:
            self.mask1, first, last = decided[1]
            positions = _sampled_rows(self.mask1, first, last)
            self._sampled[1].append(positions)
            if 2 not in decided and isinstance(self.block, _Bottleneck):
                self._share_first_mask(first, last)
            self._conv1_at(positions)
        if 2 in decided:
            mask2, first, last = decided[2]
            positions = _sampled_rows(mask2, first, last)
            self._sampled[2].append(positions)
            self.offsets_at(positions)

    def _share_first_mask(self, first: int, last: int) -> None:
        """Let conv2 run under conv1's mask at its own stride (Fig. 3a)."""
        stride = cast(Bottleneck, self.block.block).stride
        mask1 = cast(Floats, self.mask1)
        if 2 not in self.masks:
            self.masks[2] = np.zeros(self.block_second_size, dtype=np.float32)
        begin, end = -(-first // stride), -(-last // stride)
        self.masks[2][begin:end] = mask1[begin * stride : last : stride, ::stride]
        positions = _sampled_rows(self.masks[2], begin, end)
        self._sampled[2].append(positions)
        self.offsets_at(positions)

    @property
    def block_second_size(self) -> Size:
        """Size of conv2's map."""
        return cast(Size, cast(Any, self.block).conv2.geometry.out_size(*self.first_size))

    def _conv1_at(self, positions: Positions) -> None:
        conv, scale = self.block.conv1, None
        if not self.binary and self.mask1 is not None:
            # A gate's rows are scaled by M, and so cannot stand in the map that is filled from them.
            self.rows1 = self.memory.scratch(len(positions), conv.outputs)
            scale = self.mask1.reshape(-1)[positions]
        with self.call.timed(f"{self.block.name}.conv1", "conv") as row:
            row.macs += conv(
                self.x,
                self.size,
                self.rows1,
                positions=positions,
                scatter=self.binary,
                scale=scale,
                relu=True,
                threads=self.call.threads,
            )

    def end(self) -> None:
        """Run what no mask governs."""
        if self.mask1 is None:
            self.conv1_everywhere()
        if 2 not in self.masks:
            self.offsets_at(self.all_positions)


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

    def __call__(self, call: _Call, memory: _Memory, x: Floats, size: Size, stage: str) -> tuple[Floats, Size]:
        """Run the block on ``x`` (H * W, C); the result takes the input's memory where shapes allow."""
        geometry = self.conv2.geometry
        out_size = geometry.out_size(*size)
        begun = self.begin(call, memory, x, size)
        mask2, mask3 = begun.masks.get(2), begun.masks.get(3)
        read = None
        if begun.mask1 is not None and self.offset is None:
            with call.timed(f"{self.name}.interpolation1", "interpolation"):
                read = sparsity.positions_read(
                    mask2, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, size
                )
        y = self.fill_first(begun, read)
        out = self.shortcut(call, memory, x, size, stage, out_size[0] * out_size[1])
        second = _Second(self, call, memory, y, size, out_size, begun.sampled2, begun.offsets)
        if mask2 is None:
            self.end_dense(call, memory, second, out, out_size)
        elif mask3 is not None:
            self.end_with_own_mask(call, memory, second, x, size, out, out_size, mask2, mask3)
        else:
            self.end_sharing(call, memory, second, x, size, out, out_size, mask2)
        return out, out_size

    def end_dense(self, call: _Call, memory: _Memory, second: _Second, out: Floats, size: Size) -> None:
        """Run conv2 and conv3 densely, band by band."""
        bands = list(_bands(size[0], size[1] * out.shape[1] * 4))
        buffer = memory.scratch(max(b - a for a, b in bands) * size[1], self.conv2.outputs)
        for first, last in bands:
            here = slice(first * size[1], last * size[1])
            features = buffer[: here.stop - here.start]
            second.compact(here, features)
            with call.timed(f"{self.name}.conv3", "conv") as row:
                row.macs += self.conv3(
                    features, (last - first, size[1]), out[here], residual=out[here], relu=True, threads=call.threads
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
        mask: Floats,
    ) -> None:
        """Run conv2 and conv3 under one mask: conv3 on the samples, or densely after the fill."""
        fill = self.fills[2]
        layer = f"{self.name}.interpolation2"
        with call.timed(layer, "interpolation"):
            pairs = int(sparsity.neighbour_pairs(mask, None, fill.module.window))
            plan = sparsity.conv3_plan(
                len(second.sampled), pairs, mask.size, self.conv3.geometry.channels, self.conv3.outputs, fill.linear
            )
        if plan.on_samples:
            self.end_on_samples(call, memory, second, fill, layer, out, size, mask)
            return
        filled = self.fill_second(call, memory, second, x, in_size, size, mask, None)
        with call.timed(f"{self.name}.conv3", "conv") as row:
            row.macs += self.conv3(filled, size, out, residual=out, relu=True, threads=call.threads)

    def end_on_samples(
        self,
        call: _Call,
        memory: _Memory,
        second: _Second,
        fill: _Fill,
        layer: str,
        out: Floats,
        size: Size,
        mask: Floats,
    ) -> None:
        """Run conv3 on conv2's rows and interpolate its output, adding bias, shortcut and ReLU in the same pass.

        The map's rows are walked in bands; the samples of a band and of the window around it live in a ring.
        """
        height, width = size
        nearest = isinstance(fill.module, Nearest)  # whose one row may be anywhere: all rows are kept
        bands = list(_bands(height, width * out.shape[1] * 4))
        radius = fill.window // 2
        with call.timed(layer, "interpolation"):
            starts = np.searchsorted(second.sampled, np.arange(height + 1) * width).tolist()
            held = len(second.sampled)
            if not nearest:
                held = max(starts[last] - starts[max(0, first - 2 * radius)] for first, last in bands)
            samples = kernels.SampleIndex(mask, fill.window, compact=True, sampled=second.sampled, ring=held)
        scale = None if samples.gate is None else mask.reshape(-1)[second.sampled]
        rows = memory.scratch(held, self.conv3.outputs)
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
                mask,
                samples,
                rows,
                out,
                None,
                map_rows=(done, ready),
                bias=self.bias3,
                residual=out,
                relu=True,
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
        mask: Floats,
        read: Any | None,
    ) -> Floats:
        """Run conv2 and fill its map at the positions that are read (None: all)."""
        fill, layer = self.fills[2], f"{self.name}.interpolation2"
        with call.timed(layer, "interpolation"):
            samples = kernels.SampleIndex(mask, fill.window, compact=True)
        rows = memory.scratch(len(second.sampled), self.conv2.outputs)
        scale = None if samples.gate is None else mask.reshape(-1)[second.sampled]
        second.compact(slice(0, len(second.sampled)), rows, scale)
        filled = memory.scratch(mask.size, self.conv2.outputs)
        source = self.source(2, x, in_size, size, self.conv2.outputs)
        fill(call, layer, mask, samples, rows, filled, source, wanted=read)
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
        mask2: Floats,
        mask3: Floats,
    ) -> None:
        """Run conv3 at the samples of its own mask, on conv2's map filled where conv3 reads it."""
        filled = self.fill_second(call, memory, second, x, in_size, size, mask2, mask3 > 0)
        fill, layer = self.fills[3], f"{self.name}.interpolation3"
        with call.timed(layer, "interpolation"):
            samples = kernels.SampleIndex(mask3, fill.window, compact=True)
        rows = memory.scratch(len(samples.sampled), self.conv3.outputs)
        with call.timed(f"{self.name}.conv3", "conv") as row:
            row.macs += self.conv3(
                filled,
                size,
                rows,
                positions=samples.sampled,
                threads=call.threads,
                scale=None if samples.gate is None else mask3.reshape(-1)[samples.sampled],
            )
        source = self.source(3, x, in_size, size, self.conv3.outputs)
        fill(call, layer, mask3, samples, rows, out, source, residual=out, relu=True)


@dataclass
class _Second:
    """conv2 of a bottleneck at listed positions, any run of them at a time."""

    owner: _Bottleneck
    call: _Call
    memory: _Memory
    features: Floats
    size: Size
    out_size: Size
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

    def __call__(self, call: _Call, memory: _Memory, x: Floats, size: Size, stage: str) -> tuple[Floats, Size]:
        """Run the block on ``x`` (H * W, C); the result takes the input's memory where shapes allow."""
        out_size = self.conv1.geometry.out_size(*size)
        begun = self.begin(call, memory, x, size)
        mask = begun.masks.get(2)
        geometry = self.conv2.geometry
        read = None
        if begun.mask1 is not None:
            with call.timed(f"{self.name}.interpolation1", "interpolation"):
                read = sparsity.positions_read(
                    mask, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, out_size
                )
        y = self.fill_first(begun, read)
        out = self.shortcut(call, memory, x, size, stage, out_size[0] * out_size[1])
        if mask is None and self.places is not None:
            rows = memory.scratch(out_size[0] * out_size[1], self.conv2.outputs)
            with call.timed(f"{self.name}.conv2", "conv") as row:
                row.macs += self.conv2(y, out_size, rows, threads=call.threads)
                out[:, self.places] += rows
                np.maximum(out, 0, out=out)
            return out, out_size
        if mask is None:
            with call.timed(f"{self.name}.conv2", "conv") as row:
                row.macs += self.conv2(y, out_size, out, residual=out, relu=True, threads=call.threads)
            return out, out_size
        fill, layer = self.fills[2], f"{self.name}.interpolation2"
        with call.timed(layer, "interpolation"):
            samples = kernels.SampleIndex(mask, fill.window, compact=True)
        rows = memory.scratch(len(samples.sampled), self.conv2.outputs)
        with call.timed(f"{self.name}.conv2", "conv") as row:
            row.macs += self.conv2(
                y,
                out_size,
                rows,
                positions=samples.sampled,
                threads=call.threads,
                scale=None if samples.gate is None else mask.reshape(-1)[samples.sampled],
            )
        source = self.source(2, x, size, out_size, self.conv2.outputs)
        fill(call, layer, mask, samples, rows, out, source, residual=out, relu=True)
        return out, out_size


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
        bands = list(_bands(pooled_size[0], 8 * width * conv.outputs * stride))
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
        x, size = self._stem(call, self._memory, image)
        self._memory.release()
        stages = {}
        for name, blocks in self._stages:
            for index, block in enumerate(blocks):
                if index == 0 and block.downsample is None:
                    x = self._own_memory(x, name)
                x, size = block(call, self._memory, x, size, name)
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
    if not np.isfinite(image).all():
        raise ValueError(f"image with shape {image.shape} holds NaN or infinity")
    return image
