"""PyTorch's layers as the kernels take them: batch norm folded in, weights packed."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torchvision.ops import DeformConv2d

from benchmark.engines.base import EngineRefusal, Floats
from benchmark.engines.cpu.descriptions import Convolution, Geometry, Positions
from benchmark.engines.cpu.kernels import library

# Classes that compute what their weight and bias say; a class of somebody else's may do more.
PLAIN = (nn.Conv2d, DeformConv2d)


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
        If it is not square, has groups or another border than zeros, or is of a class that may compute otherwise.
    """
    pairs = (convolution.kernel_size, convolution.stride, convolution.padding, convolution.dilation)
    is_square = all(isinstance(pair, tuple) and pair[0] == pair[1] for pair in pairs)
    is_plain = type(convolution) in PLAIN and getattr(convolution, "padding_mode", "zeros") == "zeros"
    if not is_square or not is_plain or convolution.groups != 1:
        raise EngineRefusal(layer, f"the CPU engine runs square, ungrouped convolutions, not {convolution}")
    kernel, stride, padding, dilation = (int(pair[0]) for pair in pairs)
    try:
        return Geometry(convolution.in_channels, kernel, stride, padding, dilation, row_taps)
    except ValueError as error:
        raise EngineRefusal(layer, f"the CPU engine cannot run {convolution}: {error}") from None


def pack(
    layer: str,
    weight: Floats,
    bias: Floats | None,
    geometry: Geometry,
    row: int,
    *,
    is_narrow: bool = False,
    is_half: bool = False,
) -> Convolution:
    """Return a convolution with its weights packed for the instruction set that is selected.

    Parameters
    ----------
    layer
        Qualified name, for messages.
    weight
        ``(C_out, C_in, K, K)``, PyTorch's layout.
    bias
        ``(C_out,)`` or None.
    row
        Its row in the tally.
    is_narrow
        Whether it has few outputs: nothing is then padded to a wide tile.
    is_half
        Whether weights are rounded to bfloat16.

    Raises
    ------
    ValueError
        If a weight or bias is NaN or infinite.
    """
    for name, values in (("weight", weight), ("bias", bias)):
        if values is not None and not np.isfinite(values).all():
            raise ValueError(f"{layer}: {name} of shape {values.shape} holds NaN or infinity")
    outputs = len(weight)
    rows = np.ascontiguousarray(weight.transpose(0, 2, 3, 1).reshape(outputs, -1))
    if rows.size == 0 or rows.shape[1] != geometry.depth:
        raise EngineRefusal(layer, f"a weight of shape {weight.shape} for {geometry}")
    compiled = library.compiled
    if is_narrow:
        limit = compiled.narrow_limit()
        if outputs > limit:
            raise EngineRefusal(layer, f"the CPU engine has up to {limit} outputs here, not {outputs}")
        packed = library.empty(compiled.narrow_size(*rows.shape))
        compiled.narrow_pack(rows, packed)
        return Convolution(layer, geometry, outputs, packed, bias, row, is_narrow=True)
    packed = library.empty(compiled.packed_size(*rows.shape) // (2 if is_half else 1))
    (compiled.pack_half if is_half else compiled.pack)(rows, packed)
    padded = None
    if bias is not None:
        padded = library.empty(compiled.bias_size(outputs))
        padded[:] = 0.0
        padded[:outputs] = bias
    return Convolution(layer, geometry, outputs, packed, padded, row, is_half=is_half)


def compile_convolution(
    layer: str, convolution: Any, norm: nn.Module | None, row: int, *, row_taps: bool = False, is_half: bool = False
) -> Convolution:
    """Return a convolution with the batch norm behind it, packed; arguments as for `pack`.

    Raises
    ------
    ValueError
        If a folded weight or bias is NaN or infinite.
    """
    return pack(
        layer, *folded(convolution, norm), geometry(layer, convolution, row_taps=row_taps), row, is_half=is_half
    )
