"""Residual blocks whose convolutions can be masked and interpolated (paper §3.5, Figure 3).

A block without masks is torchvision's own, key for key, so that ImageNet weights load. `ResidualBlock.adapt` puts masks
and fills in place. All masks are decided from the block's input, before the convolutions that they govern.
"""

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from benchmark.nn.interpolation import Interpolation
from benchmark.nn.masks import Mask, Site

Placement = Literal["one", "two", "three"]
OFFSET_CHANNELS = 18  # a row and a column for each of the 3x3 taps: unmodulated, one group


class ResidualBlock(nn.Module):
    """Base of the two blocks.

    Attributes
    ----------
    name : str
        Qualified name within the backbone, such as ``layer1.0``.
    mask1, mask2, mask3 : Mask or None
        Mask of the respective convolution, where it has one of its own.
    interpolation1, interpolation2, interpolation3 : Interpolation or None
        Fill after the respective convolution.
    """

    expansion: int

    def __init__(self, in_channels: int, planes: int, stride: int, dilation: int, name: str, project: bool) -> None:
        super().__init__()
        self.name = name
        self.in_channels = in_channels
        self.planes = planes
        self.stride = stride
        self.dilation = dilation
        self.placement: Placement = "two"
        self.downsample = self._projection() if project else None
        self.mask1: Mask | None = None
        self.mask2: Mask | None = None
        self.mask3: Mask | None = None
        self.interpolation1: Interpolation | None = None
        self.interpolation2: Interpolation | None = None
        self.interpolation3: Interpolation | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is its stage's first block."""
        return self.name.endswith(".0")

    @property
    def adaptable(self) -> bool:
        """Whether the paper puts masks in this block."""
        return True

    def sites(self, placement: Placement) -> list[Site]:
        """Return the places for masks under a placement of Figure 3, in the order of the convolutions."""
        raise NotImplementedError

    def adapt(
        self,
        build_mask: Callable[[Site], Mask],
        build_interpolation: Callable[[], Interpolation],
        placement: Placement = "two",
    ) -> None:
        """Put masks and fills at the block's sites."""
        self.placement = placement
        for site in self.sites(placement):
            index = site.layer[-1]
            setattr(self, f"mask{index}", build_mask(site))
            setattr(self, f"interpolation{index}", build_interpolation())
        if placement == "one" and isinstance(self, Bottleneck):
            self.interpolation2 = build_interpolation()

    def _projection(self) -> nn.Sequential:
        out_channels = self.planes * self.expansion
        return nn.Sequential(
            nn.Conv2d(self.in_channels, out_channels, 1, stride=self.stride, bias=False), nn.BatchNorm2d(out_channels)
        )

    def _site(self, index: int, stride: int, channels: int, share: float, reader: tuple[int, int]) -> Site:
        return Site(f"{self.name}.mask{index}", self.in_channels, channels, stride, share, reader)

    def _fill(self, index: int, features: Tensor, mask: Tensor | None, source: Tensor) -> Tensor:
        interpolation = cast(Interpolation | None, getattr(self, f"interpolation{index}"))
        if interpolation is None or mask is None:
            return features
        return interpolation(features, mask, source)

    def _shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)


class Bottleneck(ResidualBlock):
    """1x1, 3x3, 1x1 with the stride in the 3x3; the 3x3 deformable on request.

    Placements: ``one`` mask for all three convolutions (Fig. 3a), ``two`` (Fig. 3b, the paper's default: one for conv1,
    one shared by conv2 and conv3), ``three`` (Fig. 3c).
    """

    expansion = 4

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

    def sites(self, placement: Placement) -> list[Site]:
        """Return the places for masks; shares are the released code's 0.25 and 0.75, conv3's a part of the latter."""
        first = self._site(1, 1, self.planes, 0.25, (3, self.stride))
        if placement == "one":
            return [self._site(1, 1, self.planes, 1.0, (3, self.stride))]
        if placement == "two":
            return [first, self._site(2, self.stride, self.planes, 0.75, (1, 1))]
        last = self._site(3, self.stride, self.planes * self.expansion, 0.25, (1, 1))
        return [first, self._site(2, self.stride, self.planes, 0.5, (1, 1)), last]

    def masks(self, x: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the masks that govern conv1, conv2 and conv3 for block input ``x``; None where dense.

        conv3's is None where it shares conv2's: it then reads the filled map.
        """
        if self.mask1 is None:
            return None, None, None
        mask1 = self.mask1(x)
        if self.mask2 is None:
            return mask1, mask1[..., :: self.stride, :: self.stride], None
        return mask1, self.mask2(x), None if self.mask3 is None else self.mask3(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, 4 * planes, H / stride, W / stride)``."""
        mask1, mask2, mask3 = self.masks(x)
        features = torch.relu(self.bn1(self.conv1(x)))
        features = self._fill(1, features, mask1, x)
        features = self.conv2(features) if self.offset is None else self.conv2(features, self.offset(x))
        features = self._fill(2, torch.relu(self.bn2(features)), mask2, x)
        features = self._fill(3, self.bn3(self.conv3(features)), mask3, x)
        return torch.relu(features + self._shortcut(x))

    def _offset(self) -> nn.Conv2d:
        offset = nn.Conv2d(self.in_channels, OFFSET_CHANNELS, 3, self.stride, padding=1)
        nn.init.zeros_(offset.weight)
        nn.init.zeros_(offset.bias)
        return offset


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions with the stride in the first; a mask for each, none in a stage's first block (§4.1)."""

    expansion = 1

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
            raise ValueError(f"{name}: basic blocks have no deformable convolution; use a bottleneck backbone")
        self.conv1 = nn.Conv2d(in_channels, planes, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

    @property
    def adaptable(self) -> bool:
        """Not in a stage's first block (paper §4.1, after LCCL)."""
        return not self.is_first

    def sites(self, placement: Placement) -> list[Site]:
        """Return one place for each convolution; ``one`` and ``three`` have no meaning here."""
        if placement != "two":
            raise ValueError(f"placement {placement!r} needs bottleneck blocks; {self.name} is a basic block")
        return [
            self._site(1, self.stride, self.planes, 0.5, (3, 1)),
            self._site(2, self.stride, self.planes, 0.5, (1, 1)),
        ]

    def masks(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the masks that govern conv1 and conv2 for block input ``x``; None where dense."""
        return (
            None if self.mask1 is None else self.mask1(x),
            None if self.mask2 is None else self.mask2(x),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, planes, H / stride, W / stride)``."""
        mask1, mask2 = self.masks(x)
        features = self._fill(1, torch.relu(self.bn1(self.conv1(x))), mask1, x)
        features = self._fill(2, self.bn2(self.conv2(features)), mask2, x)
        return torch.relu(features + self._shortcut(x))
