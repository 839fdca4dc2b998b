"""The ``paper`` convention: the released code's closed form, on nominal sizes and mean densities.

It exists to stand beside the paper's "GFLOPs" (which are GMACs) and for nothing else: it knows no image,
squares mean densities that vary from image to image, and counts a conv3 on samples that the released code
runs densely. What really runs is counted by `benchmark.flops.measured`. See FIDELITY, "The `paper`
convention of FLOPs", and docs/flops.md.

For a bottleneck with C planes, densities d1 (conv1) and d2 (conv2 and conv3), window r, and maps of HW1 and
HW2 positions after conv1 and conv2:

    C1 d1 + (C2 + C3 + Coff) d2 + M1 + M2 + r^2 C HW1 d1 (1 - d1) + r^2 4C HW2 d2 (1 - d2)

and for a basic block with masks of its own for both convolutions:

    C1 d1 + C2 d2 + M1 + M2 + r^2 C HW2 (d1 (1 - d1) + d2 (1 - d2))

Shortcuts are dense. FPN, RPN, heads, normalisation, ReLU, pooling, bias and bilinear sampling are not
counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import pandas as pd
from torch import nn

from benchmark.errors import SaibenchError, UsageError
from benchmark.nn.blocks import BasicBlock, Bottleneck, ResidualBlock
from benchmark.nn.sparsity import output_size

#: Layers that the convention leaves out, whatever the model.
UNCOUNTED = (
    "neck (FPN)",
    "heads (RPN, box head, segmentation head)",
    "normalisation",
    "ReLU",
    "pooling",
    "bias",
    "bilinear sampling of deformable convolutions",
)

#: Nominal shorter side where none is given, and the width of a nominal image over its height.
NOMINAL = {"coco": (1000, 5 / 3), "cityscapes": (1024, 2.0), "imagenet": (224, 1.0)}
GRANULARITY = 32

Densities: TypeAlias = float | Mapping[str, float] | pd.DataFrame | None
Size = tuple[int, int]


def nominal_size(task: str, shorter_side: int | None = None) -> Size:
    """Return the nominal height and width: the shorter side N and the task's aspect, rounded down to 32.

    Detection: ``floor(N / 32) * 32`` by ``floor((5 N / 3) / 32) * 32``, so that 1000 gives 992 x 1664.

    Raises
    ------
    UsageError
        The task has no nominal size, or the side is smaller than 32.
    """
    if task not in NOMINAL:
        raise UsageError(f"unknown task {task!r}; there are {', '.join(NOMINAL)}")
    side, aspect = NOMINAL[task]
    side = side if shorter_side is None else shorter_side
    if side < GRANULARITY:
        raise UsageError(f"shorter side {side}: the smallest is {GRANULARITY}")
    # In integers, since 5 N / 3 in floating point may fall below a multiple of 32 that it reaches.
    width = side * round(aspect * 3) // 3
    return side // GRANULARITY * GRANULARITY, width // GRANULARITY * GRANULARITY


def count(
    backbone: nn.Module,
    height: int,
    width: int,
    densities: Densities = None,
    classifier: nn.Linear | None = None,
) -> pd.DataFrame:
    """Evaluate the closed form for a backbone, layer by layer.

    Structure, channels, masks and windows are read from the modules, so that a mini, a pruned or an adapted
    backbone is counted by its own geometry. Weights are not needed: a backbone on the meta device will do.

    Parameters
    ----------
    backbone
        With a stem ``conv1``, max pooling and residual blocks: a `benchmark.nn.resnet.ResNet`, or the body that a
        detector makes of it.
    height, width
        Nominal image size in pixels.
    densities
        Density of the masked layers: one number for all; a mapping from layer (``layer1.0.conv1``, with any
        prefix) to number; or the ``layers`` table of a record, with columns ``layer`` and ``density``. Not
        needed for a backbone without masks.
    classifier
        Counted with the backbone for classification, as Table 4 of the paper does.

    Returns
    -------
    pandas.DataFrame
        Columns ``layer, kind, scope, density, macs``; kinds are ``conv``, ``mask``, ``offset``,
        ``interpolation`` and ``linear``. MACs are real numbers, since the form multiplies means. Divide the
        sum by 1e9 for GMACs.

    Raises
    ------
    SaibenchError
        The backbone has another form, or a masked layer has no density.
    """
    blocks = [module for module in backbone.modules() if isinstance(module, ResidualBlock)]
    stem = getattr(backbone, "conv1", None)
    if not blocks or not isinstance(stem, nn.Module):
        raise SaibenchError(f"the paper convention has no closed form for {type(backbone).__name__}; use 'measured'")
    lookup = _Densities(densities)
    rows, size = [], (height, width)
    for name, module in stem.named_modules(prefix="conv1"):
        if isinstance(module, nn.Conv2d):
            size = _output_size(module, size)
            rows.append(_row(name, "conv", _macs(module, size)))
    size = output_size(size, 3, 2, 1)  # the max pooling after the stem
    for block in blocks:
        rows.extend(_block_rows(block.name, block, size, lookup))
        size = _block_sizes(block, size)[1]
    if classifier is not None:
        macs = classifier.in_features * classifier.out_features
        rows.append({**_row("classifier", "linear", macs), "scope": "head"})
    return pd.DataFrame(rows)


class _Densities:
    """Density of a layer, from any of the accepted forms; 1 where nothing is given."""

    def __init__(self, densities: Densities) -> None:
        self.given = densities
        self.table: dict[str, float] = {}
        if isinstance(densities, pd.DataFrame):
            named = densities.dropna(subset=["density"])
            densities = dict(zip(named["layer"], named["density"], strict=True))
        if isinstance(densities, Mapping):
            self.table = {_within_backbone(layer): float(density) for layer, density in densities.items()}
        for name, density in self.table.items() if self.table else [("given", self.given)]:
            if isinstance(density, float | int) and not 0 <= density <= 1:
                raise UsageError(f"density {density} ({name}) is outside of 0 to 1")

    def __getitem__(self, layer: str) -> float:
        if self.given is None:
            raise SaibenchError(f"layer {layer} is masked: the paper convention needs its density (--density)")
        if isinstance(self.given, float | int):
            return float(self.given)
        if layer not in self.table:
            raise SaibenchError(f"no density given for the masked layer {layer}")
        return self.table[layer]


def _within_backbone(layer: str) -> str:
    """Cut what stands before the stage, and name the layer by its convolution rather than by its mask."""
    match = re.search(r"layer\d+\.\d+\..*", layer)
    return match.group().replace(".mask", ".conv") if match else layer


def _block_sizes(block: Any, size: Size) -> tuple[Size, Size]:
    """Return the sizes of the maps after conv1 and after conv2."""
    first = _output_size(block.conv1, size)
    return first, _output_size(block.conv2, first)


def _block_rows(name: str, block: Any, size: Size, density: _Densities) -> Iterator[dict[str, Any]]:
    """Yield the rows of a block whose input has the given size."""
    first, second = _block_sizes(block, size)
    d1 = 1.0 if block.mask1 is None else density[f"{name}.conv1"]
    # With one mask a block (Fig. 3a), conv2 and conv3 run under conv1's, at their own stride.
    shared = isinstance(block, Bottleneck) and block.mask1 is not None
    d2 = density[f"{name}.conv2"] if shared or block.mask2 is not None else 1.0
    d3 = d2 if block.mask3 is None else density[f"{name}.conv3"]
    for index, map_size in ((1, first), (2, second), (3, second)):
        mask = getattr(block, f"mask{index}")
        if mask is not None and hasattr(mask, "conv"):
            yield _row(f"{name}.mask{index}", "mask", _macs(mask.conv, map_size))
    yield _row(f"{name}.conv1", "conv", _macs(block.conv1, first), d1)
    yield from _interpolation(block, name, 1, block.conv1.out_channels, first, d1)
    if isinstance(block, BasicBlock):
        yield _row(f"{name}.conv2", "conv", _macs(block.conv2, second), d2)
        yield from _interpolation(block, name, 2, block.conv2.out_channels, second, d2)
    elif isinstance(block, Bottleneck):
        if block.offset is not None:
            yield _row(f"{name}.offset", "offset", _macs(block.offset, second), d2)
        yield _row(f"{name}.conv2", "conv", _macs(block.conv2, second), d2)
        # A mask shared by conv2 and conv3 is interpolated once, behind conv3.
        channels = block.conv3.out_channels if block.mask3 is None else block.conv2.out_channels
        yield from _interpolation(block, name, 2, channels, second, d2)
        yield _row(f"{name}.conv3", "conv", _macs(block.conv3, second), d3)
        yield from _interpolation(block, name, 3, block.conv3.out_channels, second, d3)
    if block.downsample is not None:
        for part, module in block.downsample.named_modules(prefix=f"{name}.downsample"):
            if isinstance(module, nn.Conv2d):
                yield _row(part, "conv", _macs(module, second))


def _interpolation(
    block: ResidualBlock, name: str, index: int, channels: int, size: Size, density: float
) -> Iterator[dict[str, Any]]:
    """Yield the interpolation's row: each missing position meets ``window^2 * density`` samples on average."""
    interpolation = getattr(block, f"interpolation{index}")
    if interpolation is not None and interpolation.window:
        pairs = interpolation.window**2 * size[0] * size[1] * density * (1 - density)
        yield _row(f"{name}.interpolation{index}", "interpolation", pairs * channels)


def _row(layer: str, kind: str, macs: float, density: float = 1.0) -> dict[str, Any]:
    """Make a row of the table; for a masked convolution, ``macs`` are the dense ones."""
    return {"layer": layer, "kind": kind, "scope": "backbone", "density": density, "macs": macs * density}


def _macs(convolution: Any, size: Size) -> int:
    """Return the dense MACs of a convolution, deformable or not, whose output has the given size."""
    kernel = convolution.kernel_size[0] * convolution.kernel_size[1]
    channels = convolution.in_channels // convolution.groups * convolution.out_channels
    return kernel * channels * size[0] * size[1]


def _output_size(convolution: Any, size: Size) -> Size:
    return output_size(size, convolution.kernel_size, convolution.stride, convolution.padding, convolution.dilation)
