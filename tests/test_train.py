"""Training: seeded, resumable, and stopped when it diverges."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

from benchmark.cells import Request, execute, plan, reader
from benchmark.errors import SaibenchError
from benchmark.nn import GumbelMask, at_hand
from benchmark.recipe import Schedule
from benchmark.store import Store
from benchmark.tasks import Batch, find_task
from benchmark.train import LOSSES, Loop, StepSampler, TrainingStep, derive_seed, fit
from tests.conftest import SCRATCH, TINY


def test_a_steps_batch_depends_on_seed_and_step_alone():
    batches = list(StepSampler(10, 4, 12, seed=3))
    resumed = StepSampler(10, 4, 12, seed=3)
    resumed.done = 7
    assert list(resumed) == batches[7:]
    assert batches != list(StepSampler(10, 4, 12, seed=4))
    # Each pass over the set has every image once.
    stream = [index for batch in batches for index in batch]
    for turn in range(4):
        assert sorted(stream[10 * turn : 10 * turn + 10]) == list(range(10))


def test_schedules_follow_their_formulas():
    warm = Schedule(batch=8, learning_rate=0.01, steps=1000, warmup_steps=500)
    assert warm.factor(0, 1000) == pytest.approx(1 / 3)
    assert warm.factor(250, 1000) == pytest.approx(2 / 3)
    assert [warm.factor(step, 1200) for step in (799, 800, 1100)] == pytest.approx([1, 0.1, 0.01])
    poly = Schedule(batch=8, learning_rate=0.01, steps=100, decay="poly")
    assert poly.factor(50, 100) == pytest.approx(0.5**0.9)
    cosine = Schedule(batch=8, learning_rate=0.01, steps=100, decay="cosine")
    assert cosine.factor(50, 100) == pytest.approx(0.5) and cosine.factor(100, 100) == pytest.approx(0)
    assert Schedule(batch=8, learning_rate=0.01, epochs=12).length(100) == 12 * 13


def training_for(tiny_set, steps, seed=0, method="stochastic"):
    request = Request("coco", method, data=tiny_set("coco"), overrides=TINY, seed=seed)
    planned = plan(request)
    train = reader("coco", planned.folder, "train")
    schedule = planned.recipe.train.replace(steps=steps)
    model = planned.build(len(train.classes))
    return TrainingStep(planned.task, planned.method, model, schedule, steps, seed), train


def weights(training):
    return {key: value.clone() for key, value in training.model.state_dict().items()}


OUTPUTS = {
    "imagenet": lambda outputs, n: outputs.shape == (n, 10),
    "cityscapes": lambda outputs, n: [logits.shape[:2] for logits in outputs] == [(n, 19), (n, 19)],
    "coco": lambda outputs, n: all(loss.ndim == 0 for loss in outputs.values()),
}


@pytest.mark.parametrize("task", OUTPUTS)
def test_a_loss_sees_its_own_micro_batchs_progress_targets_and_outputs(task, tiny_set, tmp_path):
    planned = plan(Request(task, "dense", data=tiny_set(task), overrides=SCRATCH))
    seen = []

    class Watching(type(planned.method)):
        def loss(self, backbone, step):
            assert at_hand().progress == step.progress
            seen.append(step)
            return super().loss(backbone, step)

    train = reader(task, planned.folder, "train")
    schedule = planned.recipe.train.replace(batch=3, micro_batch=2)
    run = TrainingStep(planned.task, Watching(), planned.build(len(train.classes)), schedule, 3, 0)
    fit(run, train, Loop(tmp_path))
    assert [step.progress for step in seen] == [0, 0, 0.5, 0.5, 1, 1]
    assert [len(step.targets) for step in seen] == [2, 1] * 3
    assert all(OUTPUTS[task](step.outputs, len(step.targets)) for step in seen)
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen[0].progress = 1


def test_an_interrupted_run_resumes_to_the_same_weights_and_losses(tiny_set, tmp_path, monkeypatch):
    def stop(done, total):
        assert total == 5
        if done == 4:
            raise KeyboardInterrupt

    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole, train = training_for(tiny_set, 5)
    fit(whole, train, Loop(tmp_path / "whole"))
    monkeypatch.setattr("benchmark.train.CHECKPOINT_SECONDS", 0)
    cut, _ = training_for(tiny_set, 5)
    with pytest.raises(KeyboardInterrupt):
        fit(cut, train, Loop(tmp_path / "cut", progress=stop))
    resumed, _ = training_for(tiny_set, 5)
    steps = []
    seconds = fit(resumed, train, Loop(tmp_path / "cut", progress=lambda done, total: steps.append(done)))
    assert steps == [5] and seconds > 0
    for key, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[key]), key
    losses, expected = (pd.read_parquet(tmp_path / name / LOSSES) for name in ("cut", "whole"))
    pd.testing.assert_frame_equal(losses, expected)
    assert list(losses["step"]) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(losses["loss"], losses["task_loss"] + losses["method_loss"], rtol=1e-6)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_checkpoint_that_cannot_be_read_is_named_with_the_remedy(tiny_set, tmp_path, content):
    if content is None:
        torch.save({"model": {}}, tmp_path / "checkpoint.pt")
    else:
        (tmp_path / "checkpoint.pt").write_bytes(content)
    training, train = training_for(tiny_set, 2)
    with pytest.raises(SaibenchError, match=r"checkpoint.pt cannot be resumed from .*: delete it to train from"):
        fit(training, train, Loop(tmp_path))


def test_gradients_of_single_images_are_averaged_and_no_image_is_padded_to_anothers_size(tiny_set, tmp_path):
    """Against the mean of the gradients of four images, each run alone; sizes differ, so a common size would show."""
    training, train = training_for(tiny_set, 1)
    training.schedule = training.schedule.replace(
        batch=4, micro_batch=1, optimizer="sgd", learning_rate=1.0, mask_learning_rate=None, momentum=0.0,
        weight_decay=0.0, clip=0.0, warmup_steps=0, decay="milestones", milestones=(), flip=False,
    )  # fmt: skip

    class Sizes:
        """Images cut to widths of their own."""

        def __len__(self):
            return 4

        def __getitem__(self, index):
            image, target, identifier = train[index]
            width = 128 - 32 * (index % 2)
            boxes = torch.tensor([[10.0, 10, 40 + index, 50]])
            return image[:, :, :width], {"boxes": boxes, "labels": target["labels"][:1]}, identifier

    (order,) = StepSampler(4, 4, 1, training.seed)
    before = weights(training)
    seen, expected = [], {name: torch.zeros_like(value) for name, value in training.model.named_parameters()}
    training.train()
    parts = training.begin(Batch.collate([Sizes()[index] for index in order]), 0)
    assert [len(part.images) for part in parts] == [1] * 4
    for part in parts:
        training.zero_grad()
        sum(training(part)).backward()
        for name, parameter in training.model.named_parameters():
            if parameter.grad is not None:
                expected[name] += parameter.grad / 4
    hook = training.model.backbone.body.conv1.register_forward_pre_hook(
        lambda module, given: seen.append(tuple(given[0].shape))
    )
    fit(training, Sizes(), Loop(tmp_path))
    hook.remove()
    # Shorter side 128: 128 x 128 as it is, 128 x 96 becomes 171 x 128 and is padded to a multiple of 32.
    assert seen == [(1, 3, 192 if index % 2 else 128, 128) for index in order]
    for name, value in training.model.named_parameters():
        torch.testing.assert_close(before[name] - value, expected[name], rtol=1e-3, atol=1e-5)
    losses = pd.read_parquet(tmp_path / LOSSES)
    np.testing.assert_allclose(losses["loss"], losses["task_loss"] + losses["method_loss"], rtol=1e-6)


def test_temperature_ends_at_a_hundredth_whatever_the_length(tiny_set, tmp_path):
    for steps in (2, 4):
        training, train = training_for(tiny_set, steps)
        folder = tmp_path / str(steps)
        folder.mkdir()
        fit(training, train, Loop(folder))
        temperatures = [mask.temperature for mask in training.modules() if isinstance(mask, GumbelMask)]
        assert temperatures == pytest.approx([0.01] * 16)


def test_frozen_statistics_stay_and_the_affine_part_trains(tiny_set, tmp_path):
    training, train = training_for(tiny_set, 2)
    before = weights(training)
    fit(training, train, Loop(tmp_path))
    after = weights(training)
    assert torch.equal(before["backbone.body.bn1.running_mean"], after["backbone.body.bn1.running_mean"])
    assert not torch.equal(before["backbone.body.bn1.weight"], after["backbone.body.bn1.weight"])


def test_statistics_of_masks_are_new_and_go_on_where_the_networks_stay(tiny_set, tmp_path):
    training, train = training_for(tiny_set, 2, method="sact")
    before = weights(training)
    fit(training, train, Loop(tmp_path))
    moved = {name for name, value in weights(training).items() if not torch.equal(before[name], value)}
    statistics = {name for name in before if name.endswith("running_mean")}
    new = {name for name in statistics if "_norm." in name}
    assert new and statistics & moved == new


def test_the_density_of_each_step_is_that_of_its_masks(tiny_set, tmp_path):
    training, train = training_for(tiny_set, 3)
    fit(training, train, Loop(tmp_path))
    density = pd.read_parquet(tmp_path / LOSSES)["density"]
    # Masks start at a bias of 3: a position is sampled with probability sigmoid(3).
    assert density[0] == pytest.approx(1 / (1 + math.exp(-3)), abs=0.01)
    assert ((density > 0) & (density < 1)).all()


def test_masks_have_their_own_learning_rate(tiny_set):
    training, _ = training_for(tiny_set, 2)
    optimizer, _ = training.schedule.optimize(training.model, 2)
    network, masks = optimizer.param_groups
    assert (network["initial_lr"], masks["initial_lr"]) == (5e-4, 1e-3)
    assert len(masks["params"]) == 2 * 16  # weight and bias of two masks in eight blocks
    assert len(network["params"]) + len(masks["params"]) == len(list(training.model.parameters()))


def test_a_diverging_loss_is_a_record_that_says_so(tiny_set, tmp_path):
    overrides = {**SCRATCH, "pretrain.learning_rate": 1e30, "pretrain.steps": 8, "pretrain.clip": 0.0}
    planned = plan(Request("coco", "dense", data=tiny_set("coco"), overrides=overrides))
    store = Store(tmp_path)
    with pytest.raises(SaibenchError, match="diverged"):
        execute(planned, store)
    record = store.find(planned.cell)
    assert record.status == "diverged" and "try a lower learning rate" in record["error"]
    losses = pd.read_parquet(record.path(LOSSES))
    assert 0 < len(losses) < 8 and np.isfinite(losses["loss"]).all()
    assert record["method_label"] == "Dense" and record["method_kind"] == "baseline"


def test_mirroring_twice_gives_the_batch_back(tiny_set):
    from benchmark.tasks import Batch

    task = find_task("coco")
    train = reader("coco", tiny_set("coco"), "train")
    batch = Batch.collate([train[index] for index in range(3)])
    chosen = np.array([True, False, True])
    once = task.mirror(batch, chosen)
    twice = task.mirror(once, chosen)
    assert not torch.equal(once.images[0], batch.images[0]) and torch.equal(once.images[1], batch.images[1])
    for index in range(3):
        assert torch.equal(twice.images[index], batch.images[index])
        torch.testing.assert_close(twice.targets[index]["boxes"], batch.targets[index]["boxes"])
        assert (once.targets[index]["boxes"][:, 2] > once.targets[index]["boxes"][:, 0]).all()


def test_seeds_depend_on_every_part():
    assert len({derive_seed(*parts) for parts in [(0, "a"), (1, "a"), (0, "b"), ("0a",)]}) == 4
