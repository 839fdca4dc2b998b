"""Collects the masks of an evaluation and reduces them to integers, at a small share of the evaluation's time.

Forward hooks on the mask modules only keep references; counting happens later, for many images and for all blocks of
one geometry at once, so that its cost does not depend on how small a network's own operators are. Masks are reduced
where they live: with NumPy on a CPU, with PyTorch on an accelerator, by the same rules (`benchmark.nn.sparsity`).
What the integers mean in multiply-accumulates is the business of `benchmark.flops.measured`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    """

    rules: list[Rule] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)
    map_sums: list[dict[int, np.ndarray]] = field(default_factory=list)
    fixed: dict[int, np.ndarray] = field(default_factory=dict)
    kept: list[list[Tensor]] = field(default_factory=list)
    kept_images: list[int] = field(default_factory=list)
    values_per_image: int = 0


class Recorder:
    """Records what an evaluation computes. See `benchmark.flops.measured.MeasuredCounter` for how to use it.

    Attributes
    ----------
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
        self.blocks = [
            MaskedBlock(name, module)
            for name, module in model.named_modules()
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
        self._next: Sequence[str | int] | None = None
        self._current: list[Any] = []

    def identify(self, identifiers: Sequence[str | int]) -> None:
        """Name the next images, in the order in which they run; without it, they have running numbers.

        The model may run them in one call or in several.
        """
        self._next = list(identifiers)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record every evaluation batch that the model runs inside of the block; training batches are not."""
        hooks = [self.adapter.entry.register_forward_hook(self._batch_ends)]
        for slot, mask in enumerate(self._masks):
            hooks.append(mask.register_forward_hook(self._keep(slot)))
        if self.adapter.regions is not None:
            hooks.append(self.adapter.regions.register_forward_pre_hook(self._regions_begin))
        self._current = [None] * len(self._masks)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        for group in self.groups.values():
            self._reduce(group)

    def _keep(self, slot: int) -> Any:
        def keep(module: nn.Module, inputs: Any, mask: Tensor) -> None:
            self._current[slot] = mask

        return keep

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
        names: Sequence[str | int] = range(first, first + count)
        if self._next is not None:
            names, self._next = self._next[:count], self._next[count:]
        if len(names) != count:
            raise SaibenchError(f"{len(names)} identifiers were given for a batch of {count} images")
        self.identifiers.extend(names)
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
        return group

    def _reduce(self, group: SizeGroup) -> None:
        """Turn the masks kept so far into counts, one pass for all blocks with the same rule."""
        if not group.kept:
            return
        images = sum(group.kept_images)
        counts = np.zeros((len(QUANTITIES), len(self.blocks), images), dtype=np.int64)
        together: dict[tuple[Rule, bool], list[int]] = {}
        for index, (block, rule) in enumerate(zip(self.blocks, group.rules, strict=True)):
            together.setdefault((rule, block.fixed), []).append(index)
        with torch.no_grad():
            for (rule, fixed), indices in together.items():
                if not fixed:
                    counts[:, indices] = self._count(group, rule, indices, group.kept, images)
                    continue
                unseen = [index for index in indices if index not in group.fixed]
                if unseen:
                    one = [[None if mask is None else mask[:1] for mask in group.kept[0]]]
                    found = self._count(group, rule, unseen, one, 1)
                    group.fixed.update({index: found[:, at] for at, index in enumerate(unseen)})
                for index in indices:
                    counts[:, index] = group.fixed[index]
        group.counts.append(counts)
        group.kept, group.kept_images = [], []

    def _count(
        self, group: SizeGroup, rule: Rule, indices: list[int], batches: list[list[Tensor]], images: int
    ) -> np.ndarray:
        """Count some blocks of one rule for some batches: ``(6, blocks, images)``."""
        stacks: list[Any] = [None, None, None]
        for position, convolution in enumerate(i for i in (1, 2, 3) if rule.own[i - 1]):
            slots = [self._slots[index] + position for index in indices]
            stack = torch.cat([batch[slot] for slot in slots for batch in batches])[:, 0]
            stacks[convolution - 1] = _compact(stack)
            sums = _map_sums(stacks[convolution - 1], len(indices))
            for index, sampled_in in zip(indices, sums, strict=True):
                group.map_sums[index][convolution] += sampled_in
        counts = count_positions(rule, *stacks)
        return counts.reshape(len(QUANTITIES), len(indices), images)


def count_positions(rule: Rule, mask1: Any, mask2: Any, mask3: Any) -> np.ndarray:
    """Count sampled positions and pairs of a block for a stack of masks.

    Parameters
    ----------
    rule
        The block's.
    mask1, mask2, mask3
        ``(B, H, W)`` NumPy arrays or tensors; None where the convolution has no mask of its own.

    Returns
    -------
    numpy.ndarray
        ``(6, B)`` int64, in the order of `QUANTITIES`; 0 for what a block does not have.
    """
    stack = next(mask for mask in (mask1, mask2, mask3) if mask is not None)
    if rule.shared:
        stride = -(-rule.first[0] // rule.second[0]), -(-rule.first[1] // rule.second[1])
        mask2 = mask1[..., :: stride[0], :: stride[1]]
    counts: list[Any] = [None] * len(QUANTITIES)
    for index, mask in enumerate((mask1, mask2, mask3)):
        if mask is not None:
            counts[index] = sparsity.total(sparsity.sampled(mask))
    if mask1 is not None and rule.windows[0]:
        read = None
        if rule.reader is not None:
            read = _like(sparsity.positions_read(mask2, *rule.reader, rule.first), mask1)
        counts[3] = sparsity.neighbour_pairs(mask1, read, rule.windows[0])
    if mask2 is not None and rule.windows[1]:
        read = None if mask3 is None else sparsity.sampled(mask3)
        counts[4] = sparsity.neighbour_pairs(mask2, read, rule.windows[1])
    if mask3 is not None and rule.windows[2]:
        counts[5] = sparsity.neighbour_pairs(mask3, None, rule.windows[2])
    if isinstance(stack, Tensor):
        zero = torch.zeros(len(stack), dtype=torch.int64, device=stack.device)
        return torch.stack([zero if count is None else count for count in counts]).cpu().numpy()
    zeros = np.zeros(len(stack), dtype=np.int64)
    return np.stack([zeros if count is None else count for count in counts])


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


def _map_sums(stack: Any, blocks: int) -> np.ndarray:
    """Count in how many images each position is sampled: ``(blocks, H, W)`` from a stack ``(blocks * N, H, W)``."""
    sampled = sparsity.sampled(stack)
    if isinstance(sampled, Tensor):
        return sampled.unflatten(0, (blocks, -1)).sum(dim=1, dtype=torch.int64).cpu().numpy()
    images = len(stack) // blocks
    return np.stack([sampled[i * images : (i + 1) * images].sum(axis=0) for i in range(blocks)])


def _like(array: Any, mask: Any) -> Any:
    """Bring the positions that a dense convolution reads to the kind of array of a mask."""
    return (
        torch.from_numpy(array).to(mask.device) if isinstance(mask, Tensor) and isinstance(array, np.ndarray) else array
    )
