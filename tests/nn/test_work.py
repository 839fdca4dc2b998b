"""What a residual block computes: regions against brute force over positions, for every placement."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from benchmark.nn import BasicBlock, Bottleneck, ChannelGate, Masks, interpolation, work
from benchmark.nn.work import EVERYWHERE, ReadBy, Sampled, Subsampled, Walk

SIZE = (9, 11)


class Open(ChannelGate):
    """All channels, always."""

    def forward(self, x):
        return x.new_ones(len(x), self.channels)


def bottleneck(placement, fill=interpolation.zeros, stride=1, dilation=1, deformable=False, gate=None):
    block = Bottleneck(8, 4, stride, dilation, "layer1.0", project=True, deformable=deformable)
    block.adapt(Masks.gumbel(), fill(), placement, gate)
    return block


def basic(placement, stride=1):
    block = BasicBlock(8, 4, stride, name="layer1.1", project=True)
    block.adapt(Masks.gumbel(), interpolation.zeros(), placement)
    return block


def computed(block, masks, size=SIZE):
    """Return the positions that each convolution computes, boolean arrays."""
    sizes = block.work.sizes(size)
    found = [
        work.positions(step.computes, masks, out) for step, out in zip(block.work.convolutions, sizes, strict=True)
    ]
    return [np.ones(out, bool) if each is None else each for each, out in zip(found, sizes, strict=True)]


def read(positions, walk, size):
    """Return the input positions that a convolution reads, tap by tap: the definition."""
    found = np.zeros(size, bool)
    for row, column in np.argwhere(positions):
        for tap in itertools.product(*(range(k) for k in walk.kernel)):
            place = [
                at * s - p + t * d
                for at, t, s, p, d in zip((row, column), tap, walk.stride, walk.padding, walk.dilation, strict=True)
            ]
            if all(0 <= x < limit for x, limit in zip(place, size, strict=True)):
                found[tuple(place)] = True
    return found


def mask_of(size):
    return arrays.arrays(np.float32, size, elements=st.sampled_from([0.0, 1.0]))


def test_a_dense_block_computes_everything_everywhere():
    block = Bottleneck(8, 4, name="layer1.0", project=True)
    assert [step.computes for step in block.work.convolutions] == [EVERYWHERE] * 3
    assert not block.work.masks and all(step.fill is None for step in block.work.convolutions)


def test_two_masks_conv3_shares_conv2s_and_may_run_on_its_samples():
    conv1, conv2, conv3 = bottleneck("two", interpolation.rbf, stride=2).work.convolutions
    assert (conv1.computes, conv2.computes, conv3.computes) == (Sampled(1), Sampled(2), Sampled(2))
    assert conv3.commutes and conv3.fill is None and not conv1.commutes and not conv2.commutes
    assert conv1.fill.needed == ReadBy(Sampled(2), conv2.walk) and conv2.fill.needed == EVERYWHERE
    assert (conv1.fill.window, conv1.fill.mask) == (7, Sampled(1))


def test_a_fill_that_is_not_linear_comes_before_conv3():
    *_, conv3 = bottleneck("two", interpolation.reuse).work.convolutions
    assert conv3.computes == EVERYWHERE and not conv3.commutes


def test_one_mask_governs_conv2_at_its_stride():
    conv1, conv2, conv3 = bottleneck("one", interpolation.rbf, stride=2).work.convolutions
    shared = Subsampled(Sampled(1), (2, 2))
    assert (conv1.computes, conv2.computes, conv3.computes) == (Sampled(1), shared, shared)
    assert conv2.fill.mask == shared and conv3.commutes


def test_three_masks_give_conv3_its_own_and_fill_conv2_only_where_conv3_reads():
    _, conv2, conv3 = bottleneck("three", interpolation.rbf).work.convolutions
    assert conv3.computes == Sampled(3) and not conv3.commutes
    assert conv2.fill.needed == Sampled(3) and conv3.fill.needed == EVERYWHERE


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@given(data=st.data())
def test_a_mask_at_the_output_is_dilated_for_the_convolutions_before(stride, dilation, data):
    block = bottleneck("output", stride=stride, dilation=dilation)
    sizes = block.work.sizes(SIZE)
    mask = data.draw(mask_of(sizes[-1]))
    first, second, third = computed(block, {3: mask})
    assert np.array_equal(third, mask > 0) and np.array_equal(second, mask > 0)
    assert np.array_equal(first, read(mask > 0, block.work.convolutions[1].walk, SIZE))
    assert block.work.convolutions[0].fill is None and block.work.convolutions[2].fill.needed == EVERYWHERE


@pytest.mark.parametrize("stride", [1, 2])
@given(data=st.data())
def test_a_basic_block_dilates_for_its_first_convolution(stride, data):
    block = basic("output", stride)
    mask = data.draw(mask_of(block.work.sizes(SIZE)[-1]))
    first, second = computed(block, {2: mask})
    assert np.array_equal(second, mask > 0)
    assert np.array_equal(first, read(mask > 0, block.work.convolutions[1].walk, first.shape))


@given(data=st.data())
def test_a_fill_is_needed_where_the_next_convolution_reads(data):
    block = bottleneck("two", interpolation.rbf, stride=2)
    mask = data.draw(mask_of(block.work.sizes(SIZE)[1]))
    needed = work.positions(block.work.convolutions[0].fill.needed, {2: mask}, SIZE)
    assert np.array_equal(needed, read(mask > 0, block.work.convolutions[1].walk, SIZE))


def test_a_deformable_convolution_may_read_anywhere():
    conv1, conv2, _ = bottleneck("output", deformable=True).work.convolutions
    assert conv1.computes == EVERYWHERE and conv2.computes == Sampled(3) and conv2.beside == "offset"
    assert bottleneck("two", deformable=True).work.convolutions[0].fill.needed == EVERYWHERE


def test_gates_govern_channels_and_keep_conv3_behind_the_fill():
    block = bottleneck("two", interpolation.rbf, gate=Open)
    conv1, conv2, conv3 = block.work.convolutions
    assert [(step.input_gate, step.gate) for step in (conv1, conv2, conv3)] == [(None, 1), (1, 2), (2, None)]
    assert not conv3.commutes and conv3.computes == EVERYWHERE


def test_a_new_mask_changes_the_description():
    block = Bottleneck(8, 4, name="layer1.0", project=True)
    assert not block.work.masks
    block.adapt(Masks.gumbel(), interpolation.zeros(), "output")
    assert block.work.masks == (3,) and block.work.mask_sizes((8, 8)) == {3: (8, 8)}


def test_a_mask_without_a_fill_is_an_error():
    with pytest.raises(ValueError, match="conv1: a mask and a fill come together"):
        work.describe([work.Link("conv1", Walk((1, 1), (1, 1), (0, 0), (1, 1)), Sampled(1))], [1])


def test_only_masks_have_values():
    with pytest.raises(TypeError, match="Everywhere has positions, but no mask values"):
        work.values(EVERYWHERE, {})
