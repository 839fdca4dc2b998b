"""Whatever a method adds is counted, listed as uncounted by name and place, or an error that names it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.errors import SaibenchError
from benchmark.flops import paper
from benchmark.flops.measured import MeasuredCounter
from benchmark.flops.trace import skeleton, structure
from benchmark.nn import interpolation
from benchmark.nn.context import at_hand, inference, observing
from benchmark.nn.interpolation import RBF, Interpolation
from benchmark.nn.masks import LearnedMask, Mask, Masks, Site
from benchmark.nn.resnet import build_backbone, residual_blocks

SITE = Site("layer1.0.mask1", 4, 4, 1, 1.0)


class Pooled(Mask):
    """A mask from a linear layer on the global average, and a convolution that works tile by tile."""

    def __init__(self, site, tile=2):
        super().__init__(site)
        self.tile = tile
        self.linear = nn.Linear(site.in_channels, 1)
        self.weight = nn.Parameter(torch.zeros(1, site.in_channels, 1, 1))

    def forward(self, x):
        size = self.size(x)
        tiles = F.conv2d(F.adaptive_avg_pool2d(x, [max(1, side // self.tile) for side in size]), self.weight)
        scores = F.interpolate(tiles, size, mode="nearest") + self.linear(x.mean((2, 3)))[:, :, None, None]
        return (scores > 0).to(x.dtype)


class Detached(Mask):
    """A mask whose scores leave PyTorch, so that no graph leads from its convolution to its output."""

    def __init__(self, site):
        super().__init__(site)
        self.conv = nn.Conv2d(site.in_channels, 1, 3, site.stride, 1)

    def forward(self, x):
        return torch.from_numpy((self.conv(x).detach().numpy() > 0).astype(np.float32))


class Wasteful(LearnedMask):
    """A learned mask that computes a second convolution and does not use it."""

    def __init__(self, site):
        super().__init__(site, None, 0.0)
        self.spare = nn.Conv2d(site.in_channels, 5, 1)

    def forward(self, x):
        self.spare(x)
        return super().forward(x)

    def values(self, logits):
        return (logits >= 0).to(logits)


class Strided(Mask):
    """A mask without parts whose convolution puts out more than the mask."""

    def __init__(self, site):
        super().__init__(site)
        self.weight = nn.Parameter(torch.zeros(1, site.in_channels, 3, 3))

    def forward(self, x):
        return (F.conv2d(x, self.weight, padding=1)[..., :: self.stride, :: self.stride] > 0).to(x.dtype)


class Squeezing(Interpolation):
    """A fill by a convolution of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 1, 1))

    def forward(self, features, mask, source):
        mean = F.conv2d(features.mean(1, keepdim=True), self.weight[:1, None])
        return mask * features + (1 - mask) * mean


class Gaussian(RBF):
    """A window of the project's kind with weights of its own."""

    def profile(self):
        return torch.exp(-0.3 * (torch.arange(self.window) - self.window // 2) ** 2)


def adapted(mask, fill=None, placement="output", name="mini_small"):
    model = build_backbone(name)
    for block in residual_blocks(model):
        block.adapt(mask, fill or interpolation.zeros(), placement)
    return model.eval()


def counted(model, size=(64, 96)):
    counter = MeasuredCounter(model)
    with counter.recording(), torch.no_grad():
        model(torch.zeros(1, 3, *size))
    return counter


def row(counter, layer):
    table = counter.layers()
    found = table[table["layer"] == layer]
    assert len(found) == 1
    return found.iloc[0]


def maps(model, size):
    """Return each block's input size and channels, and its output size, from a forward."""
    found = {}
    for block in residual_blocks(model):
        block.register_forward_hook(
            lambda block, inputs, output: found.__setitem__(
                block.name, (block.in_channels, inputs[0].shape[-2:], output.shape[-2:])
            )
        )
    with torch.no_grad():
        model(torch.zeros(1, 3, *size))
    return found


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (200, 104)])
@pytest.mark.parametrize("mask", [Pooled, Detached, Wasteful, Strided])
def test_a_masks_own_forward_is_one_row_with_all_that_it_runs(mask, size):
    model = adapted(mask)
    counter = counted(model, size)
    for name, (channels, before, after) in maps(model, size).items():
        inside, outside = before[0] * before[1], after[0] * after[1]
        tiles = max(1, after[0] // 2) * max(1, after[1] // 2)
        expected = {
            Pooled: channels * tiles + channels,
            Detached: 9 * channels * outside,
            Wasteful: 9 * channels * outside + 5 * channels * inside,
            Strided: 9 * channels * inside,
        }[mask]
        found = row(counter, f"{name}.mask3")
        assert (found["kind"], found["scope"], found["macs"]) == ("mask", "backbone", expected)


def test_the_closed_form_counts_a_masks_own_forward_too():
    model = adapted(Pooled)
    closed, measured = (
        table[table["kind"] == "mask"].set_index("layer")["macs"].to_dict()
        for table in (paper.count(model, 64, 96, 0.5), counted(model).layers())
    )
    assert len(measured) == 4 and closed == measured


def test_what_is_not_counted_in_an_addition_is_listed_with_its_kind():
    names = counted(adapted(Pooled, Squeezing)).uncounted
    assert {
        "mask: aten::mean",
        "mask: aten::upsample_nearest2d",
        "mask: aten::gt",
        "mask: aten::adaptive_avg_pool2d",
    } <= {*names}
    assert {"interpolation: aten::mul", "interpolation: aten::mean", "aten::batch_norm"} <= set(names)
    assert not any("noise" in name or "kernel weights" in name for name in names)  # nothing of the project's runs
    assert any("noise" in name for name in counted(adapted(Masks.gumbel())).uncounted)


def test_a_fill_with_a_forward_of_its_own_is_counted_by_it_and_conv3_stays_behind_it():
    counter = counted(adapted(Masks.gumbel(initial_bias=-1.0, grid_stride=4), Squeezing, "two"))
    assert row(counter, "layer1.0.interpolation2")["macs"] == 16 * 24  # one weight for the mean of the channels
    assert row(counter, "layer1.0.conv2")["density"] < 1
    assert row(counter, "layer1.0.conv3")["density"] == 1


def test_a_windowed_fill_with_weights_of_its_own_is_counted_by_pairs_like_the_projects():
    masks = Masks.gumbel(initial_bias=-1.0, grid_stride=4)
    torch.manual_seed(0)
    own = counted(adapted(masks, lambda: Gaussian(5), "two")).image_layers()
    torch.manual_seed(0)
    ours = counted(adapted(masks, interpolation.rbf(5), "two")).image_layers()
    assert (own == ours).where(own.notna() | ours.notna(), True).all(axis=None)


def test_an_attribute_of_a_masks_class_changes_what_is_counted():
    few, many = (
        row(counted(adapted(lambda site, tile=tile: Pooled(site, tile))), "layer1.0.mask3")["macs"] for tile in (4, 1)
    )
    assert few < many
    assert structure(adapted(Pooled)) == structure(adapted(Pooled))
    assert skeleton(adapted(Pooled)) is skeleton(adapted(Pooled))


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"value": [1, (2, "a")]}, {"value": [1, (2, "a")]}, True),
        ({"value": [1, (2, "a")]}, {"value": [1, (2, "b")]}, False),
        ({"value": 1}, {"value": True}, False),
        ({"value": torch.zeros(2, 3)}, {"value": torch.ones(2, 3)}, True),  # traced as zeros
        ({"value": torch.zeros(2, 3)}, {"value": torch.zeros(3, 2)}, False),
        ({"value": [nn.Conv2d(1, 1, 1)]}, {"value": [nn.Conv2d(1, 1, 1)]}, True),
        ({"value": [nn.Conv2d(1, 1, 1)]}, {"value": [nn.Conv2d(1, 1, 3)]}, False),
        ({"value": np.arange(3)}, {"value": np.arange(3)}, True),
        ({"value": np.arange(3)}, {"value": np.ones(3)}, False),
        ({"value": object()}, {"value": object()}, False),
        ({"value": (lambda n: lambda: n)(1)}, {"value": (lambda n: lambda: n)(1)}, False),  # two functions of the file
    ],
)
def test_structures_of_classes_from_elsewhere_have_their_attributes(one, other, equal):
    def module(attributes):
        made = Pooled(SITE)
        vars(made).update(attributes)
        return made

    assert (structure(module(one)) == structure(module(other))) is equal


def test_functions_are_told_apart_by_what_they_close_over():
    def mask(tile):
        made = Pooled(SITE)
        made.choose = lambda: tile
        return structure(made)

    assert mask(1) == mask(1)
    assert mask(1) != mask(2)


class Known(Mask):
    """A mask that runs for images that the test names, and for no other."""

    def forward(self, x):
        if not at_hand().images:
            raise LookupError("no table for this image")
        return x.new_ones(len(x), 1, *self.size(x))


def test_a_forward_that_cannot_be_traced_is_named():
    model = adapted(Known)
    counter = MeasuredCounter(model)
    with counter.recording(), torch.no_grad(), inference(["a"]):
        model(torch.zeros(1, 3, 64, 64))
    with pytest.raises(SaibenchError, match=r"layer1\.0\.mask3: the mask's forward cannot be traced .*no table for"):
        counter.images()


def test_tracing_is_noticed_by_nobody():
    class Drawing(Mask):
        def forward(self, x):
            return torch.rand(len(x), 1, *self.size(x)).round()

    model = adapted(Drawing)
    counter, seen = MeasuredCounter(model), []
    with counter.recording(), torch.no_grad():
        model(torch.zeros(1, 3, 72, 64))
    before = torch.get_rng_state()
    with inference(["a", "b"]), observing(lambda block, decided: seen.append(block)):
        counter.images()
    assert seen == [] and torch.equal(torch.get_rng_state(), before)


def test_a_model_that_just_ran_with_gradients_is_counted():
    model = adapted(Pooled)
    model(torch.zeros(1, 3, 64, 64))  # leaves masks with a graph behind
    assert row(counted(model), "layer1.0.mask3")["macs"] > 0
