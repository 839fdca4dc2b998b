"""Sizes of a residual backbone's maps for an image size, from its modules alone; nothing is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from benchmark.errors import SaibenchError
from benchmark.flops.trace import Size
from benchmark.nn.blocks import ResidualBlock
from benchmark.nn.sparsity import output_size


class BlockSizes(NamedTuple):
    """A residual block, its name in the model, the size of its input, and those of its maps behind each convolution."""

    path: str
    block: ResidualBlock
    size: Size
    maps: tuple[Size, ...]


def convolution_size(convolution: Any, size: Size) -> Size:
    """Return height and width of a convolution's output."""
    return output_size(size, convolution.kernel_size, convolution.stride, convolution.padding, convolution.dilation)


def stem_sizes(backbone: nn.Module, size: Size) -> list[tuple[str, nn.Conv2d, Size]]:
    """Return the stem's convolutions: name, module and output size, for images of a size (H, W).

    Raises
    ------
    SaibenchError
        The backbone has no stem ``conv1`` or no residual blocks.
    """
    stem = getattr(backbone, "conv1", None)
    blocks = any(isinstance(module, ResidualBlock) for module in backbone.modules())
    if not blocks or not isinstance(stem, nn.Module):
        raise SaibenchError(f"{type(backbone).__name__} is not a residual backbone with a stem 'conv1'")
    convolutions = []
    for name, module in stem.named_modules(prefix="conv1"):
        if isinstance(module, nn.Conv2d):
            size = convolution_size(module, size)
            convolutions.append((name, module, size))
    return convolutions


def block_sizes(backbone: nn.Module, size: Size) -> Iterator[BlockSizes]:
    """Yield the residual blocks in the order in which they run, for images of a size (H, W)."""
    size = stem_sizes(backbone, size)[-1][2]
    size = output_size(size, 3, 2, 1)  # the max pooling after the stem
    for path, module in backbone.named_modules():
        if isinstance(module, ResidualBlock):
            maps = module.work.sizes(size)
            yield BlockSizes(path, module, size, maps)
            size = maps[-1]
