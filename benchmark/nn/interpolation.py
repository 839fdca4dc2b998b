"""Filling the positions that were not sampled (paper §3.3).

Every fill computes ``M * Y + (1 - M) * C`` from the map Y, the mask M and the fill's own C. For the windowed kernels C
is the weighted mean of the sampled neighbours (eqs. 11 to 13); the weights are the same for every channel, so that the
result is linear in the sampled rows, which the engine and the counter rely on (`Interpolation.linear`).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from benchmark.nn import fused

EPSILON = 1e-5  # paper §3.3


class Interpolation(nn.Module):
    """Base of all fills.

    Attributes
    ----------
    kind : str
        Name of the fill, as reports print it.
    window : int
        Side of the window that is read, in positions; 0 where no window is.
    linear : bool
        Whether the filled map is a linear function of the sampled rows with one weight for all channels.
    reads_source : bool
        Whether the fill copies the convolution's own input.
    """

    kind = ""
    window = 0
    linear = True
    reads_source = False

    def forward(self, features: Tensor, mask: Tensor, source: Tensor) -> Tensor:
        """Fill the map.

        Parameters
        ----------
        features
            The map Y, ``(N, C, H, W)``.
        mask
            The mask M, ``(N, 1, H, W)``.
        source
            The input of the convolution that made the map, ``(N, C', H', W')``; only `Reuse` reads it.

        Returns
        -------
        Tensor
            The filled map, ``(N, C, H, W)``.
        """
        raise NotImplementedError


class WindowedInterpolation(Interpolation):
    """Weighted mean of the sampled neighbours in a window (eq. 12, with the epsilon of eq. 11).

    Attributes
    ----------
    operator : str
        What training computes it by: the ``definition`` below, or the ``fused`` operator where there is one
        (`benchmark.nn.fused`), which is the same but for rounding.
    """

    operator = "definition"

    def __init__(self, window: int = 7, squared_mask: bool = False) -> None:
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise ValueError(f"interpolation window must be odd and positive, got {window}")
        self.window = window
        self.squared_mask = squared_mask

    def forward(self, features: Tensor, mask: Tensor, source: Tensor) -> Tensor:
        """Return ``M * Y + (1 - M) * C``; with `squared_mask`, eqs. 4 and 5 to the letter: ``M * (M * Y) + …``."""
        sampled = mask * features
        interpolated = self.weighted_sum(sampled) / (self.weight_sum(mask) + EPSILON)
        kept = mask * sampled if self.squared_mask else sampled
        return kept + (1 - mask) * interpolated

    def kernel(self) -> Tensor:
        """Return the weights ``(window, window)`` by offset."""
        raise NotImplementedError

    def weighted_sum(self, features: Tensor) -> Tensor:
        """Return the window's weighted sum of ``(N, C, H, W)``, zero outside the map."""
        channels = features.shape[1]
        kernel = self.kernel().to(features).expand(channels, 1, -1, -1)
        return F.conv2d(features, kernel, padding=self.window // 2, groups=channels)

    def weight_sum(self, mask: Tensor) -> Tensor:
        """Return the normaliser of a mask ``(N, 1, H, W)``."""
        return self.weighted_sum(mask)


class SeparableInterpolation(WindowedInterpolation):
    """A window whose weights are a product of one profile in each direction: two thin passes instead of a square."""

    def profile(self) -> Tensor:
        """Return the weights along one axis, ``(window,)``."""
        raise NotImplementedError

    def forward(self, features: Tensor, mask: Tensor, source: Tensor) -> Tensor:
        """Return the filled map, as `WindowedInterpolation` defines it."""
        if self.training and self.operator == "fused" and fused.takes(features, mask, self.window) and self._is_plain:
            return fused.fill(features, mask, self.profile().to(features), self.squared_mask, EPSILON)
        return super().forward(features, mask, source)

    @property
    def _is_plain(self) -> bool:
        """Whether sums are the ones that the fused operator knows, and not a subclass's own."""
        kind = type(self)
        return (
            kind.weighted_sum is SeparableInterpolation.weighted_sum
            and kind.weight_sum is WindowedInterpolation.weight_sum
        )

    def kernel(self) -> Tensor:
        """Return the outer product of the profile with itself."""
        profile = self.profile()
        return torch.outer(profile, profile)

    def weighted_sum(self, features: Tensor) -> Tensor:
        """Return the window's weighted sum of ``(N, C, H, W)``, zero outside the map."""
        channels, radius = features.shape[1], self.window // 2
        profile = self.profile().to(features)
        rows = profile.view(1, 1, -1, 1).expand(channels, -1, -1, -1)
        columns = profile.view(1, 1, 1, -1).expand(channels, -1, -1, -1)
        partial = F.conv2d(features, rows, padding=(radius, 0), groups=channels)
        return F.conv2d(partial, columns, padding=(0, radius), groups=channels)


class RadialInterpolation(SeparableInterpolation):
    """A learnable radial basis kernel, one width for all positions and channels (eq. 13)."""

    kind = "rbf"

    @property
    def widths(self) -> tuple[float, float]:
        """Sigma and lambda: ``exp(-sigma^2 d^2 / 2)`` is ``exp(-lambda^2 d^2)`` for ``lambda = sigma / sqrt 2``."""
        raise NotImplementedError

    def offsets(self, like: Tensor) -> Tensor:
        """Return the offsets of one axis, in positions."""
        return torch.arange(self.window, device=like.device) - self.window // 2


class RBF(RadialInterpolation):
    """The kernel as the authors released it: ``sigma^2 / (2 pi) exp(-sigma^2 d^2 / 2)``.

    The factor cancels in the weighted mean but for epsilon, beside which it makes distant neighbours weigh more: where
    a position has none nearby, the paper's own form gives next to nothing (docs/fidelity.md has the figures).
    """

    def __init__(self, window: int = 7, initial: float = 3.0, squared_mask: bool = False) -> None:
        super().__init__(window, squared_mask)
        self.sigma = nn.Parameter(torch.tensor(float(initial)))

    @property
    def widths(self) -> tuple[float, float]:
        """Sigma as learned, and its lambda."""
        return self.sigma.item(), self.sigma.item() / math.sqrt(2)

    def profile(self) -> Tensor:
        """Return the square root of the factor times ``exp(-sigma^2 d^2 / 2)`` for the offsets of one axis."""
        return (
            self.sigma.abs() / math.sqrt(2 * math.pi) * torch.exp(-(self.sigma**2) / 2 * self.offsets(self.sigma) ** 2)
        )


class PaperRBF(RadialInterpolation):
    """The kernel as the paper prints it: ``exp(-lambda^2 d^2)`` (eq. 13)."""

    def __init__(self, window: int = 7, initial: float = 3.0, squared_mask: bool = False) -> None:
        super().__init__(window, squared_mask)
        self.lam = nn.Parameter(torch.tensor(float(initial)))

    @property
    def widths(self) -> tuple[float, float]:
        """The sigma of lambda as learned, and lambda."""
        return self.lam.item() * math.sqrt(2), self.lam.item()

    def profile(self) -> Tensor:
        """Return ``exp(-lambda^2 d^2)`` for the offsets of one axis."""
        return torch.exp(-(self.lam**2) * self.offsets(self.lam) ** 2)


class AveragePooling(SeparableInterpolation):
    """The same weight for every sampled neighbour in the window."""

    kind = "average"

    def profile(self) -> Tensor:
        """Return ones."""
        return torch.ones(self.window)


class LearnedKernel(WindowedInterpolation):
    """Plain convolution as interpolation kernel; the denominator sums the weights' absolute values (paper §3.3)."""

    kind = "convolution"

    def __init__(self, window: int = 7, squared_mask: bool = False) -> None:
        super().__init__(window, squared_mask)
        self.weight = nn.Parameter(torch.full((window, window), 1.0 / window**2))

    def kernel(self) -> Tensor:
        """Return the learned weights."""
        return self.weight

    def weight_sum(self, mask: Tensor) -> Tensor:
        """Return the window's sum of ``|w| * M``."""
        kernel = self.weight.abs().to(mask)[None, None]
        return F.conv2d(mask, kernel, padding=self.window // 2)


class Nearest(Interpolation):
    """The nearest sampled position's features, as PerforatedCNN fills (Figurnov et al. 2016, eq. 4).

    For masks that all images share; distance is Euclidean, and ties go to one fixed candidate.
    """

    kind = "nearest"

    def __init__(self) -> None:
        super().__init__()
        self._index: dict[bytes, Tensor] = {}

    def forward(self, features: Tensor, mask: Tensor, source: Tensor) -> Tensor:
        """Return every position's nearest sampled features."""
        index = self.index(mask[0, 0]).to(features.device)
        return features.flatten(2)[..., index].view_as(features)

    def index(self, mask: Tensor) -> Tensor:
        """Return the flat index of the nearest sampled position for each of the ``H * W`` positions."""
        sampled = mask.detach().cpu().numpy() > 0
        key = np.packbits(sampled).tobytes() + str(sampled.shape).encode()
        if key not in self._index:
            if not sampled.any():
                raise ValueError("nearest interpolation needs at least one sampled position")
            rows, columns = ndimage.distance_transform_edt(~sampled, return_distances=False, return_indices=True)
            self._index[key] = torch.from_numpy((rows * sampled.shape[1] + columns).ravel().astype(np.int64))
        return self._index[key]


class Zeros(Interpolation):
    """Fill with zeros (eq. 10)."""

    kind = "zeros"

    def forward(self, features: Tensor, mask: Tensor, source: Tensor) -> Tensor:
        """Return ``M * Y``."""
        return mask * features


class Reuse(Interpolation):
    """Reuse the features of the layer before: the convolution's own input (eq. 9 with eq. 1).

    Where it has another shape than the map, it is subsampled to the map's size, and its channels are averaged in equal
    groups (or repeated) to the map's number: our choice, since the paper does not say.
    """

    kind = "reuse"
    linear = False
    reads_source = True

    def forward(self, features: Tensor, mask: Tensor, source: Tensor) -> Tensor:
        """Return ``M * Y + (1 - M) * X``."""
        return mask * features + (1 - mask) * self.match(source, features)

    @staticmethod
    def match(source: Tensor, features: Tensor) -> Tensor:
        """Bring ``source`` to the shape of ``features``."""
        stride = -(-source.shape[-1] // features.shape[-1])
        source = source[..., ::stride, ::stride]
        have, want = source.shape[1], features.shape[1]
        if have > want and have % want == 0:
            return source.unflatten(1, (want, have // want)).mean(2)
        if want % have == 0:
            return source.repeat_interleave(want // have, dim=1)
        raise ValueError(f"cannot reuse {have} channels as {want}: neither divides the other")


def use_operator(model: nn.Module, operator: str) -> None:
    """Set what training computes a model's windowed fills by; see `WindowedInterpolation.operator`."""
    for module in model.modules():
        if isinstance(module, WindowedInterpolation):
            module.operator = operator


def rbf(window: int = 7, initial: float = 3.0, squared_mask: bool = False) -> Callable[[], Interpolation]:
    """Build `RBF` fills; `initial` is sigma."""
    return lambda: RBF(window, initial, squared_mask)


def paper_rbf(window: int = 7, initial: float = 3.0, squared_mask: bool = False) -> Callable[[], Interpolation]:
    """Build `PaperRBF` fills; `initial` is lambda."""
    return lambda: PaperRBF(window, initial, squared_mask)


def average(window: int = 7, squared_mask: bool = False) -> Callable[[], Interpolation]:
    """Build `AveragePooling` fills."""
    return lambda: AveragePooling(window, squared_mask)


def convolution(window: int = 7, squared_mask: bool = False) -> Callable[[], Interpolation]:
    """Build `LearnedKernel` fills."""
    return lambda: LearnedKernel(window, squared_mask)


def nearest() -> Callable[[], Interpolation]:
    """Build `Nearest` fills."""
    return Nearest


def zeros() -> Callable[[], Interpolation]:
    """Build `Zeros` fills."""
    return Zeros


def reuse() -> Callable[[], Interpolation]:
    """Build `Reuse` fills."""
    return Reuse
