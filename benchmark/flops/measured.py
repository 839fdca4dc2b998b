"""The ``measured`` convention: multiply-accumulates that run for each image, exactly, from that image's masks.

    counter = MeasuredCounter(model)
    with counter.recording():
        for batch in loader:
            with inference(batch.identifiers):
                model(batch.images)
    counter.images(), counter.layers(), counter.density_maps(), counter.uncounted

Dense layers and whatever a method adds come from fvcore (`benchmark.flops.trace`), masks from the evaluation itself
(`benchmark.flops.recorder`), and what runs under them from each block's description (`benchmark.nn.work`), which the
engines obey too. An image is counted at the padded size at which it ran: batches of mixed sizes pad, and what pads is
computed. All numbers are integers until they are averaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.errors import SaibenchError
from benchmark.flops.adapter import SCOPES, Adapter, PlainAdapter
from benchmark.flops.additions import counted_by_pairs, is_own
from benchmark.flops.handles import KINDS
from benchmark.flops.recorder import Recorder, SizeGroup
from benchmark.flops.trace import Size
from benchmark.nn import sparsity
from benchmark.nn.blocks import Decided
from benchmark.nn.interpolation import Interpolation
from benchmark.nn.masks import LearnedMask, Mask
from benchmark.nn.work import Convolution, Fill, Region, Sampled

#: What the project's own masks and fills compute beside what is counted, by name.
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
        Name in the model; ``conv``, ``mask``, ``gate``, ``offset``, ``bilinear``, ``interpolation`` or ``linear``; and
        ``backbone``, ``neck`` or ``head``.
    positions
        Output positions of a convolution, channels of a gate; None for what has neither.
    sampled
        Positions computed, or channels left open: an integer or one for each image.
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
        How the model is counted: its task's; a `PlainAdapter` if not given.
    """

    def __init__(self, model: nn.Module, adapter: Adapter | None = None) -> None:
        self.model = model
        self.adapter = PlainAdapter(model) if adapter is None else adapter
        self.recorder = Recorder(model, self.adapter)
        self._forget()

    def recording(self) -> AbstractContextManager[None]:
        """Record the evaluation batches that run inside of the block; what was recorded before is forgotten."""
        self.recorder.reset()
        self._forget()
        return self.recorder.recording()

    def record(self, size: Size, decided: Mapping[str, Decided], regions: int = 0) -> None:
        """Count one image without running the model: its padded size, what its blocks decide by name, and RoIs."""
        self._forget()
        self.recorder.record(size, decided, regions)

    def images(self) -> pd.DataFrame:
        """Return the count of each image, in the order in which they ran.

        Returns
        -------
        pandas.DataFrame
            Columns ``image_id``; ``height, width`` (padded, in pixels); ``regions`` (RoIs); ``macs`` and its parts
            ``macs_backbone, macs_neck, macs_head`` (integers); ``density`` (mean over masks of the share of positions
            sampled; 1 for a dense model).
        """
        return pd.DataFrame(self.image_columns())

    def image_columns(self) -> dict[str, Any]:
        """Return the columns of `images`: arrays, and a list of identifiers."""
        self._check()
        groups, macs = self.recorder.groups, self._matrix("macs")
        scopes = np.array(self._names()["scope"])
        totals = {scope: macs[scopes == scope].sum(axis=0) for scope in SCOPES}
        return {
            "image_id": self.recorder.identifiers,
            "height": self._by_image([size[0] for size in groups], np.int64),
            "width": self._by_image([size[1] for size in groups], np.int64),
            "regions": np.array(self.recorder.regions, dtype=np.int64),
            "macs": np.asarray(sum(totals.values()), dtype=np.int64),
            **{f"macs_{scope}": np.asarray(total, dtype=np.int64) for scope, total in totals.items()},
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

    def dense_macs(self) -> dict[str, int]:
        """Return what PyTorch, being dense, runs for the recorded images by layer; bilinear samples and fills aside."""
        self._check()
        macs: Counter[str] = Counter()
        for size, group in self.recorder.groups.items():
            for counts, times in (
                (self.adapter.image_counts(size), len(group.numbers)),
                (self.adapter.region_counts(), int(self._regions(group).sum())),
            ):
                for (layer, operator), count in counts.macs.items():
                    macs[layer] += times * count if KINDS.get(operator) != "bilinear" else 0
        return dict(macs)

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
            for mask in block.masks:
                sums = [self._map(group, index, mask) for group in groups]
                if len(groups) > 1:
                    sums = [_resized(values) for values in sums]
                maps[f"{block.name}.mask{mask}"] = np.sum(sums, axis=0) / images
        return maps

    @property
    def uncounted(self) -> list[str]:
        """Names of the operators that ran but are not counted, sorted."""
        names: set[str] = set()
        for size in self.recorder.groups:
            names.update(self.adapter.image_counts(size).uncounted)
        names.update(self.adapter.region_counts().uncounted)
        parts = [part for block in self.recorder.blocks for part in block.block.children() if not is_own(part)]
        if any(isinstance(part, Mask) for part in parts):
            names.update(UNCOUNTED_MASKS)
        if any(isinstance(part, Interpolation) for part in parts):
            names.update(UNCOUNTED_FILLS)
        return sorted(names)

    def _forget(self) -> None:
        self._tables: dict[Size, list[Row]] = {}
        self._matrices: dict[str, np.ndarray] = {}

    def _rows(self, size: Size) -> list[Row]:
        if size not in self._tables:
            group = self.recorder.groups[size]
            table = _Table(self.recorder, size)
            rows = list(table.dense())
            masked = [row for index in range(len(self.recorder.blocks)) for row in table.masked(index)]
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

    def _regions(self, group: SizeGroup) -> np.ndarray:
        return np.asarray(self.recorder.regions, dtype=np.int64)[group.numbers]

    def _densities(self, group: SizeGroup) -> np.ndarray | float:
        """Return each image's mean over masks of the share of positions sampled."""
        shares = [
            group.count(index, Sampled(mask)) / prod(group.alike[index].sizes[Sampled(mask)])
            for index, block in enumerate(self.recorder.blocks)
            for mask in block.masks
        ]
        return np.mean(shares, axis=0) if shares else 1.0

    def _map(self, group: SizeGroup, index: int, mask: int) -> np.ndarray:
        sums = group.map_sums[index][mask]
        fixed = self.recorder.blocks[index].fixed  # seen once for all images
        return sums * len(group.numbers) if fixed else sums


class _Table:
    """Makes the rows of one padded image size."""

    def __init__(self, recorder: Recorder, size: Size) -> None:
        self.recorder = recorder
        self.adapter = recorder.adapter
        self.group = recorder.groups[size]
        self.dense_counts = self.adapter.image_counts(size)
        self.counts = self.dense_counts.macs

    def dense(self) -> Iterator[Row]:
        """Yield every layer as it would run without masks, once an image; a mask, gate or own fill is one row."""
        added = self.dense_counts.added
        totals: dict[str, int] = {}
        for (layer, _), macs in self.counts.items():
            if layer in added:
                totals[layer] = totals.get(layer, 0) + macs
        for (layer, operator), macs in self.counts.items():
            if layer not in added:
                yield self._row(layer, operator, macs)
            elif layer in totals:
                yield self._added_row(layer, added[layer], totals.pop(layer))

    def per_region(self, regions: np.ndarray) -> Iterator[Row]:
        """Yield the layers that run once a RoI, given each image's number of RoIs."""
        for (layer, operator), macs in self.adapter.region_counts().macs.items():
            yield self._row(layer, operator, macs * regions)

    def masked(self, index: int) -> Iterator[Row]:
        """Yield the rows of a block that its masks and gates change, for all images."""
        return _BlockTable(self, index).rows()

    def _row(self, layer: str, operator: str, macs: Any) -> Row:
        """Make the row of a layer whose whole output is computed."""
        name, kind, values = self._described(layer, operator)
        positions = macs // values if values and not isinstance(macs, np.ndarray) and macs % values == 0 else None
        return Row(name, kind, self.adapter.scope(layer), positions, positions, macs)

    def _added_row(self, layer: str, kind: str, macs: int) -> Row:
        """Make the row of what a method added; that of a single convolution has positions."""
        module = self.recorder.modules.get(layer)
        values = module.conv.weight.numel() if isinstance(module, LearnedMask) else 0
        single = values and [operator for name, operator in self.counts if name == layer] == ["conv"]
        positions = macs // values if single and macs % values == 0 else None
        return Row(layer, kind, self.adapter.scope(layer), positions, positions, macs)

    def _described(self, layer: str, operator: str) -> tuple[str, str, int]:
        """Return the row's name and kind, and what a convolution costs at a position, else 0."""
        module = self.recorder.modules[layer]
        weight = getattr(module, "weight", None) if operator == "conv" else None
        values = 0 if weight is None else weight.numel()
        if layer.endswith(".offset"):
            return layer, "offset", values
        if operator == "bilinear":
            return f"{layer}.bilinear", "bilinear", values
        return layer, KINDS.get(operator, operator), values

    def sampled_row(self, layer: str, operator: str, sampled: Any, positions: int, share: _Share) -> Row:
        """Make the row of a layer that runs at sampled positions, or with open channels, only."""
        dense = self.counts[layer, operator]
        if dense % positions:
            raise SaibenchError(f"{layer}: {dense} MACs do not divide into {positions} positions of its mask")
        row = self._row(layer, operator, dense)
        row.positions, row.sampled, row.macs = positions, sampled, sampled * share(dense // positions)
        return row

    def fill_row(self, layer: str, macs: np.ndarray) -> Row:
        """Make the row of a fill."""
        return Row(layer, "interpolation", self.adapter.scope(layer), None, None, macs)


#: What is left of the multiply-accumulates of a position when channels are closed.
_Share = Callable[[int], Any]


class _BlockTable:
    """Makes the rows of one block: what its description says runs, times what each position costs."""

    def __init__(self, table: _Table, index: int) -> None:
        self.table = table
        self.group, self.index = table.group, index
        masked = table.recorder.blocks[index]
        self.name, self.block, self.work = masked.name, masked.block, masked.work
        self.sizes = self.work.sizes(self.group.alike[index].rule.size)
        self.images = len(self.group.numbers)

    def rows(self) -> Iterator[Row]:
        """Yield the gates, and each convolution that masks or gates change with the fill behind it."""
        for gate in self.work.gates:
            yield self._gate_row(gate)
        steps = self.work.convolutions
        for place, step in enumerate(steps):
            before = steps[place - 1].fill if place else None
            # A fill that runs by itself costs what it costs in front: only there is it traced.
            if step.commutes and before is not None and self._by_pairs(before):
                yield from self._commuting(step, before, prod(self.sizes[place]))
                continue
            if (step.computes.masks and not step.commutes) or not (step.gate is None and step.input_gate is None):
                computed = prod(self.sizes[place]) if step.commutes else self._positions(step.computes, place)
                yield from self._convolution(step, computed, prod(self.sizes[place]))
            commutes = place + 1 < len(steps) and steps[place + 1].commutes
            if step.fill is not None and self._by_pairs(step.fill) and not commutes:
                pairs = self._pairs(step.fill) * self._open(step.gate, self._module(step).out_channels)
                yield self.table.fill_row(f"{self.name}.{step.fill.layer}", pairs)

    def _gate_row(self, gate: int) -> Row:
        layer = f"{self.name}.gate{gate}"
        channels = self.group.open_channels(self.index, gate)
        macs = sum(count for (name, _), count in self.table.counts.items() if name == layer)
        scope = self.table.adapter.scope(layer)
        return Row(layer, "gate", scope, channels.shape[1], channels.sum(axis=1, dtype=np.int64), macs)

    def _commuting(self, step: Convolution, before: Fill, positions: int) -> Iterator[Row]:
        """Yield a convolution that trades places with the fill before it, image by image the cheaper way."""
        samples, module = self._positions(step.computes), self._module(step)
        plan = sparsity.conv3_plan(samples, self._pairs(before), positions, module.in_channels, module.out_channels)
        yield from self._convolution(step, np.where(plan.on_samples, samples, positions), positions)
        yield self.table.fill_row(f"{self.name}.{before.layer}", plan.interpolation_macs)

    def _convolution(self, step: Convolution, computed: Any, positions: int) -> Iterator[Row]:
        layer = f"{self.name}.{step.layer}"
        shares = [
            (f"{self.name}.{step.beside}", "conv", _whole),
            (layer, "conv", lambda macs: self._open_pairs(step, macs)),
            (layer, "bilinear", lambda macs: self._open_inputs(step, macs)),
        ]
        for name, operator, share in shares:
            if (name, operator) in self.table.counts:
                yield self.table.sampled_row(name, operator, computed, positions, share)

    def _positions(self, region: Region, place: int = -1) -> Any:
        """Return how many positions of a region are computed: all of a dense map, or a number for each image."""
        return self.group.count(self.index, region) if region.masks else prod(self.sizes[place])

    def _pairs(self, fill: Fill) -> np.ndarray:
        return self.group.count(self.index, fill) if fill.window else np.zeros(self.images, dtype=np.int64)

    def _by_pairs(self, fill: Fill) -> bool:
        return counted_by_pairs(getattr(self.block, fill.layer))

    def _module(self, step: Convolution) -> Any:
        return getattr(self.block, step.layer)

    def _open(self, gate: int | None, channels: int) -> Any:
        """Return how many channels of a map are open: all, or a number for each image."""
        if gate is None:
            return channels
        return self.group.open_channels(self.index, gate).sum(axis=1, dtype=np.int64)

    def _open_inputs(self, step: Convolution, macs: int) -> Any:
        """Return what is left of costs that are the same for every input channel."""
        channels = self._module(step).in_channels
        return macs // channels * self._open(step.input_gate, channels)

    def _open_pairs(self, step: Convolution, macs: int) -> Any:
        """Return what is left of a convolution's costs: those of open outputs that read open inputs of their group."""
        if step.gate is None and step.input_gate is None:
            return macs
        module = self._module(step)
        inputs = self._by_group(step.input_gate, module.in_channels, module.groups)
        outputs = self._by_group(step.gate, module.out_channels, module.groups)
        taps = macs * module.groups // (module.in_channels * module.out_channels)
        return taps * (inputs * outputs).sum(axis=1)

    def _by_group(self, gate: int | None, channels: int, groups: int) -> np.ndarray:
        """Return the open channels of each group, ``(images, groups)``."""
        if gate is None:
            return np.full((self.images, groups), channels // groups, dtype=np.int64)
        opened = self.group.open_channels(self.index, gate)
        return opened.reshape(self.images, groups, -1).sum(axis=2, dtype=np.int64)


def _whole(macs: int) -> int:
    return macs


def _merged(rows: list[Row], masked: Iterable[Row]) -> list[Row]:
    """Put masked rows in the place of their dense ones, and those without one behind the row that they follow."""
    places = {(row.layer, row.kind): [row] for row in rows}
    replaced = places[rows[0].layer, rows[0].kind]
    for row in masked:
        if row.kind == "interpolation" or (row.layer, row.kind) not in places:
            replaced.append(row)
        else:
            replaced = places[row.layer, row.kind]
            replaced[0] = row
    return [row for place in places.values() for row in place]


def _resized(values: np.ndarray) -> np.ndarray:
    tensor = torch.from_numpy(values).to(torch.float64)[None, None]
    return F.adaptive_avg_pool2d(tensor, MAP_SIDE)[0, 0].numpy()
