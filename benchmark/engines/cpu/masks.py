"""Deciding a block's masks from its input, and listing what they sample."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch

from benchmark.engines.base import EngineRefusal, Floats
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.calls import Call
from benchmark.engines.cpu.kernels import MaskConvolution
from benchmark.engines.cpu.layers import array, geometry
from benchmark.engines.cpu.memory import Memory, Size
from benchmark.nn.blocks import ResidualBlock
from benchmark.nn.masks import FixedMask, GumbelMask, LearnedMask, Mask


class BlockMasks:
    """The masks of one block, their convolutions in one pass."""

    def __init__(self, block: ResidualBlock) -> None:
        self.modules: list[tuple[int, Mask]] = []
        for index in (1, 2, 3):
            module = cast(Mask | None, getattr(block, f"mask{index}"))
            if module is not None:
                # A copy in evaluation mode: the model may go on training, on any device.
                self.modules.append((index, copy.deepcopy(module).cpu().eval()))
        self.learned = [(i, m) for i, m in self.modules if isinstance(m, LearnedMask)]
        self.groups: list[tuple[list[tuple[int, LearnedMask]], MaskConvolution]] = []
        # Two 3x3 masks are 18 products, the narrow kernel's limit is 20: a third mask takes a pass of its own.
        for start in range(0, len(self.learned), 2):
            group = self.learned[start : start + 2]
            convolution = MaskConvolution(
                [array(m.conv.weight) for _, m in group],
                [float(m.conv.bias.detach()) if m.conv.bias is not None else 0.0 for _, m in group],
                [geometry(m.layer, m.conv) for _, m in group],
            )
            self.groups.append((group, convolution))

    def follow(self, memory: Memory, rows: int) -> kernels.Follow | None:
        """Return what computes the first pass's products of a map of that many rows while another kernel writes it."""
        if not self.groups:
            return None
        convolution = self.groups[0][1]
        # In the memory of the stem's map: the first block has read it before the first products are written.
        return convolution.follow(memory.named("layer0", rows, convolution.columns))

    def decide(self, call: Call, memory: Memory, x: Floats, size: Size) -> dict[int, kernels.Samples]:
        """Decide the masks from the block's input; return each masked convolution's sampled positions."""
        samples = {i: _listed(call, m, _fixed(m, size)) for i, m in self.modules if not isinstance(m, LearnedMask)}
        for number, (group, convolution) in enumerate(self.groups):
            if number == 0 and call.followed and call.following is not None:
                products = call.following.out
            else:
                products = memory.scratch(x.shape[0], convolution.columns)
                with call.timed(group[0][1].layer, "mask"):
                    convolution.products(x, size, products, threads=call.threads)
            for which, (index, module) in enumerate(group):
                with call.timed(module.layer, "mask") as row:
                    row.macs += convolution.macs(which, size)
                    mask = _decide(call, module, convolution, which, products, size)
                    samples[index] = _listed(call, module, mask)
        return samples

    def noisy(self, size: Size) -> Iterator[tuple[str, Size]]:
        """Yield the layers that draw noise for an input map of this size, and the sizes of their masks."""
        for group, convolution in self.groups:
            for (_, module), walk in zip(group, convolution.geometries, strict=True):
                if type(module) is GumbelMask and module.stochastic and not module.soft_inference:
                    yield module.layer, walk.out_size(*size)


def _listed(call: Call, module: Mask, mask: Floats) -> kernels.Samples:
    """List a mask's samples, or those of the mask that the caller gave: to decide it has cost what it would cost."""
    if module.layer in call.given:
        mask = _checked_mask(module.layer, call.given[module.layer], mask.shape)
    call.masks[module.layer] = mask
    try:
        return kernels.Samples(mask, threads=call.threads)
    except ValueError as error:
        raise ValueError(f"{module.layer}: {error}") from None


def _decide(
    call: Call, module: LearnedMask, convolution: MaskConvolution, which: int, products: Floats, size: Size
) -> Floats:
    """Return one learned mask's M of its products."""
    if type(module) is not GumbelMask or module.soft_inference:
        return _values(module, convolution.logits(which, products, size, threads=call.threads))
    threshold = call.noise[module.layer].result() if module.stochastic else None
    return convolution.decide(which, products, size, threshold, grid=module.grid_stride, threads=call.threads)


def _values(module: LearnedMask, logits: Floats) -> Floats:
    """Return M as the module's own forward makes it of its logits (whole maps only)."""
    with torch.no_grad():
        values = module.values(torch.from_numpy(logits)[None, None])
        if module.grid_stride is not None:
            grid = torch.zeros_like(values)
            grid[..., :: module.grid_stride, :: module.grid_stride] = 1
            values = torch.maximum(values, grid)
    return array(values[0, 0])


def _fixed(module: Mask, size: Size) -> Floats:
    if not isinstance(module, FixedMask):
        raise EngineRefusal(module.layer, f"the CPU engine does not know masks of class {type(module).__name__}")
    with torch.no_grad():
        return array(module(torch.empty(1, 1, *size))[0, 0])


def _checked_mask(layer: str, given: object, shape: tuple[int, ...]) -> Floats:
    """Check a mask that the caller gave in place of the block's own."""
    if not isinstance(given, np.ndarray) or given.dtype != np.float32:
        kind = given.dtype if isinstance(given, np.ndarray) else type(given).__name__
        raise TypeError(f"mask {layer} must be a float32 array, not {kind}")
    if given.shape != shape:
        raise ValueError(f"mask {layer} has shape {given.shape}, the map is {shape}")
    return np.ascontiguousarray(given)
