"""Segmentation: crops, losses, whole-image predictions, and scores that are cityscapesscripts' own."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from cityscapesscripts.helpers.labels import id2label
from PIL import Image
from safetensors.torch import save_file

from benchmark.cells import Request, execute, plan, plan_of
from benchmark.data.normalisation import normalise
from benchmark.errors import DataError, SaibenchError, UsageError
from benchmark.method import discover
from benchmark.nn import build_backbone, residual_blocks
from benchmark.store import Store
from benchmark.tasks import Batch, find_task
from benchmark.tasks.cityscapes.reader import CLASSES, IGNORED, LABEL_IDS, CityscapesSegmentation
from benchmark.tasks.cityscapes.segmenter import Segmenter, SegmenterSize, Upsample
from tests.conftest import TINY

TASK = find_task("cityscapes")

BY_HAND = """
import glob, json, os, sys
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as tool
truth = sorted(glob.glob(os.path.join(sys.argv[1], "gtFine", "val", "*", "*_gtFine_labelIds.png")))
tool.args.predictionPath = sys.argv[2]
tool.args.evalInstLevelScore = tool.args.JSONOutput = False
tool.args.quiet = True
found = [tool.getPrediction(tool.args, path) for path in truth]
scores = tool.evaluateImgLists(found, truth, tool.args)
print(json.dumps([scores["averageScoreClasses"], scores["averageScoreCategories"]]))
"""


def run_by_hand(data, predictions):
    """Run cityscapesscripts in a process of its own on a folder of saved predictions."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CITYSCAPES")}
    command = [sys.executable, "-c", BY_HAND, str(data), str(predictions)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True, env=environment).stdout)


def brute_force(pairs):
    """Return the mean over classes of intersection over union, in NumPy, without ignored ground truth."""
    union, shared = np.zeros(256), np.zeros(256)
    for found, truth in pairs:
        counted = ~np.isin(truth, [key for key, label in id2label.items() if label.ignoreInEval])
        for label in LABEL_IDS:
            a, b = (found == label) & counted, (truth == label) & counted
            union[label] += (a | b).sum()
            shared[label] += (a & b).sum()
    present = union > 0
    return float((shared[present] / union[present]).mean())


def segmenter(crop=41, shorter_side=64, **options):
    torch.manual_seed(0)
    size = SegmenterSize(**{"channels": 8, "crop": crop, "aspects": (1.0, 1.0), **options})
    return Segmenter(build_backbone("mini_small", output_stride=8), 19, shorter_side, size)


def batch(*sizes):
    generator = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]
    labels = [torch.randint(0, 19, size, dtype=torch.uint8, generator=generator) for size in sizes]
    return Batch(images, labels, [str(index) for index in range(len(images))])


def test_the_paper_model_is_a_deformable_dilated_resnet50_with_a_deep_stem():
    recipe = TASK.recipe("paper")
    with torch.device("meta"):
        model = TASK.build(recipe, recipe.backbone, 19, recipe.shorter_side)
        assert model.backbone(torch.empty(1, 3, 64, 128)).shape == (1, 2048, 8, 16)
    assert [tuple(conv.weight.shape[:2]) for conv in model.backbone.conv1 if isinstance(conv, torch.nn.Conv2d)] == [
        (64, 3), (64, 64), (128, 64),
    ]  # fmt: skip
    deformed = {block.name.split(".")[0] for block in residual_blocks(model) if block.offset is not None}
    assert deformed == {"layer2", "layer3", "layer4"}
    assert model.size.auxiliary == 0.4 and model.size.crop == 769


@pytest.mark.parametrize("method", ["stochastic", "deterministic_gumbel"])
def test_the_paper_sweeps_its_four_sparse_loss_weights(method):
    points = discover()[method].points(TASK.recipe("paper").curves)
    assert [point["gamma"] for point in points] == [0.05, 0.1, 0.2, 0.3]


def test_logits_have_the_size_of_the_images():
    model = segmenter().eval()
    with torch.no_grad():
        assert model(torch.randn(2, 3, 50, 70)).shape == (2, 19, 50, 70)


@pytest.mark.parametrize("scales", [(0.3, 0.4), (0.75, 1.5)])
def test_crops_are_squares_whose_outside_is_ignored(scales):
    model, before = segmenter(scales=scales), batch((64, 100), (90, 64))
    first, again, other = (TASK.augment(model, before, np.random.default_rng(seed)) for seed in (5, 5, 6))
    for image, labels in zip(first.images, first.targets, strict=True):
        assert tuple(image.shape) == (3, 41, 41) and tuple(labels.shape) == (41, 41)
        if scales[1] < 0.5:
            assert (labels == IGNORED).any()
        else:
            assert (labels != IGNORED).all()
    assert all(
        torch.equal(a, b) for a, b in zip(first.images + first.targets, again.images + again.targets, strict=True)
    )
    assert not all(torch.equal(a, b) for a, b in zip(first.images, other.images, strict=True))


def test_labels_stay_with_their_pixels():
    size = (64, 128)
    shade = torch.arange(128, dtype=torch.uint8).expand(3, *size)
    before = Batch([shade], [(torch.arange(128) // 8).to(torch.uint8).expand(size).contiguous()], ["a"])
    before = TASK.mirror(before, np.array([True]))
    after = TASK.augment(segmenter(brightness=0), before, np.random.default_rng(0))
    read, written = after.images[0][0].float() / 8, after.targets[0].float()
    assert (written[written != IGNORED] - read[written != IGNORED]).abs().max() < 2  # a class is 8 shades wide


@pytest.mark.parametrize("size", [(41, 41), (64, 128), (61, 90)])
def test_every_position_of_a_map_lies_on_its_own_pixel_whatever_the_images_size(size):
    rows, columns = ((side + 7) // 8 for side in size)
    ramp = torch.stack(torch.meshgrid(8.0 * torch.arange(rows), 8.0 * torch.arange(columns), indexing="ij"))[None]
    found = Upsample()(ramp, torch.empty(1, 3, *size))[0]
    assert torch.allclose(found[0], torch.arange(size[0]).clamp(max=8 * (rows - 1)).float()[:, None].expand(size))
    assert torch.allclose(found[1], torch.arange(size[1]).clamp(max=8 * (columns - 1)).float().expand(size))


def test_the_loss_is_the_mean_over_evaluated_pixels_plus_the_auxiliary_heads_share():
    model, crops = segmenter().eval(), batch((41, 41), (41, 41))
    crops.targets[0][:20] = IGNORED
    with torch.no_grad():
        loss = float(TASK.loss(model, crops, TASK.training_outputs(model, crops)))
        both = [logits.double().numpy() for logits in model.both(normalise(torch.stack(crops.images)))]
    targets = torch.stack(crops.targets).numpy()
    images, rows, columns = np.nonzero(targets != IGNORED)
    parts = []
    for logits in both:
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        parts.append(-np.log(shares[images, targets[images, rows, columns], rows, columns]).mean())
    assert loss == pytest.approx(parts[0] + 0.4 * parts[1], rel=1e-4)


def test_class_weights_make_it_the_weighted_mean_and_must_be_as_many_as_the_classes():
    weights = np.linspace(0.5, 1.5, 19)
    crops = TASK.augment(segmenter(), batch((64, 100), (90, 64)), np.random.default_rng(0))
    crops.targets[0][:9] = IGNORED
    model = segmenter(auxiliary=0.0, class_weights=tuple(weights)).eval()
    with torch.no_grad():
        loss = float(TASK.loss(model, crops, TASK.training_outputs(model, crops)))
        shares = model(normalise(torch.stack(crops.images))).double().log_softmax(1).numpy()
    sums = np.zeros(2)
    for share, labels in zip(shares, torch.stack(crops.targets).numpy(), strict=True):
        for label in range(19):
            sums += weights[label] * np.array([-share[label][labels == label].sum(), (labels == label).sum()])
    assert loss == pytest.approx(sums[0] / sums[1], rel=1e-4)
    with pytest.raises(UsageError, match="'segmenter.class_weights' has 2 weights, the data 19 classes"):
        segmenter(class_weights=(1.0, 2.0))


def test_a_jittered_aspect_keeps_the_area():
    """A crop as large as any resized image shows its sides: what is not ignored."""
    model = segmenter(crop=201, scales=(1.0, 1.0), aspects=(0.5, 2.0), brightness=0)
    ratios = []
    for seed in range(20):
        after = TASK.augment(model, batch((64, 80)), np.random.default_rng(seed))
        shown = after.targets[0] != IGNORED
        height, width = int(shown.any(1).sum()), int(shown.any(0).sum())
        assert height * width == pytest.approx(64 * 80, rel=0.03)
        ratios.append(width / height / (80 / 64))
    assert 0.48 < min(ratios) < 0.75 and 1.4 < max(ratios) < 2.05


def test_a_batch_of_ignored_pixels_has_a_finite_loss():
    crops = batch((41, 41))
    crops.targets[0][:] = IGNORED
    for weights in ((), (0.5,) * 19):
        model = segmenter(class_weights=weights).eval()
        assert TASK.loss(model, crops, TASK.training_outputs(model, crops)).item() == 0


def test_whole_images_of_any_size_are_predicted_at_their_own_size():
    model = segmenter(shorter_side=32).eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    with torch.no_grad():
        found = TASK.predict(model, batch((48, 64), (100, 40)))
    assert seen == [(1, 3, 32, 43), (1, 3, 80, 32)]
    assert [tuple(labels.shape) for labels in found] == [(48, 64), (100, 40)]
    assert all(set(np.unique(labels)) <= set(LABEL_IDS.tolist()) for labels in found)


def test_scores_are_cityscapesscripts_own_and_the_brute_force(tiny_set, tmp_path):
    data = tiny_set("cityscapes")
    reader = CityscapesSegmentation(data, "val")
    rng = np.random.default_rng(0)
    found = {}
    for index in range(len(reader)):
        labels = np.where(reader.label_ids(index) == 0, 7, reader.label_ids(index))
        noise = rng.random(labels.shape) < 0.3
        labels = np.where(noise, rng.choice(LABEL_IDS[:8], labels.shape), labels)
        found[reader.stems[index]] = torch.from_numpy(labels.astype(np.uint8))
    scores = TASK.evaluate(found, reader)
    TASK.save(found, reader, tmp_path)
    assert [scores["mIoU"], scores["mIoU_category"]] == run_by_hand(data, tmp_path)
    pairs = [(found[reader.stems[index]].numpy(), reader.label_ids(index)) for index in range(len(reader))]
    assert scores["mIoU"] == pytest.approx(brute_force(pairs), abs=1e-12)
    assert scores["IoU_road"] <= 1 and "IoU_train" not in scores  # no scene has a train


def test_perfect_predictions_score_one_although_classes_are_absent(tiny_set):
    reader = CityscapesSegmentation(tiny_set("cityscapes"), "val")
    labels = [reader.label_ids(index) for index in range(len(reader))]
    found = {reader.stems[index]: torch.from_numpy(truth) for index, truth in enumerate(labels)}
    assert len({int(label) for truth in labels for label in np.unique(truth)} & set(LABEL_IDS.tolist())) < len(CLASSES)
    assert TASK.evaluate(found, reader)["mIoU"] == 1.0


def test_labels_drawn_from_polygons_score_like_the_label_maps(copied_set):
    folder = copied_set("cityscapes")
    whole = CityscapesSegmentation(folder, "val")
    truth = [whole.label_ids(index) for index in range(len(whole))]
    found = {whole.stems[index]: torch.from_numpy(np.roll(labels, 3, 1)) for index, labels in enumerate(truth)}
    expected = TASK.evaluate(found, whole)
    for path in folder.glob("gtFine/val/*/*_labelIds.png"):
        path.unlink()
    assert TASK.evaluate(found, CityscapesSegmentation(folder, "val")) == pytest.approx(expected)


def test_a_label_of_255_is_ignored(copied_set):
    folder = copied_set("cityscapes")
    reader = CityscapesSegmentation(folder, "val")
    found = {reader.stems[index]: torch.from_numpy(reader.label_ids(index)) for index in range(len(reader))}
    spoilt = np.array(Image.open(reader.label_paths[0]))
    spoilt[:4] = 255
    Image.fromarray(spoilt).save(reader.label_paths[0])
    assert TASK.evaluate(found, CityscapesSegmentation(folder, "val"))["mIoU"] == 1.0


def test_a_cell_trains_and_its_score_is_that_of_its_saved_predictions(tiny_set, tmp_path):
    data = tiny_set("cityscapes")
    record = execute(plan(Request("cityscapes", "stochastic", data=data, overrides=TINY)), Store(tmp_path))
    scores = run_by_hand(data, record.path("predictions"))
    assert [record["metric_mIoU"], record["metric_mIoU_category"]] == pytest.approx(scores, abs=0)
    assert 0 < record["density_mean"] < 1 and record["gmacs_paper"] > 0


def test_real_images_train_and_score_as_cityscapesscripts_does_by_hand(real, tmp_path):
    data, few = real("camvid-cityscapes"), tmp_path / "few"
    for split in ("train", "val"):
        for image in sorted((data / "leftImg8bit" / split / "camvid").iterdir())[:3]:
            stem = image.name.split("_leftImg8bit")[0]
            for kind, name in (("leftImg8bit", image.name), ("gtFine", f"{stem}_gtFine_labelIds.png")):
                link = few / kind / split / "camvid" / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(data / kind / split / "camvid" / name)
    record = execute(plan(Request("cityscapes", "dense", data=few, overrides=TINY)), Store(tmp_path / "store"))
    assert record["metric_mIoU"] == run_by_hand(few, record.path("predictions"))[0]


def test_scale_paper_refuses_torchvisions_weights_and_starts_from_those_of_its_own_stem(
    tiny_set, tmp_path, monkeypatch
):
    monkeypatch.setenv("SAIBENCH_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    small = {"train.steps": 1, "train.batch": 2, "shorter_side": 64, "longer_side": 128, "segmenter.crop": 65}
    small |= {"segmenter.channels": 8, "workers": 0}
    planned = plan(Request("cityscapes", "dense", scale="paper", data=tiny_set("cityscapes"), overrides=small))
    with pytest.raises(DataError, match=r"place them at .*resnet50_deep_stem\.safetensors.*deep stem.*do not fit"):
        execute(planned, Store(tmp_path / "store"))
    save_file(dict(torchvision.models.resnet50().state_dict()), tmp_path / "weights" / "resnet50.safetensors")
    planned = plan(planned.request)
    with pytest.raises(
        DataError, match=r"resnet50\.safetensors leaves 17 of .*conv1\.0\.weight.*layer1\.0\.conv1\.weight"
    ):
        execute(planned, Store(tmp_path / "store"))
    body = planned.build(19).backbone
    complete = {key: value for key, value in body.state_dict().items() if key in body.pretrained_keys}
    file = tmp_path / "weights" / "resnet50_deep_stem.safetensors"
    save_file(complete, file)
    store = Store(tmp_path / "store")
    assert store.scan() == ([], []), "what is wrong with weights is said before there is a record"
    first = plan(planned.request)
    record = execute(first, store)
    assert record.finished and record["start"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert record["start_weights"] == file.name
    file.rename(tmp_path / "elsewhere")
    assert plan_of(record, first.folder).cell.id == record.cell_id, "its trained weights need no others"
    save_file({key: value + 1 for key, value in complete.items()}, file)
    with pytest.raises(DataError, match=r"resnet50_deep_stem\.safetensors is another file than when .* was planned"):
        execute(first, Store(tmp_path / "other"))
    other = plan(planned.request)
    assert other.cell.id != record.cell_id and store.find(other.cell) is None
    with pytest.raises(
        SaibenchError, match=rf"other starting weights.*put the weights with the SHA-256 {record['start']}"
    ):
        plan_of(record, first.folder)
