"""Classification: what the network sees, what is predicted, and how it is scored."""

import csv

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from benchmark.cells import Request, execute, load_model, plan
from benchmark.data.normalisation import DEVIATION, MEAN, normalise
from benchmark.errors import DataError, UsageError
from benchmark.method import discover
from benchmark.nn import residual_blocks
from benchmark.store import Store
from benchmark.tasks import Batch, find_task
from benchmark.tasks.imagenet.classifier import Classifier
from benchmark.tasks.imagenet.task import _crop
from tests.conftest import TINY

TASK = find_task("imagenet")


def batch(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]
    return Batch(images, [index % 2 for index in range(len(images))], [str(index) for index in range(len(images))])


class Labels(list):
    """As much of a reader as the metric asks for."""

    labels = property(list)
    names = property(lambda self: [f"n{index}" for index in range(len(self))])


def tiny(side=32, **options):
    torch.manual_seed(0)
    return Classifier("mini_basic", 10, side, **options)


def test_torchvisions_weights_load_key_for_key_and_give_torchvisions_logits():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet34().eval()
    ours = Classifier("resnet34", 1000).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_resnet34_has_masks_on_both_convolutions_of_all_but_the_first_blocks_of_a_stage():
    recipe = TASK.recipe("paper")
    method = discover()["stochastic"].make(dict(recipe.parameters))
    model = TASK.build(recipe, recipe.backbone, 1000, recipe.shorter_side)
    method.adapt(TASK.backbone(model))
    for block in residual_blocks(model):
        masks = [block.mask1 is not None, block.mask2 is not None, block.mask3 is not None]
        assert masks == ([False] * 3 if block.is_first else [True, True, False])
    block = model.layer2[1]
    assert (block.interpolation1.window, block.mask1.grid_stride) == (5, 2)


def test_the_paper_sweeps_its_two_sparse_loss_weights():
    assert discover()["stochastic"].points(TASK.recipe("paper").curves) == [{"gamma": 0.01}, {"gamma": 0.015}]


def test_an_unknown_backbone_is_a_usage_error():
    with pytest.raises(UsageError, match="resnet99"):
        Classifier("resnet99", 10)


def test_colours_are_scaled_as_torchvisions_weights_expect():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    mean, deviation = (np.array(values)[:, None, None] for values in (MEAN, DEVIATION))
    np.testing.assert_allclose(
        normalise(torch.from_numpy(pixels)).numpy(), (pixels / 255 - mean) / deviation, atol=1e-5
    )


@given(st.integers(1, 90), st.integers(1, 90), st.floats(0.05, 1.0), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_crop_lies_in_its_image_and_keeps_the_smallest_share(height, width, smallest, seed):
    top, left, tall, wide = _crop((height, width), smallest, np.random.default_rng(seed))
    assert 0 <= top <= height - tall and 0 <= left <= width - wide and tall > 0 and wide > 0


def test_augmentation_depends_on_the_generator_alone_and_gives_squares():
    before = batch((40, 60), (70, 33))
    first, again, other = (TASK.augment(tiny(), before, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert all(tuple(image.shape) == (3, 32, 32) for image in first.images)
    assert all(torch.equal(a, b) for a, b in zip(first.images, again.images, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.images, other.images, strict=True))
    assert first.targets == before.targets and first.identifiers == before.identifiers


def test_mirroring_flips_the_chosen_images_alone():
    before = batch((8, 9), (8, 9))
    after = TASK.mirror(before, np.array([False, True]))
    assert torch.equal(after.images[0], before.images[0])
    np.testing.assert_array_equal(after.images[1].numpy(), before.images[1].numpy()[:, :, ::-1])


def test_the_loss_is_the_cross_entropy_of_the_crops():
    model, crops = tiny().eval(), batch((32, 32), (32, 32))
    with torch.no_grad():
        logits = model(normalise(torch.stack(crops.images))).double().numpy()
        loss = float(TASK.loss(model, crops, TASK.training_outputs(model, crops)))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert loss == pytest.approx(-np.log(shares[[0, 1], crops.targets]).mean(), rel=1e-5)


def test_images_of_any_size_are_resized_and_cropped_in_the_middle():
    model = tiny().eval()
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    with torch.no_grad():
        found = TASK.predict(model, batch((50, 90), (160, 120), (32, 32)))
    assert seen == [(3, 3, 32, 32)]
    for prediction in found:
        assert len(set(prediction["labels"].tolist())) == 5
        assert (prediction["scores"].diff() <= 0).all() and prediction["scores"].sum() <= 1 + 1e-6


@given(st.lists(st.tuples(st.permutations(range(7)), st.integers(0, 6)), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_top1_and_top5_are_shares_of_images(cases):
    reader = Labels([label for _, label in cases])
    found = {f"n{index}": {"labels": torch.tensor(order[:5])} for index, (order, _) in enumerate(cases)}
    scores = TASK.evaluate(found, reader)
    assert scores["top1"] == pytest.approx(np.mean([order[0] == label for order, label in cases]))
    assert scores["top5"] == pytest.approx(np.mean([label in order[:5] for order, label in cases]))


def test_a_cell_trains_evaluates_and_keeps_its_predictions(tiny_set, tmp_path):
    planned = plan(Request("imagenet", "stochastic", data=tiny_set("imagenet"), overrides=TINY))
    record = execute(planned, Store(tmp_path))
    assert 0 <= record["metric_top1"] <= record["metric_top5"] <= 1
    assert 0 < record["density_mean"] < 1 and record["gmacs_measured_mean"] > 0 and record["gmacs_paper"] > 0
    with record.path("predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30 and rows[0]["class1"].startswith("n")
    top1 = np.mean([row["class1"] == row["image"].split("/")[0] for row in rows])
    assert record["metric_top1"] == pytest.approx(top1)
    assert load_model(record, planned).fc.out_features == 10


def test_real_images_train_and_evaluate(real, tmp_path):
    data = real("imagenette-160")
    small = tmp_path / "few"
    for split in ("train", "val"):
        for folder in sorted((data / split).iterdir()):
            (small / split / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[:2]:
                (small / split / folder.name / image.name).symlink_to(image)
    record = execute(plan(Request("imagenet", "dense", data=small, overrides=TINY)), Store(tmp_path / "store"))
    assert record.finished and len(record.images()) == 20


def test_a_classifier_of_imagenets_classes_wants_the_linear_layer_too_and_one_of_others_does_not(tmp_path):
    stored = dict(torchvision.models.resnet18().state_dict())
    save_file(stored, tmp_path / "whole.safetensors")
    save_file({key: value for key, value in stored.items() if "fc" not in key}, tmp_path / "body.safetensors")
    classifier, other = Classifier("resnet18", 1000), Classifier("resnet18", 10)
    TASK.load_weights(classifier, tmp_path / "whole.safetensors")
    assert torch.equal(classifier.fc.weight, stored["fc.weight"])
    with pytest.raises(
        DataError, match=r"leaves 2 of .* unfilled \(fc\.weight, fc\.bias\).*IMAGENET1K_V1\) of resnet18"
    ):
        TASK.load_weights(classifier, tmp_path / "body.safetensors")
    for name in ("whole", "body"):
        TASK.load_weights(other, tmp_path / f"{name}.safetensors")
        assert torch.equal(other.layer4[0].conv1.weight, stored["layer4.0.conv1.weight"])
