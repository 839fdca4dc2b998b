"""PyTorch's layers as the kernels take them: batch norm folded in, weights packed."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import nn

from benchmark.engines.base import EngineRefusal, Floats
from benchmark.engines.cpu.kernels import Convolution, Geometry, Positions


def array(tensor: torch.Tensor) -> Floats:
    """Return a tensor's values as a contiguous float32 array; no copy where it is one on the CPU."""
    return np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())


def folded(convolution: Any, norm: nn.Module | None) -> tuple[Floats, Floats]:
    """Return weight and bias of a convolution with the batch norm behind it, as it acts at inference."""
    weight = convolution.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    if convolution.bias is not None:
        bias = convolution.bias.detach().double()
    if norm is not None:
        mean, variance, gamma, beta = (
            cast(torch.Tensor, getattr(norm, name)).detach().double()
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        factor = gamma / torch.sqrt(variance + cast(float, getattr(norm, "eps", 1e-5)))
        weight, bias = weight * factor[:, None, None, None], beta + (bias - mean) * factor
    return array(weight), array(bias)


def places(norm: nn.Module) -> Positions | None:
    """Return the places of a pruned layer's channels in the map that it is added to, None if it has all."""
    index = getattr(norm, "index", None)
    return None if index is None else np.ascontiguousarray(index.cpu().numpy(), dtype=np.int32)


def geometry(layer: str, convolution: Any, *, row_taps: bool = False) -> Geometry:
    """Return how a convolution walks a map.

    Raises
    ------
    EngineRefusal
        If it is not square, or has groups.
    """
    (kernel, kernel_w), (stride, stride_w) = convolution.kernel_size, convolution.stride
    (padding, padding_w), (dilation, dilation_w) = convolution.padding, convolution.dilation
    square = (kernel, stride, padding, dilation) == (kernel_w, stride_w, padding_w, dilation_w)
    if not square or convolution.groups != 1:
        raise EngineRefusal(layer, f"the CPU engine runs square, ungrouped convolutions, not {convolution}")
    return Geometry(convolution.in_channels, kernel, stride, padding, dilation, row_taps)


def compile_convolution(
    layer: str, convolution: Any, norm: nn.Module | None = None, *, row_taps: bool = False
) -> Convolution:
    """Return a convolution with the batch norm behind it, packed; ``layer`` is its name, for messages.

    Raises
    ------
    ValueError
        If a folded weight or bias is NaN or infinite.
    """
    walk = geometry(layer, convolution, row_taps=row_taps)
    try:
        return Convolution(*folded(convolution, norm), walk)
    except ValueError as error:
        raise ValueError(f"{layer}: {error}") from None
