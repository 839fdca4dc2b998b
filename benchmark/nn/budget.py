"""How much a training forward computes, differentiably: what sparse and budget losses are made of.

All functions read what the residual blocks decided in their last training forward (`ResidualBlock.decided`), so they
are called after it, as `Method.loss` is. What inference costs, exactly and for each image, is the counters' business
(`benchmark.flops`); both read the same description of a block's work.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmark.nn import work
from benchmark.nn.blocks import Decided, ResidualBlock
from benchmark.nn.resnet import residual_blocks
from benchmark.nn.work import Everywhere, ReadBy, Region, Size, Walk


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
    """

    block: ResidualBlock
    macs: Tensor
    dense: int

    @property
    def share(self) -> Tensor:
        """Share of the branch that was computed, a scalar."""
        return self.macs / self.dense


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


def network_share(backbone: nn.Module) -> Tensor:
    """Return the share of the whole network's multiply-accumulates that the last training forward computed, a scalar.

    Stem, projections, dense blocks and a classifier's linear layer count as they are, heads behind a backbone and what
    the masks themselves cost do not. The images' size is taken from the first block that decided, times its resolution,
    which is exact where their sides are multiples of that.
    """
    found = computations(backbone)
    total = dense_macs(backbone)
    return (total - sum(each.dense for each in found) + cast(Tensor, sum(each.macs for each in found))) / total


def dense_macs(backbone: nn.Module) -> int:
    """Return the multiply-accumulates of the dense network for an image of the last training forward.

    Raises
    ------
    ValueError
        No block of the backbone decided anything yet, so that no size is known.
    """
    sizes = [(block, decided.size) for block, decided in _decided(backbone)]
    if not sizes:
        raise ValueError("no training forward with masks has run: the size of the images is not known")
    block, (height, width) = sizes[0]
    size = (height * block.resolution, width * block.resolution)
    total = 0
    for module in cast(nn.Module, backbone.conv1).modules():
        if isinstance(module, nn.Conv2d):
            size = Walk.of(module).out_size(size)
            total += prod(size) * module.weight.numel()
    size = Walk((3, 3), (2, 2), (1, 1), (1, 1)).out_size(size)  # the stem's max pooling
    for block in residual_blocks(backbone):
        for step, out_size in zip(block.work.convolutions, block.work.sizes(size), strict=True):
            total += _macs(block, step, out_size)
        size = block.work.sizes(size)[-1]
        total += 0 if block.downsample is None else prod(size) * cast(Tensor, block.downsample[0].weight).numel()
    classifier = getattr(backbone, "fc", None)
    return total + (classifier.weight.numel() if isinstance(classifier, nn.Linear) else 0)


def bounds_loss(shares: list[Tensor], target: float, progress: float) -> Tensor:
    """Return the term that keeps each block's share of computation near a target early in a run, and frees it later.

    ``mean over blocks of max(0, share - u)^2 + max(0, l - share)^2`` with ``u = 1 - q (1 - target)``, ``l = q target``
    and ``q = cos^2(min(progress / 0.33, 1) pi / 2)``: DynConv (Verelst and Tuytelaars, CVPR 2020, §3.3), used by LASNet
    (Han et al., NeurIPS 2022) too.

    Parameters
    ----------
    shares
        Of each block, scalars between 0 and 1.
    progress
        Share of the run that is done, 0 to 1.
    """
    annealed = math.cos(min(progress / 0.33, 1.0) * math.pi / 2) ** 2
    upper, lower = 1 - annealed * (1 - target), annealed * target
    values = torch.stack(shares)
    return ((values - upper).clamp(min=0) ** 2 + (lower - values).clamp(min=0) ** 2).mean()


def _computation(block: ResidualBlock, decided: Decided) -> Computation:
    reference = next(block.parameters())
    macs, dense = reference.new_zeros(()), 0
    for step, size in zip(block.work.convolutions, block.work.sizes(decided.size), strict=True):
        whole = _macs(block, step, size)
        share: Any = _share(step.computes, decided, size)
        for gate in (step.gate, step.input_gate):
            share = share if gate is None else share * decided.gates[gate].mean()
        macs, dense = macs + whole * share, dense + whole
    return Computation(block, macs, dense)


def _macs(block: nn.Module, step: work.Convolution, size: Size) -> int:
    """Return what a convolution, and the offsets beside it, cost on an output of this size without masks."""
    layers = [step.layer, step.beside] if step.beside else [step.layer]
    return prod(size) * sum(cast(Tensor, block.get_submodule(layer).weight).numel() for layer in layers)


def _share(region: Region, decided: Decided, size: Size) -> Tensor | float:
    """Return the share of a map's positions that a region holds, with a gradient where it is a mask itself."""
    if isinstance(region, Everywhere):
        return 1.0
    if isinstance(region, ReadBy):
        read = work.positions(region, {index: values.detach() for index, values in decided.masks.items()}, size)
        return 1.0 if read is None else cast(Tensor, read).float().mean()
    return cast(Tensor, work.values(region, decided.masks)).mean()
