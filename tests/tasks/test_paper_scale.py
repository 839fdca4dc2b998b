"""Scale paper: what is built has the settings of the table in docs/fidelity.md, one row a setting, none left out."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models.detection.image_list import ImageList

from benchmark.method import Step, discover
from benchmark.nn import residual_blocks
from benchmark.recipe import Schedule
from benchmark.tasks import find_task
from benchmark.tasks.cityscapes.segmenter import OUTPUT_STRIDE

DOCUMENT = Path(__file__).parents[2] / "docs" / "fidelity.md"
HEADING = "## Settings of scale `paper`"
METHODS = discover()
CLASSES = {"coco": 80, "cityscapes": 19, "imagenet": 1000}


def stated():
    """Return the table: value by (task, setting)."""
    section = DOCUMENT.read_text(encoding="utf-8").split(HEADING)[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    return {(task.strip(), setting.strip()): json.loads(value) for setting, task, value in rows}


def built(name):
    task, recipe = find_task(name), find_task(name).recipe("paper")
    with torch.device("meta"):
        return recipe, task.build(recipe, recipe.backbone, CLASSES[name], recipe.shorter_side)


def run(schedule):
    """Return what a schedule does: learning rates are looked up, epoch by epoch of 100 steps, and not read."""
    epochs = schedule.epochs
    steps = [epoch * 100 for epoch in range(epochs)]
    factors = [schedule.factor(step, epochs * 100) for step in steps if step >= schedule.warmup_steps]
    first = epochs - len(factors)
    drops = [first + i for i in range(1, len(factors)) if factors[i] < factors[i - 1]]
    assert all(factors[i] == pytest.approx(factors[i - 1] / 10) for i in (drop - first for drop in drops))
    return {
        "epochs": epochs, "learning rate": schedule.learning_rate, "a tenth after epochs": drops,
    }  # fmt: skip


def optimizer(schedule: Schedule):
    layer = nn.Linear(1, 1)
    (group,) = schedule.optimize(layer, 10)[0].param_groups
    return {"momentum": group["momentum"], "weight decay": group["weight_decay"]}


def deformable(body):
    return sorted({block.name.split(".")[0] for block in residual_blocks(body) if block.offset is not None})


def turn(loss):
    """Return where a smooth L1 loss of one error turns linear: it is error minus half of that for large errors."""
    return round(2 * (100 - loss), 3)


def proposal_beta(network):
    labels = [torch.tensor([1.0])]
    _, loss = network.compute_loss(torch.zeros(1), torch.tensor([[100.0, 0, 0, 0]]), labels, [torch.zeros(1, 4)])
    return turn(float(loss))


def anchor_centres(generator):
    """Return the centre of each level's first position, along an axis."""
    maps = [torch.zeros(1, 1, side, side) for side in (32, 16, 8, 4, 2)]
    (anchors,) = generator(ImageList(torch.zeros(1, 3, 128, 128), [(128, 128)]), maps)
    places = [sum(3 * m.shape[-1] ** 2 for m in maps[:level]) for level in range(5)]
    return [float((anchors[place, 0] + anchors[place, 2]) / 2) for place in places]


def detection():
    recipe, model = built("coco")
    proposals, boxes, train = model.rpn, model.roi_heads, recipe.train
    return {
        "backbone": recipe.backbone,
        "ImageNet weights": model.backbone.body.pretrained_file.split("(")[1].split(")")[0],
        "deformable stages": deformable(model.backbone.body),
        "shorter and longer side": [model.transform.min_size[0], model.transform.max_size],
        "sides are padded to a multiple of": model.transform.size_divisible,
        "pyramid channels": model.backbone.out_channels,
        "proposals of a level before suppression, training and inference": list(proposals._pre_nms_top_n.values()),
        "proposals kept, training and inference": list(proposals._post_nms_top_n.values()),
        "overlap at which proposals are suppressed": proposals.nms_thresh,
        "anchor sides": [side for (side,) in proposals.anchor_generator.sizes],
        "anchor ratios": list(proposals.anchor_generator.aspect_ratios[0]),
        "anchor centres, finest level first": anchor_centres(proposals.anchor_generator),
        "overlap of an anchor with an object, and with background": [
            proposals.proposal_matcher.high_threshold, proposals.proposal_matcher.low_threshold,
        ],
        "overlap of the weakest match": proposals.proposal_matcher.weakest,
        "pixels that an anchor may reach out of the image": proposals.border,
        "anchors that train, and share of objects": [
            proposals.fg_bg_sampler.batch_size_per_image, proposals.fg_bg_sampler.positive_fraction,
        ],
        "smooth L1 of proposals turns at": proposal_beta(proposals),
        "smooth L1 of boxes turns at": boxes.beta,
        "overlap of a box with an object, and with background": [
            boxes.proposal_matcher.high_threshold, boxes.proposal_matcher.low_threshold,
        ],
        "boxes that train, and share of objects": [
            boxes.fg_bg_sampler.batch_size_per_image, boxes.fg_bg_sampler.positive_fraction,
        ],
        "pooled side and samples": [boxes.box_roi_pool.output_size[0], boxes.box_roi_pool.sampling_ratio],
        "box head's hidden channels": boxes.box_head.fc6.out_features,
        "score threshold, suppression and detections": [boxes.score_thresh, boxes.nms_thresh, boxes.detections_per_img],
        "initial weights outside of the backbone": recipe.detector.initialisation,
        "images a step, and at a time": [train.batch, train.micro_batch],
        "run": run(train),
        "optimizer": {"name": train.optimizer, **optimizer(train)},
        "warm-up steps, and from what share": [train.warmup_steps, round(train.factor(0, 10_000), 4)],
        "largest norm of the gradient": train.clip,
        "batch norm's statistics are frozen": train.freeze_statistics,
        "not trained": list(recipe.frozen),
        "share of images mirrored": 0.5 if train.flip else 0,
        **curves(recipe),
    }  # fmt: skip


def segmentation():
    recipe, model = built("cityscapes")
    train, size = recipe.train, model.size
    dilations = {}
    for block in residual_blocks(model.backbone):
        if block.offset is not None:
            assert block.offset.dilation == block.offset.padding == block.conv2.dilation
            dilations[block.name.split(".")[0]] = block.offset.dilation[0]  # the stage's last block counts
    stem = [layer for layer in model.backbone.conv1 if isinstance(layer, nn.Conv2d)]
    return {
        "backbone": recipe.backbone,
        "stem": [[layer.out_channels, layer.stride[0]] for layer in stem],
        "output stride": OUTPUT_STRIDE,
        "deformable stages": deformable(model.backbone),
        "dilation of offsets": dilations,
        "hidden channels of the heads": model.head[0].out_channels,
        "share of channels dropped": model.head[3].p,
        "weight of the auxiliary loss": size.auxiliary,
        "crop": size.crop,
        "scale": list(size.scales),
        "aspect": list(size.aspects),
        "brightness": size.brightness,
        "class weights": list(size.class_weights),
        "images a step, and at a time": [train.batch, train.micro_batch],
        "steps": train.length(10**9),
        "learning rate, and its share at half of the run": [
            train.learning_rate, round(train.factor(train.steps // 2, train.steps), 4),
        ],
        "optimizer": {"name": train.optimizer, **optimizer(train)},
        "largest norm of the gradient": train.clip,
        "batch norm's statistics are frozen": train.freeze_statistics,
        "share of images mirrored": 0.5 if train.flip else 0,
        **curves(recipe),
    }  # fmt: skip


def classification():
    recipe, model = built("imagenet")
    train, nothing = recipe.train, recipe.pretrain
    assert not train.from_nothing and nothing.from_nothing and recipe.own_schedules
    own = {name: METHODS[name].make({}).schedule(train) for name in ("pfec", "sfp", "fpgm")}
    return {
        "backbone": recipe.backbone,
        "ImageNet weights": model.pretrained_file.split("(")[1].split(")")[0],
        "side": model.side,
        "smallest crop": model.smallest_crop,
        "images a step, and at a time": [train.batch, train.micro_batch],
        "run from trained weights": run(train),
        "run from nothing": run(nothing),
        "optimizer": {"name": train.optimizer, **optimizer(train)},
        "largest norm of the gradient": train.clip,
        "batch norm's statistics are frozen": train.freeze_statistics,
        "share of images mirrored": 0.5 if train.flip else 0,
        "run of PFEC, from trained weights": run(own["pfec"]),
        "run of SFP, from nothing": run(own["sfp"]),
        "run of FPGM, from trained weights": run(own["fpgm"]),
        "own runs from nothing": sorted(name for name, schedule in own.items() if schedule.from_nothing),
        **curves(recipe),
    }


def curves(recipe):
    method = METHODS["stochastic"].make(METHODS["stochastic"].defaults(recipe.parameters))
    (gamma,) = ([point["gamma"] for point in METHODS["stochastic"].points(recipe.curves)],)
    sides = [point["shorter_side"] for point in METHODS["uniform"].points(recipe.curves)]
    return {
        "sparse loss weights": gamma,
        "resolutions": sides,
        "window": method.window,
        "grid stride": method.grid_stride,
    }


@pytest.mark.parametrize(
    ("task", "settings"), [("coco", detection), ("cityscapes", segmentation), ("imagenet", classification)]
)
def test_what_is_built_has_the_documented_settings(task, settings):
    expected = {setting: value for (owner, setting), value in stated().items() if owner == task}
    memory = {setting for setting in expected if setting.startswith("GiB")}
    found = settings()
    assert found.keys() == expected.keys() - memory
    for setting, value in found.items():
        assert value == expected[setting], setting


@pytest.mark.parametrize("method", ["dense", "stochastic"])
def test_a_step_of_one_image_needs_the_documented_memory(method):
    """What PyTorch keeps for the backward, weights, gradients and momentum: computed on tensors without values."""
    recipe, task = find_task("coco").recipe("paper"), find_task("coco")
    with FakeTensorMode():
        model = task.build(recipe, recipe.backbone, 80, recipe.shorter_side)
        body, chosen = task.backbone(model), METHODS[method].make({})
        chosen.adapt(body)
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        weights = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
        kept = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = tensor  # held, so that no other storage takes its place
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            levels = model.backbone(torch.zeros(1, 3, 1024, 1696))  # 1000 x 1667, padded
            model.rpn.head(list(levels.values()))
            heads = model.roi_heads
            heads.box_predictor(heads.box_head(torch.zeros(recipe.detector.boxes_per_image, 256, 7, 7)))
            chosen.loss(body, Step(0.0, [], None))
        activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        # The pooled boxes are an input here, and an activation there.
        activations += 4 * recipe.detector.boxes_per_image * 256 * 7 * 7
        parameters = sum(4 * parameter.numel() for parameter in model.parameters())
    gibibytes = (activations + 3 * parameters) / 2**30
    assert gibibytes == pytest.approx(stated()["coco", f"GiB for a step, {method}"], abs=0.05)
