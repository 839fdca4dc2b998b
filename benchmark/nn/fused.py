"""The windowed fill as one operator, forward and backward in C, for training on a CPU.

`benchmark.nn.interpolation` has the definition, a dozen small operators; this is the same map and the same gradients
but for rounding, registered with PyTorch as ``saibench::fill``. It takes float32 in channels last, as training has it,
and windows whose weights are a product of one profile in each direction. `available` says whether it was compiled;
docs/decisions/0006-fused-fill.md why it exists and what it gains.
"""

from __future__ import annotations

import importlib
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

try:
    compiled: Any = importlib.import_module("benchmark.nn.kernels._fill")
except ImportError:  # installed without a C compiler
    compiled = None


WIDEST = 31  # window, in positions; the binding refuses a wider one


def available() -> bool:
    """Return whether the operator was compiled."""
    return compiled is not None


def takes(features: Tensor, mask: Tensor, window: int) -> bool:
    """Return whether the operator computes a fill: compiled, on the CPU, in float32, in no window that is too wide."""
    return (
        available()
        and window <= WIDEST
        and features.device.type == mask.device.type == "cpu"
        and features.dtype == mask.dtype == torch.float32
    )


# Defined with their schemas and not by `torch.library.custom_op`, which imports PyTorch's compiler on the first call.
torch.library.define(
    "saibench::fill",
    "(Tensor features, Tensor mask, Tensor profile, bool squared, float epsilon) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "saibench::fill_backward",
    "(Tensor gradient, Tensor[] kept, bool squared, float epsilon, bool to_mask, bool to_profile) "
    "-> (Tensor, Tensor, Tensor)",
)


def fill(features: Tensor, mask: Tensor, profile: Tensor, squared: bool, epsilon: float) -> Tensor:
    """Fill a map from its sampled neighbours (paper eqs. 11 to 13).

    Parameters
    ----------
    features
        The map Y, ``(N, C, H, W)``, float32; not copied where it is in channels last.
    mask
        The mask M, ``(N, 1, H, W)``, float32.
    profile
        Weights along one axis, ``(window,)``, float32; the window is odd and at most 31.
    squared
        Whether the sampled map is multiplied by the mask again.
    epsilon
        Added to the sum of weights.

    Returns
    -------
    Tensor
        The filled map ``(N, C, H, W)``, in channels last.
    """
    return cast(Tensor, torch.ops.saibench.fill(features, mask, profile, squared, epsilon)[0])


@torch.library.impl("saibench::fill", "cpu")
def _fill(
    features: Tensor, mask: Tensor, profile: Tensor, squared: bool, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the filled map, what stands where nothing is sampled, and one over the mask's windowed sum, (N, H, W)."""
    out, filling = (_like(features) for _ in range(2))
    scale = features.new_empty(len(features), *features.shape[-2:])
    compiled.forward(
        _rows(features), _plane(mask), _weights(profile), squared, epsilon, torch.get_num_threads(),
        _rows(out), _rows(filling), scale.numpy(),
    )  # fmt: skip
    return out, filling, scale


@torch.library.register_fake("saibench::fill")
def _fill_shapes(
    features: Tensor, mask: Tensor, profile: Tensor, squared: bool, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(features), _like(features), features.new_empty(len(features), *features.shape[-2:])


@torch.library.impl("saibench::fill_backward", "cpu")
def _backward(
    gradient: Tensor, kept: list[Tensor], squared: bool, epsilon: float, to_mask: bool, to_profile: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of features, mask and profile; of the last two, what is not asked for is empty.

    ``kept`` are these three and the forward's other two maps.
    """
    features, mask, profile, filling, scale = kept
    of_features = _like(features)
    of_mask = torch.empty(mask.shape if to_mask else (0,), dtype=mask.dtype)
    of_profile = np.empty((len(features), len(profile))) if to_profile else None
    compiled.backward(
        _rows(features), _plane(mask), _weights(profile), squared, epsilon, torch.get_num_threads(),
        _rows(filling), scale.numpy(), _rows(gradient), _rows(of_features),
        _plane(of_mask) if to_mask else None, of_profile,
    )  # fmt: skip
    # Images are added up in their order, so that the sum does not depend on the number of threads.
    summed = torch.empty(0) if of_profile is None else torch.from_numpy(of_profile.sum(0)).to(profile.dtype)
    return of_features, of_mask, summed


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    features, mask, profile, ctx.squared, ctx.epsilon = inputs
    ctx.save_for_backward(features, mask, profile, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _gradients(context: Any, gradient: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
    to_mask, to_profile = map(bool, context.needs_input_grad[1:3])
    of_features, of_mask, of_profile = torch.ops.saibench.fill_backward(
        gradient, list(context.saved_tensors), context.squared, context.epsilon, to_mask, to_profile
    )
    return of_features, of_mask if to_mask else None, of_profile if to_profile else None, None, None


torch.library.register_autograd("saibench::fill", _gradients, setup_context=_keep)


def _like(features: Tensor) -> Tensor:
    return torch.empty_like(features, memory_format=torch.channels_last)


def _rows(maps: Tensor) -> np.ndarray:
    """Return maps ``(N, C, H, W)`` as an array ``(N, H, W, C)``, a view where they are in channels last."""
    return maps.detach().permute(0, 2, 3, 1).contiguous().numpy()


def _plane(mask: Tensor) -> np.ndarray:
    """Return a mask ``(N, 1, H, W)`` as an array ``(N, H, W)``."""
    return mask.detach()[:, 0].contiguous().numpy()


def _weights(profile: Tensor) -> np.ndarray:
    return profile.detach().contiguous().numpy()
