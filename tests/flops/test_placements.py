"""Measured counts equal loops over positions for every placement, shared and carried masks, tiles and gates."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from benchmark.errors import SaibenchError
from benchmark.flops.measured import MeasuredCounter
from benchmark.nn import interpolation, work
from benchmark.nn.blocks import BasicBlock, Bottleneck
from benchmark.nn.context import observing
from benchmark.nn.gates import ChannelGate
from benchmark.nn.masks import Mask, Masks, upsample_tiles
from benchmark.nn.work import EVERYWHERE
from tests.flops.loops import block_macs, size_after

FILLS = {
    "rbf": interpolation.rbf,
    "zeros": lambda window: interpolation.zeros(),
    "reuse": lambda window: interpolation.reuse(),
}


class Predicted(Mask):
    """A mask that pays for a convolution and a linear layer, and whose values are drawn instead, tile by tile."""

    def __init__(self, site, palette, tile, generator):
        super().__init__(site)
        self.conv = nn.Conv2d(site.in_channels, 1, 3, site.stride, 1)
        self.linear = nn.Linear(site.in_channels, 1)
        self.palette, self.tile, self.generator = palette, tile, generator

    def forward(self, x):
        logits = self.conv(x) + self.linear(x.mean((2, 3)))[:, :, None, None]
        height, width = self.size(x)
        tiles = -(-height // self.tile), -(-width // self.tile)
        chosen = torch.randint(len(self.palette), (len(x), 1, *tiles), generator=self.generator)
        return 0 * logits + upsample_tiles(torch.tensor(self.palette)[chosen], self.tile, (height, width))


class PredictedGate(ChannelGate):
    """A gate that pays for a linear layer, and whose values are drawn instead."""

    def __init__(self, site, generator):
        super().__init__(site)
        self.linear = nn.Linear(site.in_channels, site.channels)
        self.generator = generator

    def forward(self, x):
        scores = self.linear(x.mean((2, 3)))
        return 0 * scores + torch.randint(2, scores.shape, generator=self.generator)


class Net(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.stem = nn.Conv2d(3, blocks[0].in_channels, 1)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images):
        return self.blocks(self.stem(images))


def sharing(kind, build):
    """Return a builder of masks that blocks have for themselves, share as one module, or carry on."""
    if kind == "carried":
        return Masks.per_stage(build)
    made = {}
    return build if kind == "own" else lambda site: made.setdefault((site.channels, site.stride), build(site))


@st.composite
def networks(draw):
    kind = draw(st.sampled_from([Bottleneck, BasicBlock]))
    planes = draw(st.sampled_from([2, 3]))
    stride, dilation = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2]))
    placements = ["output", "output", "one", "two", "three"] if kind is Bottleneck else ["output", "two"]
    placement = draw(st.sampled_from(placements))
    fill, window = draw(st.sampled_from(sorted(FILLS))), draw(st.sampled_from([1, 3, 5]))
    palette = draw(st.sampled_from([[0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.3, 1.0]]))
    tile = draw(st.sampled_from([1, 2, 3]))
    masked, gated = draw(st.sampled_from([(True, False), (True, True), (False, True)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    options = {"deformable": draw(st.booleans())} if kind is Bottleneck else {}
    build = sharing(
        draw(st.sampled_from(["own", "shared", "carried"])), lambda site: Predicted(site, palette, tile, generator)
    )
    build_gate = (lambda site: PredictedGate(site, generator)) if gated else None
    channels = planes * kind.expansion
    blocks = [
        kind(channels, planes, stride, dilation, "layer1.0", True, **options),
        kind(channels, planes, 1, dilation, "layer1.1", **options),
        kind(channels, planes, 1, dilation, "layer1.2", **options),
    ]
    resolution = 1
    for block in blocks:
        block.stage, block.resolution = blocks[0].stage, resolution
        block.adapt(build if masked else None, FILLS[fill](window), placement, build_gate)
        resolution *= block.stride
    size = draw(st.integers(4, 8)), draw(st.integers(4, 8))
    return Net(blocks).eval(), size, draw(st.integers(1, 2))


def run(net, size, images):
    """Count some images; return the counter, and what each block decided in the order in which they ran."""
    counter, seen = MeasuredCounter(net), []
    with counter.recording(), observing(lambda block, decided: seen.append((block, decided))), torch.no_grad():
        net(torch.zeros(images, 3, *size))
    return counter, seen


def by_loops(net, seen, size, image):
    macs = 3 * net.stem.out_channels * size[0] * size[1]
    for block, decided in seen:
        masks = {index: values[image, 0].tolist() for index, values in decided.masks.items()}
        gates = {index: values[image].tolist() for index, values in decided.gates.items()}
        macs += block_macs(block, size, masks, gates)
        size = size_after(size_after(size, block.conv1), block.conv2)
    return macs


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_counts_equal_loops_over_positions(network):
    net, size, images = network
    counter, seen = run(net, size, images)
    assert len(seen) == len(net.blocks)
    assert counter.images()["macs"].tolist() == [by_loops(net, seen, size, image) for image in range(images)]
    assert not counter.layers()[["layer", "kind"]].duplicated().any()


def test_a_forgotten_dilation_makes_counts_differ_from_loops(monkeypatch):
    """The description has one author, and the loops are not it."""

    def difference():
        generator = torch.Generator().manual_seed(0)
        net = network_of(lambda site: Predicted(site, [0.0, 0.0, 1.0], 1, generator), "output")
        counter, seen = run(net, (7, 8), 1)
        return counter.images()["macs"][0] - by_loops(net, seen, (7, 8), 0)

    assert difference() == 0
    monkeypatch.setattr(work, "read_by", lambda region, walk: EVERYWHERE if walk.anywhere else region)
    assert difference() < 0


def network_of(build, placement, blocks=2):
    made = [Bottleneck(8, 2, name=f"layer1.{index}") for index in range(blocks)]
    for block in made:
        block.stage = made[0].stage
        block.adapt(build, interpolation.zeros(), placement)
    return Net(made).eval()


def test_a_mask_that_blocks_share_has_a_row_in_each_and_one_that_is_carried_has_one():
    def build(site):
        return Predicted(site, [0.0, 1.0], 1, torch.Generator())

    rows = {}
    for kind in ("own", "shared", "carried"):
        counter, _ = run(network_of(sharing(kind, build), "output"), (6, 7), 1)
        table = counter.layers()
        rows[kind] = table[table["kind"] == "mask"].set_index("layer")["macs"].to_dict()
    cost = 9 * 8 * 42 + 8
    assert rows["own"] == rows["shared"] == {"blocks.0.mask3": cost, "blocks.1.mask3": cost}
    assert rows["carried"] == {"blocks.0.mask3": cost}


def test_density_maps_and_densities_are_those_of_the_masks_and_not_of_what_they_dilate_to():
    counter, seen = run(network_of(lambda site: Predicted(site, [0.0, 1.0], 2, torch.Generator()), "output"), (6, 7), 3)
    masks = [decided.masks[3] for _, decided in seen]
    assert counter.images()["density"].tolist() == pytest.approx(torch.stack(masks).mean((0, 2, 3, 4)).tolist())
    maps = counter.density_maps()
    assert set(maps) == {"blocks.0.mask3", "blocks.1.mask3"}
    assert maps["blocks.1.mask3"] == pytest.approx(masks[1].mean(0)[0].numpy())
    rows = counter.layers().set_index("layer")
    assert rows.loc["blocks.0.conv1", "density"] > rows.loc["blocks.0.conv2", "density"]


class Spoilt(Mask):
    """A mask of the wrong extent."""

    def __init__(self, site, shape):
        super().__init__(site)
        self.shape = shape

    def forward(self, x):
        return torch.ones(self.shape)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 6, 7), r"blocks\.0\.mask3: a mask is \(2, 1, H, W\), not 1 x 1 x 6 x 7"),
        ((2, 1, 1, 1), r"blocks\.0\.mask3: the mask is 1x1, the map that it governs 6x7"),
    ],
)
def test_a_mask_that_would_be_counted_for_other_positions_is_refused(shape, message):
    with pytest.raises(SaibenchError, match=message):
        run(network_of(lambda site: Spoilt(site, shape), "output"), (6, 7), 2)


def test_blocks_that_run_twice_or_not_at_all_are_refused():
    net = network_of(lambda site: Predicted(site, [0.0, 1.0], 1, torch.Generator()), "output")
    twice, never = Net(net.blocks).eval(), Net(net.blocks).eval()
    twice.forward = lambda images: net.blocks(net.blocks(net.stem(images)))
    never.forward = lambda images: net.blocks[0](net.stem(images))
    with pytest.raises(SaibenchError, match=r"blocks\.0: a block that runs twice"):
        run(twice, (6, 7), 1)
    with pytest.raises(SaibenchError, match=r"blocks\.1: this block did not run"):
        run(never, (6, 7), 1)
