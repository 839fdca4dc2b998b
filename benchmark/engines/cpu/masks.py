"""A backbone's masks, copied and placed, and those that PyTorch decides while a plan runs.

Masks of the kinds that the engine knows are decided by kernels; any other mask by its own forward, in PyTorch, on the
engine's own map. Masks are named by their place (``layer1.0.mask1``), since one module may stand in several blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark.engines.base import Floats
from benchmark.engines.cpu.descriptions import Geometry, MaskPlan, Pass, check
from benchmark.engines.cpu.layers import array, geometry, pack
from benchmark.nn.blocks import ResidualBlock
from benchmark.nn.masks import GumbelMask, LearnedMask, Mask, ReLUMask
from benchmark.nn.work import Size

MASK_LIMIT = 2
"""Masks of one pass: two 3x3 masks are 18 products, and the narrow kernel has at most 20 outputs."""


@dataclass
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
    """

    name: str
    number: int
    module: Mask

    def __post_init__(self) -> None:
        """Find out how it is decided."""
        self._counts: dict[Size, int] = {}

    @property
    def kind(self) -> str:
        """How it is decided, of `descriptions.MASKS`."""
        if not has_kernel(self.module):
            return "forward"
        if type(self.module) is ReLUMask:
            return "relu"
        hard = type(self.module) is GumbelMask and not self.module.soft_inference
        return "hard" if hard else "values"

    @property
    def is_noisy(self) -> bool:
        """Whether a kernel draws noise for it."""
        return self.kind == "hard" and cast(GumbelMask, self.module).stochastic

    @property
    def grid(self) -> int:
        """Every how many-th row and column is sampled whatever the logit; 0 for none."""
        return cast(LearnedMask, self.module).grid_stride or 0

    def values(self, logits: NDArray[Any], out: NDArray[Any]) -> int:
        """Write M of the kernel's logits ``(N, H, W, 1)`` as the module's own class makes it.

        Returns
        -------
        int
            Multiply-accumulates of one image.
        """
        module = cast(LearnedMask, self.module)
        with torch.no_grad():
            tensor = torch.from_numpy(logits).permute(0, 3, 1, 2)
            values, macs = self._counted(logits.shape[:3], lambda: module.values(tensor))
            if module.grid_stride is not None:
                grid = torch.zeros_like(values)
                grid[..., :: module.grid_stride, :: module.grid_stride] = 1
                values = torch.maximum(values, grid)
        return self._written(values, out, macs)

    def forward(self, x: NDArray[Any], out: NDArray[Any], threads: int) -> int:
        """Write M as the module's own forward makes it of maps ``(N, H, W, C)``.

        Returns
        -------
        int
            Multiply-accumulates of one image.

        Raises
        ------
        ValueError
            If the mask has another size than the map that it governs.
        """
        # Channels last, as the map lies in memory: a view, no copy.
        source = torch.from_numpy(x).permute(0, 3, 1, 2)
        with _torch_threads(threads), torch.no_grad():
            values, macs = self._counted(x.shape[:3], lambda: self.module(source))
        return self._written(values, out, macs)

    def _written(self, values: Tensor, out: NDArray[Any], macs: int) -> int:
        expected = (len(out), 1, *out.shape[1:3])
        if tuple(values.shape) != expected:
            raise ValueError(f"{self.name}: the mask is {tuple(values.shape)}, expected {expected}")
        out[..., 0] = array(values[:, 0])
        return macs

    def _counted(self, size: tuple[int, ...], run: Callable[[], Tensor]) -> tuple[Tensor, int]:
        """Run, and return the result and one image's multiply-accumulates: counted once for each map size."""
        images, *key = size
        if (key[0], key[1]) in self._counts:
            return run(), self._counts[key[0], key[1]]
        with FlopCounterMode(display=False) as counter:
            values = run()
        self._counts[key[0], key[1]] = counter.get_total_flops() // 2 // images
        return values, self._counts[key[0], key[1]]


def place_masks(blocks: Sequence[ResidualBlock]) -> list[list[Placed]]:
    """Return the masks of each block, copied: the model may go on training, on any device.

    One copy of all of them, so that masks that several blocks share, or carry on, stay together.
    """
    found = [[(number, cast(Mask, getattr(block, f"mask{number}"))) for number in block.work.masks] for block in blocks]
    # What the last training forward left on a mask belongs to its graph, and cannot be copied.
    copied: dict[int, object] = {
        id(left): None for masks in found for _, mask in masks for left in (mask.confidence, mask.decided)
    }

    def place(block: ResidualBlock, number: int, mask: Mask) -> Placed:
        return Placed(f"{block.name}.mask{number}", number, copy.deepcopy(mask, copied).cpu().eval())

    return [[place(block, number, mask) for number, mask in masks] for block, masks in zip(blocks, found, strict=True)]


def add_passes(
    masks: Sequence[Placed], late: Sequence[int], first: int, row: Callable[[Placed], int]
) -> tuple[list[Pass], list[tuple[Placed, MaskPlan]]]:
    """Describe a block's masks in the order in which they are decided: over its input, then the late ones.

    Parameters
    ----------
    late
        Numbers of the masks that are decided from their convolution's own input.
    first
        Number in the network of the block's first mask.
    row
        Gives a mask's row in the tally.

    Returns
    -------
    tuple
        The passes over a map that the masks with a kernel take, two masks each, and all masks.
    """
    passes: list[Pass] = []
    described: list[tuple[Placed, MaskPlan]] = []
    for is_late in (False, True):
        now = [mask for mask in masks if (mask.number in late) == is_late]
        learned = [mask for mask in now if mask.kind != "forward"]
        for begin in range(0, len(learned), MASK_LIMIT):
            together = learned[begin : begin + MASK_LIMIT]
            for mask, column, bias, walk in zip(together, *_add_pass(passes, together, is_late, row), strict=True):
                index = first + len(described)
                plan = MaskPlan(
                    mask.name,
                    row(mask),
                    mask.kind,
                    index,
                    mask.number,
                    is_late,
                    len(passes) - 1,
                    column,
                    mask.grid,
                    mask.is_noisy,
                    bias,
                    walk,
                )
                described.append((mask, plan))
        for mask in now:
            if mask.kind == "forward":
                plan = MaskPlan(mask.name, row(mask), mask.kind, first + len(described), mask.number, is_late)
                described.append((mask, plan))
    return passes, described


def _add_pass(
    passes: list[Pass], together: Sequence[Placed], is_late: bool, row: Callable[[Placed], int]
) -> tuple[list[int], list[float], list[Geometry]]:
    """Add one pass for masks over the same map; return each one's first column, its bias and its walk."""
    convolutions = [cast(LearnedMask, mask.module).conv for mask in together]
    walks = [geometry(mask.name, conv) for mask, conv in zip(together, convolutions, strict=True)]
    check(len({walk.channels for walk in walks}) == 1, together[0].name, "masks of one pass read the same channels")
    # The product of each position with each tap: a convolution with a 1 x 1 kernel and an output for each tap.
    taps = [
        array(conv.weight).transpose(0, 2, 3, 1).reshape(walk.kernel**2, -1)
        for conv, walk in zip(convolutions, walks, strict=True)
    ]
    stacked = np.ascontiguousarray(np.concatenate(taps))[:, :, None, None]
    first = together[0]
    passes.append(
        Pass(pack(first.name, stacked, None, Geometry(walks[0].channels), row(first), is_narrow=True), is_late)
    )
    columns = np.cumsum([0, *(len(rows) for rows in taps[:-1])]).tolist()
    biases = [0.0 if conv.bias is None else float(conv.bias.detach()) for conv in convolutions]
    return columns, biases, walks


def has_kernel(module: Mask) -> bool:
    """Whether a mask's logits are those of one plain convolution, as those of the engine's own kinds are."""
    if not isinstance(module, LearnedMask) or type(module).forward is not LearnedMask.forward:
        return False
    conv = module.conv
    plain = type(conv) is nn.Conv2d and conv.groups == 1 and conv.padding_mode == "zeros" and conv.out_channels == 1
    return plain and conv.kernel_size == (3, 3)


def checked(name: str, given: object, shape: tuple[int, ...]) -> Floats:
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
