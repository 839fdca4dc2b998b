"""What a residual block computes: the one description that the forward, the counters and every engine read.

A block is a chain of convolutions. Some of them are governed by a mask and followed by a fill; from that alone,
`describe` derives, from the last convolution to the first,

* which positions of its output each convolution *computes*: those of its mask, or, where it has no fill of its own,
  those that the convolution behind it reads;
* which positions of a filled map are *needed*: those that the convolution behind it reads;
* whether a convolution *commutes* with the fill before it, and so may run on the samples.

Positions are symbolic (`Region`): a description knows no image and no map size. `positions` and `values` turn a region
into an array once masks are decided. What the positions cost is the business of `benchmark.flops`, how they are
computed that of the blocks and engines; none of them derives the above a second time.

Every placement of masks is an instance: the three of the paper's Figure 3, one mask at the block's output with the
first convolution computed where the second reads (DynConv, LASNet), masks by tiles and masks carried from block to
block (their values differ, not what follows from them), a branch that is zero where it is not computed (a fill of
zeros behind the last convolution), and gates over channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.nn import sparsity
from benchmark.nn.sparsity import Array

Size = tuple[int, int]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Walk:
    """How a convolution walks over its input.

    Attributes
    ----------
    kernel, stride, padding, dilation : (int, int)
        Vertical, horizontal.
    anywhere : bool
        Whether the taps may lie anywhere, as those of a deformable convolution.
    """

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    anywhere: bool = False

    @classmethod
    def of(cls, convolution: Any, anywhere: bool = False) -> Walk:
        """Return the walk of a convolution module."""
        return cls(
            tuple(convolution.kernel_size),
            tuple(convolution.stride),
            tuple(convolution.padding),
            tuple(convolution.dilation),
            anywhere,
        )

    @property
    def is_pointwise(self) -> bool:
        """Whether an output position reads just the input position of the same place."""
        return not self.anywhere and self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)

    def out_size(self, size: Size) -> Size:
        """Return height and width of the output for an input of this height and width."""
        return sparsity.output_size(size, self.kernel, self.stride, self.padding, self.dilation)


class Region:
    """Positions of one map of a block, in terms of the masks that the block decides.

    Attributes
    ----------
    masks : frozenset of int
        Numbers of the masks on which the positions depend; none for a dense map.
    """

    masks: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Everywhere(Region):
    """All positions of a map."""


@dataclass(frozen=True)
class Sampled(Region):
    """The positions that a mask samples, ``M > 0``.

    Attributes
    ----------
    mask : int
        Number of the mask: that of the convolution which it governs.
    """

    mask: int

    @property
    def masks(self) -> frozenset[int]:  # type: ignore[override]
        """The mask's number."""
        return frozenset({self.mask})


@dataclass(frozen=True)
class Subsampled(Region):
    """A region at every stride-th position: a mask that also governs a map of lower resolution (Figure 3a)."""

    region: Region
    stride: Pair

    @property
    def masks(self) -> frozenset[int]:  # type: ignore[override]
        """Those of the region."""
        return self.region.masks


@dataclass(frozen=True)
class ReadBy(Region):
    """The input positions that a convolution reads to compute a region of its output: a dilated mask."""

    region: Region
    walk: Walk

    @property
    def masks(self) -> frozenset[int]:  # type: ignore[override]
        """Those of the region."""
        return self.region.masks


EVERYWHERE = Everywhere()


@dataclass(frozen=True)
class Fill:
    """How the positions that a convolution leaves out are filled.

    Attributes
    ----------
    layer : str
        Name of the fill within the block, such as ``interpolation1``.
    mask : Region
        A region whose `values` blend the computed and the filled map.
    needed : Region
        Positions of the filled map that something reads: only there is anything filled.
    window : int
        Side of the window of neighbours; 0 for a fill that reads none.
    linear : bool
        Whether the filled map is linear in the sampled rows, with one weight for all channels.
    reads_source : bool
        Whether it copies the convolution's own input to the positions left out.
    """

    layer: str
    mask: Region
    needed: Region
    window: int
    linear: bool
    reads_source: bool = False


@dataclass(frozen=True)
class Convolution:
    """What one convolution of a block does.

    Attributes
    ----------
    layer : str
        Name within the block, such as ``conv1``.
    walk : Walk
        How it walks over the map of the convolution before, or over the block's input.
    computes : Region
        Positions of its output that are computed.
    fill : Fill or None
        What stands elsewhere; None where nothing reads the rest.
    beside : str
        Layer that reads the block's input at the same output positions (a deformable convolution's offsets); else "".
    commutes : bool
        Whether it may run on the samples of the fill before it, which then comes behind it; which of the two is the
        cheaper way is decided for each image by `sparsity.conv3_plan`. `computes` has the samples.
    gate, input_gate : int or None
        Numbers of the gates over its output's and its input's channels: closed channels are not computed, not read.
    """

    layer: str
    walk: Walk
    computes: Region
    fill: Fill | None = None
    beside: str = ""
    commutes: bool = False
    gate: int | None = None
    input_gate: int | None = None


@dataclass(frozen=True)
class BlockWork:
    """What a block computes, whatever the image.

    Attributes
    ----------
    convolutions : tuple of Convolution
        Of the residual branch, in the order in which they run. The shortcut is dense.
    masks : tuple of int
        Numbers of the masks that the block decides; mask i has the size of the map behind convolution i.
    gates : tuple of int
        Numbers of the gates over channels.
    late : tuple of int
        Numbers of the masks that are decided from their convolution's own input, while the branch runs; the others are
        decided from the block's input, before it.
    """

    convolutions: tuple[Convolution, ...]
    masks: tuple[int, ...]
    gates: tuple[int, ...] = ()
    late: tuple[int, ...] = ()

    def sizes(self, size: Size) -> tuple[Size, ...]:
        """Return height and width of the map behind each convolution, for a block input of this size."""
        found = []
        for convolution in self.convolutions:
            size = convolution.walk.out_size(size)
            found.append(size)
        return tuple(found)

    def mask_sizes(self, size: Size) -> dict[int, Size]:
        """Return height and width of each mask, by its number, for a block input of this size."""
        sizes = self.sizes(size)
        return {mask: sizes[mask - 1] for mask in self.masks}


@dataclass(frozen=True)
class Link:
    """A convolution of a chain as `describe` is told about it.

    Attributes
    ----------
    layer, walk, beside
        As in `Convolution`.
    mask : Region or None
        Region under which its output is computed and filled; None where it has no fill of its own.
    fill : module or None
        The fill behind it, with `window` and `linear`.
    fill_layer : str
        Name of the fill within the block.
    gate : int or None
        Number of the gate over its output's channels.
    late : bool
        Whether its mask is decided from the map that it reads, which is then read whole.
    """

    layer: str
    walk: Walk
    mask: Region | None = None
    fill: Any = None
    fill_layer: str = ""
    beside: str = ""
    gate: int | None = None
    late: bool = False


def describe(links: Sequence[Link], masks: Iterable[int], gates: Iterable[int] = ()) -> BlockWork:
    """Derive what a chain of convolutions computes, from the last to the first.

    Raises
    ------
    ValueError
        A convolution has a mask without a fill, or a fill without a mask.
    """
    described: list[Convolution] = []
    needed: Region = EVERYWHERE  # the sum of branch and shortcut is read whole
    for place in reversed(range(len(links))):
        link, before = links[place], links[place - 1] if place else None
        if (link.mask is None) != (link.fill is None):
            raise ValueError(f"{link.layer}: a mask and a fill come together")
        input_gate = None if before is None or _is_filled_anew(before) else before.gate
        fill = None
        # A dense map is computed whole, whoever reads it: only what depends on a mask is left out.
        computes = needed if needed.masks else EVERYWHERE
        if link.mask is not None:
            fill = Fill(
                link.fill_layer,
                link.mask,
                needed,
                int(link.fill.window),
                bool(link.fill.linear),
                bool(link.fill.reads_source),
            )
            computes = link.mask
        commutes = _commutes(link, before) and needed == EVERYWHERE
        if commutes and before is not None and before.mask is not None:
            computes = before.mask
        described.append(
            Convolution(link.layer, link.walk, computes, fill, link.beside, commutes, link.gate, input_gate)
        )
        # In the way of the commuting convolution that fills first, the fill before is needed everywhere. So it is where
        # this convolution's fill copies what it reads, samples and what is left out being all positions; and where its
        # mask is yet to be decided from it.
        copies = fill is not None and fill.reads_source
        needed = EVERYWHERE if commutes or copies or link.late else read_by(computes, link.walk)
    late = tuple(number for number, link in enumerate(links, start=1) if link.late)
    return BlockWork(tuple(reversed(described)), tuple(masks), tuple(gates), late)


def _is_filled_anew(link: Link) -> bool:
    """Whether the fill behind a convolution may write into a closed channel: one that is linear keeps it zero."""
    return link.fill is not None and not link.fill.linear


def _commutes(link: Link, before: Link | None) -> bool:
    """Whether a convolution without a mask of its own may trade places with the fill before it.

    Both are linear, and the fill has one weight for all channels; batch norm and bias come after both. A gate between
    them, or a fill that is not linear (reuse), forbids it.
    """
    return (
        before is not None
        and before.fill is not None
        and bool(before.fill.linear)
        and before.gate is None
        and link.mask is None
        and link.walk.is_pointwise
    )


def read_by(region: Region, walk: Walk) -> Region:
    """Return the input positions that a convolution reads to compute a region of its output."""
    if walk.anywhere:
        return EVERYWHERE
    return region if walk.is_pointwise else ReadBy(region, walk)


def values(region: Region, masks: Mapping[int, Any]) -> Any:
    """Return the mask values of a region that is a mask: ``(..., H, W)``, of the kind of the masks given.

    Parameters
    ----------
    masks
        Values by number of the mask, ``(..., H, W)``: NumPy or PyTorch.

    Raises
    ------
    TypeError
        For a region that has no values, only positions.
    """
    if isinstance(region, Sampled):
        return masks[region.mask]
    if isinstance(region, Subsampled):
        rows, columns = region.stride
        return values(region.region, masks)[..., ::rows, ::columns]
    raise TypeError(f"{type(region).__name__} has positions, but no mask values")


def positions(region: Region, masks: Mapping[int, Array], size: Size) -> Array | None:
    """Return the positions of a region, boolean ``(..., H, W)``; None for all of them.

    Parameters
    ----------
    masks
        Values by number of the mask, ``(..., H, W)``: NumPy or PyTorch; leading axes are images.
    size
        Height and width of the map that the region lies on.
    """
    if isinstance(region, Everywhere):
        return None
    if isinstance(region, ReadBy):
        walk = region.walk
        inner = positions(region.region, masks, walk.out_size(size))
        return sparsity.positions_read(inner, walk.kernel, walk.stride, walk.padding, walk.dilation, size)
    return sparsity.sampled(values(region, masks))
