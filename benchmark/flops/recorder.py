"""Collects the masks of an evaluation and reduces them to integers, at a small share of the evaluation's time.

During the evaluation, only references to what the blocks decide are kept; counting happens later, for many images and
for all blocks of one geometry at once, so that its cost does not depend on how small a network's own operators are.
Masks are reduced where they live: with NumPy on a CPU, with PyTorch on an accelerator, by the same rules. Which
positions a block computes and fills is `benchmark.nn.work`'s to say; what the integers mean in multiply-accumulates is
the business of `benchmark.flops.measured`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.errors import SaibenchError
from benchmark.flops.adapter import Adapter
from benchmark.flops.trace import Size
from benchmark.nn import sparsity, work
from benchmark.nn.blocks import Decided, ResidualBlock
from benchmark.nn.context import at_hand, observing
from benchmark.nn.masks import FixedMask
from benchmark.nn.work import BlockWork, Fill, Region, Sampled

#: Mask values that are kept before they are reduced; 4 bytes each.
KEPT_VALUES = 2**22

#: What is counted for a block and image: a region's positions, or the (missing, sampled neighbour) pairs of a fill.
Quantity: TypeAlias = Region | Fill


@dataclass(frozen=True)
class Rule:
    """What decides how a block is counted; blocks with equal rules are counted together.

    Attributes
    ----------
    work : BlockWork
        What the block computes.
    size : (int, int)
        Height and width of the block's input.
    """

    work: BlockWork
    size: Size

    def quantities(self) -> dict[Quantity, Size]:
        """Return what is counted, and on which map: the masks, the regions that are computed, and windowed fills."""
        found: dict[Quantity, Size] = {Sampled(mask): size for mask, size in self.work.mask_sizes(self.size).items()}
        for step, size in zip(self.work.convolutions, self.work.sizes(self.size), strict=True):
            if step.computes.masks:
                found.setdefault(step.computes, size)
            if step.fill is not None and step.fill.window:
                found[step.fill] = size
        return found


@dataclass(eq=False)
class Alike:
    """Blocks of one rule, which are counted together.

    Attributes
    ----------
    rule : Rule
        Their rule.
    blocks : tuple of int
        Their numbers.
    first_row : int
        The first of their rows of counts: those of all blocks for one quantity, then for the next.
    sizes : dict
        Size of the map of each quantity.
    """

    rule: Rule
    blocks: tuple[int, ...]
    first_row: int = 0

    def __post_init__(self) -> None:
        self.sizes = self.rule.quantities()
        places = range(self.first_row, self.first_row + len(self.sizes) * len(self.blocks), len(self.blocks))
        self._rows = dict(zip(self.sizes, places, strict=True))
        fills = [step.fill for step in self.rule.work.convolutions if step.fill is not None]
        self.runs = [
            Run(self, mask, next((fill for fill in fills if fill.mask == Sampled(mask)), None))
            for mask in self.rule.work.masks
        ]
        stacked = {Sampled(run.mask) for run in self.runs} | {run.fill for run in self.runs}
        #: What is not counted in stacks: dilated and subsampled masks.
        self.others = [quantity for quantity in self.sizes if quantity not in stacked]

    @property
    def rows(self) -> int:
        """Number of their rows."""
        return len(self.sizes) * len(self.blocks)

    def rows_of(self, quantity: Quantity) -> slice:
        """Return the rows of a quantity, one for each block."""
        return slice(self._rows[quantity], self._rows[quantity] + len(self.blocks))


class Run(NamedTuple):
    """The masks of one number in blocks of one rule, adjacent in a stack, and the fill that they govern."""

    alike: Alike
    mask: int
    fill: Fill | None

    @property
    def key(self) -> tuple[Size, int]:
        """What masks of one stack share: their size, and the window of their fill."""
        return self.alike.sizes[Sampled(self.mask)], 0 if self.fill is None else self.fill.window


#: Masks of one size whose fills have one window: they are reduced together.
Stack: TypeAlias = list[Run]


class MaskedBlock:
    """A residual block that decides masks or gates.

    Attributes
    ----------
    name : str
        Of the block, within the model.
    work : BlockWork
        What it computes.
    masks : tuple of int
        Numbers of its masks.
    fixed : bool
        Whether nothing that it decides depends on the image.
    """

    def __init__(self, name: str, block: ResidualBlock) -> None:
        self.name = name
        self.block: Any = block
        self.work = block.work
        self.masks = self.work.masks
        masks = [getattr(block, f"mask{index}") for index in self.masks]
        drawn = [isinstance(mask, FixedMask) and type(mask).forward is FixedMask.forward for mask in masks]
        self.fixed = all(drawn) and not self.work.gates


@dataclass
class SizeGroup:
    """What was recorded for the images of one padded size.

    Attributes
    ----------
    alike : list of Alike
        For each masked block, those that are counted with it.
    numbers : list of int
        Running numbers of the images, in the order of their columns.
    counts : list of ndarray
        Reduced so far: ``(rows, images)`` int64, rows as `Alike` has them.
    gates : dict
        Open channels by block and number of the gate: a list of boolean ``(images, C)``.
    map_sums : list of dict
        For each block, by number of the mask: in how many images each position was sampled, ``(H, W)``.
    stacks, fixed_stacks : list of Stack
        How masks are reduced: those of blocks that depend on the image, and those that do not.
    """

    alike: list[Alike] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)
    gates: dict[tuple[int, int], list[np.ndarray]] = field(default_factory=dict)
    map_sums: list[dict[int, np.ndarray]] = field(default_factory=list)
    stacks: list[Stack] = field(default_factory=list)
    fixed_stacks: list[Stack] = field(default_factory=list)
    fixed_counts: np.ndarray | None = None
    kept: list[list[Decided]] = field(default_factory=list)
    kept_images: list[int] = field(default_factory=list)
    values_per_image: int = 0

    def all_counts(self) -> np.ndarray:
        """Return all counts, ``(rows, images)``."""
        if not self.counts:
            return np.zeros((0, len(self.numbers)), dtype=np.int64)  # a network without masks
        if len(self.counts) > 1:
            self.counts[:] = [np.concatenate(self.counts, axis=-1)]
        return self.counts[0]

    def count(self, index: int, quantity: Quantity) -> np.ndarray:
        """Return a quantity of a block, one integer for each image."""
        alike = self.alike[index]
        counts: np.ndarray = self.all_counts()[alike.rows_of(quantity)][alike.blocks.index(index)]
        return counts

    def open_channels(self, index: int, gate: int) -> np.ndarray:
        """Return which channels a gate of a block leaves open, boolean ``(images, C)``."""
        return np.concatenate(self.gates[index, gate])


class Recorder:
    """Records what an evaluation computes. See `benchmark.flops.measured.MeasuredCounter` for how to use it.

    Attributes
    ----------
    modules : dict
        The model's modules by name; one that stands in several places has several names.
    blocks : list of MaskedBlock
        In the order in which they run.
    groups : dict
        What was recorded, by padded image size.
    identifiers : list
        Each recorded image's identifier.
    regions : list of int
        Each recorded image's number of RoIs.
    """

    def __init__(self, model: nn.Module, adapter: Adapter) -> None:
        self.adapter = adapter
        self.modules: dict[str, Any] = dict(model.named_modules(remove_duplicate=False))
        self.blocks = [
            MaskedBlock(name, module)
            for name, module in model.named_modules()
            if isinstance(module, ResidualBlock) and (module.work.masks or module.work.gates)
        ]
        self._numbers = {block.block: index for index, block in enumerate(self.blocks)}
        self.reset()

    def reset(self) -> None:
        """Forget everything recorded."""
        self.groups: dict[Size, SizeGroup] = {}
        self.identifiers: list[str | int] = []
        self.regions: list[int] = []
        self._current: list[Decided | None] = [None] * len(self.blocks)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record every evaluation batch that the model runs inside of the block; training batches are not."""
        hooks = [
            self.adapter.entry.register_forward_pre_hook(self._batch_begins),
            self.adapter.entry.register_forward_hook(self._batch_ends),
        ]
        if self.adapter.regions is not None:
            hooks.append(self.adapter.regions.register_forward_pre_hook(self._regions_begin))
        with observing(self._observed):
            try:
                yield
            finally:
                for hook in hooks:
                    hook.remove()
        for group in self.groups.values():
            self._reduce(group)

    def record(self, size: Size, decided: Mapping[str, Decided], regions: int = 0) -> None:
        """Record one image without running the model.

        Parameters
        ----------
        size
            Padded height and width in pixels.
        decided
            What each masked block decides, by the block's name in the model; masks ``(1, 1, H, W)``.
        regions
            Number of RoIs.
        """
        self._current = [decided[block.name] for block in self.blocks]
        self._add(size, 1)
        self.regions[-1] = regions
        self._reduce(self.groups[size])

    def _observed(self, block: ResidualBlock, decided: Decided) -> None:
        index = self._numbers.get(block)
        if index is None:
            return  # a block of another model, or one outside of what is counted
        if self._current[index] is not None:
            raise SaibenchError(f"{self.blocks[index].name}: a block that runs twice for a batch cannot be counted")
        self._current[index] = decided

    def _batch_begins(self, module: nn.Module, inputs: Any) -> None:
        self._current = [None] * len(self.blocks)

    def _batch_ends(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if not module.training:
            images = inputs[0]
            self._add((images.shape[-2], images.shape[-1]), images.shape[0])

    def _add(self, size: Size, count: int) -> None:
        """Add images of a size that the blocks decided for as is at hand."""
        first = len(self.identifiers)
        named = at_hand().images
        if named and len(named) != count:
            raise SaibenchError(f"{len(named)} identifiers were given for a batch of {count} images")
        batch = [self._checked(block, self._current[index], count) for index, block in enumerate(self.blocks)]
        self.identifiers.extend(named or range(first, first + count))
        self.regions.extend([0] * count)
        group = self.groups.get(size) or self._new_group(size, batch)
        group.numbers.extend(range(first, first + count))
        if batch:
            group.kept.append(batch)
            group.kept_images.append(count)
            self._current = [None] * len(self.blocks)
            if group.values_per_image * sum(group.kept_images) >= KEPT_VALUES:
                self._reduce(group)

    def _checked(self, block: MaskedBlock, decided: Decided | None, count: int) -> Decided:
        """Return what a block decided, if it has a value for every image; each would be counted for another else."""
        if decided is None:
            raise SaibenchError(f"{block.name}: this block did not run for a batch, so its masks cannot be counted")
        for index, values in decided.masks.items():
            if values.shape[0] != count or values.shape[1] != 1:
                found = " x ".join(map(str, values.shape))
                raise SaibenchError(f"{block.name}.mask{index}: a mask is ({count}, 1, H, W), not {found}; expand it")
        return decided

    def _regions_begin(self, module: nn.Module, inputs: Any) -> None:
        if not module.training:
            proposals = inputs[1]
            self.regions[-len(proposals) :] = [len(boxes) for boxes in proposals]

    def _new_group(self, size: Size, batch: Sequence[Decided]) -> SizeGroup:
        members: dict[tuple[Rule, bool], list[int]] = {}
        for index, (block, decided) in enumerate(zip(self.blocks, batch, strict=True)):
            members.setdefault((Rule(block.work, decided.size), block.fixed), []).append(index)
        alike: list[Alike] = []
        for (rule, _), blocks in members.items():
            alike.append(Alike(rule, tuple(blocks), alike[-1].first_row + alike[-1].rows if alike else 0))
        by_block = {index: kind for kind in alike for index in kind.blocks}
        group = SizeGroup(alike=[by_block[index] for index in range(len(self.blocks))])
        for index, (block, decided) in enumerate(zip(self.blocks, batch, strict=True)):
            sizes = {mask: group.alike[index].sizes[Sampled(mask)] for mask in block.masks}
            for mask, map_size in sizes.items():
                _check_size(f"{block.name}.mask{mask}", decided.masks[mask], map_size)
            group.values_per_image += 0 if block.fixed else sum(map(prod, sizes.values()))
            group.map_sums.append({mask: np.zeros(sizes[mask], dtype=np.int64) for mask in sizes})
        group.stacks = stacks_of(kind for kind in alike if not self.blocks[kind.blocks[0]].fixed)
        group.fixed_stacks = stacks_of(kind for kind in alike if self.blocks[kind.blocks[0]].fixed)
        self.groups[size] = group
        return group

    def _reduce(self, group: SizeGroup) -> None:
        """Turn what was decided so far into counts; what no image changes is counted once."""
        if not group.kept:
            return
        with torch.no_grad():
            counts = self._count(group, group.stacks, group.kept, sum(group.kept_images))
            if group.fixed_stacks:
                if group.fixed_counts is None:
                    first = [
                        Decided(decided.size, {index: values[:1] for index, values in decided.masks.items()})
                        for decided in group.kept[0]
                    ]
                    group.fixed_counts = self._count(group, group.fixed_stacks, [first], 1)
                counts += group.fixed_counts
            self._keep_gates(group)
        group.counts.append(counts)
        group.kept, group.kept_images = [], []

    def _keep_gates(self, group: SizeGroup) -> None:
        for index, block in enumerate(self.blocks):
            for gate in block.work.gates:
                values = torch.cat([batch[index].gates[gate] for batch in group.kept])
                group.gates.setdefault((index, gate), []).append((values != 0).cpu().numpy())

    def _count(self, group: SizeGroup, stacks: list[Stack], batches: list[list[Decided]], images: int) -> np.ndarray:
        """Count the blocks of some stacks for some batches: ``(rows, images)``, 0 for all other blocks."""
        rows = max((alike.first_row + alike.rows for alike in group.alike), default=0)
        counts = np.zeros((rows, images), dtype=np.int64)
        stacked = [(stack, self._stacked(group, stack, batches)) for stack in stacks]
        masks: dict[Alike, dict[int, Any]] = {}
        for stack, array in stacked:
            for run, part in _parts(stack, array, images):
                masks.setdefault(run.alike, {})[run.mask] = part
        for stack, array in stacked:
            sampled = _numpy(sparsity.total(sparsity.sampled(array)))
            for run, part in _parts(stack, sampled, images):
                counts[run.alike.rows_of(Sampled(run.mask))] = part.reshape(-1, images)
            window = stack[0].key[1]
            if window:
                pairs = _numpy(sparsity.neighbour_pairs(array, _needed(stack, array, masks, images), window))
                for run, part in _parts(stack, pairs, images):
                    if run.fill is not None:
                        counts[run.alike.rows_of(run.fill)] = part.reshape(-1, images)
        for alike, values in masks.items():
            for quantity in alike.others:
                counts[alike.rows_of(quantity)] = _other(alike, quantity, values).reshape(-1, images)
        return counts

    def _stacked(self, group: SizeGroup, stack: Stack, batches: list[list[Decided]]) -> Any:
        """Return the masks of a stack, ``(B, H, W)``, and add them to the sums of their maps."""
        places = [(index, run.mask) for run in stack for index in run.alike.blocks]
        values = torch.cat([batch[index].masks[mask] for index, mask in places for batch in batches])[:, 0]
        for (index, mask), sums in zip(places, _map_sums(values, len(places)), strict=True):
            group.map_sums[index][mask] += sums
        return _compact(values)


def stacks_of(kinds: Iterable[Alike]) -> list[Stack]:
    """Put the masks of blocks in as few stacks as there are sizes and windows."""
    stacks: dict[tuple[Size, int], Stack] = {}
    for alike in kinds:
        for run in alike.runs:
            stacks.setdefault(run.key, []).append(run)
    return list(stacks.values())


def _check_size(name: str, values: Tensor, size: Size) -> None:
    found = values.shape[-2], values.shape[-1]
    if found != size:
        raise SaibenchError(f"{name}: the mask is {found[0]}x{found[1]}, the map that it governs {size[0]}x{size[1]}")


def _parts(stack: Stack, array: Any, images: int) -> Iterator[tuple[Run, Any]]:
    """Cut an array along its first axis into its runs."""
    start = 0
    for run in stack:
        stop = start + len(run.alike.blocks) * images
        yield run, array[start:stop]
        start = stop


def _needed(stack: Stack, array: Any, masks: Mapping[Alike, dict[int, Any]], images: int) -> Any:
    """Return the positions of a stack whose value something reads, boolean ``(B, H, W)``; None for all."""
    reads = [None if run.fill is None else _positions(run.alike, run.fill, masks[run.alike]) for run in stack]
    if all(read is None for read in reads):
        return None
    needed = _ones(array)
    for read, (_, part) in zip(reads, _parts(stack, needed, images), strict=True):
        if read is not None:
            part[...] = _like(read, part)
    return needed


def _positions(alike: Alike, fill: Fill, masks: dict[int, Any]) -> Any:
    """Return the positions of a filled map that something reads; None for all."""
    return work.positions(fill.needed, masks, alike.sizes[fill])


def _other(alike: Alike, quantity: Quantity, masks: dict[int, Any]) -> np.ndarray:
    """Count what has no mask of its own, for all blocks of a rule and images: a region, or the fill that it governs."""
    if isinstance(quantity, Region):
        return _numpy(sparsity.total(work.positions(quantity, masks, alike.sizes[quantity])))
    values, needed = work.values(quantity.mask, masks), _positions(alike, quantity, masks)
    if needed is not None:
        needed = _like(needed, values)
    return _numpy(sparsity.neighbour_pairs(values, needed, quantity.window))


def _compact(stack: Tensor) -> Any:
    """Return a stack ``(B, H, W)`` in the form that is reduced fastest.

    On a CPU that is NumPy with the images innermost in memory, since the maps themselves may be only a few positions
    wide, and booleans where the masks are hard.
    """
    if stack.device.type != "cpu":
        return stack
    values = stack.numpy()
    sampled = values > 0
    if np.count_nonzero(sampled) == np.count_nonzero(values == 1):
        values = sampled
    return np.ascontiguousarray(values.transpose(1, 2, 0)).transpose(2, 0, 1)


def _map_sums(values: Tensor, masks: int) -> np.ndarray:
    """Count in how many images each position is sampled: ``(masks, H, W)`` from a stack ``(masks * N, H, W)``."""
    shape = (masks, -1, *values.shape[1:])
    if values.device.type != "cpu":
        return sparsity.sampled(values).reshape(shape).sum(dim=1, dtype=torch.int64).cpu().numpy()
    sampled = sparsity.sampled(values.numpy()).reshape(shape)
    narrow = np.uint16 if sampled.shape[1] <= np.iinfo(np.uint16).max else np.uint32  # several times as fast as int64
    return sampled.view(np.uint8).sum(axis=1, dtype=narrow)


def _numpy(counts: Any) -> np.ndarray:
    return counts.cpu().numpy() if isinstance(counts, Tensor) else counts


def _ones(like: Any) -> Any:
    """Make booleans that are all true, in the shape and memory order of a stack."""
    return torch.ones_like(like, dtype=torch.bool) if isinstance(like, Tensor) else np.ones_like(like, dtype=bool)


def _like(array: Any, mask: Any) -> Any:
    """Bring the positions that a dense convolution reads to the kind of array of a mask."""
    return (
        torch.from_numpy(array).to(mask.device) if isinstance(mask, Tensor) and isinstance(array, np.ndarray) else array
    )
