"""Whole networks, drawn: the engine equals PyTorch or refuses in one line. The sanitizer build runs these too."""

import dataclasses
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.engines import EngineRefusal, EngineUnavailable
from benchmark.engines.cpu import CPUEngine, kernels
from benchmark.nn import Masks, inference, interpolation, observing, residual_blocks
from benchmark.nn.resnet import BACKBONES, ResNet

try:
    kernels.require()
except EngineUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

EXAMPLES = int(os.environ.get("SAIBENCH_FUZZ_EXAMPLES", "25"))

windows = st.integers(0, 15).map(lambda radius: 2 * radius + 1)
fills = st.one_of(
    windows.flatmap(lambda w: st.sampled_from([interpolation.rbf(w), interpolation.average(w)])),
    windows.flatmap(lambda w: st.sampled_from([interpolation.rbf(w, squared_mask=True), interpolation.convolution(w)])),
    st.sampled_from([interpolation.zeros(), interpolation.reuse()]),
)
grids = st.one_of(st.none(), st.integers(1, 31))
masks = st.one_of(
    st.builds(Masks.gumbel, st.booleans(), grids, st.floats(-2, 2), st.booleans()),
    st.builds(Masks.relu, grids, st.floats(-1, 1)),
    st.integers(1, 9).map(Masks.grid),
    st.floats(0.01, 1).map(Masks.random),
)
networks = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["mini", "mini_basic"]),
        "width": st.integers(1, 24),
        "depths": st.tuples(*[st.integers(1, 2)] * 4),
        "deformable": st.booleans(),
        "output_stride": st.sampled_from([8, 32]),
        "deep_stem": st.booleans(),
        "placement": st.sampled_from(["one", "two", "three", "output"]),
        "mask": st.one_of(st.none(), masks),
        "fill": fills,
        "seed": st.integers(0, 2**16),
    }
)


def build(drawn):
    torch.manual_seed(drawn["seed"])
    spec = dataclasses.replace(BACKBONES[drawn["kind"]], width=drawn["width"], depths=drawn["depths"])
    deformable = drawn["deformable"] and drawn["kind"] == "mini"
    model = ResNet(spec, deformable, drawn["output_stride"], drawn["deep_stem"])
    # Figure 3's (a) and (c) need three convolutions.
    placement = drawn["placement"] if drawn["kind"] == "mini" or drawn["placement"] == "output" else "two"
    for block in residual_blocks(model):
        if drawn["mask"] is not None and block.adaptable(placement):
            block.adapt(drawn["mask"], drawn["fill"], placement)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".mask" in name and value.dim() > 1:
                value.normal_(std=0.05)
            elif ".offset" in name:
                value.normal_(std=0.1)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.2, 1.0)
                module.bias.uniform_(-0.2, 0.2)
    return model.eval()


@pytest.mark.usefixtures("isa")
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(networks, st.tuples(st.integers(1, 70), st.integers(1, 70)), st.integers(1, 3), st.integers(1, 3))
def test_networks_of_any_shape_equal_pytorch_or_are_refused_in_one_line(drawn, size, images, threads):
    model = build(drawn)
    batch = torch.randn(images, 3, *size, generator=torch.Generator().manual_seed(drawn["seed"]))
    decided = [{} for _ in range(images)]

    def keep(block, found):
        for number, values in found.masks.items():
            for image, own in zip(decided, values, strict=True):
                image[f"{block.name}.mask{number}"] = np.ascontiguousarray(own[0].numpy())

    identifiers = [f"image {number}" for number in range(images)]
    try:
        with inference(identifiers, 7), torch.no_grad(), observing(keep):
            reference = model.stages(batch)
    except ValueError as error:  # PyTorch's own fill cannot run it: neither can the engine
        assert "cannot reuse" in str(error)
        reference = None
    try:
        engine = CPUEngine(model, threads=threads)
        with inference(identifiers, 7):
            results = engine(batch.numpy(), masks=decided)
    except (EngineRefusal, ValueError) as error:
        assert "\n" not in str(error)
        assert reference is None or isinstance(error, EngineRefusal)
        return
    for stage, maps in reference.items():
        for result, expected in zip(results, maps, strict=True):
            expected = expected.permute(1, 2, 0).numpy()
            error = np.abs(result.stages[stage] - expected).max()
            assert error <= 2e-4 * max(np.abs(expected).max(), 1e-3), (stage, error)


def sparse_network(seed=0):
    return build(
        {
            "kind": "mini",
            "width": 16,
            "depths": (2, 2, 2, 2),
            "deformable": False,
            "output_stride": 32,
            "deep_stem": False,
            "placement": "two",
            "mask": Masks.gumbel(initial_bias=0.0),
            "fill": interpolation.rbf(),
            "seed": seed,
        }
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("as_list", [False, True])
def test_a_batch_gives_what_its_images_give_alone(threads, as_list):
    """Needed multiply-accumulates and masks are equal; maps to 1e-6, since a group chooses one order for conv3."""
    engine = CPUEngine(sparse_network(), threads=threads)
    rng = np.random.default_rng(0)
    sizes = [(65, 83), (32, 40), (65, 83), (1, 1), (32, 40), (65, 83)] if as_list else [(72, 91)] * 9
    images = [rng.standard_normal((3, *size)).astype(np.float32) for size in sizes]
    names = [f"image {number}" for number in range(len(images))]
    with inference(names, 3):
        results = engine(images if as_list else np.stack(images))
    kept = [
        ({name: stage.copy() for name, stage in r.stages.items()}, {k: row.macs for k, row in r.tally.items()}, r.masks)
        for r in results
    ]
    for image, name, (stages, macs, decided) in zip(images, names, kept, strict=True):
        with inference([name], 3):
            alone = engine(image)
        assert macs == {layer: row.macs for layer, row in alone.tally.items()}
        for layer, mask in alone.masks.items():
            np.testing.assert_array_equal(decided[layer], mask)
        for stage, expected in alone.stages.items():
            assert np.abs(stages[stage] - expected).max() <= 1e-6 * np.abs(expected).max()


def test_masks_are_given_by_image():
    engine = CPUEngine(sparse_network(), threads=1)
    images = np.random.default_rng(0).standard_normal((2, 3, 48, 64)).astype(np.float32)
    layer, mask = next(iter(engine(images[0]).masks.items()))
    first, second = engine(images, masks=[None, {layer: np.zeros_like(mask)}])
    assert first.masks[layer].any()
    assert not second.masks[layer].any()
    with pytest.raises(ValueError, match="2 images, but masks for 1"):
        engine(images, masks=[None])
    with pytest.raises(ValueError, match="image with shape .* holds NaN"):
        engine([images[0], np.full_like(images[1], np.nan)])


def test_half_weights_change_maps_by_their_rounding_alone():
    model = sparse_network()
    image = np.random.default_rng(0).standard_normal((3, 72, 91)).astype(np.float32)
    exact, half = CPUEngine(model, threads=1), CPUEngine(model, threads=1, weights="bfloat16")
    with inference(["image"], 3):
        expected = exact(image)
        found = half(image, masks=expected.masks)
    for stage, values in expected.stages.items():
        difference = np.abs(found.stages[stage] - values).max()
        assert 0 < difference <= 0.03 * np.abs(values).max()
    with pytest.raises(ValueError, match="float32 or bfloat16, not 'int4'"):
        CPUEngine(model, weights="int4")
