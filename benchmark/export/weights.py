"""Convolutions' weights as a graph holds them: batch norm folded in, in both layouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Weights:
    """Weight and bias of a convolution, with the batch norm behind it.

    Attributes
    ----------
    kernel
        ``(K, C, kh, kw)``.
    bias
        ``(K,)``.
    """

    kernel: Floats
    bias: Floats

    @property
    def outputs(self) -> int:
        """Channels of the output."""
        return len(self.kernel)

    @property
    def matrix(self) -> Floats:
        """``(kh * kw * C, K)``: what rows of gathered taps are multiplied with."""
        return np.ascontiguousarray(self.kernel.transpose(2, 3, 1, 0).reshape(-1, self.outputs))


def array(tensor: Tensor) -> Floats:
    """Return a tensor's values, float32."""
    return np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())


def folded(convolution: Any, norm: nn.Module | None = None) -> Weights:
    """Return the weights of a convolution with the batch norm behind it, as it acts at inference."""
    kernel = convolution.weight.detach().double().cpu()
    bias = torch.zeros(len(kernel), dtype=torch.float64)
    if convolution.bias is not None:
        bias = convolution.bias.detach().double().cpu()
    if norm is not None:
        mean, variance, gamma, beta = (
            cast(Tensor, getattr(norm, name)).detach().double().cpu()
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        factor = gamma / torch.sqrt(variance + cast(float, norm.eps))
        kernel, bias = kernel * factor[:, None, None, None], beta + (bias - mean) * factor
    return Weights(array(kernel), array(bias))
