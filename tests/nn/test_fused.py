"""The fused fill against its definition in float64: the map and every gradient, and when the definition stands in."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.cells import Request, plan
from benchmark.nn import fused, interpolation
from benchmark.tasks import find_task

pytestmark = pytest.mark.skipif(not fused.available(), reason="the operator was not compiled")

TOLERANCE = 1e-5  # of the largest value


def differentiated(build, features, mask, towards, dtype, operator):
    """Return the filled map and the gradients of features, mask and the kernel's width, in float64."""
    module = build().to(dtype)
    interpolation.use_operator(module, operator)
    features = features.detach().to(dtype).requires_grad_()
    mask = mask.detach().to(dtype).requires_grad_()
    filled = module(features, mask, features)
    (filled * towards.to(dtype)).sum().backward()
    widths = [parameter.grad.double() for parameter in module.parameters()]
    return [filled.detach().double(), features.grad.double(), mask.grad.double(), *widths]


@st.composite
def cases(draw):
    shape = (draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 16, 17, 40])), draw(st.integers(1, 9)),
             draw(st.integers(1, 9)))  # fmt: skip
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    # A mask's gradient is divided by the windowed sum of its values: next to 0, float32 has no digits left of it.
    mask = 0.05 + 0.95 * torch.rand(shape[0], 1, *shape[2:], generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        mask = (mask < draw(st.floats(0.05, 0.95))).double()
    features, towards = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    layout = draw(st.sampled_from([torch.channels_last, torch.contiguous_format]))
    return features.to(memory_format=layout), mask, towards


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([1, 3, 5, 7, 11, 31]), st.sampled_from([0.4, 1.4, 3.0]), st.booleans(), st.data())
def test_map_and_gradients_are_those_of_the_definition(case, window, width, squared, data):
    kind = data.draw(
        st.sampled_from(
            [
                interpolation.rbf,
                interpolation.paper_rbf,
                lambda window, _, squared: interpolation.average(window, squared),
            ]
        )
    )
    build = kind(window, width, squared)
    exact = differentiated(build, *case, torch.float64, "definition")
    found = differentiated(build, *case, torch.float32, "fused")
    single = differentiated(build, *case, torch.float32, "definition")
    # The gradients of mask and width are differences of sums, which may cancel: they are held against what adds up.
    added = (case[0] * case[2]).abs()
    added_up = [torch.zeros(()), torch.zeros(()), added.sum(1).max(), added.sum()]
    for truth, value, rounded, summed in zip(exact, found, single, added_up, strict=False):
        # Where the definition itself loses digits in float32 (divisions by little more than epsilon), so may this.
        lost = 4 * (rounded - truth).abs().max()
        size = torch.maximum(truth.abs().max(), summed)
        assert (value - truth).abs().max() <= TOLERANCE * size + lost + 1e-12


def test_views_with_strides_are_read_where_they_lie():
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(2, 8, 12, 20, generator=generator, dtype=torch.float64)
    case = (whole[:, ::2, 1::2, ::3], torch.rand(2, 1, 6, 7, generator=generator, dtype=torch.float64).transpose(2, 3))
    features, mask = case[0], case[1].transpose(2, 3)
    towards = torch.randn(features.shape, generator=generator, dtype=torch.float64)
    build = interpolation.rbf(5, 1.0)
    exact = differentiated(build, features, mask, towards, torch.float64, "definition")
    for truth, value in zip(exact, differentiated(build, features, mask, towards, torch.float32, "fused"), strict=True):
        torch.testing.assert_close(value, truth, rtol=TOLERANCE, atol=TOLERANCE * float(truth.abs().max()))


def test_the_number_of_threads_changes_no_bit():
    generator = torch.Generator().manual_seed(1)
    features, towards = (torch.randn(5, 24, 9, 11, generator=generator) for _ in range(2))
    mask = torch.rand(5, 1, 9, 11, generator=generator)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(differentiated(interpolation.rbf(7, 1.0), features, mask, towards, torch.float32, "fused"))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_gradients_that_nobody_asks_for_are_not_computed():
    features = torch.randn(2, 16, 5, 5, requires_grad=True)
    mask, profile = torch.rand(2, 1, 5, 5), torch.ones(3)
    fused.fill(features, mask, profile, False, 1e-5).sum().backward()
    assert features.grad is not None and mask.grad is None and profile.grad is None


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 0, 3, 3), (2, 4, 0, 3)])
def test_empty_maps_stay_empty(shape):
    features = torch.zeros(shape, requires_grad=True)
    mask = torch.zeros(shape[0], 1, *shape[2:], requires_grad=True)
    filled = fused.fill(features, mask, torch.ones(3, requires_grad=True), False, 1e-5)
    filled.sum().backward()
    assert filled.shape == shape and features.grad.shape == shape and not mask.grad.any()


def arguments():
    """Sizes that fit each other, for the compiled functions: what both read, and what each takes besides."""
    maps, plane, profile = np.ones((2, 4, 5, 3), np.float32), np.ones((2, 4, 5), np.float32), np.ones(3, np.float32)
    common = [maps, plane, profile, False, 1e-5, 1]
    return common, [maps.copy(), maps.copy(), plane.copy()], [
        maps, plane, maps, maps.copy(), plane.copy(), np.ones((2, 3)),
    ]  # fmt: skip


@pytest.mark.parametrize("place", [0, 1, 2, 6, 7, 8])
def test_the_forward_refuses_sizes_that_do_not_fit(place):
    common, written, _ = arguments()
    given_ = [*common, *written]
    given_[place] = np.ones([side + 1 for side in given_[place].shape], np.float32)
    with pytest.raises(ValueError):
        fused.compiled.forward(*given_)


@pytest.mark.parametrize("place", [0, 1, 2, 6, 7, 8, 9, 10, 11])
def test_the_backward_refuses_sizes_that_do_not_fit(place):
    common, _, rest = arguments()
    given_ = [*common, *rest]
    given_[place] = np.ones([side + 1 for side in given_[place].shape], given_[place].dtype)
    with pytest.raises(ValueError):
        fused.compiled.backward(*given_)


@pytest.mark.parametrize("wrong", [np.ones((2, 4, 5, 3)), np.ones((2, 4, 5, 6), np.float32)[..., ::2], None])
def test_the_binding_takes_float32_in_one_piece_alone(wrong):
    common, written, _ = arguments()
    with pytest.raises((ValueError, TypeError)):
        fused.compiled.forward(wrong, *common[1:], *written)


class Recorded(Exception):
    pass


@pytest.fixture
def refusing(monkeypatch):
    """Make a call of the operator visible."""

    def refuse(*given):
        raise Recorded

    monkeypatch.setattr(fused, "fill", refuse)


def call(module, dtype=torch.float32):
    return module(torch.ones(1, 2, 3, 3, dtype=dtype), torch.ones(1, 1, 3, 3, dtype=dtype), torch.ones(1, 2, 3, 3))


def test_only_training_in_float32_by_the_recipes_word_takes_the_operator(refusing):
    module = interpolation.RBF(3)
    call(module)  # the definition, unless a recipe says otherwise
    interpolation.use_operator(module, "fused")
    with pytest.raises(Recorded):
        call(module)
    call(module, torch.float64)
    call(module.eval())
    wide = interpolation.RBF(33)
    interpolation.use_operator(wide, "fused")
    call(wide)


def test_a_fill_with_sums_of_its_own_keeps_them(refusing):
    class Halved(interpolation.RBF):
        def weighted_sum(self, features):
            return super().weighted_sum(features) / 2

    module = Halved(3)
    interpolation.use_operator(module, "fused")
    call(module)


def test_without_the_compiled_part_training_takes_the_definition(monkeypatch):
    features, mask = torch.randn(1, 3, 4, 4), torch.rand(1, 1, 4, 4)
    module = interpolation.RBF(3)
    expected = module(features, mask, features)
    interpolation.use_operator(module, "fused")
    monkeypatch.setattr(fused, "compiled", None)
    assert torch.equal(module(features, mask, features), expected)


def test_the_operator_is_part_of_a_cells_identity_where_it_is_not_the_definition(tiny_set):
    data = tiny_set("coco")
    usual = plan(Request("coco", "stochastic", data=data))
    told = plan(Request("coco", "stochastic", data=data, overrides={"operator": "definition"}))
    other = plan(Request("coco", "stochastic", data=data, overrides={"operator": "fused"}))
    assert usual.cell.id == told.cell.id != other.cell.id
    assert "operator" not in usual.cell.determinants["recipe"]
    fills = [m for m in other.build(8).modules() if isinstance(m, interpolation.WindowedInterpolation)]
    assert fills and {fill.operator for fill in fills} == {"fused"}
    assert find_task("coco").recipe("mini").operator == "definition"
