"""Products, attention and recurrent layers are counted to the last multiplication, or refused by name."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmark.checks.counting import Watcher
from benchmark.errors import SaibenchError
from benchmark.flops.trace import trace, unfused_attention


class Number:
    """A number that counts how often numbers were multiplied."""

    made = 0

    def __mul__(self, other):
        Number.made += 1
        return self

    def __add__(self, other):
        return self

    __radd__ = __add__


def numbers(*shape):
    return np.full(shape, Number(), dtype=object)


def multiplications(function, *shapes):
    """Count what a function of arrays multiplies, one by one."""
    Number.made = 0
    function(*(numbers(*shape) for shape in shapes))
    return Number.made


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def counted(function, *shapes):
    """Count by the handles, and make sure that PyTorch dispatches as many."""
    model = Function(function).eval()
    inputs = tuple(torch.zeros(shape) for shape in shapes)
    with torch.inference_mode(), unfused_attention(), Watcher(model) as watcher:
        model(*inputs)
    macs = sum(trace(model, inputs).macs.values())
    assert macs == sum(watcher.macs.values())
    return macs


lengths = st.integers(1, 4)


@st.composite
def factors(draw):
    """Return shapes of two factors of a matrix product: vectors, matrices, and stacks that broadcast."""
    common = draw(lengths)
    stack = draw(st.lists(lengths, max_size=2))
    stacks = [[1 if draw(st.booleans()) else side for side in stack[draw(st.integers(0, len(stack))) :]] for _ in "ab"]
    left = [common] if draw(st.booleans()) else [*stacks[0], draw(lengths), common]
    right = [common] if draw(st.booleans()) else [*stacks[1], common, draw(lengths)]
    return left, right


@given(factors())
@settings(deadline=None, max_examples=40)
def test_products_of_matrices_vectors_and_stacks(shapes):
    assert counted(torch.matmul, *shapes) == multiplications(np.matmul, *shapes)


@pytest.mark.parametrize(
    ("ours", "theirs", "shapes"),
    [
        (torch.mv, np.dot, [(3, 4), (4,)]),
        (torch.dot, np.dot, [(5,), (5,)]),
        (torch.mm, np.matmul, [(3, 4), (4, 2)]),
        (torch.bmm, np.matmul, [(2, 3, 4), (2, 4, 5)]),
        (torch.inner, np.inner, [(2, 3, 4), (5, 4)]),
        (lambda a, b: torch.tensordot(a, b, dims=([1, 2], [0, 1])), lambda a, b: np.tensordot(a, b, ([1, 2], [0, 1])),
         [(2, 3, 4), (3, 4, 5)]),
        (lambda a, b: torch.addmv(torch.zeros(1), a, b), np.dot, [(3, 4), (4,)]),
        (lambda a, b: torch.addmm(torch.zeros(1), a, b), np.matmul, [(3, 4), (4, 2)]),
        (lambda a, b: torch.baddbmm(torch.zeros(1), a, b), np.matmul, [(2, 3, 4), (2, 4, 5)]),
        (lambda a, b: torch.addbmm(torch.zeros(1), a, b), np.matmul, [(2, 3, 4), (2, 4, 5)]),
        *((lambda a, b, how=how: torch.einsum(how, a, b), lambda a, b, how=how: np.einsum(how, a, b), shapes)
          for how, shapes in {"nchw,dc->ndhw": [(2, 3, 4, 5), (6, 3)], "nchw,c->nhw": [(1, 3, 4, 5), (3,)],
                              "...hw,wk->...hk": [(2, 3, 4, 5), (5, 2)],
                              "ab,bc": [(3, 4), (4, 5)], "nqd,nkd->nqk": [(2, 30, 7), (2, 40, 7)]}.items()),
    ],
)  # fmt: skip
def test_each_product_by_name(ours, theirs, shapes):
    assert counted(ours, *shapes) == multiplications(theirs, *shapes)


def attend(query, key, value):
    pairs = np.matmul(query, key.swapaxes(-1, -2))
    return np.matmul(pairs, value)


@pytest.mark.parametrize("causal", [False, True])
def test_scaled_dot_product_attention(causal):
    shapes = [(2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 7)]
    ours = counted(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal), *shapes)
    assert ours == multiplications(attend, *shapes)
    names = trace(Function(F.scaled_dot_product_attention), tuple(torch.zeros(2, 3, 4) for _ in "qkv")).uncounted
    assert "aten::softmax" in names


@pytest.mark.parametrize("options", [{"batch_first": True}, {}, {"batch_first": True, "kdim": 6, "vdim": 5}])
@pytest.mark.parametrize("weights", [True, False])
def test_multi_head_attention(options, weights):
    width, heads, steps = 8, 2, 5
    keys, values = options.get("kdim", width), options.get("vdim", width)
    module = nn.MultiheadAttention(width, heads, **options).requires_grad_(False)

    def run(q, k, v):
        return module(q, k, v, need_weights=weights)[0]

    projections = steps * width * (width + keys + values + width)
    pairs = heads * multiplications(attend, *[(steps, width // heads)] * 3)
    shape = (1, steps) if options else (steps, 1)
    assert counted(run, (*shape, width), (*shape, keys), (*shape, values)) == projections + pairs


def test_a_transformer_layer_is_counted_by_its_parts():
    width, hidden, steps = 8, 16, 5
    layer = nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True).eval()
    pairs = 2 * multiplications(attend, *[(steps, width // 2)] * 3)
    assert counted(layer, (1, steps, width)) == steps * (4 * width * width + 2 * width * hidden) + pairs


def unroll(gates, sizes, hidden, directions, steps, projected):
    """Count the multiplications of a recurrent layer by walking through layers, directions and steps."""
    total = 0
    state = projected or hidden
    for layer in range(len(sizes)):
        width = sizes[layer]
        for _ in range(directions):
            for _ in range(steps):
                total += multiplications(np.dot, (gates * hidden, width), (width,))
                total += multiplications(np.dot, (gates * hidden, state), (state,))
                total += multiplications(np.dot, (projected, hidden), (hidden,)) if projected else 0
    return total


@pytest.mark.parametrize(("kind", "gates"), [(nn.GRU, 3), (nn.LSTM, 4), (nn.RNN, 1)])
@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True, "num_layers": 2}, {"batch_first": True, "bias": False}]
)
def test_recurrent_layers(kind, gates, options):
    layer = kind(3, 4, **options).requires_grad_(False)
    directions = 2 if options.get("bidirectional") else 1
    sizes = [3, *[4 * directions] * (options.get("num_layers", 1) - 1)]
    shape = (2, 5, 3) if options.get("batch_first") else (5, 2, 3)
    assert counted(lambda x, layer=layer: layer(x)[0], shape) == 2 * unroll(gates, sizes, 4, directions, 5, 0)


def test_a_projected_lstm_and_a_packed_one():
    layer = nn.LSTM(3, 4, proj_size=2).requires_grad_(False)
    assert counted(lambda x: layer(x)[0], (5, 1, 3)) == unroll(4, [3], 4, 1, 5, 2)

    def packed(x):
        return plain(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 2])))[0].data

    plain = nn.LSTM(3, 4).requires_grad_(False)
    assert counted(packed, (5, 2, 3)) == unroll(4, [3], 4, 1, 5 + 2, 0)  # what pads is not computed


@pytest.mark.parametrize(("kind", "gates"), [(nn.GRUCell, 3), (nn.LSTMCell, 4), (nn.RNNCell, 1)])
def test_cells(kind, gates):
    cell = kind(3, 4).requires_grad_(False)

    def run(x):
        state = cell(x)
        return state[0] if isinstance(state, tuple) else state

    assert counted(run, (2, 3)) == 2 * unroll(gates, [3], 4, 1, 1, 0)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: torch.cdist(x, x), "cdist"),
        (lambda x: torch.linalg.multi_dot([x, x.mT, x]), "linalg_multi_dot"),
        (lambda x: torch.einsum("ij,kj,lj->ikl", x, x, x), "einsum of 3 factors"),
        (lambda x: torch.linalg.matrix_power(x[:3, :3], 3), "linalg_matrix_power"),
        (lambda x: F.bilinear(x, x, torch.ones(2, 4, 4)), "bilinear"),
    ],
)
def test_what_multiplies_in_a_way_that_no_handle_knows_is_refused_by_layer_and_name(function, name):
    model = nn.Sequential(nn.Identity(), Function(function))
    with pytest.raises(SaibenchError, match=rf"^1: aten::{name} multiplies in a way that cannot be counted; write"):
        trace(model, (torch.zeros(3, 4),))
