"""From a backbone to its description: each block as its work says (`benchmark.nn.work`), its weights packed.

What a convolution computes, reads and fills is derived there and in no other place; here it only gets numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import nn

from benchmark.engines.base import EngineRefusal, Floats
from benchmark.engines.cpu import descriptions
from benchmark.engines.cpu.descriptions import Block, Convolution, Fill, Geometry, MaskPlan, Positions, Stem
from benchmark.engines.cpu.layers import array, compile_convolution, folded, geometry, pack, places
from benchmark.engines.cpu.masks import Placed, add_passes
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
from benchmark.nn.work import ReadBy, Region, Sampled, Size, Subsampled

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


def compile_stem(model: ResNet, rows: Rows, is_half: bool) -> Stem:
    """Return the stem's convolutions and the max pooling."""
    convs = [(n, m) for n, m in model.conv1.named_modules(prefix="conv1") if isinstance(m, nn.Conv2d)]
    norms: list[nn.Module] = [m for m in model.conv1.modules() if isinstance(m, nn.BatchNorm2d)]
    norms.append(cast(nn.Module, model.bn1))
    packed = [
        compile_convolution(name, conv, norm, rows(name, "conv"), row_taps=i == 0, is_half=is_half)
        for i, ((name, conv), norm) in enumerate(zip(convs, norms, strict=True))
    ]
    kept = places(norms[-1])
    pool = cast(Any, model.maxpool)
    if type(pool) is not nn.MaxPool2d or pool.ceil_mode:
        raise EngineRefusal("maxpool", f"the CPU engine pools the maximum of squares, not {pool}")
    walks = cast(tuple[Any, ...], (pool.kernel_size, pool.stride, pool.padding, pool.dilation))
    if not all(isinstance(number, int) for number in walks):
        raise EngineRefusal("maxpool", f"the CPU engine pools the maximum of squares, not {pool}")
    walk = Geometry(1, *walks)
    width = 0 if kept is None else int(getattr(norms[-1], "width", 0))
    return Stem(packed, walk, rows("maxpool", "uncounted"), kept, width)


@dataclass
class PlacedMask:
    """A mask of a plan: where it is decided from, and its row in the tally."""

    placed: Placed
    plan: MaskPlan

    def shape(self, size: Size, sizes: Sequence[Size]) -> Size:
        """Return its height and width for a block's input and the maps behind its convolutions."""
        governed = sizes[self.placed.number - 1]
        if self.plan.kind != "forward":
            shape = self.plan.geometry.out_size(sizes[0] if self.plan.is_late else size)
            if shape != governed:
                raise ValueError(f"{self.placed.name}: the mask is {shape}, expected {governed}")
        return governed


class CompiledBlock:
    """A residual block and what runs beside its plan.

    Attributes
    ----------
    plan
        Its description.
    masks
        Its masks, in the order in which they are decided.
    fills
        What it fills with, by the number of the convolution.
    """

    def __init__(self, block: ResidualBlock, placed: list[Placed], rows: Rows, first_mask: int, is_half: bool) -> None:
        self.name, self.work, self._block, self._rows = block.name, block.work, block, rows
        self._is_half = is_half
        self._refuse()
        self.fills: dict[int, Interpolation] = {}
        self._numbers: dict[Region, int] = {}
        self._regions: list[descriptions.Region] = []
        self._sizes: dict[Size, tuple[Size, ...]] = {}
        convolutions = [self._convolution(number) for number in block.convolutions]
        computes = [self._region(step.computes) for step in self.work.convolutions]
        fills = [self._fill(number, step.fill) for number, step in enumerate(self.work.convolutions, start=1)]
        shortcut = None
        if block.downsample is not None:
            name = f"{self.name}.downsample.0"
            norm = cast(nn.Module, block.downsample[1])
            row = self._row("downsample.0")
            shortcut = compile_convolution(name, block.downsample[0], norm, row, is_half=is_half)
        passes, masks = add_passes(placed, self.work.late, first_mask, lambda mask: self._rows(mask.name, "mask"))
        self.masks = [PlacedMask(mask, plan) for mask, plan in masks]
        offset = self._offset()
        self.plan = Block(
            self.name,
            convolutions,
            computes,
            fills,
            [plan for _, plan in masks],
            passes,
            self._regions,
            shortcut,
            offset,
            0 if offset is None else self._row("conv2.bilinear", "bilinear"),
            self.work.convolutions[-1].commutes,
            self._places(),
        )

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
        module, norm = getattr(self._block, layer), getattr(self._block, f"bn{number}")
        return compile_convolution(f"{self.name}.{layer}", module, norm, self._row(layer), is_half=self._is_half)

    def _places(self) -> Positions | None:
        """Return the places of a basic block's pruned last convolution."""
        return None if isinstance(self._block, Bottleneck) else places(cast(nn.Module, self._block.bn2))

    def _offset(self) -> Convolution | None:
        """Return the offsets of a deformable convolution, which are computed beside conv2."""
        beside = self.work.convolutions[1].beside
        if not beside:
            return None
        name, module = f"{self.name}.{beside}", getattr(self._block, beside)
        conv2 = self._block.conv2  # noqa: B009: a bottleneck has it, the base does not say so
        if work.Walk.of(module) != work.Walk.of(conv2):
            raise EngineRefusal(name, f"the CPU engine has offsets that walk as {conv2}, not {module}")
        return pack(name, *folded(module, None), geometry(name, module), self._row(beside, "offset"), is_narrow=True)

    def _region(self, region: Region) -> int:
        """Return a region's number in the plan; those inside of it come before it."""
        if region not in self._numbers:
            described = descriptions.Region()
            if isinstance(region, Sampled):
                described = descriptions.Region("sampled", mask=region.mask)
            elif isinstance(region, Subsampled):
                described = descriptions.Region("subsampled", inside=self._region(region.region), stride=region.stride)
            elif isinstance(region, ReadBy):
                # Square, as all convolutions are that the engine has compiled.
                kernel, stride, padding, dilation = (
                    getattr(region.walk, name)[0] for name in ("kernel", "stride", "padding", "dilation")
                )
                walk = Geometry(1, kernel, stride, padding, dilation)
                described = descriptions.Region("read by", inside=self._region(region.region), geometry=walk)
            self._numbers[region] = len(self._regions)
            self._regions.append(described)
        return self._numbers[region]

    def _fill(self, number: int, described: work.Fill | None) -> Fill:
        if described is None:
            return Fill()
        module, name = cast(Interpolation, getattr(self._block, described.layer)), f"{self.name}.{described.layer}"
        if type(module) not in FILLS:
            raise EngineRefusal(name, f"the CPU engine does not know fills of class {type(module).__name__}")
        # A copy: the model may go on training, and a plan asks the nearest fill while it runs.
        self.fills[number] = copy.deepcopy(module)
        numerator: Floats | None = None
        if module.window:
            numerator = np.ascontiguousarray(array(cast(Any, module).kernel()).reshape(-1))
        return Fill(
            FILLS[type(module)],
            name,
            self._rows(name, "interpolation"),
            described.window or 1,
            self._region(described.needed),
            bool(getattr(module, "squared_mask", False)),
            numerator,
            None if numerator is None else np.abs(numerator),
        )
