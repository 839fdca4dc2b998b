"""Sampling masks: which positions of a convolution are computed (paper §3.2 and §3.4).

A mask module reads the block's input and returns values ``(N, 1, H, W)`` at the resolution of the convolution that it
governs: soft during training, at inference 0 or 1 (ReLU gating alone keeps its real values, as the paper's eq. 5 asks).
A position is *sampled* where its value is above 0. `Masks` names the kinds; a method chooses among them.

Nothing here fills the positions left out: see `benchmark.nn.interpolation`.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.nn.context import at_hand
from benchmark.nn.exits import Exit
from benchmark.nn.noise import logistic_threshold, uniform_field

FINAL_TEMPERATURE = 0.01  # paper §4.1: "tau = 0.01 at the end of training"
PERFORATION_STRUCTURES = ("uniform", "grid", "pooling")


class Stage:
    """What the masks of one stage share: a place through which a mask is carried from block to block.

    Attributes
    ----------
    name : str
        Such as ``layer1``.
    masks : list of (int, Mask)
        The masks placed so far, with the resolution that they govern, in the order in which they run.
    exit : Exit or None
        The last exit before the stage, whose confidence its masks may read.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.masks: list[tuple[int, Mask]] = []
        self.exit: Exit | None = None


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
    stage
        What the masks of the site's stage share.
    resolution
        Pixels of the image to a position of the governed map, along an axis.
    own_channels, own_stride
        Channels of the governed convolution's own input, and its stride: what `in_channels` and `stride` are for a mask
        that reads that input.
    """

    layer: str
    in_channels: int
    channels: int
    stride: int
    share: float
    reader: tuple[int, int] = (1, 1)
    stage: Stage = field(default_factory=Stage, compare=False)
    resolution: int = 1
    own_channels: int = 0
    own_stride: int = 1

    def at_own_input(self) -> "Site":
        """Return the site as a mask sees it that reads its own convolution's input (`Mask.own_input`)."""
        return replace(self, in_channels=self.own_channels, stride=self.own_stride)


class Mask(nn.Module):
    """Base of all masks.

    Attributes
    ----------
    own_input : bool
        Whether it reads its own convolution's input: for conv2, the filled map behind conv1. A class says so, and takes
        its site by `Site.at_own_input`. Other masks read the block's input, before any convolution runs.
    sampled_above : float
        A position counts as sampled in training where the mask's value is larger; at inference, where it is not 0.
    stride : int
        Stride from the mask's input to the governed map.
    layer : str
        Qualified name within the backbone; keys the inference noise.
    resolution : int
        Pixels of the image to a position of the governed map, along an axis.
    share : float
        Share in the block's sparse loss.
    confidence : Tensor or None
        Of the last training forward, ``(N, 1, H, W)``; what the sparse loss averages. None for fixed masks.
    decided : Tensor or None
        Values of the last forward, ``(N, 1, H, W)``, set by the block.
    """

    own_input: ClassVar[bool] = False
    sampled_above: ClassVar[float] = 0.0

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.stride = site.stride
        self.layer = site.layer
        self.resolution = site.resolution
        self.share = site.share
        self.confidence: Tensor | None = None
        self.decided: Tensor | None = None

    def train(self, mode: bool = True) -> "Mask":
        """Switch the mode; what the last forward left would keep the autograd graph alive, and is forgotten."""
        self.confidence = self.decided = None
        return super().train(mode)

    def size(self, x: Tensor) -> tuple[int, int]:
        """Return the governed map's height and width for the mask's input ``x`` of shape ``(N, C, H, W)``."""
        height, width = x.shape[-2:]
        return (height - 1) // self.stride + 1, (width - 1) // self.stride + 1

    def valid(self, x: Tensor) -> Tensor:
        """Return which positions of the governed map lie on the image, not on padding: boolean ``(N, 1, H', W')``.

        A position lies where its first pixel does. All positions are valid where nothing is padded.

        Parameters
        ----------
        x
            The mask's input, ``(N, C, H, W)``.

        Raises
        ------
        ValueError
            When the sizes at hand are those of another number of images.
        """
        height, width = self.size(x)
        sizes = at_hand().sizes
        if not sizes:
            return torch.ones(len(x), 1, height, width, dtype=torch.bool, device=x.device)
        if len(sizes) != len(x):
            raise ValueError(f"{self.layer}: {len(x)} images in the batch but {len(sizes)} sizes at hand")
        rows, columns = torch.tensor(sizes, device=x.device).T[..., None]
        inside = [
            self.resolution * torch.arange(length, device=x.device) < limit
            for length, limit in ((height, rows), (width, columns))
        ]
        return inside[0][:, None, :, None] & inside[1][:, None, None, :]

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the mask ``(N, 1, H', W')`` for the mask's input ``x`` of shape ``(N, C, H, W)``."""


class LearnedMask(Mask):
    """A mask whose confidence comes from a 3x3 convolution of the block's input.

    Weights start at 0 and the bias at `initial_bias`, so that training starts from a nearly dense network.
    """

    def __init__(self, site: Site, grid_stride: int | None, initial_bias: float) -> None:
        super().__init__(site)
        self.grid_stride = grid_stride
        self.conv = nn.Conv2d(site.in_channels, 1, 3, stride=site.stride, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.constant_(cast(Tensor, self.conv.bias), initial_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mask ``(N, 1, H', W')``: the kind's own values, with the grid prior added."""
        values = self.values(_single(self.conv(x)))
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
    Set `temperature` while training (`set_temperature`). At inference it does not depend on what was trained before: a
    soft mask then has the final temperature, and the noise is that of the images at hand (`benchmark.nn.context`).
    """

    sampled_above = 0.5  # where the hard sample would be 1

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

    def values(self, logits: Tensor) -> Tensor:
        """Return soft values in training; at inference 0 or 1, or kept soft values with `soft_inference`."""
        if self.training:
            self.confidence = torch.sigmoid(logits)
            noise = logistic_noise(logits) if self.stochastic else torch.zeros_like(logits)
            return torch.sigmoid((logits + noise) / self.temperature)
        excess = logits - self.thresholds(logits) if self.stochastic else logits
        sampled = (excess > 0).to(logits.dtype)
        return sampled * torch.sigmoid(excess / FINAL_TEMPERATURE) if self.soft_inference else sampled

    def thresholds(self, logits: Tensor) -> Tensor:
        """Return each image's seeded threshold field, ``(N, 1, H, W)``."""
        here, shape = at_hand(), (logits.shape[-2], logits.shape[-1])
        images = here.identifiers(len(logits))
        fields = np.stack([logistic_threshold(here.seed, image, self.layer, shape) for image in images])
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


class GridMask(FixedMask):
    """One position in ``stride x stride``, offset 0: a pattern of any size."""

    def __init__(self, site: Site, stride: int) -> None:
        super().__init__(site, lambda size: grid(size, stride).numpy())
        self.grid_stride = stride


class ImpactMask(FixedMask):
    """PerforatedCNN's impact mask (Figurnov et al. 2016): the positions whose values the loss depends on most.

    The impact of a position is the first-order change of the loss if its values were zero, ``|dL/dV * V|``, summed over
    channels and averaged over training images. Until `settle`, everything is computed and impacts are gathered.

    Parameters
    ----------
    rate
        Share of positions left out once it is settled, unless `settle` is given another.
    """

    impact: Tensor
    rate: Tensor
    settled: Tensor

    def __init__(self, site: Site, rate: float) -> None:
        super().__init__(site, self._ranked)
        self.register_buffer("impact", torch.zeros(1, 1))
        self.register_buffer("rate", torch.tensor(rate, dtype=torch.float64))
        self.register_buffer("settled", torch.tensor(False))
        self._watching: Any = None

    def watch(self, convolution: nn.Module) -> None:
        """Gather impacts from the governed convolution's output and its gradient, until it is settled."""
        self._watching = convolution.register_forward_hook(self._seen)

    def settle(self, rate: float | None = None) -> None:
        """Choose the positions from what was gathered; `rate` takes the place of the mask's own."""
        if rate is not None:
            self.rate.fill_(rate)
        if self._watching is not None:
            self._watching.remove()
            self._watching = None
        self.settled.fill_(True)
        self._drawn.clear()

    def _seen(self, convolution: nn.Module, given: Any, output: Tensor) -> None:
        if output.requires_grad and not self.settled:
            values = output.detach()
            output.register_hook(lambda gradient: self._gather((gradient * values).abs().sum(1).mean(0)))

    def _gather(self, impact: Tensor) -> None:
        if self.impact.numel() == 1:
            self.impact = torch.zeros_like(impact)
        self.impact += _resized(impact, self.impact.shape)

    def _ranked(self, size: tuple[int, int]) -> np.ndarray:
        if not self.settled:
            return np.ones(size, dtype=np.float32)
        ranks = np.argsort(-_resized(self.impact, size).cpu().numpy(), axis=None, kind="stable")
        mask = np.zeros(size, dtype=np.float32)
        mask.flat[ranks[: max(1, round((1.0 - float(self.rate)) * mask.size))]] = 1
        return mask

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        if f"{prefix}impact" in state_dict:  # as large as the maps that were seen
            self.impact = torch.zeros_like(state_dict[f"{prefix}impact"], device=self.impact.device)
        self._drawn.clear()
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _resized(impact: Tensor, size: Sequence[int]) -> Tensor:
    """Return a map ``(H, W)`` of impacts at another height and width."""
    if tuple(impact.shape) == tuple(size):
        return impact
    return F.interpolate(impact[None, None], tuple(size), mode="bilinear")[0, 0]


class RandomMask(Mask):
    """Positions drawn for each image at a given density, whatever the image shows: the control of all learned masks.

    Drawn without replacement, so that the density is met and not only expected; seeded per (seed, image, layer) at
    inference, by PyTorch's generator in training.
    """

    def __init__(self, site: Site, density: float) -> None:
        super().__init__(site)
        self.density = density

    def forward(self, x: Tensor) -> Tensor:
        """Return the mask ``(N, 1, H', W')``, 0 or 1."""
        height, width = map(int, self.size(x))
        if self.training:
            draws = torch.rand(len(x), height * width, device=x.device)
        else:
            here = at_hand()
            fields = [
                uniform_field(here.seed, image, self.layer, (height, width)) for image in here.identifiers(len(x))
            ]
            draws = torch.from_numpy(np.stack(fields)).flatten(1).to(x.device)
        kept = max(1, round(self.density * height * width))
        chosen = draws.argsort(dim=1)[:, :kept]
        mask = torch.zeros(len(x), height * width, device=x.device, dtype=x.dtype)
        return mask.scatter_(1, chosen, 1).view(len(x), 1, height, width)


class CarriedMask(Mask):
    """The mask that an earlier block of the stage decided, carried on: one predictor for several blocks.

    It has no predictor of its own, costs nothing and has no share in a sparse loss.
    """

    def __init__(self, site: Site, owner: Mask) -> None:
        super().__init__(site)
        # In a tuple, so that PyTorch does not take the owner for a part of this module; copies stay together.
        self._owner = (owner,)

    @property
    def owner(self) -> Mask:
        """The mask that is carried."""
        return self._owner[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return the owner's values ``(N, 1, H', W')`` of this forward."""
        values, size = self.owner.decided, self.size(x)
        if values is None or tuple(values.shape[-2:]) != size:
            found = None if values is None else tuple(values.shape[-2:])
            raise ValueError(f"{self.layer}: the mask carried from {self.owner.layer} is {found}, the map is {size}")
        return values


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
        return lambda site: GridMask(site, stride)

    @staticmethod
    def perforated(structure: str, rate: float, seed: int = 0) -> Callable[[Site], Mask]:
        """PerforatedCNN's masks (Figurnov et al. 2016, §3.2) that leave out a share `rate` of the positions."""
        return lambda site: FixedMask(site, lambda size: perforation(structure, rate, size, site, seed))

    @staticmethod
    def impact(rate: float) -> Callable[[Site], Mask]:
        """PerforatedCNN's impact mask, which leaves out a share `rate`; see `ImpactMask`."""
        return lambda site: ImpactMask(site, rate)

    @staticmethod
    def random(density: float) -> Callable[[Site], Mask]:
        """Positions drawn at random for each image; see `RandomMask`."""
        return lambda site: RandomMask(site, density)

    @staticmethod
    def per_stage(build: Callable[[Site], Mask]) -> Callable[[Site], Mask]:
        """One mask for each resolution of a stage: the first block there decides it, the others carry it on."""

        def builder(site: Site) -> Mask:
            owners = [mask for resolution, mask in site.stage.masks if resolution == site.resolution]
            return CarriedMask(site, owners[0]) if owners else build(site)

        return builder


def straight_through(soft: Tensor, hard: Tensor) -> Tensor:
    """Return the values of ``hard`` with the gradient of ``soft`` (Bengio et al. 2013), both of one shape."""
    return _StraightThrough.apply(soft, hard)


class _StraightThrough(torch.autograd.Function):
    """The usual ``hard + soft - soft.detach()`` rounds: a 1 becomes 0.9999999. This gives ``hard`` to the last bit."""

    @staticmethod
    def forward(context: Any, soft: Tensor, hard: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def upsample_tiles(values: Tensor, side: int, size: Sequence[int]) -> Tensor:
    """Repeat each value ``(N, C, h, w)`` over a tile of ``side x side`` positions, cut to ``size`` (height, width)."""
    tiled = F.interpolate(values, scale_factor=side, mode="nearest") if side > 1 else values
    return tiled[..., : size[0], : size[1]]


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
    uniform = torch.rand_like(_single(like)).clamp_(1e-7, 1 - 1e-7)
    return torch.log(uniform) - torch.log1p(-uniform)


def _single(logits: Tensor) -> Tensor:
    """Return logits in float32 at least: under mixed precision a decision would have a resolution of 1/256."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


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
