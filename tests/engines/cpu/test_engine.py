"""The engine against the PyTorch forward with the same masks, and its tally against the counter, exactly."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.engines import EngineUnavailable
from benchmark.engines.cpu import CPUEngine, kernels
from benchmark.errors import SaibenchError
from benchmark.flops.measured import MeasuredCounter
from benchmark.nn import Mask, Masks, build_backbone, inference, interpolation, pruning, residual_blocks

try:
    kernels.require()
except EngineUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

MASKS = {
    "stochastic": Masks.gumbel(),
    "deterministic": Masks.gumbel(stochastic=False, grid_stride=None),
    "soft": Masks.gumbel(soft_inference=True),
    "relu": Masks.relu(),
    "equal interval": Masks.grid(2),
    "perforated": Masks.perforated("uniform", 0.6),
}
FILLS = {
    "rbf": interpolation.rbf(),
    "rbf 5": interpolation.rbf(5),
    "squared": interpolation.rbf(squared_mask=True),
    "average": interpolation.average(3),
    "convolution": interpolation.convolution(),
    "zeros": interpolation.zeros(),
    "reuse": interpolation.reuse(),
}


def network(name, mask=None, fill=None, placement="two", seed=0, logit=0.0, **options):
    """A network with random weights and statistics; masks of about half density."""
    torch.manual_seed(seed)
    model = build_backbone(name, **options)
    if mask is not None:
        for block in residual_blocks(model):
            if block.adaptable("two"):
                block.adapt(mask, fill, placement)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if ".mask" in key:
                value.normal_(std=0.02) if value.dim() > 1 else value.fill_(logit)
            elif ".offset" in key:
                value.normal_(std=0.05)
            elif key.endswith("lam"):
                value.fill_(0.6)
            elif ".interpolation" in key:
                value.uniform_(-0.2, 1.0)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.2)
                module.bias.uniform_(-0.2, 0.2)
    return model.eval()


def record_masks(model):
    """Hook the masks of the next forward into the returned dictionary."""
    masks = {}

    def keep(module, inputs, output):
        masks[module.layer] = np.ascontiguousarray(output[0, 0].numpy())

    for module in model.modules():
        if isinstance(module, Mask):
            module.register_forward_hook(keep)
    return masks


def agree(model, size, threads=1, seed=0):
    """Check maps and tally of one image; return the masks and the engine's result."""
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))
    engine = CPUEngine(model, threads=threads)
    masks = record_masks(model)
    counter = MeasuredCounter(model)
    with inference(["image"], 5), torch.no_grad():
        with counter.recording():
            model(image)
        reference = model.stages(image)
    result = engine(image[0].numpy(), identifier="image", seed=5, masks=masks)
    for stage, expected in reference.items():
        expected = expected[0].permute(1, 2, 0).numpy()
        error = np.abs(result.stages[stage] - expected).max()
        assert error <= 1e-4 * max(np.abs(expected).max(), 1e-6), (stage, error)
    table = counter.layers()
    counted = {layer: int(macs) for layer, macs in zip(table["layer"], table["macs"], strict=True)}
    assert {layer: row.macs for layer, row in result.tally.items() if row.kind != "uncounted"} == counted
    return masks, result, engine, image[0].numpy()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("fill", FILLS)
def test_every_mask_with_every_fill(mask, fill):
    logit = 0.4 if mask == "relu" else 0.0
    agree(network("mini", MASKS[mask], FILLS[fill], logit=logit), (65, 83))


@pytest.mark.parametrize("placement", ["one", "two", "three"])
@pytest.mark.parametrize("deformable", [False, True])
@pytest.mark.parametrize("mask", ["stochastic", "relu"])
def test_placements_with_and_without_deformable_convolution(placement, deformable, mask):
    model = network("mini", MASKS[mask], FILLS["rbf"], placement, logit=0.2, deformable=deformable)
    agree(model, (72, 91), threads=2)


@pytest.mark.parametrize("structure", ["uniform", "grid", "pooling"])
@pytest.mark.parametrize("name", ["mini", "mini_basic"])
def test_perforation_with_the_nearest_row(structure, name):
    agree(network(name, Masks.perforated(structure, 0.6), interpolation.nearest()), (65, 83))


@pytest.mark.parametrize("fill", FILLS)
def test_basic_blocks(fill):
    agree(network("mini_basic", MASKS["stochastic"], FILLS[fill]), (66, 97))


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_networks_of_full_width(name):
    agree(network(name, MASKS["stochastic"], FILLS["rbf"], deformable=name == "resnet50"), (67, 99), threads=2)


@pytest.mark.parametrize("mask", [None, "stochastic"])
def test_dilation_and_deep_stem(mask):
    model = network("mini", mask and MASKS[mask], FILLS["rbf"], output_stride=8, deep_stem=True)
    agree(model, (81, 70))


@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(32, 90), st.integers(32, 90)),
    density=st.sampled_from([0.0, "one position", 0.05, 0.5, 0.95, 1.0]),
    name=st.sampled_from(["mini", "mini_basic"]),
    threads=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_given_masks_of_any_density_at_any_size(size, density, name, threads, seed):
    model = network(name, MASKS["stochastic"], FILLS["rbf"], deformable=name == "mini" and seed % 2 == 1, seed=seed)
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((3, *size)).astype(np.float32)
    engine = CPUEngine(model, threads=threads)
    masks = {}
    for layer, mask in engine(image).masks.items():
        if density == "one position":
            masks[layer] = np.zeros_like(mask)
            masks[layer].flat[rng.integers(mask.size)] = 1
        else:
            masks[layer] = (rng.random(mask.shape) < density).astype(np.float32)
    result = engine(image, masks=masks)

    def given(module, inputs, output):
        return torch.from_numpy(masks[module.layer])[None, None]

    for module in model.modules():
        if isinstance(module, Mask):
            module.register_forward_hook(given)
    with torch.no_grad():
        reference = model.stages(torch.from_numpy(image)[None])
    for stage, expected in reference.items():
        expected = expected[0].permute(1, 2, 0).numpy()
        assert np.abs(result.stages[stage] - expected).max() <= 1e-4 * max(np.abs(expected).max(), 1e-6)


def test_own_masks_are_the_networks_own():
    model = network("mini", MASKS["stochastic"], FILLS["rbf"])
    masks, _, engine, image = agree(model, (96, 128))
    own = engine(image, identifier="image", seed=5).masks
    # Two orders of summation may differ where a logit meets its threshold to the last bit.
    assert sum(int((own[layer] != mask).sum()) for layer, mask in masks.items()) <= 1
    other = engine(image, identifier="another image", seed=5).masks
    assert any((own[layer] != other[layer]).any() for layer in own)


def test_training_goes_on_beside_the_engine():
    model = network("mini", MASKS["stochastic"], FILLS["rbf"])
    image = np.random.default_rng(0).standard_normal((3, 64, 64)).astype(np.float32)
    before = CPUEngine(model)(image).stages["layer4"].copy()
    model.train()
    after = CPUEngine(model)(image).stages["layer4"]
    assert model.training
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("inner", [True, False])
def test_pruned_backbones(inner):
    model = network("mini_basic")
    for part in list(pruning.prunables(model)):
        if part.inner or not inner:
            part.remove(part.weakest(pruning.norm_of_filters(1), 0.3))
    if inner:  # what stays at full width can still be masked
        for block in residual_blocks(model):
            if block.adaptable("two"):
                block.adapt(MASKS["stochastic"], FILLS["rbf"])
    agree(model.eval(), (70, 90), threads=2)


def test_threads_do_not_change_the_result():
    model = network("mini", MASKS["stochastic"], FILLS["rbf"], deformable=True)
    image = np.random.default_rng(0).standard_normal((3, 96, 128)).astype(np.float32)
    one, two = CPUEngine(model, threads=1)(image), CPUEngine(model, threads=2)(image)
    for stage in one.stages:
        np.testing.assert_array_equal(one.stages[stage], two.stages[stage])


def test_a_sparse_run_needs_no_more_memory_than_the_dense_one():
    image = np.zeros((3, 256, 416), np.float32)
    dense = CPUEngine(network("resnet50"))
    dense(image)
    model = network("resnet50", MASKS["stochastic"], FILLS["rbf"])
    shapes = {layer: mask.shape for layer, mask in CPUEngine(model)(image).masks.items()}
    for density in (0.182, 0.493):
        sparse = CPUEngine(model)
        rng = np.random.default_rng(0)
        sparse(image, masks={k: (rng.random(shape) < density).astype(np.float32) for k, shape in shapes.items()})
        assert sparse.memory_bytes <= 1.02 * dense.memory_bytes


class TestBadInput:
    model = network("mini_small", MASKS["stochastic"], FILLS["rbf"])
    image = np.zeros((3, 64, 64), np.float32)

    def test_images(self):
        engine = CPUEngine(self.model)
        with pytest.raises(TypeError, match="float64"):
            engine(self.image.astype(np.float64))
        with pytest.raises(ValueError, match=r"\(4, 64, 64\)"):
            engine(np.zeros((4, 64, 64), np.float32))
        with pytest.raises(ValueError, match="contiguous"):
            engine(self.image[:, ::2])
        with pytest.raises(ValueError, match="NaN"):
            engine(np.full_like(self.image, np.nan))
        with pytest.raises(TypeError, match="Tensor"):
            engine(torch.zeros(3, 64, 64))

    def test_masks(self):
        engine = CPUEngine(self.model)
        layer, mask = next(iter(engine(self.image).masks.items()))
        with pytest.raises(ValueError, match=r"has shape \(3, 3\), the map is"):
            engine(self.image, masks={layer: np.ones((3, 3), np.float32)})
        with pytest.raises(ValueError, match="has shape"):
            engine(self.image, masks={layer: np.ones((0, 3), np.float32)})
        with pytest.raises(ValueError, match="NaN"):
            engine(self.image, masks={layer: np.full_like(mask, np.nan)})
        with pytest.raises(TypeError, match="float64"):
            engine(self.image, masks={layer: mask.astype(np.float64)})
        with pytest.raises(ValueError, match="no mask layers"):
            engine(self.image, masks={"layer9": mask})

    def test_other_models(self):
        with pytest.raises(SaibenchError, match="not Linear"):
            CPUEngine(torch.nn.Linear(2, 2))

    def test_unknown_masks(self):
        model = copy.deepcopy(self.model)
        block = next(residual_blocks(model))

        class Odd(Mask):
            def forward(self, x):
                return x[:, :1]

        block.mask1 = Odd(block.sites("two")[0])
        with pytest.raises(SaibenchError, match="Odd"):
            CPUEngine(model)(self.image)
