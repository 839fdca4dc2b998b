"""Collects the masks of an evaluation and reduces them to integers, at a small share of the evaluation's time.

During the evaluation, only references to masks are kept; counting happens later, for many images and for all blocks of
one geometry at once, so that its cost does not depend on how small a network's own operators are. Masks are reduced
where they live: with NumPy on a CPU, with PyTorch on an accelerator, by the same rules (`benchmark.nn.sparsity`).
What the integers mean in multiply-accumulates is the business of `benchmark.flops.measured`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.errors import SaibenchError
from benchmark.flops.adapter import Adapter
from benchmark.flops.trace import Size
from benchmark.nn import sparsity
from benchmark.nn.blocks import Bottleneck, ResidualBlock
from benchmark.nn.context import at_hand
from benchmark.nn.masks import FixedMask

#: Mask values that are kept before they are reduced; 4 bytes each.
KEPT_VALUES = 2**22

#: What is counted for a block and image: sampled positions and (missing, sampled neighbour) pairs, by convolution.
QUANTITIES = ("sampled1", "sampled2", "sampled3", "pairs1", "pairs2", "pairs3")


class Rule(NamedTuple):
    """What decides how a block's masks are counted; blocks with equal rules are counted together.

    Attributes
    ----------
    own
        Which of conv1, conv2 and conv3 has a mask of its own.
    shared
        Whether conv2 runs under conv1's mask, at its own stride (Fig. 3a).
    windows
        Windows of the three interpolations, 0 where none.
    reader
        Kernel, stride, padding and dilation of conv2; None where it is deformable and may read any position.
    first, second
        Sizes of the maps after conv1 and after conv2.
    """

    own: tuple[bool, bool, bool]
    shared: bool
    windows: tuple[int, int, int]
    reader: tuple[Any, Any, Any, Any] | None
    first: Size
    second: Size


class Run(NamedTuple):
    """The masks of one convolution in the blocks of one rule: adjacent in a stack."""

    rule: Rule
    convolution: int
    blocks: tuple[int, ...]


#: Masks of one size whose fills have one window: they are reduced together.
Stack = list[Run]


class MaskedBlock:
    """A residual block with at least one mask.

    Attributes
    ----------
    name : str
        Of the block, within the model.
    masks : dict
        Mask modules by the number of their convolution.
    fixed : bool
        Whether no mask depends on the image.
    """

    def __init__(self, name: str, block: ResidualBlock) -> None:
        self.name = name
        self.block: Any = block
        self.masks = {i: mask for i in (1, 2, 3) if (mask := getattr(block, f"mask{i}")) is not None}
        self.fixed = all(isinstance(mask, FixedMask) for mask in self.masks.values())
        fills = [getattr(block, f"interpolation{i}") for i in (1, 2, 3)]
        self.windows = tuple(0 if fill is None else int(fill.window) for fill in fills)
        self.linear = fills[1] is None or bool(fills[1].linear)

    def rule(self, sizes: dict[int, Size]) -> Rule:
        """Return the rule at given sizes of the masks, by the number of their convolution."""
        conv2 = self.block.conv2
        own = (1 in self.masks, 2 in self.masks, 3 in self.masks)
        shared = own[0] and not own[1] and isinstance(self.block, Bottleneck)
        reader = (conv2.kernel_size, conv2.stride, conv2.padding, conv2.dilation)
        first = sizes.get(1, (0, 0))
        second = sizes[2] if own[1] else sparsity.output_size(first, *reader) if own[0] else sizes[3]
        deformable = getattr(self.block, "offset", None) is not None
        windows = (self.windows[0], self.windows[1], self.windows[2])
        return Rule(own, shared, windows, None if deformable else reader, first, second)


@dataclass
class SizeGroup:
    """What was recorded for the images of one padded size.

    Attributes
    ----------
    rules : list of Rule
        One for each masked block.
    numbers : list of int
        Running numbers of the images, in the order of their columns.
    counts : list of ndarray
        Reduced so far: ``(6, blocks, images)`` int64, quantities in the order of `QUANTITIES`.
    map_sums : list of dict
        For each block, by number of the convolution: in how many images each position was sampled, ``(H, W)``.
    stacks, fixed_stacks : list of Stack
        How masks are reduced: those of blocks that depend on the image, and those that do not.
    """

    rules: list[Rule] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)
    map_sums: list[dict[int, np.ndarray]] = field(default_factory=list)
    stacks: list[Stack] = field(default_factory=list)
    fixed_stacks: list[Stack] = field(default_factory=list)
    fixed_counts: np.ndarray | None = None
    kept: list[list[Tensor]] = field(default_factory=list)
    kept_images: list[int] = field(default_factory=list)
    values_per_image: int = 0


class Recorder:
    """Records what an evaluation computes. See `benchmark.flops.measured.MeasuredCounter` for how to use it.

    Attributes
    ----------
    modules : dict
        The model's modules by name.
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
        self.modules: dict[str, Any] = dict(model.named_modules())
        self.blocks = [
            MaskedBlock(name, module)
            for name, module in self.modules.items()
            if isinstance(module, ResidualBlock) and (module.mask1 or module.mask2 or module.mask3) is not None
        ]
        modules = [(i, mask) for block in self.blocks for i, mask in block.masks.items()]
        self._masks = [mask for _, mask in modules]
        self._slots = [0, *np.cumsum([len(block.masks) for block in self.blocks]).tolist()]
        self.reset()

    def reset(self) -> None:
        """Forget everything recorded."""
        self.groups: dict[Size, SizeGroup] = {}
        self.identifiers: list[str | int] = []
        self.regions: list[int] = []
        self._current: list[Any] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record every evaluation batch that the model runs inside of the block; training batches are not."""
        hooks = [self.adapter.entry.register_forward_hook(self._batch_ends)]
        if self.adapter.regions is not None:
            hooks.append(self.adapter.regions.register_forward_pre_hook(self._regions_begin))
        self._current = [None] * len(self._masks)
        with ExitStack() as watched:
            for slot, mask in enumerate(self._masks):
                watched.enter_context(self._watched(slot, mask))
            try:
                yield
            finally:
                for hook in hooks:
                    hook.remove()
        for group in self.groups.values():
            self._reduce(group)

    @contextmanager
    def _watched(self, slot: int, mask: Any) -> Iterator[None]:
        """Keep what a mask returns inside of the block.

        By its ``forward``: a hook would send each call through PyTorch's slow path, which takes 6 microseconds longer,
        and a small network with many masks up to 1 %.
        """
        forward, before = mask.forward, vars(mask).get("forward")

        def watching(x: Tensor) -> Tensor:
            values = forward(x)
            self._keep(slot, values)
            return values

        mask.forward = watching
        try:
            yield
        finally:
            del mask.forward
            if before is not None:
                mask.forward = before

    def _keep(self, slot: int, values: Tensor) -> None:
        self._current[slot] = values

    def record(self, size: Size, masks: Mapping[str, Tensor], regions: int = 0) -> None:
        """Record one image without running the model.

        Parameters
        ----------
        size
            Padded height and width in pixels.
        masks
            ``(1, 1, H, W)`` by the mask's name in the model.
        regions
            Number of RoIs.
        """
        names = [f"{block.name}.mask{i}" for block in self.blocks for i in block.masks]
        self._current = [masks[name] for name in names]
        self._add(size, 1)
        self.regions[-1] = regions
        self._reduce(self.groups[size])

    def _batch_ends(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if not module.training:
            images = inputs[0]
            self._add((images.shape[-2], images.shape[-1]), images.shape[0])

    def _add(self, size: Size, count: int) -> None:
        """Add images of a size whose masks are the current ones."""
        first = len(self.identifiers)
        named = at_hand().images
        if named and len(named) != count:
            raise SaibenchError(f"{len(named)} identifiers were given for a batch of {count} images")
        self.identifiers.extend(named or range(first, first + count))
        self.regions.extend([0] * count)
        group = self.groups.get(size) or self._new_group(size)
        group.numbers.extend(range(first, first + count))
        if self.blocks:
            group.kept.append(self._current)
            group.kept_images.append(count)
            self._current = [None] * len(self._masks)
            if group.values_per_image * sum(group.kept_images) >= KEPT_VALUES:
                self._reduce(group)

    def _regions_begin(self, module: nn.Module, inputs: Any) -> None:
        if not module.training:
            proposals = inputs[1]
            self.regions[-len(proposals) :] = [len(boxes) for boxes in proposals]

    def _new_group(self, size: Size) -> SizeGroup:
        group = self.groups[size] = SizeGroup()
        for index, block in enumerate(self.blocks):
            masks = self._current[self._slots[index] : self._slots[index + 1]]
            sizes = {i: (mask.shape[-2], mask.shape[-1]) for i, mask in zip(block.masks, masks, strict=True)}
            group.rules.append(block.rule(sizes))
            group.values_per_image += 0 if block.fixed else sum(h * w for h, w in sizes.values())
            group.map_sums.append({i: np.zeros(sizes[i], dtype=np.int64) for i in sizes})
        rules: dict[bool, dict[Rule, list[int]]] = {False: {}, True: {}}
        for index, (block, rule) in enumerate(zip(self.blocks, group.rules, strict=True)):
            rules[block.fixed].setdefault(rule, []).append(index)
        group.stacks, group.fixed_stacks = stacks_of(rules[False]), stacks_of(rules[True])
        return group

    def _reduce(self, group: SizeGroup) -> None:
        """Turn the masks kept so far into counts; what no image changes is counted once."""
        if not group.kept:
            return
        with torch.no_grad():
            counts = self._count(group, group.stacks, group.kept, sum(group.kept_images))
            if group.fixed_stacks:
                if group.fixed_counts is None:
                    one = [[None if mask is None else mask[:1] for mask in group.kept[0]]]
                    group.fixed_counts = self._count(group, group.fixed_stacks, one, 1)
                counts += group.fixed_counts
        group.counts.append(counts)
        group.kept, group.kept_images = [], []

    def _count(self, group: SizeGroup, stacks: list[Stack], batches: list[list[Tensor]], images: int) -> np.ndarray:
        """Count the blocks of some stacks for some batches: ``(6, blocks, images)``, 0 for all other blocks."""
        counts = np.zeros((len(QUANTITIES), len(self.blocks), images), dtype=np.int64)
        stacked = [(stack, self._stacked(group, stack, batches)) for stack in stacks]
        masks = {run[:2]: part for stack, array in stacked for run, part in _parts(stack, array, images)}
        for rule, blocks in {run.rule: run.blocks for stack in stacks for run in stack if run.rule.shared}.items():
            stride = -(-rule.first[0] // rule.second[0]), -(-rule.first[1] // rule.second[1])
            masks[rule, 2] = masks[rule, 1][..., :: stride[0], :: stride[1]]
            stacked.append(([Run(rule, 2, blocks)], masks[rule, 2]))
        for stack, array in stacked:
            sampled = _numpy(sparsity.total(sparsity.sampled(array)))
            for run, part in _parts(stack, sampled, images):
                counts[run.convolution - 1, run.blocks] = part.reshape(-1, images)
            window = stack[0].rule.windows[stack[0].convolution - 1]
            if window:
                pairs = _numpy(sparsity.neighbour_pairs(array, _needed(stack, array, masks, images), window))
                for run, part in _parts(stack, pairs, images):
                    counts[run.convolution + 2, run.blocks] = part.reshape(-1, images)
        return counts

    def _stacked(self, group: SizeGroup, stack: Stack, batches: list[list[Tensor]]) -> Any:
        """Return the masks of a stack, ``(B, H, W)``, and add them to the sums of their maps."""
        places = [(index, run.convolution) for run in stack for index in run.blocks]
        slots = [self._slots[index] + list(self.blocks[index].masks).index(i) for index, i in places]
        values = torch.cat([batch[slot] for slot in slots for batch in batches])[:, 0]
        for (index, convolution), sums in zip(places, _map_sums(values, len(places)), strict=True):
            group.map_sums[index][convolution] += sums
        return _compact(values)


def stacks_of(rules: Mapping[Rule, Sequence[int]]) -> list[Stack]:
    """Put the masks of blocks, by their rule, in as few stacks as there are sizes and windows."""
    stacks: dict[tuple[Size, int], Stack] = {}
    for rule, blocks in rules.items():
        for convolution in (i for i in (1, 2, 3) if rule.own[i - 1]):
            size = rule.first if convolution == 1 else rule.second
            stack = stacks.setdefault((size, rule.windows[convolution - 1]), [])
            stack.append(Run(rule, convolution, tuple(blocks)))
    return list(stacks.values())


def _parts(stack: Stack, array: Any, images: int) -> Iterator[tuple[Run, Any]]:
    """Cut an array along its first axis into its runs."""
    start = 0
    for run in stack:
        stop = start + len(run.blocks) * images
        yield run, array[start:stop]
        start = stop


def _needed(stack: Stack, array: Any, masks: Mapping[tuple[Any, ...], Any], images: int) -> Any:
    """Return the positions of a stack whose value something reads, boolean ``(B, H, W)``; None for all.

    conv2 reads the map after conv1, at its own sampled positions. Where conv3 has a mask, it reads the map after conv2
    at its sampled positions. Everything else is read whole.
    """
    reads = {run: _read(run, masks) for run in stack}
    if all(read is None for read in reads.values()):
        return None
    needed = _ones(array)
    for run, part in _parts(stack, needed, images):
        if reads[run] is not None:
            part[...] = _like(reads[run], part)
    return needed


def _read(run: Run, masks: Mapping[tuple[Any, ...], Any]) -> Any:
    if run.convolution == 1 and run.rule.reader is not None:
        return sparsity.positions_read(masks.get((run.rule, 2)), *run.rule.reader, run.rule.first)
    return sparsity.sampled(masks[run.rule, 3]) if run.convolution == 2 and run.rule.own[2] else None


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
