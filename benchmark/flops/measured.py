"""The ``measured`` convention: multiply-accumulates that run for each image, exactly, from that image's masks.

    counter = MeasuredCounter(model)
    with counter.recording():
        for batch in loader:
            with inference(batch.identifiers):
                model(batch.images)
    counter.images(), counter.layers(), counter.density_maps(), counter.uncounted

Dense layers come from fvcore (`benchmark.flops.trace`), masks from the evaluation itself (`benchmark.flops.recorder`)
and the rules of what runs from `benchmark.nn.sparsity`, which the CPU engine obeys too. An image is counted at the
padded size at which it ran: batches of mixed sizes pad, and what pads is computed. All numbers are integers until
they are averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.errors import SaibenchError
from benchmark.flops.adapter import SCOPES, Adapter, adapter_for
from benchmark.flops.handles import KINDS
from benchmark.flops.recorder import QUANTITIES, MaskedBlock, Recorder, SizeGroup
from benchmark.flops.trace import Size
from benchmark.nn import sparsity
from benchmark.nn.masks import Mask

#: What masked layers compute beside what is counted, by name.
UNCOUNTED_MASKS = ("mask: sigmoid, noise, threshold, grid prior",)
UNCOUNTED_FILLS = ("interpolation: kernel weights, sum of weights, division, blending, copies",)

#: Side of the grid on which density maps of several sizes are averaged.
MAP_SIDE = 64


@dataclass
class Row:
    """A layer of the table, for the images of one size.

    Attributes
    ----------
    layer, kind, scope
        Name in the model; ``conv``, ``mask``, ``offset``, ``bilinear``, ``interpolation`` or ``linear``; and
        ``backbone``, ``neck`` or ``head``.
    positions
        Output positions of a convolution, None for what has none.
    sampled
        Positions computed, an integer or one for each image.
    macs
        Multiply-accumulates, an integer or one for each image.
    """

    layer: str
    kind: str
    scope: str
    positions: int | None
    sampled: Any
    macs: Any


class MeasuredCounter:
    """Counts what a model computes during an evaluation.

    Parameters
    ----------
    model
        In its adapted form, with masks; its parameters are only read.
    adapter
        How the model is counted; chosen by `benchmark.flops.adapter.adapter_for` if not given.
    """

    def __init__(self, model: nn.Module, adapter: Adapter | None = None) -> None:
        self.model = model
        self.adapter = adapter_for(model) if adapter is None else adapter
        self.recorder = Recorder(model, self.adapter)
        self._forget()

    def recording(self) -> AbstractContextManager[None]:
        """Record the evaluation batches that run inside of the block; what was recorded before is forgotten."""
        self.recorder.reset()
        self._forget()
        return self.recorder.recording()

    def record(self, size: Size, masks: Mapping[str, torch.Tensor], regions: int = 0) -> None:
        """Count one image without running the model: its padded size, masks ``(1, 1, H, W)`` by name, and RoIs."""
        self._forget()
        self.recorder.record(size, masks, regions)

    def images(self) -> pd.DataFrame:
        """Return the count of each image, in the order in which they ran.

        Returns
        -------
        pandas.DataFrame
            Columns ``image_id``; ``height, width`` (padded, in pixels); ``regions`` (RoIs); ``macs`` (integer);
            ``gmacs`` and ``gmacs_backbone, gmacs_neck, gmacs_head``; ``density`` (mean over masks of the share of
            positions sampled; 1 for a dense model).
        """
        return pd.DataFrame(self.image_columns())

    def image_columns(self) -> dict[str, Any]:
        """Return the columns of `images`: arrays, and a list of identifiers."""
        self._check()
        groups, macs = self.recorder.groups, self._matrix("macs")
        scopes = np.array(self._names()["scope"])
        totals = {scope: macs[scopes == scope].sum(axis=0) for scope in SCOPES}
        whole = sum(totals.values())
        return {
            "image_id": self.recorder.identifiers,
            "height": self._by_image([size[0] for size in groups], np.int64),
            "width": self._by_image([size[1] for size in groups], np.int64),
            "regions": np.array(self.recorder.regions, dtype=np.int64),
            "macs": np.asarray(whole, dtype=np.int64),
            "gmacs": whole / 1e9,
            **{f"gmacs_{scope}": total / 1e9 for scope, total in totals.items()},
            "density": self._by_image([self._densities(group) for group in groups.values()], np.float64),
        }

    def layers(self) -> pd.DataFrame:
        """Return the mean over images of each layer, in the order of the model.

        Returns
        -------
        pandas.DataFrame
            Columns ``layer, kind, scope``; ``density`` (mean over images; 1 for a dense convolution, missing where
            a layer has no positions); ``density_std``; ``positions, sampled`` (means); ``macs, macs_std``.
        """
        return pd.DataFrame(self.layer_columns())

    def layer_columns(self) -> dict[str, Any]:
        """Return the columns of `layers`: arrays, and lists of names."""
        self._check()
        positions, sampled, macs = (self._matrix(name) for name in ("positions", "sampled", "macs"))
        density = sampled / positions
        return {
            **self._names(),
            "density": density.mean(axis=1),
            "density_std": density.std(axis=1),
            "positions": positions.mean(axis=1),
            "sampled": sampled.mean(axis=1),
            "macs": macs.mean(axis=1),
            "macs_std": macs.std(axis=1),
        }

    def image_layers(self) -> pd.DataFrame:
        """Return one row for each image and layer: ``image_id, layer, kind, scope, positions, sampled, macs``."""
        self._check()
        names, images = self._names(), len(self.recorder.identifiers)
        columns: dict[str, Any] = {"image_id": [i for i in self.recorder.identifiers for _ in names["layer"]]}
        columns.update({name: np.tile(np.array(values, dtype=object), images) for name, values in names.items()})
        columns.update({name: self._matrix(name).T.ravel() for name in ("positions", "sampled")})
        return pd.DataFrame({**columns, "macs": self._matrix("macs").T.ravel().astype(np.int64)})

    def density_maps(self) -> dict[str, np.ndarray]:
        """Return, for each mask, the share of images in which each position was sampled.

        Returns
        -------
        dict
            By mask (``….mask1``): ``(H, W)`` at the mask's own resolution if all images have one size; otherwise
            each size's map is averaged onto a common grid of 64 x 64, and the maps are weighted by images.
        """
        groups = list(self.recorder.groups.values())
        images = sum(len(group.numbers) for group in groups)
        maps = {}
        for index, block in enumerate(self.recorder.blocks):
            for convolution in block.masks:
                sums = [self._map(group, index, convolution) for group in groups]
                if len(groups) > 1:
                    sums = [_resized(values) for values in sums]
                maps[f"{block.name}.mask{convolution}"] = np.sum(sums, axis=0) / images
        return maps

    @property
    def uncounted(self) -> list[str]:
        """Names of the operators that ran but are not counted, sorted."""
        names: set[str] = set()
        for size in self.recorder.groups:
            names.update(self.adapter.image_counts(size).uncounted)
        names.update(self.adapter.region_counts().uncounted)
        if self.recorder.blocks:
            names.update(UNCOUNTED_MASKS + UNCOUNTED_FILLS)
        return sorted(names)

    def _forget(self) -> None:
        self._tables: dict[Size, list[Row]] = {}
        self._matrices: dict[str, np.ndarray] = {}

    def _rows(self, size: Size) -> list[Row]:
        if size not in self._tables:
            group = self.recorder.groups[size]
            table = _Table(self.recorder.modules, self.adapter, size)
            rows = list(table.dense())
            counts = self._quantities(group)
            masked: list[Row] = []
            for index, block in enumerate(self.recorder.blocks):
                quantities = dict(zip(QUANTITIES, counts[:, index], strict=True))
                masked.extend(table.masked(block, group, index, quantities))
            rows = _merged(rows, masked)
            rows.extend(table.per_region(self._regions(group)))
            self._tables[size] = rows
        return self._tables[size]

    def _check(self) -> None:
        if not self.recorder.identifiers:
            raise SaibenchError("nothing was counted: no evaluation batch ran while recording")

    def _names(self) -> dict[str, list[str]]:
        """Return layer, kind and scope of the rows, which are the same for all sizes."""
        rows = self._rows(next(iter(self.recorder.groups)))
        return {name: [getattr(row, name) for row in rows] for name in ("layer", "kind", "scope")}

    def _matrix(self, name: str) -> np.ndarray:
        """Return a field of all rows and images, ``(rows, images)``; NaN where a row does not have it.

        In float64, which holds every integer up to 2^53: far more MACs than an image needs.
        """
        if name not in self._matrices:
            parts = []
            for size, group in self.recorder.groups.items():
                values = [getattr(row, name) for row in self._rows(size)]
                single = [np.nan if value is None or isinstance(value, np.ndarray) else value for value in values]
                part = np.repeat(np.array(single, dtype=np.float64)[:, None], len(group.numbers), axis=1)
                for index, value in enumerate(values):
                    if isinstance(value, np.ndarray):
                        part[index] = value
                parts.append(part)
            self._matrices[name] = self._by_image(parts, np.float64)
        return self._matrices[name]

    def _by_image(self, values: Sequence[Any], dtype: type) -> np.ndarray:
        """Bring values of each size, one or one for each of its images, in the order in which the images ran."""
        groups = list(self.recorder.groups.values())
        whole = np.empty((*np.shape(values[0])[:-1], len(self.recorder.identifiers)), dtype=dtype)
        for group, value in zip(groups, values, strict=True):
            whole[..., group.numbers] = value
        return whole

    def _quantities(self, group: SizeGroup) -> np.ndarray:
        """Return all counts of a size, ``(6, blocks, images)``."""
        if not group.counts:
            return np.zeros((len(QUANTITIES), len(self.recorder.blocks), len(group.numbers)), dtype=np.int64)
        if len(group.counts) > 1:
            group.counts[:] = [np.concatenate(group.counts, axis=-1)]
        return group.counts[0]

    def _regions(self, group: SizeGroup) -> np.ndarray:
        return np.asarray(self.recorder.regions, dtype=np.int64)[group.numbers]

    def _densities(self, group: SizeGroup) -> np.ndarray | float:
        """Return each image's mean over masks of the share of positions sampled."""
        masks = [(index, i) for index, block in enumerate(self.recorder.blocks) for i in block.masks]
        if not masks:
            return 1.0
        sizes = [group.rules[index].first if i == 1 else group.rules[index].second for index, i in masks]
        blocks, convolutions = np.array(masks).T
        sampled = self._quantities(group)[convolutions - 1, blocks]
        return (sampled / np.prod(sizes, axis=1)[:, None]).mean(axis=0)

    def _map(self, group: SizeGroup, index: int, convolution: int) -> np.ndarray:
        sums = group.map_sums[index][convolution]
        fixed = self.recorder.blocks[index].fixed  # seen once for all images
        return sums * len(group.numbers) if fixed else sums


class _Table:
    """Makes the rows of one padded image size."""

    def __init__(self, modules: dict[str, Any], adapter: Adapter, size: Size) -> None:
        self.modules = modules
        self.adapter = adapter
        self.counts = adapter.image_counts(size).macs

    def dense(self) -> Iterator[Row]:
        """Yield every layer as it would run without masks, once an image."""
        for (layer, operator), macs in self.counts.items():
            yield self._row(layer, operator, macs)

    def per_region(self, regions: np.ndarray) -> Iterator[Row]:
        """Yield the layers that run once a RoI, given each image's number of RoIs."""
        for (layer, operator), macs in self.adapter.region_counts().macs.items():
            yield self._row(layer, operator, macs * regions)

    def masked(self, block: MaskedBlock, group: SizeGroup, index: int, counts: dict[str, np.ndarray]) -> Iterator[Row]:
        """Yield the rows of a block that its masks change, given counts by quantity, one for each image."""
        rule, name, module = group.rules[index], block.name, block.block
        second = rule.second[0] * rule.second[1]
        conv1, conv2, conv3 = (f"{name}.conv{i}" for i in (1, 2, 3))
        if rule.own[0]:
            yield self._sampled_row(conv1, "conv", counts["sampled1"], rule.first[0] * rule.first[1])
            yield self._fill_row(name, 1, counts["pairs1"] * module.conv1.out_channels)
        if rule.own[1] or rule.shared:
            for layer, operator in ((f"{name}.offset", "conv"), (conv2, "conv"), (conv2, "bilinear")):
                if (layer, operator) in self.counts:
                    yield self._sampled_row(layer, operator, counts["sampled2"], second)
        if (conv3, "conv") not in self.counts:
            yield self._fill_row(name, 2, counts["pairs2"] * module.conv2.out_channels)
        elif rule.own[2]:
            yield self._fill_row(name, 2, counts["pairs2"] * module.conv2.out_channels)
            yield self._sampled_row(conv3, "conv", counts["sampled3"], second)
            yield self._fill_row(name, 3, counts["pairs3"] * module.conv3.out_channels)
        elif rule.own[1] or rule.shared:
            inner, outer = module.conv3.in_channels, module.conv3.out_channels
            plan = sparsity.conv3_plan(counts["sampled2"], counts["pairs2"], second, inner, outer, block.linear)
            computed = np.where(plan.on_samples, counts["sampled2"], second)
            yield self._sampled_row(conv3, "conv", computed, second)
            yield self._fill_row(name, 2, plan.interpolation_macs)

    def _row(self, layer: str, operator: str, macs: Any) -> Row:
        """Make the row of a layer whose whole output is computed."""
        name, kind, values = self._described(layer, operator)
        positions = macs // values if values and not isinstance(macs, np.ndarray) and macs % values == 0 else None
        return Row(name, kind, self.adapter.scope(layer), positions, positions, macs)

    def _described(self, layer: str, operator: str) -> tuple[str, str, int]:
        """Return the row's name and kind, and what a convolution costs at a position, else 0."""
        module, parent = self.modules[layer], layer.rpartition(".")[0]
        weight = getattr(module, "weight", None) if operator == "conv" else None
        values = 0 if weight is None else weight.numel()
        if isinstance(self.modules[parent], Mask):
            return parent, "mask", values
        if layer.endswith(".offset"):
            return layer, "offset", values
        if operator == "bilinear":
            return f"{layer}.bilinear", "bilinear", values
        return layer, KINDS.get(operator, operator), values

    def _sampled_row(self, layer: str, operator: str, sampled: np.ndarray, positions: int) -> Row:
        """Make the row of a layer that runs at sampled positions only."""
        dense = self.counts[layer, operator]
        if dense % positions:
            raise SaibenchError(f"{layer}: {dense} MACs do not divide into {positions} positions of its mask")
        row = self._row(layer, operator, dense)
        row.positions, row.sampled, row.macs = positions, sampled, sampled * (dense // positions)
        return row

    def _fill_row(self, name: str, index: int, macs: np.ndarray) -> Row:
        return Row(f"{name}.interpolation{index}", "interpolation", self.adapter.scope(name), None, None, macs)


def _merged(rows: list[Row], masked: Iterable[Row]) -> list[Row]:
    """Put masked rows in the place of their dense ones, and interpolations behind the row that they follow."""
    replacements: dict[tuple[str, str], list[Row]] = {}
    for row in masked:
        if row.kind != "interpolation":
            replaced = replacements[row.layer, row.kind] = []
        replaced.append(row)
    return [new for row in rows for new in replacements.get((row.layer, row.kind), [row])]


def _resized(values: np.ndarray) -> np.ndarray:
    tensor = torch.from_numpy(values).to(torch.float64)[None, None]
    return F.adaptive_avg_pool2d(tensor, MAP_SIDE)[0, 0].numpy()
