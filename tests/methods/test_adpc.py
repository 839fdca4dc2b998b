"""ADP-C and exits against their definition in plain PyTorch: merged predictions, masks, counts and losses."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from benchmark.cells import Request, execute, plan
from benchmark.errors import UsageError
from benchmark.flops.measured import MeasuredCounter
from benchmark.method import discover
from benchmark.nn import build_backbone, exits, observing, residual_blocks
from benchmark.store import Store
from benchmark.tasks import Batch, find_task
from benchmark.tasks.cityscapes.segmenter import ExitHead, Segmenter, SegmenterSize
from tests.conftest import TINY

TASK = find_task("cityscapes")


def sharpen(model, each, images):
    """Scale an exit's logits so that it is more confident than 0.4 at 3 of 10 positions."""
    kept = []
    with each.head.register_forward_hook(lambda module, given, output: kept.append(output)), torch.no_grad():
        model(images)
        low, high = 0.0, 1000.0
        for _ in range(40):
            scale = (low + high) / 2
            sharp = (scale * kept[0]).softmax(1).amax(1).quantile(0.7) > 0.4
            low, high = (low, scale) if sharp else (scale, high)
        each.head.classify.weight *= low


@pytest.fixture
def segmenter():
    """Return a small segmenter with ADP-C's exits and masks, whose exits are confident here and there."""
    torch.manual_seed(0)
    kind = discover()["adpc"]
    model = Segmenter(build_backbone("mini_small", output_stride=8), 5, 64, SegmenterSize(channels=8, crop=65))
    TASK.add_exits(model, kind.exits)
    kind().adapt(model.backbone)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    method = kind(threshold=0.4)
    method.configure(model.eval().backbone)
    images = torch.randn(1, 3, 65, 97)
    for each in exits(model):
        torch.nn.init.zeros_(each.head.classify.bias)
        sharpen(model, each, images)
    return method, model


def filled(features, mask, fill):
    """Blend a map with the weighted mean of its sampled neighbours, the released code's kernel."""
    offsets = torch.arange(fill.window) - fill.window // 2
    distance = offsets[:, None] ** 2 + offsets[None] ** 2
    kernel = fill.sigma**2 / (2 * math.pi) * torch.exp(-(fill.sigma**2) * distance / 2)
    spread = kernel.expand(features.shape[1], 1, -1, -1)
    pad, channels = fill.window // 2, features.shape[1]
    near = F.conv2d(mask * features, spread, padding=pad, groups=channels)
    return mask * features + (1 - mask) * near / (F.conv2d(mask, kernel[None, None], padding=pad) + 1e-5)


def at(values, size):
    """Return every position's value on a coarser map: that of the position that it lies on."""
    stride = -(-values.shape[-2] // size[0])
    return values[..., ::stride, ::stride]


def plain(model, images, threshold):
    """Return the logits of all exits and of the head, each merged with the one before."""
    body = model.backbone
    state = body.maxpool(body.relu(body.bn1(body.conv1(images))))
    merged = None
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        blocks = list(residual_blocks(getattr(body, stage)))
        for block in blocks:
            masks = {1: torch.ones(1), 2: torch.ones(1)}
            if merged is not None:
                uncertain = (merged.softmax(1).amax(1, keepdim=True) <= threshold).float()
                small = [-(-side // block.stride) for side in state.shape[-2:]]
                masks = {1: at(uncertain, state.shape[-2:]), 2: at(uncertain, small)}
            features = torch.relu(block.bn1(block.conv1(state)))
            features = features if merged is None else filled(features, masks[1], block.interpolation1)
            features = torch.relu(block.bn2(block.conv2(features)))
            features = features if merged is None else filled(features, masks[2], block.interpolation2)
            shortcut = state if block.downsample is None else block.downsample(state)
            state = torch.relu(block.bn3(block.conv3(features)) + shortcut)
        logits = model.head(state) if stage == "layer4" else getattr(body, stage).exit.head(state)
        if merged is not None:
            before = at(merged, logits.shape[-2:])
            logits = torch.where(before.softmax(1).amax(1, keepdim=True) > threshold, before, logits)
        merged = logits
        yield logits


def test_later_stages_compute_and_predict_only_where_no_exit_was_confident(segmenter):
    method, model = segmenter
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        expected = list(plain(model, images, method.threshold))
        found = model(images)
    stopped = [float((logits.softmax(1).amax(1) > method.threshold).float().mean()) for logits in expected[:3]]
    assert 0 < stopped[0] < stopped[-1] < 0.98
    for each, logits in zip(exits(model), expected[:3], strict=True):
        torch.testing.assert_close(each.logits, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, model.upsample(expected[3], images), rtol=1e-4, atol=1e-4)


def test_a_pixel_that_stopped_is_computed_in_no_later_stage(segmenter):
    _, model = segmenter
    masks = []
    with torch.no_grad(), observing(lambda block, seen: masks.append((block.name, seen.masks[2][0, 0]))):
        model(torch.randn(1, 3, 65, 97))
    names, last = zip(*masks, strict=True)
    assert [name.partition(".")[0] for name in names] == ["layer2", "layer3", "layer4"]
    assert all(bool((later <= earlier).all()) for earlier, later in itertools.pairwise(last))
    assert last[0].sum() > last[-1].sum() > 0


def test_the_count_is_a_sum_over_positions_and_exits(segmenter):
    _, model = segmenter
    counter, seen = MeasuredCounter(model, TASK.adapter(model)), {}
    with torch.no_grad(), counter.recording(), observing(lambda block, decided: seen.update({block: decided})):
        model(torch.randn(1, 3, 65, 97))
    table = counter.layers().set_index("layer")
    for block, decided in seen.items():
        name = f"backbone.{block.name}"
        assert table.loc[f"{name}.conv1", "macs"] == decided.masks[1].sum() * block.conv1.weight.numel()
        assert table.loc[f"{name}.conv2", "macs"] == decided.masks[2].sum() * block.conv2.weight.numel()
        assert not any(f"{name}.mask{number}" in table.index for number in (1, 2))  # a comparison costs nothing
    for number, stage in enumerate(("layer1", "layer2", "layer3")):
        height, width = (17, 25) if stage == "layer1" else (9, 13)
        row = f"backbone.{stage}.exit.head.classify"
        assert table.loc[row, "macs"] == height * width * 8 * 5
        assert table.loc[f"backbone.{stage}.exit.head.down.0.0", "macs"] == (
            -(-height // 2) * -(-width // 2) * 8 * model.backbone.stage_channels[number]
        )


def test_a_threshold_of_one_computes_everything_and_keeps_the_head(segmenter):
    method, model = segmenter
    type(method)(threshold=1.0).configure(model.backbone)
    images, densities = torch.randn(1, 3, 65, 65), []
    with torch.no_grad(), observing(lambda block, seen: densities.append(float(seen.masks[2].mean()))):
        found = model(images)
        expected = model.upsample(model.head(model.backbone(images)), images)
    assert set(densities) == {1.0} and torch.equal(found, expected)


def test_all_exits_are_trained_at_the_published_threshold_and_weigh_as_much_as_the_head(segmenter):
    method, model = segmenter
    method.prepare(model.backbone)
    for each in exits(model):  # of no opinion yet, or the first would be sure of everything
        torch.nn.init.normal_(each.head.classify.weight, std=0.01)
    assert {each.threshold for each in exits(model)} == {0.998}
    images = torch.randint(0, 256, (2, 3, 65, 65), dtype=torch.uint8)
    batch = Batch([*images], [torch.randint(0, 5, (65, 65)).byte()] * 2, [0, 1])
    model.train()
    outputs = TASK.training_outputs(model, batch)
    assert [logits.shape for logits in outputs] == [(2, 5, 65, 65)] * 5
    targets = torch.stack(batch.targets).long()
    losses = [F.cross_entropy(logits, targets) for logits in outputs]
    expected = losses[0] + 0.4 * losses[1] + losses[2] + losses[3] + losses[4]
    loss = TASK.loss(model, batch, outputs)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(bool(each.head.classify.weight.grad.any()) for each in exits(model))


@pytest.mark.parametrize(("levels", "size"), [(1, (9, 13)), (2, (9, 13)), (3, (17, 25)), (3, (3, 2))])
def test_an_exits_head_gives_logits_at_its_maps_size(levels, size):
    head = ExitHead(6, 4, 5, levels).eval()
    assert head(torch.randn(2, 6, *size)).shape == (2, 5, *size)
    assert (len(head.down), len(head.up)) == (levels, levels - 1)


def test_a_record_has_metric_and_computation_of_each_exit(tiny_set, tmp_path):
    request = Request("cityscapes", "adpc", data=tiny_set("cityscapes"), overrides=TINY)
    record = execute(plan(request), Store(tmp_path))
    assert record["exits"] == ["layer1", "layer2", "layer3"]
    spent = [record[f"exit_{stage}_gmacs"] for stage in record["exits"]]
    assert spent == sorted(spent) and spent[-1] < record["gmacs_measured_mean"]
    assert all(0 <= record[f"exit_{stage}_mIoU"] <= 1 for stage in record["exits"])


@pytest.mark.parametrize("task", ["coco", "imagenet"])
def test_a_task_without_exits_says_why(task):
    method = discover()["adpc"].make({})
    assert "one prediction a position" in method.skip(task)
    model = find_task(task).build(find_task(task).recipe("mini"), "mini_small", 4, 64)
    with pytest.raises(UsageError, match=f"task '{task}' has no exits: only a task with one prediction a position"):
        find_task(task).add_exits(model, method.exits)
    assert not exits(model)


def test_a_stage_that_is_not_there_is_named():
    model = Segmenter(build_backbone("mini_small", output_stride=8), 5, 64, SegmenterSize(channels=8, crop=65))
    with pytest.raises(UsageError, match="no stage 'layer7'"):
        TASK.add_exits(model, ("layer7",))
