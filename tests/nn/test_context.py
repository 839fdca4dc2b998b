"""The images and the seed at hand, and who watches what blocks decide."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.nn import (
    CarriedMask,
    FixedMask,
    GumbelMask,
    Masks,
    Site,
    at_hand,
    build_backbone,
    inference,
    interpolation,
    observing,
    padded,
    residual_blocks,
    training,
)


def adapted(build, placement="two", name="mini"):
    torch.manual_seed(0)
    model = build_backbone(name)
    for block in residual_blocks(model):
        block.adapt(build, interpolation.zeros(), placement)
    return model.eval()


def seen(model, x):
    """Return what each block decides: masks by name of the block and number."""
    found = {}

    def watch(block, decided):
        found.update({(block.name, index): values.clone() for index, values in decided.masks.items()})

    with observing(watch), torch.no_grad():
        model(x)
    return found


def test_outside_of_an_inference_images_are_numbered_and_the_seed_is_zero():
    assert at_hand().identifiers(2) == (0, 1) and at_hand().seed == 0


def test_the_context_ends_where_its_block_ends():
    with inference(["a"], seed=3):
        with inference(["b", "c"]):
            assert at_hand().identifiers(2) == ("b", "c")
        assert at_hand().images == ("a",) and at_hand().seed == 3
    assert at_hand().images == ()


def test_progress_is_at_hand_in_training_alone():
    assert at_hand().progress is None
    with training(0.25):
        assert at_hand().progress == 0.25
    with inference(["a"], seed=3):
        assert at_hand().progress is None
        with padded([(8, 9)]):
            assert at_hand().sizes == ((8, 9),) and at_hand().images == ("a",) and at_hand().seed == 3
        assert at_hand().sizes == ()


@given(
    sizes=st.lists(st.tuples(st.integers(1, 64), st.integers(1, 64)), min_size=1, max_size=3),
    resolution=st.sampled_from([1, 4, 8, 32]),
    stride=st.sampled_from([1, 2]),
)
def test_positions_are_valid_whose_first_pixel_lies_on_the_image(sizes, resolution, stride):
    mask = FixedMask(Site("layer1.0.mask1", 3, 3, stride, 1.0, resolution=resolution * stride), np.ones)
    x = torch.zeros(len(sizes), 3, -(-64 // resolution), -(-64 // resolution))
    assert bool(mask.valid(x).all())
    with padded(sizes):
        valid = mask.valid(x)
    assert valid.shape == (len(sizes), 1, *mask.size(x)) and valid.dtype == torch.bool
    for (height, width), region in zip(sizes, valid[:, 0], strict=True):
        for row, column in np.ndindex(region.shape):
            first = row * resolution * stride, column * resolution * stride
            assert bool(region[row, column]) == (first[0] < height and first[1] < width)


def test_sizes_of_another_number_of_images_are_an_error():
    mask = FixedMask(Site("layer1.0.mask1", 3, 3, 1, 1.0), np.ones)
    with padded([(8, 8)]), pytest.raises(ValueError, match="2 images in the batch but 1 sizes at hand"):
        mask.valid(torch.zeros(2, 3, 8, 8))


def test_a_wrong_number_of_identifiers_is_an_error():
    with inference(["a"]), pytest.raises(ValueError, match="2 images in the batch but 1 identifiers"):
        at_hand().identifiers(2)


def test_every_block_shows_its_masks_at_inference_and_none_in_training():
    model, x = adapted(Masks.gumbel()), torch.randn(1, 3, 64, 64)
    assert len(seen(model, x)) == 16
    assert not seen(model.train(), torch.randn(2, 3, 64, 64))


def test_a_copy_sees_the_same_images():
    model, x = adapted(Masks.gumbel(initial_bias=0.0)), torch.randn(1, 3, 64, 64)
    with inference(["a"]):
        ours, copied = seen(model, x), seen(copy.deepcopy(model), x)
    assert all(torch.equal(values, copied[key]) for key, values in ours.items())


def test_one_module_in_several_blocks_decides_in_each():
    shared = {}

    def build(site):
        return shared.setdefault((site.in_channels, site.stride), GumbelMask(site, initial_bias=0.0))

    model, x = adapted(build, "output", "mini_basic"), torch.randn(1, 3, 64, 64)
    assert len(seen(model, x)) == 10 and len(shared) == 7


def test_a_stages_mask_is_decided_once_and_carried_on():
    model = adapted(Masks.per_stage(Masks.gumbel(initial_bias=0.0)), "output")
    for carrying in (model, copy.deepcopy(model)):
        found = seen(carrying, torch.randn(1, 3, 64, 64))
        for stage in range(1, 5):
            first, second = (found[f"layer{stage}.{index}", 3] for index in (0, 1))
            assert torch.equal(first, second)
    assert sum(isinstance(module, CarriedMask) for module in model.modules()) == 4


def test_a_carried_mask_of_another_size_is_an_error():
    model = adapted(Masks.per_stage(Masks.gumbel()), "output")
    model.layer2[1].mask3._owner = (model.layer1[0].mask3,)
    with pytest.raises(ValueError, match=r"layer2.1.mask3: the mask carried from layer1.0.mask3 is \(16, 16\)"):
        model(torch.randn(1, 3, 64, 64))
