"""Filter pruning of backbones with basic blocks, on torch-pruning: scoring filters, zeroing them, taking them out.

Which filters go, and when, is the methods' business (`baselines/pfec.py`, `sfp.py`, `fpgm.py`). A pruned network is
really smaller: its convolutions have fewer filters, and the counter and the engine read that from their shapes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch_pruning as tp
from torch import Tensor, nn

from benchmark.errors import UsageError
from benchmark.nn.blocks import BasicBlock, ResidualBlock
from benchmark.nn.resnet import residual_blocks


class ScatteredBatchNorm2d(nn.BatchNorm2d):
    """Batch norm behind a pruned convolution whose output is added to maps that keep all channels.

    Its ``num_features`` maps go to their places among `width`; the others are zero, since a filter of zeros whose
    normalisation has no shift gives zero.

    Parameters
    ----------
    index
        Place of each kept channel, ascending.
    width
        Channels of the output.
    """

    index: Tensor

    def __init__(self, index: Sequence[int], width: int) -> None:
        super().__init__(len(index))
        self.width = width
        self.register_buffer("index", torch.tensor(index, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, num_features, H, W)`` to ``(N, width, H, W)``."""
        kept = super().forward(x)
        return kept.new_zeros(len(x), self.width, *x.shape[-2:]).index_copy(1, self.index, kept)


class Hold(nn.Module):
    """Multiplies the gradients of parameters, each with one row a filter, by ``trained``: 0 for what is held, else 1.

    A child of the convolution, so that checkpoints keep it and devices move it; it has no forward.
    """

    trained: Tensor

    def __init__(self, *parameters: Tensor) -> None:
        super().__init__()
        self.register_buffer("trained", torch.ones(len(parameters[0])))
        self._hooks = [parameter.register_hook(self._mask) for parameter in parameters]

    def remove(self) -> None:
        """Leave the gradients alone."""
        for hook in self._hooks:
            hook.remove()

    def _mask(self, gradient: Tensor) -> Tensor:
        return gradient * self.trained.view(-1, *[1] * (gradient.dim() - 1))


class GeometricMedian(tp.importance.Importance):
    """The sum of a filter's Euclidean distances to all filters of its layer (FPGM, He et al. 2019, eq. 6).

    The filters nearest to the geometric median have the smallest sums. torch-pruning's own `FPGMImportance` measures
    the distances between the filters' absolute values to a power, where a filter and its negative coincide.
    """

    @torch.no_grad()
    def __call__(self, group: Any) -> Tensor:
        """Return the score of each filter of the group's first layer."""
        dependency, filters = group[0]
        weights = dependency.layer.weight.data[filters].flatten(1)
        # Pairwise differences rather than products: rounding must not reorder filters that are close.
        return torch.cdist(weights, weights, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def norm_of_filters(power: int) -> tp.importance.Importance:
    """Return the criterion of PFEC (``power`` 1) and SFP (2): the sum of a filter's absolute weights to a power."""
    return tp.importance.MagnitudeImportance(p=power, group_reduction="first", normalizer=None)


@dataclass(frozen=True)
class Prunable:
    """A convolution whose filters may go, and the batch norm behind it.

    Attributes
    ----------
    name : str
        Of the convolution, within the backbone.
    owner : nn.Module
        Holds both under the names `convolution` and `norm`.
    inner : bool
        Whether only the block's next convolution reads the output, which then has fewer channels to read. Otherwise
        the output is added to, or becomes, maps that keep all channels.
    """

    name: str
    owner: nn.Module
    convolution: str
    norm: str
    inner: bool

    @property
    def layers(self) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
        """The convolution and its batch norm."""
        return getattr(self.owner, self.convolution), getattr(self.owner, self.norm)

    def weakest(self, criterion: tp.importance.Importance, rate: float) -> list[int]:
        """Return the filters with the lowest scores: the share `rate` of all, rounded down, ascending."""
        convolution, _ = self.layers
        count = int(convolution.out_channels * rate + 1e-9)  # 0.29 * 100 is 28.999…
        filters = torch.argsort(score(convolution, criterion), stable=True)[:count]
        return sorted(filters.tolist())

    @torch.no_grad()
    def zero(self, filters: Sequence[int], shift: bool = True) -> None:
        """Set filters to zero; with `shift`, what batch norm adds to them too, so that they give nothing but zeros.

        A filter that keeps its shift can recover: a ReLU passes no gradient to one that gives zeros.
        """
        convolution, norm = self.layers
        convolution.weight[filters] = 0
        if shift:
            norm.bias[filters] = 0
            cast(Tensor, norm.running_mean)[filters] = 0

    def hold(self, filters: Sequence[int]) -> None:
        """Train all filters but these: their gradients, and those of what batch norm adds to them, become zero.

        What is held is kept in the state dict from the first call on.
        """
        convolution, norm = self.layers
        if not hasattr(convolution, "hold"):
            convolution.add_module("hold", Hold(convolution.weight, norm.bias))
        trained = cast(Hold, convolution.hold).trained
        trained[:] = 1
        trained[list(filters)] = 0

    def release(self) -> None:
        """Train all filters again, and forget which were held."""
        convolution, _ = self.layers
        cast(Hold, convolution.hold).remove()
        del convolution.hold

    def remove(self, filters: Sequence[int]) -> None:
        """Take filters out of the network."""
        if not filters:
            return
        convolution, norm = self.layers
        if self.inner:
            block = cast(BasicBlock, self.owner)
            training = block.training
            example = torch.zeros(1, block.in_channels, 8, 8, device=convolution.weight.device)
            graph = _dependencies(block, example)
            graph.get_pruning_group(convolution, tp.prune_conv_out_channels, list(filters)).prune()
            block.train(training)
            return
        kept = sorted(set(range(convolution.out_channels)) - set(filters))
        scattered = ScatteredBatchNorm2d(kept, convolution.out_channels).to(convolution.weight.device)
        tp.prune_conv_out_channels(convolution, list(filters))
        tp.prune_batchnorm_out_channels(norm, list(filters))
        scattered.load_state_dict({**norm.state_dict(), "index": scattered.index})
        setattr(self.owner, self.norm, scattered.train(norm.training))


def score(convolution: nn.Conv2d, criterion: tp.importance.Importance) -> Tensor:
    """Return the score of each filter of a convolution, ``(out_channels,)``."""
    example = torch.zeros(1, convolution.in_channels, *convolution.kernel_size, device=convolution.weight.device)
    graph = _dependencies(nn.Sequential(convolution), example)
    filters = list(range(convolution.out_channels))
    return criterion(graph.get_pruning_group(convolution, tp.prune_conv_out_channels, filters))


def _dependencies(module: nn.Module, example: Tensor) -> tp.DependencyGraph:
    with torch.enable_grad():  # torch-pruning reads the graph off the gradients
        return tp.DependencyGraph().build_dependency(module, example)


def prunables(backbone: nn.Module) -> Iterator[Prunable]:
    """Yield the stem's convolution and both of each block, in the order in which they run; projections stay whole.

    Raises
    ------
    UsageError
        For a backbone with other blocks than basic ones, or a deep stem.
    """
    blocks = list(residual_blocks(backbone))
    if not all(isinstance(block, BasicBlock) for block in blocks) or not isinstance(backbone.conv1, nn.Conv2d):
        raise UsageError("pruning knows backbones with basic blocks and a stem of one convolution, such as resnet34")
    yield Prunable("conv1", backbone, "conv1", "bn1", inner=False)
    for block in blocks:
        yield from block_prunables(block)


def block_prunables(block: ResidualBlock) -> Iterator[Prunable]:
    """Yield both convolutions of a basic block."""
    yield Prunable(f"{block.name}.conv1", block, "conv1", "bn1", inner=True)
    yield Prunable(f"{block.name}.conv2", block, "conv2", "bn2", inner=False)


def not_compared(task: str) -> str | None:
    """Return why the pruning baselines do not run on a task, or None."""
    if task == "imagenet":
        return None
    return "the paper compares pruning on ImageNet only (Table 4), and its rates are for ResNet-34's basic blocks"
