"""How much a training forward computes, differentiably: what sparse and budget losses are made of.

All functions read what the residual blocks decided in their last training forward (`ResidualBlock.decided`), so they
are called after it, as `Method.loss` is. What inference costs, exactly and for each image, is the counters' business
(`benchmark.flops`); both read the same description of a block's work.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmark.nn import work
from benchmark.nn.blocks import Decided, ResidualBlock
from benchmark.nn.resnet import residual_blocks
from benchmark.nn.work import Everywhere, ReadBy, Region, Size


@dataclass(frozen=True)
class Computation:
    """What one residual block computed in the last training forward, on average over the images of the batch.

    Attributes
    ----------
    block : ResidualBlock
        The block.
    macs : Tensor
        Multiply-accumulates of the branch's convolutions, a scalar; its gradient reaches the masks.
    dense : int
        The same without masks.
    fixed : int
        Multiply-accumulates that no mask changes: the projection of the shortcut.
    """

    block: ResidualBlock
    macs: Tensor
    dense: int
    fixed: int


def _decided(backbone: nn.Module) -> Iterator[tuple[ResidualBlock, Decided]]:
    for block in residual_blocks(backbone):
        if block.decided is not None:
            yield block, block.decided


def sparse_loss(backbone: nn.Module) -> Tensor:
    """Return the sparse loss of the last training forward (paper eq. 7, normalised as in the released code).

    The mean confidence of each mask, weighted by its share of the block's computation, averaged over the blocks that
    have masks, so that a weight means the same on every depth.

    Returns
    -------
    Tensor
        A scalar; 0 for a model without learned masks.
    """
    terms, blocks = [], 0
    for block, decided in _decided(backbone):
        blocks += bool(decided.confidences)
        for index, confidence in decided.confidences.items():
            terms.append(getattr(block, f"mask{index}").share * confidence.mean())
    if not terms:
        return torch.zeros((), device=next(backbone.parameters()).device)
    return cast(Tensor, sum(terms)) / blocks


def density(backbone: nn.Module) -> Tensor:
    """Return the mean over masks of the values of the last training forward, a scalar with gradient."""
    means = [values.mean() for _, decided in _decided(backbone) for values in decided.masks.values()]
    if not means:
        return torch.ones((), device=next(backbone.parameters()).device)
    return torch.stack(means).mean()


def computations(backbone: nn.Module) -> list[Computation]:
    """Return what each block with masks or gates computed in the last training forward.

    A mask counts by its values, so that soft or straight-through masks pass gradients on. Positions that are computed
    because another convolution reads them (a dilated mask) are counted, but pass none: dilation has no gradient.
    """
    return [_computation(block, decided) for block, decided in _decided(backbone)]


def _computation(block: ResidualBlock, decided: Decided) -> Computation:
    reference = next(block.parameters())
    macs, dense = reference.new_zeros(()), 0
    for step, size in zip(block.work.convolutions, block.work.sizes(decided.size), strict=True):
        layers = [step.layer, step.beside] if step.beside else [step.layer]
        whole = prod(size) * sum(_macs(block, layer) for layer in layers)
        share: Any = _share(step.computes, decided, size)
        for gate in (step.gate, step.input_gate):
            share = share if gate is None else share * decided.gates[gate].mean()
        macs, dense = macs + whole * share, dense + whole
    projection = block.downsample
    out_size = block.work.sizes(decided.size)[-1]
    fixed = 0 if projection is None else prod(out_size) * cast(Tensor, projection[0].weight).numel()
    return Computation(block, macs, dense, fixed)


def _macs(block: nn.Module, layer: str) -> int:
    return cast(Tensor, block.get_submodule(layer).weight).numel()


def _share(region: Region, decided: Decided, size: Size) -> Tensor | float:
    """Return the share of a map's positions that a region holds, with a gradient where it is a mask itself."""
    if isinstance(region, Everywhere):
        return 1.0
    if isinstance(region, ReadBy):
        read = work.positions(region, {index: values.detach() for index, values in decided.masks.items()}, size)
        return 1.0 if read is None else cast(Tensor, read).float().mean()
    return cast(Tensor, work.values(region, decided.masks)).mean()
