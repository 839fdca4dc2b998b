"""Residual blocks whose convolutions can be masked, interpolated and gated (paper §3.5, Figure 3).

A block without masks is torchvision's own, key for key, so that ImageNet weights load. `ResidualBlock.adapt` puts masks
and fills in place. Masks are decided from the block's input, before the convolutions that they govern; a mask may ask
for its own convolution's input instead. What follows from them, which convolution computes, reads and fills what, is
`benchmark.nn.work`'s to say: the forward below walks through that description, as the counters and the engines do.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from benchmark.errors import UsageError
from benchmark.nn import context, work
from benchmark.nn.gates import ChannelGate, GateSite
from benchmark.nn.interpolation import Interpolation
from benchmark.nn.masks import Mask, Site, Stage
from benchmark.nn.work import BlockWork, Link, Region, Sampled, Size, Subsampled, Walk

Placement = Literal["one", "two", "three", "output"]
OFFSET_CHANNELS = 18  # a row and a column for each of the 3x3 taps: unmodulated, one group


@dataclass
class Decided:
    """What a block decided from its input.

    Attributes
    ----------
    size : (int, int)
        Height and width of the block's input.
    masks : dict
        Values ``(N, 1, H, W)`` by number of the mask.
    gates : dict
        Values ``(N, C)`` by number of the gate over channels.
    confidences : dict
        What a sparse loss averages, ``(N, 1, H, W)`` by number of the mask; in training, of learned masks alone.
    """

    size: Size
    masks: dict[int, Tensor] = field(default_factory=dict)
    gates: dict[int, Tensor] = field(default_factory=dict)
    confidences: dict[int, Tensor] = field(default_factory=dict)


class ResidualBlock(nn.Module):
    """Base of the two blocks.

    Attributes
    ----------
    name : str
        Qualified name within the backbone, such as ``layer1.0``.
    stage : Stage
        Shared by the blocks of a stage: what masks carry from block to block.
    resolution : int
        Pixels of the image to a position of the block's input, along an axis.
    mask1, mask2, mask3 : Mask or None
        Mask of the respective convolution, where it has one of its own.
    interpolation1, interpolation2, interpolation3 : Interpolation or None
        Fill after the respective convolution.
    gate1, gate2 : ChannelGate or None
        Gate over the output channels of the respective convolution.
    decided : Decided or None
        Of the last training forward; what losses read. Leaving training forgets it.
    """

    expansion: int
    convolutions: tuple[int, ...]  # numbers of the branch's convolutions: conv1, conv2, …

    def __init__(self, in_channels: int, planes: int, stride: int, dilation: int, name: str, project: bool) -> None:
        super().__init__()
        self.name = name
        self.in_channels = in_channels
        self.planes = planes
        self.stride = stride
        self.dilation = dilation
        self.stage = Stage(name.partition(".")[0])
        self.resolution = 1
        self.decided: Decided | None = None
        self._work: BlockWork | None = None
        self.placement: Placement = "two"
        self.downsample = self._projection() if project else None
        self.mask1: Mask | None = None
        self.mask2: Mask | None = None
        self.mask3: Mask | None = None
        self.interpolation1: Interpolation | None = None
        self.interpolation2: Interpolation | None = None
        self.interpolation3: Interpolation | None = None
        self.gate1: ChannelGate | None = None
        self.gate2: ChannelGate | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a new mask, fill, gate or convolution changes what the block computes."""
        if name.startswith(("mask", "interpolation", "gate", "conv")):
            self.__dict__["_work"] = None
        super().__setattr__(name, value)

    def train(self, mode: bool = True) -> "ResidualBlock":
        """Switch the mode; what was decided last would keep the autograd graph alive, and is forgotten."""
        self.decided = None
        return super().train(mode)

    @property
    def is_first(self) -> bool:
        """Whether this is its stage's first block."""
        return self.name.endswith(".0")

    def adaptable(self, placement: Placement) -> bool:
        """Whether the placement's publication puts masks in this block."""
        return True

    def sites(self, placement: Placement) -> list[Site]:
        """Return the places for masks under a placement, in the order of the convolutions."""
        raise NotImplementedError

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Batch norm at the end of the residual branch."""
        raise NotImplementedError

    def adapt(
        self,
        build_mask: Callable[[Site], Mask] | None,
        build_interpolation: Callable[[], Interpolation],
        placement: Placement = "two",
        build_gate: Callable[[GateSite], ChannelGate] | None = None,
    ) -> None:
        """Put masks and fills at the block's sites, and gates over the channels of its inner convolutions."""
        self.placement = placement
        if build_mask is not None:
            self._put_masks(build_mask, build_interpolation)
        if build_gate is not None:
            self._put_gates(build_gate)

    def _put_masks(self, build: Callable[[Site], Mask], build_interpolation: Callable[[], Interpolation]) -> None:
        for site in self.sites(self.placement):
            index, mask = site.layer[-1], build(site)
            setattr(self, f"mask{index}", mask)
            setattr(self, f"interpolation{index}", build_interpolation())
            self.stage.masks.append((site.resolution, mask))
        if self.placement == "one" and isinstance(self, Bottleneck):
            self.interpolation2 = build_interpolation()  # conv1's mask governs conv2 too, whose map is filled as well

    def _put_gates(self, build: Callable[[GateSite], ChannelGate]) -> None:
        for index in self.convolutions[:-1]:  # the output keeps all its channels: the shortcut is added to it
            setattr(self, f"gate{index}", build(GateSite(f"{self.name}.gate{index}", self.in_channels, self.planes)))

    @property
    def work(self) -> BlockWork:
        """What the block computes: the description that forward, counters and engines share."""
        if self._work is None:
            self._work = self._described()
        return self._work

    def decide(self, x: Tensor) -> Decided:
        """Decide the masks and gates that read block input ``x`` of shape ``(N, in_channels, H, W)``."""
        decided = Decided((x.shape[-2], x.shape[-1]))
        for index in self.work.masks:
            if index not in self.work.late:
                self._decide_mask(index, x, decided)
        for index in self.work.gates:
            decided.gates[index] = getattr(self, f"gate{index}")(x)
        return decided

    def _decide_mask(self, index: int, source: Tensor, decided: Decided) -> None:
        mask = cast(Mask, getattr(self, f"mask{index}"))
        decided.masks[index] = mask.decided = mask(source)
        if mask.confidence is not None:
            decided.confidences[index] = mask.confidence

    def _show(self, decided: Decided) -> None:
        """Keep what was decided for the losses in training, show it to the observers at inference."""
        if not decided.masks and not decided.gates:
            return
        if self.training:
            self.decided = decided
        else:
            context.notify(self, decided)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, planes * expansion, H / stride, W / stride)``.

        Everything is computed densely, and what `work` says is left out is replaced by its fill: the definition that
        counters and engines are held against.
        """
        decided = self.decide(x)
        features = x
        for index, step in zip(self.convolutions, self.work.convolutions, strict=True):
            source = features
            if index in self.work.late:
                self._decide_mask(index, source, decided)
            features = self._norm(index)(self._convolve(index, source, x))
            if index != self.convolutions[-1]:
                features = torch.relu(features)
            if step.gate is not None:
                features = features * decided.gates[step.gate][:, :, None, None]
            if step.fill is not None:
                fill = cast(Interpolation, getattr(self, step.fill.layer))
                features = fill(features, work.values(step.fill.mask, decided.masks), source)
        self._show(decided)
        return torch.relu(features + self._shortcut(x))

    def _described(self) -> BlockWork:
        """Tell `benchmark.nn.work` the chain of convolutions, and return what it derives."""
        links = []
        for index in self.convolutions:
            convolution = getattr(self, f"conv{index}")
            walk = Walk.of(convolution, isinstance(convolution, DeformConv2d))
            fill = getattr(self, f"interpolation{index}")
            links.append(
                Link(
                    f"conv{index}",
                    walk,
                    self._governing(index, walk) if fill is not None else None,
                    fill,
                    f"interpolation{index}",
                    "offset" if walk.anywhere else "",
                    index if index < self.convolutions[-1] and getattr(self, f"gate{index}") is not None else None,
                    self._is_late(index),
                )
            )
        masks = [index for index in (1, 2, 3) if getattr(self, f"mask{index}") is not None]
        return work.describe(links, masks, [index for index in (1, 2) if getattr(self, f"gate{index}") is not None])

    def _is_late(self, index: int) -> bool:
        """Whether a mask reads a map of the branch; the first convolution's own input is the block's."""
        mask = cast(Mask | None, getattr(self, f"mask{index}"))
        return mask is not None and mask.own_input and index != self.convolutions[0]

    def _governing(self, index: int, walk: Walk) -> Region:
        """Return the mask under which a convolution's output is computed: its own, or the one before at its stride."""
        if getattr(self, f"mask{index}") is not None:
            return Sampled(index)
        return Subsampled(Sampled(index - 1), walk.stride)

    def _convolve(self, index: int, source: Tensor, x: Tensor) -> Tensor:
        return cast(Tensor, getattr(self, f"conv{index}")(source))

    def _norm(self, index: int) -> nn.Module:
        return cast(nn.Module, getattr(self, f"bn{index}"))

    def _projection(self) -> nn.Sequential:
        out_channels = self.planes * self.expansion
        return nn.Sequential(
            nn.Conv2d(self.in_channels, out_channels, 1, stride=self.stride, bias=False), nn.BatchNorm2d(out_channels)
        )

    def _site(self, index: int, stride: int, channels: int, share: float, reader: tuple[int, int]) -> Site:
        own = getattr(self, f"conv{index}")
        return Site(
            f"{self.name}.mask{index}", self.in_channels, channels, stride, share, reader, self.stage,
            self.resolution * stride, own.in_channels, own.stride[0],
        )  # fmt: skip

    def _shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else cast(Tensor, self.downsample(x))


class Bottleneck(ResidualBlock):
    """1x1, 3x3, 1x1 with the stride in the 3x3; the 3x3 deformable on request.

    Placements: ``one`` mask for all three convolutions (Fig. 3a), ``two`` (Fig. 3b, the paper's default: one for conv1,
    one shared by conv2 and conv3), ``three`` (Fig. 3c), and ``output``: one mask for the block's output.
    """

    expansion = 4
    convolutions = (1, 2, 3)

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        name: str = "block.0",
        project: bool = False,
        deformable: bool = False,
    ) -> None:
        super().__init__(in_channels, planes, stride, dilation, name, project)
        convolution = DeformConv2d if deformable else nn.Conv2d
        self.conv1 = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = convolution(planes, planes, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.offset = self._offset() if deformable else None

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Behind the third convolution."""
        return self.bn3

    def sites(self, placement: Placement) -> list[Site]:
        """Return the places for masks; shares are the released code's 0.25 and 0.75, conv3's a part of the latter."""
        if placement == "output":
            return [self._site(3, self.stride, self.planes * self.expansion, 1.0, (1, 1))]
        if placement == "one":
            return [self._site(1, 1, self.planes, 1.0, (3, self.stride))]
        first = self._site(1, 1, self.planes, 0.25, (3, self.stride))
        if placement == "two":
            return [first, self._site(2, self.stride, self.planes, 0.75, (1, 1))]
        last = self._site(3, self.stride, self.planes * self.expansion, 0.25, (1, 1))
        return [first, self._site(2, self.stride, self.planes, 0.5, (1, 1)), last]

    def _convolve(self, index: int, source: Tensor, x: Tensor) -> Tensor:
        if index == 2 and self.offset is not None:
            # torchvision's operator has no mixed precision on a CPU, and wants one type for all that it reads.
            kind = self.conv2.weight.dtype
            return cast(Tensor, self.conv2(source.to(kind), self.offset(x).to(kind)))
        return super()._convolve(index, source, x)

    def _offset(self) -> nn.Conv2d:
        # Dilated with its block, as in the released code: the offsets are told from what conv2 sees.
        offset = nn.Conv2d(
            self.in_channels, OFFSET_CHANNELS, 3, self.stride, padding=self.dilation, dilation=self.dilation
        )
        nn.init.zeros_(offset.weight)
        nn.init.zeros_(cast(Tensor, offset.bias))
        return offset


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions with the stride in the first.

    Placements: ``two``, a mask for each, none in a stage's first block (§4.1), and ``output``: one for the block's
    output.
    """

    expansion = 1
    convolutions = (1, 2)

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        name: str = "block.0",
        project: bool = False,
        deformable: bool = False,
    ) -> None:
        super().__init__(in_channels, planes, stride, dilation, name, project)
        if deformable:
            raise UsageError(f"{name}: basic blocks have no deformable convolution; use a bottleneck backbone")
        self.conv1 = nn.Conv2d(in_channels, planes, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

    def adaptable(self, placement: Placement) -> bool:
        """Not in a stage's first block under the paper's placement (§4.1, after LCCL)."""
        return placement == "output" or not self.is_first

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Behind the second convolution."""
        return self.bn2

    def sites(self, placement: Placement) -> list[Site]:
        """Return one place for each convolution, or the output's; ``one`` and ``three`` have no meaning here."""
        if placement == "output":
            return [self._site(2, self.stride, self.planes, 1.0, (1, 1))]
        if placement != "two":
            raise UsageError(f"placement {placement!r} needs bottleneck blocks; {self.name} is a basic block")
        return [
            self._site(1, self.stride, self.planes, 0.5, (3, 1)),
            self._site(2, self.stride, self.planes, 0.5, (1, 1)),
        ]
