"""A compiled network, described: frozen parts with names, each of which checks every limit of the kernels when made.

`compiling.py` makes them of a backbone, ``kernels/_binding.pyx`` copies them field by field into the structs of
``kernels/c/plan.h``, and the kernels check nothing again. So there is one way in, and what does not pass here does not
run. Not here: where an image's maps lie (`memory.py`), and how anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.engines.base import EngineRefusal, Floats
from benchmark.engines.cpu.kernels import library
from benchmark.nn.work import Size

Positions = NDArray[np.int32]

REACH_LIMIT = 2**20
"""Of all numbers of a geometry: sums of them and a map's size stay within 32 bits."""
POSITION_LIMIT = 2**31 - 1
"""Positions of the maps of one group of images at most: a position is an int32."""

REGIONS = ("everywhere", "sampled", "subsampled", "read by")
FILLS = ("none", "zeros", "window", "nearest", "reuse")
MASKS = ("hard", "relu", "values", "forward")
"""Kinds of regions and fills, and how masks are decided (by a kernel, 0 or 1 or the logit above 0; by their class from
its logits; by their own forward), in the order of plan.h."""


def check(holds: bool, layer: str, reason: str) -> None:
    """Raise `EngineRefusal` unless a condition holds."""
    if not holds:
        raise EngineRefusal(layer, reason)


def check_map(size: Size, images: int = 1) -> None:
    """Raise ValueError for a height and width that no map has, or maps with more positions than an int32 counts."""
    if min(size) < 1 or images * size[0] * size[1] > POSITION_LIMIT:
        raise ValueError(f"{images} maps of {size[0]} x {size[1]} positions: 1 to {POSITION_LIMIT} are possible")


@dataclass(frozen=True)
class Geometry:
    """A square convolution's kernel and how it walks a map.

    ``row_taps`` is for few input channels (a network's stem): the input then carries its own zero border of
    ``padding`` and a whole kernel row is one run of ``kernel * channels`` floats. Needs dilation 1.
    """

    channels: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    row_taps: bool = False

    def __post_init__(self) -> None:
        """Refuse values that make no convolution."""
        if min(self.channels, self.kernel, self.stride, self.dilation) < 1 or self.padding < 0:
            raise ValueError(f"no convolution has {self}")
        if self.row_taps and self.dilation != 1:
            raise ValueError(f"row_taps needs dilation 1: {self}")
        if max(self.channels, self.stride, self.padding, self.dilation * self.kernel) > REACH_LIMIT:
            raise ValueError(f"a convolution reaches {REACH_LIMIT} positions and channels at most: {self}")

    @property
    def depth(self) -> int:
        """Multiply-accumulates of one output at one position."""
        return self.kernel**2 * self.channels

    def out_size(self, size: Size) -> Size:
        """Return the output map's height and width for an input map without its border."""
        reach = self.dilation * (self.kernel - 1) - 2 * self.padding
        return (size[0] - reach - 1) // self.stride + 1, (size[1] - reach - 1) // self.stride + 1


@dataclass(frozen=True)
class Convolution:
    """A convolution with its weights packed for one instruction set.

    Attributes
    ----------
    layer
        Qualified name.
    geometry
        How it walks its input.
    outputs
        Output channels.
    packed, bias
        As the inner kernels read them (`layers.pack`).
    row
        Row in the tally.
    is_narrow
        Whether it has few outputs and runs on the narrow kernel.
    is_half
        Whether its weights are bfloat16, two to a word.
    """

    layer: str
    geometry: Geometry
    outputs: int
    packed: Floats
    bias: Floats | None
    row: int
    is_narrow: bool = False
    is_half: bool = False

    def __post_init__(self) -> None:
        """Check the weights' sizes, which the inner kernels trust."""
        limit = library.compiled.narrow_limit() if self.is_narrow else REACH_LIMIT
        check(
            1 <= self.outputs <= limit, self.layer, f"the CPU engine has up to {limit} outputs here, not {self.outputs}"
        )
        size_of = library.compiled.narrow_size if self.is_narrow else library.compiled.packed_size
        bias_size = self.outputs if self.is_narrow else library.compiled.bias_size(self.outputs)
        expected = size_of(self.outputs, self.geometry.depth)
        check(not (self.is_half and self.is_narrow), self.layer, "a narrow convolution has float32 weights")
        expected = expected // 2 if self.is_half else expected
        _check_floats(self.layer, "packed weights", self.packed, expected)
        if self.bias is not None:
            _check_floats(self.layer, "bias", self.bias, bias_size)


@dataclass(frozen=True)
class Region:
    """Positions of a map in terms of the block's masks (`benchmark.nn.work.Region`); ``inside`` numbers a region."""

    kind: str = "everywhere"
    mask: int = 0
    inside: int = 0
    stride: tuple[int, int] = (1, 1)
    geometry: Geometry = Geometry(1)


@dataclass(frozen=True)
class Fill:
    """What stands where a convolution does not compute; ``needed`` numbers the region that something reads."""

    kind: str = "none"
    layer: str = ""
    row: int = 0
    window: int = 1
    needed: int = 0
    is_squared: bool = False
    numerator: Floats | None = None
    denominator: Floats | None = None

    def __post_init__(self) -> None:
        """Check the window and its weights."""
        limit = library.compiled.window_limit()
        fits = self.window % 2 == 1 and 1 <= self.window <= limit
        check(fits, self.layer, f"the CPU engine fills from odd windows of up to {limit}, not {self.window}")
        for name, weights in (("numerator", self.numerator), ("denominator", self.denominator)):
            check((weights is not None) == (self.kind == "window"), self.layer, f"a fill of {self.kind} and a {name}")
            if weights is not None:
                _check_floats(self.layer, name, weights, self.window**2)


@dataclass(frozen=True)
class MaskPlan:
    """A mask of a block.

    Attributes
    ----------
    layer, row
        Name of its place and row in the tally.
    kind
        Of `MASKS`.
    index, number
        Number in the network, and within the block.
    is_late
        Whether it is decided from its convolution's own input.
    pass_number, first
        The pass its products come from, and its first column in them.
    grid
        Every how many-th row and column is sampled whatever the logit; 0 for none.
    is_noisy
        Whether the kernel draws noise for it.
    bias, geometry
        Of its convolution.
    """

    layer: str
    row: int
    kind: str
    index: int
    number: int
    is_late: bool
    pass_number: int = 0
    first: int = 0
    grid: int = 0
    is_noisy: bool = False
    bias: float = 0.0
    geometry: Geometry = Geometry(1)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check(
            0 <= self.grid <= REACH_LIMIT,
            self.layer,
            f"the CPU engine has grids of 1 to {REACH_LIMIT}, not {self.grid}",
        )
        if not math.isfinite(self.bias):
            raise ValueError(f"{self.layer}: bias holds NaN or infinity")


@dataclass(frozen=True)
class Pass:
    """One pass over a map: the products of one or two masks with every tap, by a narrow 1 x 1 convolution."""

    products: Convolution
    is_late: bool


@dataclass(frozen=True)
class Block:
    """A residual block.

    Attributes
    ----------
    name
        Qualified name.
    convolutions, shortcut, offset
        The branch's, that of a projection, and that of a deformable conv2's offsets, ``bilinear_row`` being the row of
        its samples in the tally.
    computes, fills
        For each convolution the number of the region that it computes, and its fill.
    commutes
        Whether the last convolution may run on the samples of the fill before it.
    places
        Channels that a pruned last convolution has in the block's map.
    masks, passes, regions
        What they are decided by, and what they mean.
    """

    name: str
    convolutions: Sequence[Convolution]
    computes: Sequence[int]
    fills: Sequence[Fill]
    masks: Sequence[MaskPlan]
    passes: Sequence[Pass]
    regions: Sequence[Region]
    shortcut: Convolution | None = None
    offset: Convolution | None = None
    bilinear_row: int = 0
    commutes: bool = False
    places: Positions | None = None

    @property
    def inputs(self) -> int:
        """Channels of the map that it reads."""
        return self.convolutions[0].geometry.channels

    @property
    def outputs(self) -> int:
        """Channels of the map that it ends in."""
        return self.inputs if self.shortcut is None else self.shortcut.outputs

    @property
    def columns(self) -> int:
        """Mask products for each position of its input; 0 where it has none."""
        return next((each.products.outputs for each in self.passes if not each.is_late), 0)

    def __post_init__(self) -> None:
        """Check that its parts fit each other, and that a plan has room for them."""
        mask_limit, region_limit = library.compiled.plan_limits()
        check(len(self.convolutions) in (2, 3), self.name, "the CPU engine has blocks of 2 or 3 convolutions")
        check(len(self.masks) <= mask_limit, self.name, f"the CPU engine has up to {mask_limit} masks a block")
        check(len(self.regions) <= region_limit, self.name, f"the CPU engine has up to {region_limit} regions a block")
        self._check_channels()
        self._check_regions()
        self._check_masks()

    def _check_channels(self) -> None:
        for before, after in zip(self.convolutions, self.convolutions[1:], strict=False):
            reads, given = after.geometry.channels, before.outputs
            check(reads == given, after.layer, f"it reads {reads} channels of a map with {given}")
        if self.shortcut is not None:
            reads = self.shortcut.geometry.channels
            check(reads == self.inputs, self.shortcut.layer, f"it reads {reads} channels of a map with {self.inputs}")
        last = self.convolutions[-1]
        if self.places is None:
            check(last.outputs == self.outputs, last.layer, f"{last.outputs} channels are added to {self.outputs}")
        else:
            _check_places(last.layer, self.places, last.outputs, self.outputs)
        if self.offset is not None:
            taps, own = self.convolutions[1].geometry.kernel ** 2, self.offset
            fits = own.outputs == 2 * taps and own.is_narrow and own.geometry.channels == self.inputs
            check(fits, own.layer, f"offsets of {taps} taps are {2 * taps} channels of the block's input")

    def _check_regions(self) -> None:
        count = len(self.convolutions)
        numbers = {mask.number for mask in self.masks}
        check(numbers <= set(range(1, count + 1)), self.name, f"masks of convolutions {sorted(numbers)}")
        for number, region in enumerate(self.regions):
            # The region inside was numbered before: looking it up ends.
            check(0 <= region.inside <= number and region.kind in REGIONS, self.name, f"no region is {region}")
            check(region.kind != "sampled" or region.mask in numbers, self.name, f"no mask has number {region.mask}")
            check(min(region.stride) >= 1, self.name, f"no region has stride {region.stride}")
        wanted = [*self.computes, *(fill.needed for fill in self.fills)]
        check(all(0 <= number < len(self.regions) for number in wanted), self.name, "a region that is not there")
        check(len(self.computes) == len(self.fills) == count, self.name, "a region and a fill for each convolution")

    def _check_masks(self) -> None:
        for mask in self.masks:
            if mask.kind == "forward":
                continue
            check(0 <= mask.pass_number < len(self.passes), mask.layer, f"no pass has number {mask.pass_number}")
            products = self.passes[mask.pass_number].products
            reads = self.convolutions[0].outputs if mask.is_late else self.inputs
            check(
                products.geometry == Geometry(reads), mask.layer, f"its convolution reads a map with {reads} channels"
            )
            columns = mask.first + mask.geometry.kernel**2
            check(
                mask.first >= 0 and columns <= products.outputs, mask.layer, f"{columns} of {products.outputs} products"
            )


@dataclass(frozen=True)
class Stem:
    """The stem: its convolutions, the first with ``row_taps``, and the pooling behind them.

    ``width`` is the number of channels that the map of a pruned last convolution has with the others at their
    ``places``; 0 where none is pruned.
    """

    convolutions: Sequence[Convolution]
    pool: Geometry
    pool_row: int
    places: Positions | None = None
    width: int = 0

    @property
    def outputs(self) -> int:
        """Channels of the map that it ends in."""
        return self.width or self.convolutions[-1].outputs

    def __post_init__(self) -> None:
        """Check that its parts fit each other."""
        limit = library.compiled.pool_limit()
        fits = self.pool.kernel <= limit and self.pool.padding <= self.pool.kernel // 2 and self.pool.dilation == 1
        check(fits, "maxpool", f"the CPU engine pools with kernels of up to {limit}, not {self.pool}")
        channels = 3
        for number, convolution in enumerate(self.convolutions):
            reads = convolution.geometry.channels
            check(reads == channels, convolution.layer, f"it reads {reads} channels of a map with {channels}")
            check(convolution.geometry.row_taps == (number == 0), convolution.layer, "the first has row_taps, no other")
            channels = convolution.outputs
        if self.places is not None:
            _check_places("conv1", self.places, channels, self.width)

    def out_size(self, size: Size) -> Size:
        """Return the size of the pooled map for an image of this size."""
        for convolution in self.convolutions:
            size = convolution.geometry.out_size(size)
        return self.pool.out_size(size)


@dataclass(frozen=True)
class Network:
    """A network: stem and blocks, one after the other.

    Attributes
    ----------
    stem, blocks
        Its parts.
    rows
        Rows of the tally.
    is_observed
        Whether masks read what others have decided.
    instruction_set
        The one that its weights are packed for.
    """

    stem: Stem
    blocks: Sequence[Block]
    rows: int
    is_observed: bool
    instruction_set: str

    @property
    def mask_count(self) -> int:
        """Masks of all blocks."""
        return sum(len(block.masks) for block in self.blocks)

    def __post_init__(self) -> None:
        """Check that blocks fit each other, and every number of a row or a mask."""
        channels = self.stem.outputs
        for block in self.blocks:
            check(block.inputs == channels, block.name, f"it reads {block.inputs} channels of a map with {channels}")
            channels = block.outputs
        indices = [mask.index for block in self.blocks for mask in block.masks]
        check(sorted(indices) == list(range(len(indices))), "backbone", f"masks are numbered {indices}")
        check(all(0 <= row < self.rows for row in self._rows()), "backbone", "a row that the tally does not have")

    def _rows(self) -> list[int]:
        rows = [self.stem.pool_row, *(each.row for each in self.stem.convolutions)]
        for block in self.blocks:
            parts = [*block.convolutions, block.shortcut, block.offset, *(each.products for each in block.passes)]
            rows += [part.row for part in (*parts, *block.fills, *block.masks) if part is not None]
            rows.append(block.bilinear_row)
        return rows


QUESTIONS: tuple[Literal["values", "forward", "decided", "nearest", "source"], ...]
QUESTIONS = ("values", "forward", "decided", "nearest", "source")
"""What a plan asks in between, in the order of plan.h."""


def _check_floats(layer: str, name: str, array: Floats, size: int) -> None:
    fits = array.dtype == np.float32 and array.flags.c_contiguous and array.shape == (size,)
    check(fits, layer, f"{name} of shape {array.shape} {array.dtype}, expected ({size},) float32")


def _check_places(layer: str, places: Positions, outputs: int, width: int) -> None:
    fits = places.dtype == np.int32 and places.flags.c_contiguous and places.shape == (outputs,)
    inside = fits and outputs > 0 and int(places.min()) >= 0 and int(places.max()) < width
    check(inside, layer, f"{outputs} channels have no places among {width}")
