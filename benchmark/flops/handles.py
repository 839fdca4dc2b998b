"""Handles for fvcore: what an operator costs, from the shapes of its inputs and outputs.

One small function an operator, with fvcore's signature (inputs, outputs) -> count, for what fvcore does not know
(deformable convolution, RoIAlign) and for what Saibench does not count (normalisation, ReLU, pooling, …): the latter
are recorded by name, so that nothing is zero silently. Convolution, linear layers, matrix products and bilinear
resizing keep fvcore's own handles. Masks are no business of these shapes (see `benchmark.flops.measured`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

from fvcore.nn.jit_handles import get_shape

from benchmark.errors import SaibenchError
from benchmark.nn.sparsity import BILINEAR_MACS

Handle = Callable[[list[Any], list[Any]], Any]

#: Operators that compute, but are not counted: fvcore counts some of them, and skips others without a word.
UNCOUNTED_OPERATORS = (
    "aten::adaptive_avg_pool2d",
    "aten::batch_norm",
    "aten::clamp",
    "aten::clamp_",
    "aten::eq",
    "aten::ge",
    "aten::group_norm",
    "aten::gt",
    "aten::instance_norm",
    "aten::layer_norm",
    "aten::masked_fill",
    "aten::max",
    "aten::relu",
    "aten::relu_",
    "aten::upsample_nearest2d",
)

#: What stands before the name of such an operator among fvcore's counts, which are calls then.
NOT_COUNTED = "not counted: "

#: fvcore's operator name -> kind of the row in a table of layers.
KINDS = {
    "conv": "conv",
    "linear": "linear",
    "addmm": "linear",
    "mm": "linear",
    "matmul": "linear",
    "bmm": "linear",
    "einsum": "linear",
    "bilinear": "bilinear",
    "roi_align": "bilinear",
    "grid_sampler": "bilinear",
    "upsample_bilinear2d": "bilinear",
}


def deform_conv2d(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Count ``torchvision::deform_conv2d``: K^2 Cin Cout a position, and 4 MACs for each bilinear sample.

    A position samples every input channel at each of the K^2 taps. The offsets come from a convolution of their own.
    """
    x, weight, out = get_shape(inputs[0]), get_shape(inputs[1]), get_shape(outputs[0])
    positions = out[0] * prod(out[2:])
    samples = positions * prod(weight[2:]) * x[1]
    return Counter({"conv": positions * prod(weight), "bilinear": BILINEAR_MACS * samples})


def roi_align(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Count ``torchvision::roi_align``: 4 MACs for each bilinear sample of each channel, ``ratio^2`` samples a bin.

    Raises
    ------
    SaibenchError
        The sampling ratio is adaptive, so that the count depends on the size of each RoI.
    """
    ratio = inputs[5].toIValue()
    if ratio <= 0:
        raise SaibenchError("RoIAlign with an adaptive sampling ratio cannot be counted; give it sampling_ratio=2")
    return Counter({"roi_align": BILINEAR_MACS * prod(get_shape(outputs[0])) * ratio**2})


def uncounted(operator: str) -> Handle:
    """Make a handle that counts calls, not MACs, under the operator's name with `NOT_COUNTED` before it.

    That way fvcore says which module called it, as it does for what is counted.
    """
    return lambda inputs, outputs: Counter({NOT_COUNTED + operator: 1})


def handles() -> dict[str, Handle]:
    """Return the handles to register with fvcore."""
    return {
        "torchvision::deform_conv2d": deform_conv2d,
        "torchvision::roi_align": roi_align,
        **{operator: uncounted(operator) for operator in UNCOUNTED_OPERATORS},
    }
