"""From a backbone to a plan: each block as its description says (`benchmark.nn.work`), its weights packed.

What a convolution computes, reads and fills is derived there and in no other place; here it only becomes numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import nn

from benchmark.engines.base import EngineRefusal, Floats
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.kernels import Convolution, Geometry, NarrowConvolution, Positions
from benchmark.engines.cpu.layers import array, compile_convolution, folded, geometry, places
from benchmark.engines.cpu.masks import Pass, Placed, passes
from benchmark.nn import work
from benchmark.nn.blocks import Bottleneck, ResidualBlock
from benchmark.nn.interpolation import (
    RBF,
    AveragePooling,
    Interpolation,
    LearnedKernel,
    Nearest,
    PaperRBF,
    Reuse,
    Zeros,
)
from benchmark.nn.resnet import ResNet
from benchmark.nn.work import ReadBy, Region, Sampled, Size, Subsampled, Walk

FILLS = {
    RBF: "window",
    PaperRBF: "window",
    AveragePooling: "window",
    LearnedKernel: "window",
    Nearest: "nearest",
    Reuse: "reuse",
    Zeros: "zeros",
}
"""Fills that the engine runs, and how; of others it cannot know what they compute."""


class Rows:
    """The rows of the tally, by name."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    def __call__(self, layer: str, kind: str) -> int:
        """Return a layer's row, a new one if it has none."""
        self.kinds.setdefault(layer, kind)
        return self._numbers.setdefault(layer, len(self._numbers))


class CompiledStem:
    """The stem's convolutions and the max pooling."""

    def __init__(self, model: ResNet, rows: Rows) -> None:
        convs = [(n, m) for n, m in model.conv1.named_modules(prefix="conv1") if isinstance(m, nn.Conv2d)]
        norms: list[nn.Module] = [m for m in model.conv1.modules() if isinstance(m, nn.BatchNorm2d)]
        norms.append(cast(nn.Module, model.bn1))
        self._convs = [
            (name, compile_convolution(name, conv, norm, row_taps=i == 0))
            for i, ((name, conv), norm) in enumerate(zip(convs, norms, strict=True))
        ]
        self._places = places(norms[-1])
        pool = cast(nn.MaxPool2d, model.maxpool)
        kernel, stride, padding = (int(cast(int, getattr(pool, name))) for name in ("kernel_size", "stride", "padding"))
        if kernel > kernels.POOL_LIMIT or padding > kernel // 2:
            reason = f"the CPU engine pools with kernels of up to {kernels.POOL_LIMIT}, not {kernel}"
            raise EngineRefusal("maxpool", reason)
        self._pool = Geometry(1, kernel, stride, padding)
        self.outputs = self._convs[-1][1].outputs
        self.width = 0 if self._places is None else int(getattr(norms[-1], "width", 0))
        self.plan = kernels.Stem(
            [conv.planned(rows(name, "conv")) for name, conv in self._convs],
            (kernel, stride, padding),
            rows("maxpool", "uncounted"),
            self._places,
            self.width,
        )

    def out_size(self, size: Size) -> Size:
        """Return the size of the pooled map for an image of this size."""
        for _, conv in self._convs:
            size = conv.geometry.out_size(*size)
        return self._pool.out_size(*size)


@dataclass
class PlacedMask:
    """A mask of a plan: where it is decided from, and its row in the tally."""

    placed: Placed
    row: int
    late: bool
    geometry: Geometry | None

    def shape(self, size: Size, sizes: Sequence[Size]) -> Size:
        """Return its height and width for a block's input and the maps behind its convolutions."""
        governed = sizes[self.placed.number - 1]
        if self.geometry is not None:
            shape = self.geometry.out_size(*(sizes[0] if self.late else size))
            if shape != governed:
                raise ValueError(f"{self.placed.name}: the mask is {shape}, expected {governed}")
        return governed


class CompiledBlock:
    """A residual block, as a plan takes it.

    Attributes
    ----------
    plan
        Its parts.
    masks
        Its masks, in the order in which they are decided.
    fills
        What it fills with, by the number of the convolution.
    inner, outputs
        Channels of the map behind its first convolution, and of the map that it ends in.
    columns
        Mask products for each position of its input; 0 where it has none.
    """

    def __init__(self, block: ResidualBlock, placed: list[Placed], rows: Rows, first_mask: int) -> None:
        self.name, self.work, self._block, self._rows = block.name, block.work, block, rows
        self._refuse()
        self.fills: dict[int, Interpolation] = {}
        self._regions: dict[Region, int] = {}
        self._list: list[tuple[object, ...]] = []
        self._sizes: dict[Size, tuple[Size, ...]] = {}
        convolutions = [self._convolution(number) for number in block.convolutions]
        self.inner = convolutions[0].outputs
        shortcut = None
        if block.downsample is not None:
            name = f"{self.name}.downsample.0"
            shortcut = compile_convolution(name, block.downsample[0], cast(nn.Module, block.downsample[1]))
        self.outputs = convolutions[0].geometry.channels if shortcut is None else shortcut.outputs
        self.plan: dict[str, Any] = {
            "convolutions": [c.planned(self._row(f"conv{i}")) for i, c in enumerate(convolutions, start=1)],
            "computes": [self._region(step.computes) for step in self.work.convolutions],
            "fills": [self._fill(number, step.fill) for number, step in enumerate(self.work.convolutions, start=1)],
            "shortcut": None if shortcut is None else shortcut.planned(self._row("downsample.0")),
            **self._offset(),
            "commutes": self.work.convolutions[-1].commutes,
            "places": self._places(),
        }
        self._add_masks(placed, first_mask)
        self.plan["regions"] = self._list

    def sizes(self, size: Size) -> tuple[Size, ...]:
        """Return height and width of the map behind each convolution, for an input of this size."""
        if size not in self._sizes:
            self._sizes[size] = self.work.sizes(size)
        return self._sizes[size]

    def _row(self, layer: str, kind: str = "conv") -> int:
        return self._rows(f"{self.name}.{layer}", kind)

    def _refuse(self) -> None:
        """Refuse what a plan has no way to run."""
        name, block = self.name, self._block
        if self.work.gates:
            raise EngineRefusal(f"{name}.gate{self.work.gates[0]}", "the CPU engine has no gates over channels")
        fills = [step.fill for step in self.work.convolutions]
        if isinstance(block, Bottleneck):
            if self.work.late:
                reason = "the CPU engine decides a bottleneck's masks from the block's input alone"
                raise EngineRefusal(f"{name}.mask{self.work.late[0]}", reason)
            if places(block.bn3) is not None:
                raise EngineRefusal(
                    f"{name}.conv3", "the CPU engine prunes the inner convolutions of a bottleneck only"
                )
            if fills[1] is None and fills[2] is not None and fills[2].reads_source:
                raise EngineRefusal(f"{name}.interpolation3", "the CPU engine copies the input of a masked map only")
        elif places(cast(nn.Module, block.bn2)) is not None and fills[1] is not None:
            raise EngineRefusal(f"{name}.mask2", "the CPU engine has no masks over a map with pruned channels")

    def _convolution(self, number: int) -> Convolution:
        layer = f"conv{number}"
        return compile_convolution(
            f"{self.name}.{layer}", getattr(self._block, layer), getattr(self._block, f"bn{number}")
        )

    def _places(self) -> Positions | None:
        """Return the places of a basic block's pruned last convolution."""
        return None if isinstance(self._block, Bottleneck) else places(cast(nn.Module, self._block.bn2))

    def _offset(self) -> dict[str, Any]:
        """Return the offsets of a deformable convolution, which are computed beside conv2."""
        beside = self.work.convolutions[1].beside
        if not beside:
            return {"offset": None}
        module = getattr(self._block, beside)
        offset = NarrowConvolution(*folded(module, None), geometry(f"{self.name}.{beside}", module))
        row = self._row("conv2.bilinear", "bilinear")
        return {"offset": offset.planned(self._row(beside, "offset")), "bilinear_row": row}

    def _region(self, region: Region) -> int:
        """Return a region's number in the plan."""
        if region not in self._regions:
            mask = of = 0
            stride: tuple[int, int] = (1, 1)
            walk: tuple[int, ...] = (1, 1, 1, 0, 1, 0)
            kind = "everywhere"
            if isinstance(region, Sampled):
                kind, mask = "sampled", region.mask
            elif isinstance(region, Subsampled):
                kind, of, stride = "subsampled", self._region(region.region), region.stride
            elif isinstance(region, ReadBy):
                kind, of, walk = "read by", self._region(region.region), _walk(region.walk)
            self._regions[region] = len(self._list)
            self._list.append((kernels.REGIONS.index(kind), mask, of, *stride, walk))
        return self._regions[region]

    def _fill(self, number: int, described: work.Fill | None) -> tuple[object, ...]:
        if described is None:
            return 0, 0, 1, 0, 0, None, None
        module, name = cast(Interpolation, getattr(self._block, described.layer)), f"{self.name}.{described.layer}"
        if type(module) not in FILLS:
            raise EngineRefusal(name, f"the CPU engine does not know fills of class {type(module).__name__}")
        window = module.window or 1
        if window % 2 == 0 or window > kernels.WINDOW_LIMIT:
            reason = f"the CPU engine fills from odd windows of up to {kernels.WINDOW_LIMIT}, not {window}"
            raise EngineRefusal(name, reason)
        # A copy: the model may go on training, and a plan asks the nearest fill while it runs.
        self.fills[number] = copy.deepcopy(module)
        numerator: Floats | None = None
        if module.window:
            numerator = np.ascontiguousarray(array(cast(Any, module).kernel()).reshape(-1))
            if numerator.size != window**2:
                raise EngineRefusal(name, f"{numerator.size} weights for a window of {window} x {window}")
        return (
            kernels.FILLS.index(FILLS[type(module)]),
            self._rows(name, "interpolation"),
            window,
            self._region(described.needed),
            int(getattr(module, "squared_mask", False)),
            numerator,
            None if numerator is None else np.abs(numerator),
        )

    def _add_masks(self, placed: list[Placed], first_mask: int) -> None:
        """Add the masks: those of one pass together, then those that PyTorch decides."""
        late = self.work.late
        found = list(passes(placed, late))
        self.masks: list[PlacedMask] = []
        masks: list[tuple[object, ...]] = []
        self.plan["passes"] = [(p.convolution.planned(self._mask_row(p.masks[0])), int(p.late)) for p in found]
        self.columns = next((p.convolution.columns for p in found if not p.late), 0)

        def add(mask: Placed, which: int, first: int, bias: float, walk: Geometry | None) -> None:
            row, is_late = self._mask_row(mask), mask.number in late
            masks.append(
                (
                    kernels.MASKS.index(mask.kind),
                    first_mask + len(masks),
                    mask.number,
                    int(is_late),
                    which,
                    first,
                    mask.grid if walk is not None else 0,
                    int(mask.noisy),
                    row,
                    bias,
                    (1, 1, 1, 0, 1, 0) if walk is None else walk.walk,
                )
            )
            self.masks.append(PlacedMask(mask, row, is_late, walk))

        def add_pass(number: int, of: Pass) -> None:
            c = of.convolution
            for mask, first, bias, walk in zip(of.masks, c.firsts, c.biases, c.geometries, strict=True):
                add(mask, number, first, bias, walk)

        for is_late in (False, True):
            for number, each in enumerate(found):
                if each.late == is_late:
                    add_pass(number, each)
            for mask in placed:
                if mask.kind == "forward" and (mask.number in late) == is_late:
                    add(mask, 0, 0, 0.0, None)
        self.plan["masks"] = masks

    def _mask_row(self, mask: Placed) -> int:
        return self._rows(mask.name, "mask")


def _walk(walk: Walk) -> tuple[int, ...]:
    """Return a walk as plans take it: square, as all convolutions are that the engine has compiled."""
    return Geometry(1, walk.kernel[0], walk.stride[0], walk.padding[0], walk.dilation[0]).walk
