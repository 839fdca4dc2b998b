"""Sampling masks: which positions of a convolution are computed (paper §3.2 and §3.4).

A mask module reads the block's input and returns values ``(N, 1, H, W)`` at the resolution of the convolution that it
governs: soft during training, at inference 0 or 1 (ReLU gating alone keeps its real values, as the paper's eq. 5 asks).
A position is *sampled* where its value is above 0. `Masks` names the kinds; a method chooses among them.

Nothing here fills the positions left out: see `benchmark.nn.interpolation`.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.nn.noise import logistic_threshold, uniform_field

FINAL_TEMPERATURE = 0.01  # paper §4.1: "tau = 0.01 at the end of training"
PERFORATION_STRUCTURES = ("uniform", "grid", "pooling")


@dataclass(frozen=True)
class Site:
    """A place in a residual block that a mask can govern.

    Attributes
    ----------
    layer
        Qualified name of the mask within the backbone, such as ``layer1.0.mask1``.
    in_channels
        Channels of the block's input, from which the mask is decided.
    channels
        Channels of the governed map.
    stride
        Stride from the block's input to the governed map.
    share
        This site's share in the block's sparse loss.
    reader
        Kernel size and stride of the convolution that reads the governed map; ``(1, 1)`` where none does.
    """

    layer: str
    in_channels: int
    channels: int
    stride: int
    share: float
    reader: tuple[int, int] = (1, 1)


class Mask(nn.Module):
    """Base of all masks.

    Attributes
    ----------
    stride : int
        Stride from the block's input to the governed map.
    layer : str
        Qualified name within the backbone; keys the inference noise.
    share : float
        Share in the block's sparse loss.
    confidence : Tensor or None
        Of the last training forward, ``(N, 1, H, W)``; what the sparse loss averages. None for fixed masks.
    """

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.stride = site.stride
        self.layer = site.layer
        self.share = site.share
        self.confidence: Tensor | None = None

    def train(self, mode: bool = True) -> "Mask":
        """Switch the mode; leaving training forgets the last confidence, which hangs on its whole graph."""
        self.confidence = None
        return super().train(mode)

    def size(self, x: Tensor) -> tuple[int, int]:
        """Return the governed map's height and width for block input ``x`` of shape ``(N, C, H, W)``."""
        height, width = x.shape[-2:]
        return (height - 1) // self.stride + 1, (width - 1) // self.stride + 1

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the mask ``(N, 1, H', W')`` for block input ``x`` of shape ``(N, C, H, W)``."""


class LearnedMask(Mask):
    """A mask whose confidence comes from a 3x3 convolution of the block's input.

    Weights start at 0 and the bias at `initial_bias`, so that training starts from a nearly dense network.
    """

    def __init__(self, site: Site, grid_stride: int | None, initial_bias: float) -> None:
        super().__init__(site)
        self.grid_stride = grid_stride
        self.conv = nn.Conv2d(site.in_channels, 1, 3, stride=site.stride, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.constant_(self.conv.bias, initial_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mask ``(N, 1, H', W')``: the kind's own values, with the grid prior added."""
        values = self.values(self.conv(x))
        if self.grid_stride is None:
            return values
        # Paper §3.4: M = max(M_sample, M_grid), here at each map's own resolution with offset 0.
        return torch.maximum(values, grid(values.shape[-2:], self.grid_stride).to(values))

    @abstractmethod
    def values(self, logits: Tensor) -> Tensor:
        """Turn the convolution's output ``(N, 1, H, W)`` into mask values of the same shape."""


class GumbelMask(LearnedMask):
    """Two-class Gumbel-softmax mask (paper eq. 6), stochastic or, without the noise, deterministic.

    With two classes, the softmax over ``(log pi + g1, log(1 - pi) + g0) / tau`` is
    ``sigmoid((logit + g1 - g0) / tau)``, which is how it is computed: no logarithm of a probability is taken.
    Set `temperature` while training (`set_temperature`), `seed` and `images` before inference (`identify_images`).
    """

    def __init__(
        self,
        site: Site,
        stochastic: bool = True,
        grid_stride: int | None = 11,
        initial_bias: float = 3.0,
        soft_inference: bool = False,
    ) -> None:
        super().__init__(site, grid_stride, initial_bias)
        self.stochastic = stochastic
        self.soft_inference = soft_inference
        self.temperature = 1.0
        self.seed = 0
        self.images: Sequence[str | int] = ()

    def values(self, logits: Tensor) -> Tensor:
        """Return soft values in training; at inference 0 or 1, or kept soft values with `soft_inference`."""
        if self.training:
            self.confidence = torch.sigmoid(logits)
            noise = logistic_noise(logits) if self.stochastic else torch.zeros_like(logits)
            return torch.sigmoid((logits + noise) / self.temperature)
        excess = logits - self.thresholds(logits) if self.stochastic else logits
        sampled = (excess > 0).to(logits.dtype)
        return sampled * torch.sigmoid(excess / self.temperature) if self.soft_inference else sampled

    def thresholds(self, logits: Tensor) -> Tensor:
        """Return each image's seeded threshold field, ``(N, 1, H, W)``."""
        images = self.images or range(len(logits))
        if len(images) != len(logits):
            raise ValueError(f"{self.layer}: {len(logits)} images in the batch but {len(images)} identifiers")
        shape = (logits.shape[-2], logits.shape[-1])
        fields = np.stack([logistic_threshold(self.seed, image, self.layer, shape) for image in images])
        return torch.from_numpy(fields)[:, None].to(logits)


class ReLUMask(LearnedMask):
    """ReLU gating (paper §4.3, after LCCL): values below 0 are trimmed in training and inference alike.

    The bias starts at 1, where the gate is the identity. The values are not binary, so that eq. 5 mixes the computed
    and the interpolated feature at sampled positions too.
    """

    def __init__(self, site: Site, grid_stride: int | None = 11, initial_bias: float = 1.0) -> None:
        super().__init__(site, grid_stride, initial_bias)

    def values(self, logits: Tensor) -> Tensor:
        """Return ``max(logits, 0)``."""
        values = torch.relu(logits)
        self.confidence = values if self.training else None
        return values


class FixedMask(Mask):
    """A mask that does not depend on the image; drawn once per map size and shared by all images."""

    def __init__(self, site: Site, pattern: Callable[[tuple[int, int]], np.ndarray]) -> None:
        super().__init__(site)
        self.pattern = pattern
        self._drawn: dict[tuple[int, int], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Return the pattern expanded to ``(N, 1, H', W')``."""
        size = self.size(x)
        if size not in self._drawn or self._drawn[size].device != x.device:
            self._drawn[size] = torch.from_numpy(self.pattern(size)).to(x)[None, None]
        return self._drawn[size].to(x.dtype).expand(len(x), -1, -1, -1)


class Masks:
    """The kinds of mask that a method chooses among; each call returns a builder ``site -> Mask``."""

    @staticmethod
    def gumbel(
        stochastic: bool = True,
        grid_stride: int | None = 11,
        initial_bias: float = 3.0,
        soft_inference: bool = False,
    ) -> Callable[[Site], Mask]:
        """Gumbel-softmax mask (eq. 6); see `GumbelMask`."""
        return lambda site: GumbelMask(site, stochastic, grid_stride, initial_bias, soft_inference)

    @staticmethod
    def relu(grid_stride: int | None = 11, initial_bias: float = 1.0) -> Callable[[Site], Mask]:
        """ReLU gating; see `ReLUMask`."""
        return lambda site: ReLUMask(site, grid_stride, initial_bias)

    @staticmethod
    def grid(stride: int) -> Callable[[Site], Mask]:
        """One position in ``stride x stride``, offset 0: the equal-interval mask (paper §4.3)."""
        return lambda site: FixedMask(site, lambda size: grid(size, stride).numpy())

    @staticmethod
    def perforated(structure: str, rate: float, seed: int = 0) -> Callable[[Site], Mask]:
        """PerforatedCNN's masks (Figurnov et al. 2016, §3.2) that leave out a share `rate` of the positions."""
        return lambda site: FixedMask(site, lambda size: perforation(structure, rate, size, site, seed))


def grid(size: Sequence[int], stride: int) -> Tensor:
    """Return the equal-interval mask ``M[::stride, ::stride] = 1`` of shape ``size``, float32."""
    mask = torch.zeros(tuple(size))
    mask[::stride, ::stride] = 1
    return mask


def perforation(structure: str, rate: float, size: tuple[int, int], site: Site, seed: int) -> np.ndarray:
    """Draw one of PerforatedCNN's masks.

    Parameters
    ----------
    structure
        ``uniform``: positions drawn without replacement. ``grid``: a product of pseudo-random rows and columns with
        Graham's spacing. ``pooling``: the positions that the next convolution reads most often, ties at random.
    rate
        Share of positions left out, in [0, 1).
    size
        Height and width of the map.
    site
        Where the mask stands; its `layer` keys the draw and its `reader` the pooling structure.
    seed
        Seed of the draw.

    Returns
    -------
    numpy.ndarray
        Shape ``size``, float32, 0 or 1. At least one position is sampled.
    """
    height, width = size
    draw = uniform_field(seed, structure, site.layer, size)
    mask = np.zeros(size, dtype=np.float32)
    if structure == "grid":
        side = math.sqrt(1.0 - rate)
        mask[np.ix_(_spread(height, side, draw[0, 0]), _spread(width, side, draw[-1, -1]))] = 1
        return mask
    kept = max(1, round((1.0 - rate) * height * width))
    importance = draw if structure == "uniform" else draw + _reads(size, *site.reader)
    mask.flat[np.argsort(-importance, axis=None, kind="stable")[:kept]] = 1
    return mask


def _spread(length: int, share: float, phase: float) -> np.ndarray:
    """Pick about ``share * length`` indices at Graham's pseudo-random spacing, ``ceil((i + u) / share)``."""
    count = max(1, round(share * length))
    return np.minimum(np.floor((np.arange(count) + phase) * length / count), length - 1).astype(int)


def _reads(size: tuple[int, int], kernel: int, stride: int) -> np.ndarray:
    """Count how often a ``kernel x kernel`` convolution with `stride` and same-padding reads each position."""
    counts = [np.zeros(length) for length in size]
    for count in counts:
        for centre in range(0, len(count), stride):
            count[max(0, centre - kernel // 2) : centre + kernel // 2 + 1] += 1
    return np.outer(*counts)


def logistic_noise(like: Tensor) -> Tensor:
    """Draw the difference of two standard Gumbel variables, shaped like `like`, from PyTorch's generator."""
    uniform = torch.rand_like(like).clamp_(1e-7, 1 - 1e-7)
    return torch.log(uniform) - torch.log1p(-uniform)


def set_temperature(model: nn.Module, progress: float) -> None:
    """Anneal every Gumbel mask exponentially from 1 to 0.01 (paper §3.2 and §4.1).

    Parameters
    ----------
    model
        Any module with Gumbel masks inside.
    progress
        Share of the training that is done, 0 to 1; the decay factor follows from the run's length.
    """
    for module in model.modules():
        if isinstance(module, GumbelMask):
            module.temperature = FINAL_TEMPERATURE**progress


def identify_images(model: nn.Module, images: Sequence[str | int], seed: int) -> None:
    """Tell every Gumbel mask which images the next inference batch holds, so that its noise is theirs."""
    for module in model.modules():
        if isinstance(module, GumbelMask):
            module.images = tuple(images)
            module.seed = seed


def sparse_loss(model: nn.Module) -> Tensor:
    """Return the sparse loss of the last training forward (paper eq. 7, normalised as in the released code).

    The mean confidence of each mask, weighted by its share of the block's computation, averaged over the blocks that
    have masks, so that a weight means the same on every depth.

    Returns
    -------
    Tensor
        A scalar; 0 for a model without learned masks.
    """
    masks = [module for module in model.modules() if isinstance(module, Mask) and module.confidence is not None]
    if not masks:
        return torch.zeros((), device=next(model.parameters()).device)
    blocks = {mask.layer.rpartition(".")[0] for mask in masks}
    return sum(mask.share * mask.confidence.mean() for mask in masks if mask.confidence is not None) / len(blocks)
