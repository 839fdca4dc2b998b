"""The engine against the PyTorch forward with the same masks, and its tally against the counter, exactly."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.engines import EngineRefusal, EngineUnavailable
from benchmark.engines.cpu import CPUEngine, kernels
from benchmark.flops.measured import MeasuredCounter
from benchmark.nn import (
    ChannelGate,
    GumbelMask,
    LearnedMask,
    Mask,
    Masks,
    build_backbone,
    inference,
    interpolation,
    observing,
    pruning,
    residual_blocks,
    upsample_tiles,
)

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
            if block.adaptable(placement):
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


@contextmanager
def masks_by_place():
    """Collect what the blocks of the forwards inside decide, as the engine names and takes it."""
    masks = {}

    def keep(block, decided):
        for number, values in decided.masks.items():
            masks[f"{block.name}.mask{number}"] = np.ascontiguousarray(values[0, 0].numpy())

    with observing(keep):
        yield masks


def same_maps(model, size, threads=1, seed=0):
    """Check the maps of one image under the forward's own masks; return those, the result, engine and image."""
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))
    engine = CPUEngine(model, threads=threads)
    with inference(["image"], 5), torch.no_grad(), masks_by_place() as masks:
        reference = model.stages(image)
        result = engine(image[0].numpy(), masks=masks)
    for stage, expected in reference.items():
        expected = expected[0].permute(1, 2, 0).numpy()
        error = np.abs(result.stages[stage] - expected).max()
        assert error <= 1e-4 * max(np.abs(expected).max(), 1e-6), (stage, error)
    return masks, result, engine, image[0].numpy()


def needed(result):
    """Multiply-accumulates by layer that the masks need, as the engine tallies them, where there are any."""
    return {layer: row.macs for layer, row in result.tally.items() if row.macs}


def agree(model, size, threads=1, seed=0):
    """Check maps and tally of one image; return the masks and the engine's result."""
    masks, result, engine, image = same_maps(model, size, threads, seed)
    counter = MeasuredCounter(model)
    with inference(["image"], 5), torch.no_grad(), counter.recording():
        model(torch.from_numpy(image)[None])
    table = counter.layers()
    counted = {layer: int(macs) for layer, macs in zip(table["layer"], table["macs"], strict=True) if macs}
    assert needed(result) == counted
    return masks, result, engine, image


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("fill", FILLS)
def test_every_mask_with_every_fill(mask, fill):
    logit = 0.4 if mask == "relu" else 0.0
    agree(network("mini", MASKS[mask], FILLS[fill], logit=logit), (65, 83))


@pytest.mark.parametrize("window", range(1, 32, 2))
def test_every_window_of_the_methods(window):
    agree(network("mini", MASKS["stochastic"], interpolation.rbf(window)), (65, 83), threads=2)
    agree(network("mini_basic", MASKS["relu"], interpolation.average(window), logit=0.4), (40, 56))


@pytest.mark.parametrize("window", [33, 63])
def test_wider_windows_are_refused_by_layer_and_limit(window):
    with pytest.raises(EngineRefusal, match=rf"layer1\.0\.interpolation1: .*odd windows of up to 31, not {window}"):
        CPUEngine(network("mini", MASKS["stochastic"], interpolation.rbf(window)))


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


@pytest.mark.parametrize("deformable", [False, True])
@pytest.mark.parametrize("mask", [None, "stochastic"])
def test_dilation_and_deep_stem(mask, deformable):
    model = network("mini", mask and MASKS[mask], FILLS["rbf"], deformable, output_stride=8, deep_stem=True)
    agree(model, (81, 70))


def given_masks(model, size, density, threads=1, seed=0):
    """Check the maps under random masks of a density, or with one position each; return the engine's result."""
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
    hooks = [
        module.register_forward_hook(lambda module, _, __: torch.from_numpy(masks[module.layer])[None, None])
        for module in model.modules()
        if isinstance(module, Mask)
    ]
    with torch.no_grad():
        reference = model.stages(torch.from_numpy(image)[None])
    for hook in hooks:
        hook.remove()
    for stage, expected in reference.items():
        expected = expected[0].permute(1, 2, 0).numpy()
        assert np.abs(result.stages[stage] - expected).max() <= 1e-4 * max(np.abs(expected).max(), 1e-6)
    return result


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
    given_masks(model, size, density, threads, seed)


@pytest.mark.parametrize("density", [0.3, 0.9])
@pytest.mark.parametrize("fill", ["rbf", "zeros"])
def test_maps_that_take_several_bands(density, fill):
    given_masks(network("mini", MASKS["stochastic"], FILLS[fill]), (880, 960), density, threads=2)


def test_the_last_convolution_runs_everywhere_where_few_positions_are_missing_and_the_tally_says_both():
    # With a window of 3, conv3 has fewer multiply-accumulates on the samples at any density.
    model = network("mini", MASKS["stochastic"], interpolation.rbf(3))
    full, sparse = (given_masks(model, (96, 128), density) for density in (0.95, 0.2))
    assert {name for name, row in sparse.tally.items() if row.executed != row.macs} == set()
    for block in model.layer1:
        mask = full.masks[f"{block.name}.mask2"]
        conv3, fill = full.tally[f"{block.name}.conv3"], full.tally[f"{block.name}.interpolation2"]
        assert conv3.executed == mask.size * block.conv3.weight.numel()
        assert conv3.macs == mask.sum() * block.conv3.weight.numel() < conv3.executed
        assert fill.macs == block.conv3.weight.shape[0] // block.conv3.weight.shape[1] * fill.executed > 0
    assert full.executed > full.macs


def test_own_masks_are_the_networks_own():
    model = network("mini", MASKS["stochastic"], FILLS["rbf"])
    masks, _, engine, image = agree(model, (96, 128))
    with inference(["image"], 5):
        own = engine(image).masks
    # Two orders of summation may differ where a logit meets its threshold to the last bit.
    assert sum(int((own[layer] != mask).sum()) for layer, mask in masks.items()) <= 1
    with inference(["another image"], 5):
        other = engine(image).masks
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
        with pytest.raises(EngineRefusal, match="not Linear"):
            CPUEngine(torch.nn.Linear(2, 2))


def reach(mask, convolution, size):
    """Count, by brute force, the input positions that a convolution reads at the positions of a mask."""
    (k, _), (s, _), (p, _), (d, _) = (
        getattr(convolution, name) for name in ("kernel_size", "stride", "padding", "dilation")
    )
    read = {
        (y * s - p + u * d, x * s - p + v * d)
        for y, x in zip(*np.nonzero(mask), strict=True)
        for u in range(k)
        for v in range(k)
    }
    return sum(0 <= y < size[0] and 0 <= x < size[1] for y, x in read)


def branch_macs(block, mask, size, copies=False):
    """Multiply-accumulates of a block's branch with one mask at its output, ``size`` the input's, by brute force.

    ``copies``: what is missing is copied from the last convolution's input, which then is needed there too.
    """
    sampled, cost = int((mask > 0).sum()), {}
    last = block.convolutions[-1]
    for index in block.convolutions[1:]:
        cost[f"conv{index}"] = sampled * getattr(block, f"conv{index}").weight.numel()
    first = size if last == 3 else mask.shape
    deformable = getattr(block, "offset", None) is not None
    read = first[0] * first[1] if deformable or copies else reach(mask, block.conv2, first)
    cost["conv1"] = read * block.conv1.weight.numel()
    if deformable:
        cost["offset"] = sampled * block.offset.weight.numel()
        cost["conv2.bilinear"] = sampled * 9 * block.conv2.in_channels * 4
    return cost


def input_sizes(size, model):
    """Height and width of each block's input, by the definition of its strides."""
    size = tuple((-(-length // 2) - 1) // 2 + 1 for length in size)
    for block in residual_blocks(model):
        yield block, size
        size = tuple((length - 1) // block.stride + 1 for length in size)


@settings(max_examples=12, deadline=None)
@given(
    size=st.tuples(st.integers(32, 90), st.integers(32, 90)),
    name=st.sampled_from(["mini", "deformable", "dilated", "mini_basic"]),
    mask=st.sampled_from(["stochastic", "soft", "relu"]),
    fill=st.sampled_from(["zeros", "rbf", "reuse", "average"]),
    logit=st.sampled_from([-9.0, -1.0, 0.3, 9.0]),
    threads=st.integers(1, 2),
)
def test_a_mask_at_the_output_of_a_block(size, name, mask, fill, logit, threads):
    options = {"deformable": name == "deformable", "output_stride": 8 if name == "dilated" else 32}
    backbone = name if name.startswith("mini") else "mini"
    logit = min(logit, 1.0) if mask == "relu" else logit  # a gate of 9 in every block makes maps without end
    model = network(backbone, MASKS[mask], FILLS[fill], "output", logit=logit, **options)
    if fill == "reuse" and backbone == "mini":  # conv3 would copy conv2's map, which is computed at the samples alone
        with pytest.raises(EngineRefusal, match="copies the input of a masked map only"):
            CPUEngine(model)
        return
    masks, result, _, _ = agree(model, size, threads)
    counted = needed(result)
    for block, at in input_sizes(size, model):
        expected = branch_macs(block, masks[f"{block.name}.mask{block.convolutions[-1]}"], at, fill == "reuse")
        assert {layer: counted[f"{block.name}.{layer}"] for layer in expected} == expected


@settings(max_examples=12, deadline=None)
@given(
    which=st.sets(st.sampled_from([1, 2, 3]), min_size=1),
    deformable=st.booleans(),
    mask=st.sampled_from(["stochastic", "relu"]),
    fill=st.sampled_from(["rbf", "zeros", "reuse"]),
    size=st.tuples(st.integers(32, 70), st.integers(32, 70)),
)
def test_masks_at_any_of_the_convolutions(which, deformable, mask, fill, size):
    model = network("mini", MASKS[mask], FILLS[fill], "three", logit=0.2, deformable=deformable)
    for block in residual_blocks(model):
        for index in {1, 2, 3} - which:
            setattr(block, f"mask{index}", None)
            setattr(block, f"interpolation{index}", None)
    agree(model, size)


class Late(GumbelMask):
    """A mask that reads what its convolution reads."""

    own_input = True

    def __init__(self, site):
        super().__init__(site.at_own_input(), grid_stride=5, initial_bias=0.0)


@pytest.mark.parametrize("fill", ["rbf", "zeros", "reuse"])
def test_masks_that_read_their_own_convolutions_input(fill):
    model = network("mini_basic", Late, FILLS[fill])
    agree(model, (66, 97))
    image = np.random.default_rng(0).standard_normal((3, 66, 97)).astype(np.float32)
    with inference(["image"], 5), torch.no_grad(), masks_by_place() as masks:
        model(torch.from_numpy(image)[None])
    with inference(["image"], 5):
        own = CPUEngine(model)(image).masks
    assert own.keys() == masks.keys()
    assert sum((own[name] != masks[name]).mean() for name in own) / len(own) < 1e-3  # a threshold may fall otherwise


def test_a_bottleneck_with_such_masks_is_refused_by_name():
    with pytest.raises(EngineRefusal, match=r"layer1\.0\.mask2.*from the block's input alone"):
        CPUEngine(network("mini", Late, FILLS["rbf"]))


class Context(Mask):
    """A convolution, and a linear layer on the global average."""

    def __init__(self, site):
        super().__init__(site)
        self.conv = torch.nn.Conv2d(site.in_channels, 1, 1, stride=site.stride)
        self.linear = torch.nn.Linear(site.in_channels, 1)

    def forward(self, x):
        return (self.conv(x) + self.linear(x.mean((2, 3)))[..., None, None] > 0).to(x.dtype)

    def macs(self, size, out_size):
        return (out_size[0] * out_size[1] + 1) * self.conv.in_channels


class Tiles(Mask):
    """One decision for each tile of 4 x 4 positions."""

    def __init__(self, site):
        super().__init__(site)
        self.conv = torch.nn.Conv2d(site.in_channels, 1, 3, padding=1)

    def forward(self, x):
        height, width = self.size(x)
        pooled = torch.nn.functional.adaptive_avg_pool2d(x, (-(-height // 4), -(-width // 4)))
        return upsample_tiles((self.conv(pooled) > 0).to(x.dtype), 4, (height, width))

    def macs(self, size, out_size):
        return -(-out_size[0] // 4) * -(-out_size[1] // 4) * self.conv.weight.numel()


class Scaled(LearnedMask):
    """The library's convolution with values of one's own, which take a convolution more."""

    def __init__(self, site):
        super().__init__(site, 5, 0.0)
        self.second = torch.nn.Conv2d(1, 1, 3, padding=1)

    def values(self, logits):
        return torch.relu(self.second(logits))

    def macs(self, size, out_size):
        return out_size[0] * out_size[1] * (self.conv.weight.numel() + 9)


OWN = {"context": Context, "tiles": Tiles, "scaled": Scaled}


@settings(max_examples=12, deadline=None)
@given(
    size=st.tuples(st.integers(32, 90), st.integers(32, 90)),
    kind=st.sampled_from(sorted(OWN)),
    placement=st.sampled_from(["two", "output"]),
    name=st.sampled_from(["mini", "mini_basic"]),
    threads=st.integers(1, 2),
)
def test_masks_of_other_classes_decide_through_their_own_forward(size, kind, placement, name, threads):
    model = network(name, OWN[kind], FILLS["rbf"], placement)
    masks, _, engine, image = agree(model, size, threads)
    first, again = engine(image), engine(image)
    assert needed(first) == needed(again)
    differing = sum(int((first.masks[place] != mask).sum()) for place, mask in masks.items() if kind != "scaled")
    assert differing <= 0.001 * sum(mask.size for mask in masks.values()) + 1
    for block, at in input_sizes(size, model):
        for number in block.work.masks:
            place, module = f"{block.name}.mask{number}", getattr(block, f"mask{number}")
            assert first.tally[place].macs == module.macs(at, first.masks[place].shape)


@pytest.mark.parametrize(
    ("kind", "left"), [("stochastic", False), ("relu", False), ("soft", True), *((kind, True) for kind in OWN)]
)
def test_masks_that_no_kernel_decides_alone_are_named(kind, left):
    engine = CPUEngine(network("mini_basic", (MASKS | OWN)[kind], FILLS["rbf"]))
    assert engine.masks_in_pytorch == (engine.mask_layers if left else [])


def test_a_mask_module_in_several_blocks():
    model = network("mini_basic", MASKS["stochastic"], FILLS["rbf"])
    first, second = model.layer2[1], model.layer2[2]
    second.mask1 = first.mask1
    masks, _, engine, image = agree(model, (70, 90))
    with inference(["image"], 5):
        own = engine(image).masks
    assert {"layer2.1.mask1", "layer2.2.mask1"} <= own.keys() == masks.keys()
    assert sum(int((own[place] != mask).sum()) for place, mask in masks.items()) <= 1
    assert (own["layer2.1.mask1"] != own["layer2.2.mask1"]).any()


@pytest.mark.parametrize("mask", [MASKS["stochastic"], Tiles])
def test_a_mask_carried_from_block_to_block(mask):
    model = network("mini_basic", Masks.per_stage(mask), FILLS["zeros"], "output")
    masks, _, engine, image = agree(model, (70, 90))
    with inference(["image"], 5):
        result = engine(image)
    assert sum(int((result.masks[place] != mask).sum()) for place, mask in masks.items()) <= 4
    np.testing.assert_array_equal(result.masks["layer3.1.mask2"], result.masks["layer3.2.mask2"])
    assert not result.tally["layer3.2.mask2"].macs and result.tally["layer3.0.mask2"].macs


def test_random_masks_are_those_of_the_image_at_hand():
    model = network("mini", Masks.random(0.4), FILLS["rbf"])
    masks, _, engine, image = agree(model, (64, 80))
    with inference(["image"], 5):
        own = engine(image).masks
    for place, mask in masks.items():
        np.testing.assert_array_equal(own[place], mask)


def test_an_engine_is_compiled_while_a_loss_waits_for_its_backward_pass():
    model = network("mini_small", MASKS["stochastic"], FILLS["rbf"]).train()
    loss = model(torch.randn(2, 3, 64, 64)).sum()
    CPUEngine(model)
    loss.backward()


def test_a_head_behind_the_last_stage_stays_in_pytorch():
    model = network("mini_small", MASKS["stochastic"], FILLS["rbf"])
    model.add_module("avgpool", torch.nn.AdaptiveAvgPool2d(1))
    model.add_module("fc", torch.nn.Conv2d(model.stage_channels[-1], 3, 1))
    _, result, _, _ = same_maps(model, (64, 80))
    assert list(result.stages) == ["layer1", "layer2", "layer3", "layer4"]


class TestRefusals:
    def test_a_part_between_two_stages(self):
        model = network("mini_small")
        last = model.layer4
        del model.layer4
        model.add_module("exit", torch.nn.Identity())
        model.add_module("layer4", last)
        with pytest.raises(EngineRefusal, match="exit: .*not Identity"):
            CPUEngine(model)

    def test_a_stage_that_is_more_than_its_blocks(self):
        class Halting(torch.nn.Sequential):
            pass

        model = network("mini")
        model.layer2 = Halting(*model.layer2)
        with pytest.raises(EngineRefusal, match="layer2: .*not Halting") as refusal:
            CPUEngine(model)
        assert refusal.value.layer == "layer2"

    def test_a_block_of_another_class(self):
        class Wide(type(build_backbone("mini").layer1[0])):
            pass

        model = network("mini")
        model.layer1[1].__class__ = Wide
        with pytest.raises(EngineRefusal, match=r"layer1\.1: .*class Wide"):
            CPUEngine(model)

    def test_gates_over_channels(self):
        class Open(ChannelGate):
            def forward(self, x):
                return torch.ones(len(x), self.channels)

        model = network("mini")
        model.layer1[0].adapt(None, FILLS["zeros"], build_gate=Open)
        with pytest.raises(EngineRefusal, match=r"layer1\.0\.gate1: "):
            CPUEngine(model)

    def test_fills_of_another_class(self):
        class Noisy(interpolation.RBF):
            pass

        model = network("mini", MASKS["stochastic"], Noisy)
        with pytest.raises(EngineRefusal, match=r"layer1\.0\.interpolation1: .*class Noisy"):
            CPUEngine(model)

    def test_a_mask_of_another_size_than_its_map(self):
        class Small(Mask):
            def forward(self, x):
                return torch.ones(len(x), 1, 3, 3)

        engine = CPUEngine(network("mini", Small, FILLS["rbf"]))
        with pytest.raises(
            ValueError, match=r"layer1\.0\.mask1: the mask is \(1, 1, 3, 3\), expected \(1, 1, 16, 16\)"
        ):
            engine(np.zeros((3, 64, 64), np.float32))
