"""Handles for fvcore: what an operator costs, from the shapes of its inputs and outputs.

One small function an operator, with fvcore's signature (inputs, outputs) -> count: for what fvcore does not know
(deformable convolution, RoIAlign, attention, recurrent layers); for products, whose handles in fvcore stop at a vector
and round an `einsum`; and for what Saibench does not count (normalisation, ReLU, pooling, …). The latter are recorded
by name, so that nothing is zero silently. An operator that multiplies in a way that no handle knows is refused.
Convolution, linear layers and bilinear resizing keep fvcore's own handles. Masks are no business of these shapes (see
`benchmark.flops.measured`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

import torch
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

#: Operators whose multiply-accumulates depend on how PyTorch runs them, or on more than shapes.
REFUSED_OPERATORS = (
    "aten::_native_multi_head_attention",
    "aten::_transformer_encoder_layer_fwd",
    "aten::_trilinear",
    "aten::bilinear",
    "aten::cdist",
    "aten::chain_matmul",
    "aten::conv_tbc",
    "aten::linalg_cholesky",
    "aten::linalg_eigh",
    "aten::linalg_inv",
    "aten::linalg_lstsq",
    "aten::linalg_matrix_exp",
    "aten::linalg_matrix_power",
    "aten::linalg_multi_dot",
    "aten::linalg_pinv",
    "aten::linalg_qr",
    "aten::linalg_solve",
    "aten::linalg_svd",
    "aten::matrix_exp",
    "aten::pdist",
    "aten::_sparse_addmm",
    "aten::_sparse_mm",
)

#: What stands before the name of such an operator among fvcore's counts.
REFUSED = "refused: "

#: fvcore's operator name -> kind of the row in a table of layers.
KINDS = {
    "conv": "conv",
    "linear": "linear",
    "addmm": "linear",
    **dict.fromkeys(("mm", "mv", "matmul", "bmm", "dot", "inner", "tensordot", "einsum"), "linear"),
    **dict.fromkeys(("addmv", "addbmm", "baddbmm", "linalg_vecdot", "vdot"), "linear"),
    **dict.fromkeys(("scaled_dot_product_attention", "gru", "lstm", "rnn_relu", "rnn_tanh"), "linear"),
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


def product(first: int) -> Handle:
    """Make the handle of a product of matrices or vectors, broadcast or not: each number put out sums K products.

    Parameters
    ----------
    first
        Which input is the left factor, ``(…, K)``: 1 where something is added to the product.
    """
    return lambda inputs, outputs: prod(get_shape(outputs[0])) * get_shape(inputs[first])[-1]


def addbmm(inputs: list[Any], outputs: list[Any]) -> int:
    """Count ``aten::addbmm``, which sums the products of ``(B, N, K)`` with ``(B, K, M)`` over the batch."""
    return prod(get_shape(inputs[1])) * get_shape(outputs[0])[-1]


def inner(inputs: list[Any], outputs: list[Any]) -> int:
    """Count ``aten::inner``, which sums over the last axes; a factor without axes is multiplied with."""
    left = get_shape(inputs[0])
    return prod(get_shape(outputs[0])) * (left[-1] if left and get_shape(inputs[1]) else 1)


def vecdot(inputs: list[Any], outputs: list[Any]) -> int:
    """Count ``aten::linalg_vecdot``: one for each pair of numbers, after broadcasting."""
    return prod(torch.broadcast_shapes(get_shape(inputs[0]), get_shape(inputs[1])))


def tensordot(inputs: list[Any], outputs: list[Any]) -> int:
    """Count ``aten::tensordot``: each number put out sums over all contracted axes."""
    left, right = get_shape(inputs[0]), get_shape(inputs[1])
    axes = zip(*([axis.toIValue() for axis in value.node().inputs()] for value in inputs[2:4]), strict=True)
    # An axis of length 1 stands for a longer one, which is summed before.
    return prod(get_shape(outputs[0])) * prod(min(left[one], right[other]) for one, other in axes)


def einsum(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Count ``aten::einsum`` of two factors: the product of the lengths of all its indices, axes of ``...`` included.

    With one factor nothing is multiplied. With three or more, the order decides, which PyTorch chooses.
    """
    equation = inputs[0].toIValue().replace(" ", "")
    shapes = [list(get_shape(value)) for value in inputs[1].node().inputs()]
    if len(shapes) != 2:
        return Counter() if len(shapes) == 1 else Counter({f"{REFUSED}aten::einsum of {len(shapes)} factors": 1})
    lengths: dict[str, int] = {}
    hidden: list[tuple[int, ...]] = []
    for term, shape in zip(equation.partition("->")[0].split(","), shapes, strict=True):
        before, dots, after = term.partition("...")
        end = len(shape) - len(after)
        hidden.append(tuple(shape[len(before) : end]) if dots else ())
        for index, length in [*zip(before, shape, strict=False), *zip(after, shape[end:], strict=False)]:
            lengths[index] = max(length, lengths.get(index, 1))
    # An index that one factor alone has, and the result has not, is summed before anything is multiplied.
    terms, _, result = equation.partition("->")
    result = result if "->" in equation else "".join(index for index in lengths if terms.count(index) == 1)
    one, other = terms.split(",")
    kept = [index for index in lengths if index in result or (index in one and index in other)]
    return Counter({"einsum": prod(lengths[index] for index in kept) * prod(torch.broadcast_shapes(*hidden))})


def attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Count ``scaled_dot_product_attention``: queries times keys, and shares times values, all pairs.

    A causal or given mask spares nothing: which pairs a kernel skips depends on the kernel.
    """
    query, key, value = map(get_shape, inputs[:3])
    pairs = prod(get_shape(outputs[0])[:-1]) * key[-2]
    return Counter(
        {
            "scaled_dot_product_attention": pairs * (query[-1] + value[-1]),
            f"{NOT_COUNTED}aten::softmax": 1,
        }
    )


def recurrent(operator: str, weights: int) -> Handle:
    """Make the handle of a recurrent layer: each of its matrices multiplies one vector a step and sequence.

    Parameters
    ----------
    weights
        Place of the weights among the list inputs: ``lstm`` has its two states in a list before them.
    """

    def count(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        lists = [value.node() for value in inputs if value.node().kind() == "prim::ListConstruct"]
        shapes = [get_shape(weight) for weight in lists[weights].inputs()]
        vectors = prod(get_shape(inputs[0])[:-1])  # steps x sequences, packed or not
        macs = vectors * sum(prod(shape) for shape in shapes if len(shape) == 2)
        return Counter({operator: macs, f"{NOT_COUNTED}aten::{operator}: activations, products of gates": 1})

    return count


def uncounted(operator: str) -> Handle:
    """Make a handle that counts calls, not MACs, under the operator's name with `NOT_COUNTED` before it.

    That way fvcore says which module called it, as it does for what is counted.
    """
    return lambda inputs, outputs: Counter({NOT_COUNTED + operator: 1})


def refused(operator: str) -> Handle:
    """Make a handle that says, under a name with `REFUSED` before it, that an operator cannot be counted."""
    return lambda inputs, outputs: Counter({REFUSED + operator: 1})


def handles() -> dict[str, Handle]:
    """Return the handles to register with fvcore."""
    return {
        "torchvision::deform_conv2d": deform_conv2d,
        "torchvision::roi_align": roi_align,
        **{f"aten::{name}": product(0) for name in ("matmul", "mm", "mv", "bmm", "dot", "vdot")},
        **{f"aten::{name}": product(1) for name in ("addmm", "addmv", "baddbmm")},
        "aten::addbmm": addbmm,
        "aten::inner": inner,
        "aten::linalg_vecdot": vecdot,
        "aten::tensordot": tensordot,
        "aten::einsum": einsum,
        "aten::scaled_dot_product_attention": attention,
        **{f"aten::{name}": recurrent(name, 0) for name in ("gru", "rnn_relu", "rnn_tanh")},
        "aten::lstm": recurrent("lstm", 1),
        **{operator: uncounted(operator) for operator in UNCOUNTED_OPERATORS},
        **{operator: refused(operator) for operator in REFUSED_OPERATORS},
    }
