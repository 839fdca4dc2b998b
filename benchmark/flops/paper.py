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
from benchmark.flops.geometry import BlockSizes, block_sizes, stem_sizes
from benchmark.flops.trace import Size
from benchmark.nn.blocks import BasicBlock, Bottleneck, ResidualBlock

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

#: Nominal shorter side where none is given.
SHORTER_SIDES = {"coco": 1000, "cityscapes": 1024, "imagenet": 224}

Densities: TypeAlias = float | Mapping[str, float] | pd.DataFrame | None


def nominal_size(task: str, shorter_side: int | None = None) -> Size:
    """Return the nominal height and width for a shorter side N.

    Detection: ``floor(N / 32) * 32`` by ``floor((5 N / 3) / 32) * 32``, so that 1000 gives 992 x 1664. Segmentation:
    N by 2N. Classification: N by N.

    Raises
    ------
    UsageError
        The task has no nominal size, or the side is smaller than 32.
    """
    if task not in SHORTER_SIDES:
        raise UsageError(f"unknown task {task!r}; there are {', '.join(SHORTER_SIDES)}")
    side = SHORTER_SIDES[task] if shorter_side is None else shorter_side
    if side < 32:
        raise UsageError(f"shorter side {side}: the smallest is 32")
    if task == "coco":
        return side // 32 * 32, 5 * side // 3 // 32 * 32
    return side, 2 * side if task == "cityscapes" else side


def count(backbone: nn.Module, height: int, width: int, densities: Densities = None) -> pd.DataFrame:
    """Evaluate the closed form for a backbone, layer by layer.

    Structure, channels, masks and windows are read from the modules, so that a mini, a pruned or an adapted
    backbone is counted by its own geometry. Weights are not needed: a backbone on the meta device will do.

    Parameters
    ----------
    backbone
        With a stem ``conv1``, max pooling and residual blocks: a `benchmark.nn.resnet.ResNet`, or the body that a
        detector makes of it. A classifier's ``fc`` is counted with it, as Table 4 of the paper does.
    height, width
        Nominal image size in pixels.
    densities
        Density of the masked layers: one number for all; a mapping from layer (``layer1.0.conv1``, with any
        prefix) to number; or the ``layers`` table of a record, with columns ``layer`` and ``density``. Not
        needed for a backbone without masks.

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
    lookup = _Densities(densities)
    rows = [_row(name, "conv", _macs(module, size)) for name, module, size in stem_sizes(backbone, (height, width))]
    for sizes in block_sizes(backbone, (height, width)):
        rows.extend(_block_rows(sizes, lookup))
    classifier = getattr(backbone, "fc", None)
    if isinstance(classifier, nn.Linear):
        macs = classifier.in_features * classifier.out_features
        rows.append({**_row("fc", "linear", macs), "scope": "head"})
    return pd.DataFrame(rows)


class _Densities:
    """Density of a layer, from any of the accepted forms; 1 where nothing is given."""

    def __init__(self, densities: Densities) -> None:
        self.given = densities
        self.table: dict[str, float] = {}
        if isinstance(densities, pd.DataFrame):
            named = densities.dropna(subset=["density"])
            if "kind" in named:
                named = named[named["kind"] == "conv"]
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
    """Cut what stands before the stage."""
    match = re.search(r"layer\d+\.\d+\..*", layer)
    return match.group() if match else layer


def _block_rows(sizes: BlockSizes, density: _Densities) -> Iterator[dict[str, Any]]:
    """Yield the rows of a block."""
    block, first, second = sizes
    name = block.name
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
