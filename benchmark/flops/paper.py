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

Both are read off a block's description (`benchmark.nn.work`), which gives the form of any other placement too: a
convolution counts at the density of the region that it computes, a fill at that of its mask. A region that the next
convolution reads (a dilated mask) has the density that is given for its layer, as a record's table does. Where none
is given, samples are taken to lie independently: an output read by n samples' places is computed with probability
1 - (1 - d)^n, which is more than clustered or tiled masks need. A convolution behind a gate counts at the share of
channels that is given for the gate, else whole.

M is the mask's convolution; a mask, gate or fill with a forward of its own counts what that forward runs. Shortcuts are
dense. FPN, RPN, heads, normalisation, ReLU, pooling, bias and bilinear sampling are not
counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import pandas as pd
from torch import nn

from benchmark.errors import SaibenchError, UsageError
from benchmark.flops.additions import counted_by_pairs, is_own
from benchmark.flops.geometry import BlockSizes, block_sizes, stem_sizes
from benchmark.flops.trace import Size, skeleton
from benchmark.nn.work import Convolution, ReadBy, Region, Subsampled, Walk

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

Densities: TypeAlias = float | Mapping[str, float] | pd.DataFrame | None


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
        prefix) to number; or the ``layers`` table of a record, with columns ``layer``, ``kind`` and ``density``.
        Not needed for a backbone without masks.

    Returns
    -------
    pandas.DataFrame
        Columns ``layer, kind, scope, density, macs``; kinds are ``conv``, ``mask``, ``gate``, ``offset``,
        ``interpolation`` and ``linear``. MACs are real numbers, since the form multiplies means. Divide the
        sum by 1e9 for GMACs.

    Raises
    ------
    SaibenchError
        The backbone has another form, or a masked layer has no density.
    """
    lookup = _Densities(densities)
    rows = [_row(name, "conv", _macs(module, size)) for name, module, size in stem_sizes(backbone, (height, width))]
    own = _own_macs(backbone, (height, width))
    for sizes in block_sizes(backbone, (height, width)):
        rows.extend(_Block(sizes, lookup, own).rows())
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
                named = named[named["kind"].isin(["conv", "gate"])]
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

    def __contains__(self, layer: str) -> bool:
        return layer in self.table


def _within_backbone(layer: str) -> str:
    """Cut what stands before the stage."""
    match = re.search(r"layer\d+\.\d+\..*", layer)
    return match.group() if match else layer


def _own_macs(backbone: nn.Module, size: Size) -> Mapping[str, int]:
    """Return what the forwards of a backbone's own masks, gates and fills cost, by their name in the backbone."""
    if not any(map(is_own, backbone.modules())):
        return {}
    counts = skeleton(backbone).counts(size)
    macs: Counter[str] = Counter()
    for (layer, _), count in counts.macs.items():
        macs[layer] += count if layer in counts.added else 0
    return macs


class _Block:
    """Makes the rows of one residual block."""

    def __init__(self, sizes: BlockSizes, densities: _Densities, own: Mapping[str, int]) -> None:
        self.path, block, _, self.sizes = sizes
        self.block: Any = block
        self.steps = block.work.convolutions
        self.densities = densities
        self.own = own

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield masks and gates, then each convolution with the fill behind it, then the shortcut."""
        for mask in self.block.work.masks:
            yield from self._mask(mask)
        for gate in self.block.work.gates:
            yield self._row(f"gate{gate}", "gate", self._own(f"gate{gate}"))
        for place, step in enumerate(self.steps):
            density, size = self._density_of(place), self.sizes[place]
            if step.beside:
                yield self._row(step.beside, "offset", _macs(getattr(self.block, step.beside), size), density)
            gates = self._gate(step.gate) * self._gate(step.input_gate)
            yield self._row(step.layer, "conv", _macs(getattr(self.block, step.layer), size) * gates, density)
            yield from self._fill(place)
        if self.block.downsample is not None:
            for part, module in self.block.downsample.named_modules(prefix="downsample"):
                if isinstance(module, nn.Conv2d):
                    yield self._row(part, "conv", _macs(module, self.sizes[-1]))

    def _mask(self, mask: int) -> Iterator[dict[str, Any]]:
        layer = f"mask{mask}"
        module = getattr(self.block, layer)
        if is_own(module):
            yield self._row(layer, "mask", self._own(layer))
        elif hasattr(module, "conv"):
            yield self._row(layer, "mask", _macs(module.conv, self.sizes[mask - 1]))

    def _fill(self, place: int) -> Iterator[dict[str, Any]]:
        """Yield the fill's row: each missing position meets ``window^2 * density`` samples on average."""
        step = self.steps[place]
        if step.fill is None:
            return
        if not counted_by_pairs(getattr(self.block, step.fill.layer)):
            yield self._row(step.fill.layer, "interpolation", self._own(step.fill.layer))
        elif step.fill.window:
            # A mask that two convolutions share is interpolated once, behind the second.
            shared = place + 1 < len(self.steps) and self._shares(place + 1)
            channels = getattr(self.block, self.steps[place + shared].layer).out_channels * self._gate(step.gate)
            density, size = self._density(step.fill.mask, step.layer), self.sizes[place]
            pairs = step.fill.window**2 * size[0] * size[1] * density * (1 - density)
            yield self._row(step.fill.layer, "interpolation", pairs * channels)

    def _shares(self, place: int) -> bool:
        """Whether a convolution runs under the mask before it: a pointwise one does in this form, whatever the fill."""
        step: Convolution = self.steps[place]
        return place > 0 and step.fill is None and step.walk.is_pointwise and self.steps[place - 1].fill is not None

    def _density_of(self, place: int) -> float:
        """Return the density at which a convolution counts."""
        before = self.steps[place - 1].fill
        if self._shares(place) and before is not None:
            return self._density(before.mask, self.steps[place - 1].layer)
        return self._density(self.steps[place].computes, self.steps[place].layer)

    def _density(self, region: Region, layer: str) -> float:
        """Return the density of a region that a layer computes."""
        if not region.masks:
            return 1.0
        if isinstance(region, ReadBy):
            if f"{self.block.name}.{layer}" in self.densities:
                return self.densities[f"{self.block.name}.{layer}"]
            return read_density(self._density(region.region, layer), region.walk)
        governed = [step.layer for step in self.steps if step.fill is not None and step.fill.mask == region]
        if not governed and isinstance(region, Subsampled):
            return self._density(region.region, layer)
        return self.densities[f"{self.block.name}.{governed[0] if governed else layer}"]

    def _gate(self, gate: int | None) -> float:
        layer = f"{self.block.name}.gate{gate}"
        return self.densities[layer] if gate is not None and layer in self.densities else 1.0

    def _own(self, layer: str) -> int:
        return self.own.get(f"{self.path}.{layer}", 0)

    def _row(self, layer: str, kind: str, macs: float, density: float = 1.0) -> dict[str, Any]:
        return _row(f"{self.block.name}.{layer}", kind, macs, density)


def read_density(density: float, walk: Walk) -> float:
    """Return the share of a map that a convolution reads when samples of its output lie independently of each other.

    An input position is read by as many output positions as taps reach it, which depends on its place within the
    stride; the mean over those places of ``1 - (1 - density)^n`` is returned. Edges are left out.
    """
    rows, columns = (
        [sum((phase + padding - tap * dilation) % stride == 0 for tap in range(kernel)) for phase in range(stride)]
        for kernel, stride, padding, dilation in zip(walk.kernel, walk.stride, walk.padding, walk.dilation, strict=True)
    )
    shares = [1 - (1 - density) ** (row * column) for row in rows for column in columns]
    return sum(shares) / len(shares)


def _row(layer: str, kind: str, macs: float, density: float = 1.0) -> dict[str, Any]:
    """Make a row of the table; for a masked convolution, ``macs`` are the dense ones."""
    return {"layer": layer, "kind": kind, "scope": "backbone", "density": density, "macs": macs * density}


def _macs(convolution: Any, size: Size) -> int:
    """Return the dense MACs of a convolution, deformable or not, whose output has the given size."""
    kernel = convolution.kernel_size[0] * convolution.kernel_size[1]
    channels = convolution.in_channels // convolution.groups * convolution.out_channels
    return kernel * channels * size[0] * size[1]
