"""Deciding a block's masks from its input, and listing what they sample.

Masks of the kinds that the engine knows are decided by kernels; any other mask by its own forward, in PyTorch, on the
engine's own map. Masks are named by their place (``layer1.0.mask1``), since one module may stand in several blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark.engines.base import Floats
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.calls import Call
from benchmark.engines.cpu.kernels import MaskConvolution
from benchmark.engines.cpu.layers import array, geometry
from benchmark.engines.cpu.memory import Memory, Size
from benchmark.nn.blocks import ResidualBlock
from benchmark.nn.masks import GumbelMask, LearnedMask, Mask

MASK_LIMIT = 2
"""Masks of one pass: two 3x3 masks are 18 products, and the narrow kernel has at most 20 outputs."""


@dataclass(frozen=True)
class Placed:
    """A mask at its place in a backbone.

    Attributes
    ----------
    name
        Of the place, such as ``layer1.0.mask1``.
    number
        Of the mask within its block.
    module
        The mask, a copy in evaluation mode.
    observed
        Whether another mask's forward may read what it has decided (`Mask.decided`), as one that is carried on does.
    """

    name: str
    number: int
    module: Mask
    observed: bool


def place_masks(blocks: Sequence[ResidualBlock]) -> list[list[Placed]]:
    """Return the masks of each block, copied: the model may go on training, on any device.

    One copy of all of them, so that masks that several blocks share, or carry on, stay together.
    """
    found = [[(number, cast(Mask, getattr(block, f"mask{number}"))) for number in block.work.masks] for block in blocks]
    # What the last training forward left on a mask belongs to its graph, and cannot be copied.
    copied: dict[int, object] = {
        id(left): None for masks in found for _, mask in masks for left in (mask.confidence, mask.decided)
    }
    observed = not all(_has_kernel(mask) for masks in found for _, mask in masks)

    def place(block: ResidualBlock, number: int, mask: Mask) -> Placed:
        return Placed(f"{block.name}.mask{number}", number, copy.deepcopy(mask, copied).cpu().eval(), observed)

    return [[place(block, number, mask) for number, mask in masks] for block, masks in zip(blocks, found, strict=True)]


class BlockMasks:
    """The masks of one block: those of the engine's kinds in one pass over the map, all others one by one."""

    def __init__(self, placed: list[Placed]) -> None:
        self.placed = placed
        self.others = [OwnForward(mask) for mask in placed if not _has_kernel(mask.module)]
        learned = [mask for mask in placed if _has_kernel(mask.module)]
        self.passes = [LearnedPass(learned[i : i + MASK_LIMIT]) for i in range(0, len(learned), MASK_LIMIT)]

    def follow(self, memory: Memory, rows: int) -> kernels.Follow | None:
        """Return what computes the first pass's products of a map of that many rows while another kernel writes it."""
        if not self.passes:
            return None
        convolution = self.passes[0].convolution
        # In the memory of the stem's map: the first block has read it before the first products are written.
        return convolution.follow(memory.named("layer0", rows, convolution.columns))

    def decide(
        self, call: Call, memory: Memory, x: Floats, size: Size, sizes: tuple[Size, ...]
    ) -> dict[int, kernels.Samples]:
        """Decide the masks from the block's input; return each one's samples, by its number.

        ``sizes`` are those of the maps behind the block's convolutions, which the masks govern.
        """
        samples = {}
        for number, own in enumerate(self.passes):
            followed = call.following if number == 0 and call.followed else None
            products = own.products(call, memory, x, size) if followed is None else followed.out
            for which, mask in enumerate(own.masks):
                with call.timed(mask.name, "mask"):
                    samples[mask.number] = _listed(call, mask, own.decide(call, which, products, size))
        for other in self.others:
            mask = other.mask
            with call.timed(mask.name, "mask") as row:
                samples[mask.number] = _listed(call, mask, other.decide(call, x, size, sizes[mask.number - 1]))
            if not row.macs:
                row.kind = "uncounted"
        return samples

    def noisy(self, size: Size) -> Iterator[tuple[Placed, Size]]:
        """Yield the masks that draw noise before their block runs, and their sizes for an input map of this size."""
        for own in self.passes:
            for mask, walk in zip(own.masks, own.convolution.geometries, strict=True):
                if _is_hard(mask.module) and cast(GumbelMask, mask.module).stochastic:
                    yield mask, walk.out_size(*size)


class LearnedPass:
    """One or two masks with a convolution each, decided from one pass over the map."""

    def __init__(self, masks: list[Placed]) -> None:
        self.masks = masks
        self.modules = [cast(LearnedMask, mask.module) for mask in masks]
        convolutions = [module.conv for module in self.modules]
        self.convolution = MaskConvolution(
            [array(conv.weight) for conv in convolutions],
            [0.0 if conv.bias is None else float(conv.bias.detach()) for conv in convolutions],
            [geometry(mask.name, conv) for mask, conv in zip(masks, convolutions, strict=True)],
        )
        self._counts = [Count() for _ in masks]

    def products(self, call: Call, memory: Memory, x: Floats, size: Size) -> Floats:
        """Compute the products of a map that no kernel before has computed."""
        products = memory.scratch(x.shape[0], self.convolution.columns)
        with call.timed(self.masks[0].name, "mask"):
            self.convolution.products(x, size, products, threads=call.threads)
        return products

    def decide(self, call: Call, which: int, products: Floats, size: Size) -> Floats:
        """Return one mask's M, (H, W), of the products."""
        mask, module = self.masks[which], self.modules[which]
        call.tally[mask.name].macs += self.convolution.macs(which, size)
        if not _is_hard(module):
            logits = self.convolution.logits(which, products, size, threads=call.threads)
            values, macs = self._counts[which](size, lambda: _values(module, logits))
            call.tally[mask.name].macs += macs
            return array(values[0, 0])
        stochastic = cast(GumbelMask, module).stochastic
        threshold = call.noise[mask.name].result() if stochastic else None
        return self.convolution.decide(which, products, size, threshold, grid=module.grid_stride, threads=call.threads)


class OwnForward:
    """A mask of a kind that the engine has no kernel for."""

    def __init__(self, mask: Placed) -> None:
        self.mask = mask
        self._count = Count()

    def decide(self, call: Call, x: Floats, size: Size, out_size: Size) -> Floats:
        """Return M, (H, W), as the module's own forward makes it of the block's input.

        Raises
        ------
        ValueError
            If the mask has another size than the map that it governs.
        """
        # Channels last, as the map lies in memory: a view, no copy.
        source = torch.from_numpy(x).view(1, *size, -1).permute(0, 3, 1, 2)
        with _torch_threads(call.threads), torch.no_grad():
            values, macs = self._count(size, lambda: self.mask.module(source))
        call.tally[self.mask.name].macs += macs
        if tuple(values.shape) != (1, 1, *out_size):
            raise ValueError(f"{self.mask.name}: the mask is {tuple(values.shape)}, expected {(1, 1, *out_size)}")
        return array(values[0, 0])


class Count:
    """Multiply-accumulates of what PyTorch runs: counted once for each map size, since watching it takes its time."""

    def __init__(self) -> None:
        self._macs: dict[Size, int] = {}

    def __call__(self, size: Size, run: Callable[[], Tensor]) -> tuple[Tensor, int]:
        """Run, and return the result and its multiply-accumulates on a map of this size."""
        if size in self._macs:
            return run(), self._macs[size]
        with FlopCounterMode(display=False) as counter:
            values = run()
        self._macs[size] = counter.get_total_flops() // 2
        return values, self._macs[size]


def _has_kernel(module: Mask) -> bool:
    """Whether a mask's logits are those of one plain convolution, as those of the engine's own kinds are."""
    if not isinstance(module, LearnedMask) or type(module).forward is not LearnedMask.forward:
        return False
    conv = module.conv
    plain = type(conv) is nn.Conv2d and conv.groups == 1 and conv.padding_mode == "zeros" and conv.out_channels == 1
    return plain and conv.kernel_size == (3, 3)


def _is_hard(module: Mask) -> bool:
    """Whether the kernel's threshold decides a mask; other values are made of the logits by the module itself."""
    return type(module) is GumbelMask and not module.soft_inference


def _values(module: LearnedMask, logits: Floats) -> Tensor:
    """Return M, (1, 1, H, W), as the module's own forward makes it of its logits."""
    with torch.no_grad():
        values = module.values(torch.from_numpy(logits)[None, None])
        if module.grid_stride is not None:
            grid = torch.zeros_like(values)
            grid[..., :: module.grid_stride, :: module.grid_stride] = 1
            values = torch.maximum(values, grid)
    return values


def _listed(call: Call, placed: Placed, mask: Floats) -> kernels.Samples:
    """List a mask's samples, or those of the mask that the caller gave: to decide it has cost what it would cost."""
    if placed.name in call.given:
        mask = _checked_mask(placed.name, call.given[placed.name], mask.shape)
    call.masks[placed.name] = mask
    if placed.observed:
        placed.module.decided = torch.from_numpy(mask)[None, None]
    try:
        return kernels.Samples(mask, threads=call.threads)
    except ValueError as error:
        raise ValueError(f"{placed.name}: {error}") from None


def _checked_mask(name: str, given: object, shape: tuple[int, ...]) -> Floats:
    """Check a mask that the caller gave in place of the block's own."""
    if not isinstance(given, np.ndarray) or given.dtype != np.float32:
        kind = given.dtype if isinstance(given, np.ndarray) else type(given).__name__
        raise TypeError(f"mask {name} must be a float32 array, not {kind}")
    if given.shape != shape:
        raise ValueError(f"mask {name} has shape {given.shape}, the map is {shape}")
    return np.ascontiguousarray(given)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Run PyTorch on as many threads as the engine's own kernels."""
    before = torch.get_num_threads()
    if threads != before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads != before:
            torch.set_num_threads(before)
