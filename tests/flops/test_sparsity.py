"""The rules of what runs, against loops over positions in plain Python."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.nn import sparsity

SMALL = settings(max_examples=80, deadline=None)


@st.composite
def masks(draw, values=(0.0, 1.0)):
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    cells = draw(st.lists(st.sampled_from(values), min_size=height * width, max_size=height * width))
    return np.array(cells, dtype=np.float32).reshape(height, width)


@st.composite
def convolutions(draw):
    kernel = (draw(st.sampled_from([1, 2, 3, 5])), draw(st.sampled_from([1, 3])))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    dilation = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(2))
    size = tuple(d * (k - 1) + 1 + draw(st.integers(0, 8)) for d, k in zip(dilation, kernel, strict=True))
    return kernel, stride, padding, dilation, size


def read_by_loops(mask, kernel, stride, padding, dilation, size):
    read = np.zeros(size, dtype=bool)
    for i, j in np.ndindex(*mask.shape):
        for ki, kj in np.ndindex(*kernel):
            row = i * stride[0] - padding[0] + ki * dilation[0]
            column = j * stride[1] - padding[1] + kj * dilation[1]
            if mask[i, j] > 0 and 0 <= row < size[0] and 0 <= column < size[1]:
                read[row, column] = True
    return read


def pairs_by_loops(mask, needed, window):
    count, radius = 0, window // 2
    for i, j in np.ndindex(*mask.shape):
        if not needed[i, j] or mask[i, j] == 1:
            continue
        for p, q in np.ndindex(*mask.shape):
            count += bool(abs(p - i) <= radius and abs(q - j) <= radius and mask[p, q] > 0)
    return count


@SMALL
@given(convolutions(), st.randoms(use_true_random=False))
def test_positions_read_are_those_that_a_loop_over_taps_touches(convolution, random):
    kernel, stride, padding, dilation, size = convolution
    rows, columns = sparsity.output_size(size, kernel, stride, padding, dilation)
    reference = torch.nn.functional.conv2d(
        torch.zeros(1, 1, *size), torch.zeros(1, 1, *kernel), None, stride, padding, dilation
    )
    assert (rows, columns) == reference.shape[-2:]
    mask = np.array([[float(random.random() < 0.4) for _ in range(columns)] for _ in range(rows)])
    expected = read_by_loops(mask, kernel, stride, padding, dilation, size)
    assert (sparsity.positions_read(mask, *convolution) == expected).all()
    of_torch = sparsity.positions_read(torch.from_numpy(mask)[None], *convolution)
    assert (of_torch.numpy()[0] == expected).all()
    everywhere = read_by_loops(np.ones((rows, columns)), kernel, stride, padding, dilation, size)
    assert (sparsity.positions_read(None, *convolution) == everywhere).all()


@SMALL
@given(masks(values=(0.0, 0.4, 1.0, 1.7)), st.sampled_from([1, 3, 5, 7, 17]), st.randoms(use_true_random=False))
def test_pairs_are_those_that_a_loop_over_the_window_finds(mask, window, random):
    needed = np.array([random.random() < 0.6 for _ in range(mask.size)]).reshape(mask.shape)
    expected = pairs_by_loops(mask, needed, window)
    assert sparsity.neighbour_pairs(mask, needed, window) == expected
    tensors = torch.from_numpy(mask), torch.from_numpy(needed)
    assert sparsity.neighbour_pairs(*tensors, window).item() == expected


@SMALL
@given(st.integers(1, 5), st.randoms(use_true_random=False))
def test_leading_axes_are_independent_in_any_memory_order(batch, random):
    mask = np.array([float(random.random() < 0.5) for _ in range(30 * batch)]).reshape(6, 5, batch)
    innermost = np.moveaxis(mask, -1, 0)  # the batch is innermost in memory
    needed = sparsity.positions_read(innermost, 3, 1, 1, 1, (6, 5))
    together = sparsity.neighbour_pairs(innermost, needed, 5)
    for image, pairs in zip(innermost, together, strict=True):
        assert pairs == sparsity.neighbour_pairs(image, sparsity.positions_read(image, 3, 1, 1, 1, (6, 5)), 5)


def test_a_real_valued_position_is_sampled_and_missing_and_its_own_neighbour():
    mask = np.array([[0.5]])
    assert sparsity.sampled(mask).all() and sparsity.missing(mask).all()
    assert sparsity.neighbour_pairs(mask, np.array([[True]]), 7) == 1


@SMALL
@given(st.integers(0, 50), st.integers(0, 500), st.integers(1, 8), st.integers(1, 4))
def test_conv3_runs_where_it_costs_less_and_on_samples_when_equal(samples, pairs, planes, expansion):
    out = planes * expansion
    on_samples = samples * planes * out + pairs * out
    densely = 50 * planes * out + pairs * planes
    plan = sparsity.conv3_plan(samples, pairs, 50, planes, out)
    assert plan.on_samples == (on_samples <= densely)
    assert plan.convolution_macs + plan.interpolation_macs == (on_samples if plan.on_samples else densely)
    vector = sparsity.conv3_plan(np.array([samples]), np.array([pairs]), 50, planes, out)
    assert [field[0] for field in vector] == list(plan)


def test_a_fill_without_window_has_no_pairs():
    assert sparsity.neighbour_pairs(np.zeros((3, 3)), None, 0) == 0


def test_wrong_sizes_and_windows_are_named():
    with pytest.raises(ValueError, match=r"mask is \(2, 2\).*gives \(4, 4\)"):
        sparsity.positions_read(np.ones((2, 2)), 3, 1, 1, 1, (4, 4))
    with pytest.raises(ValueError, match="window is 4"):
        sparsity.neighbour_counts(np.ones((2, 2)), 4)
