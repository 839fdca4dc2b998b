"""On a CUDA device: training, evaluating and counting agree with the CPU, and runs resume.

In float32, without TF32. Both sides draw the same random numbers: PyTorch's generators of CPU and CUDA differ, so all
draws are made on the CPU. ``SAIBENCH_TEST_DEVICE=cpu`` puts the CPU on both sides: it tests the tests. With ``-rP``,
pytest prints what was measured.
"""

import dataclasses
import os

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torchvision.transforms.v2 import functional as transforms

from benchmark.cells import Request, execute, plan, reader
from benchmark.evaluate import evaluate
from benchmark.flops.measured import MeasuredCounter
from benchmark.hardware import Hardware
from benchmark.method import discover
from benchmark.nn import GumbelMask, Mask
from benchmark.nn.masks import Site
from benchmark.store import Store
from benchmark.tasks import Batch, find_task
from benchmark.train import LOSSES, Loop, TrainingStep, fit
from benchmark.weights import files
from tests.conftest import TINY

DEVICE = os.environ.get("SAIBENCH_TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device: these compare one with the CPU"
)
TASKS = ("coco", "cityscapes", "imagenet")
METHODS = (
    "stochastic", "deterministic_gumbel", "dynconv", "lasnet", "sact", "relu_gating", "lccl", "equal_interval",
    "uniform",
)  # fmt: skip
PAIRS = [(task, name) for task in TASKS for name in METHODS if discover()[name].make({}).skip(task) is None]
ALL = [(task, name) for task in TASKS for name in sorted(discover()) if discover()[name].make({}).skip(task) is None]
CPU, THERE = Hardware(accelerator="cpu"), Hardware(accelerator=DEVICE)
#: Largest relative difference of a loss, and of all gradients as one vector (Euclidean norm). Rounding differs by about
#: 1e-6 a layer; a proposal at a threshold, or a ReLU at 0, decides otherwise and moves a step by more.
LOSS, GRADIENT = 1e-3, 2e-2
STEPS = 3


class DrawnOnCPU(TorchFunctionMode):
    """Makes every random draw of a forward with the CPU's generator."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.rand, torch.randperm):
            device = kwargs.pop("device", None)
            return function(*args, **kwargs, device="cpu").to(device)
        if function is torch.rand_like:
            return torch.rand_like(args[0].detach().cpu(), **kwargs).to(args[0].device)
        if function is F.dropout2d:
            features, share = args[0], args[1] if len(args) > 1 else kwargs["p"]
            kept = torch.rand(*features.shape[:2], 1, 1) >= share
            return features * kept.to(features) / (1 - share)
        return function(*args, **kwargs)


@pytest.fixture(autouse=True)
def float32():
    """Turn TF32 off."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(autouse=True)
def resized_on_the_cpu(monkeypatch):
    """Resize images on the CPU on both sides: there PyTorch rounds antialiased 8-bit values otherwise than on CUDA."""
    for name in ("resize", "resized_crop"):
        monkeypatch.setattr(transforms, name, on_the_cpu(getattr(transforms, name)))


def on_the_cpu(resize):
    return lambda image, *rest, **options: resize(image.cpu(), *rest, **options).to(image.device)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Return a function: task and method to a plan on a dozen images, and the trained model with masks that differ."""
    root = tmp_path_factory.mktemp("data")

    def make(task, name, **changes):
        embedded = find_task(task).embedded
        images = {"train": 12, "val": 8} if task != "imagenet" else {"train": 2, "val": 1}
        folder = embedded.make("mini", root, size=dataclasses.replace(embedded.sizes["mini"], images=images))
        planned = plan(Request(task, name, data=folder, **changes))
        model = planned.build(len(reader(task, folder, "train").classes))
        if planned.weights is not None:
            files.fill(model, planned.weights)
        vary_masks(model)
        planned.method.prepare(planned.task.backbone(model))
        return planned, model

    return make


def vary_masks(model):
    """Give masks that start from nothing weights by which they decide one way here and another there."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if not isinstance(module, Mask):
            continue
        for parameter in module.parameters():
            if parameter.ndim > 1 and not parameter.any():
                scale = 2 / parameter[0].numel() ** 0.5
                parameter.data = scale * torch.randn(parameter.shape, generator=generator)
            elif parameter.ndim == 1 and len(parameter) == 1:
                parameter.data.zero_()


def gradients(training):
    return torch.cat(
        [parameter.grad.detach().flatten().cpu() for parameter in training.parameters() if parameter.grad is not None]
    ).double()


def step(planned, model, train, number, hardware):
    """Run one step's forward and backward; return both losses and all gradients."""
    schedule = planned.schedules[-1].replace(batch=2, warmup_steps=0)
    fabric = hardware.fabric()
    training = TrainingStep(planned.task, planned.method, model, schedule, STEPS, 0).to(fabric.device).train()
    batch = Batch.collate([train[2 * number], train[2 * number + 1]])
    training.zero_grad()
    with DrawnOnCPU():
        (part,) = training.begin(fabric.to_device(batch), number)
        losses = training(part)
    sum(losses).backward()
    found = [float(loss) for loss in losses], gradients(training)
    training.cpu()
    return found


def relative(found, expected):
    return abs(found - expected) / max(abs(expected), 1e-6)


@pytest.mark.parametrize(("task", "name"), PAIRS)
def test_a_training_step_has_the_cpus_losses_and_gradients(made, task, name):
    planned, model = made(task, name)
    train = reader(task, planned.folder, "train")
    rows = []
    for number in range(STEPS):
        expected, wanted = step(planned, model, train, number, CPU)
        found, got = step(planned, model, train, number, THERE)
        assert len(got) == len(wanted)
        losses = [relative(one, other) for one, other in zip(found, expected, strict=True)]
        rows.append([*losses, float((got - wanted).norm() / wanted.norm())])
    print(f"{task} {name}: task loss, method loss, gradient differ by", np.array(rows).max(0))
    # The median of three steps: one may have a proposal on the other side of a threshold.
    task_loss, method_loss, gradient = np.median(rows, axis=0)
    assert task_loss < LOSS and method_loss < LOSS and gradient < GRADIENT


@pytest.mark.parametrize(("task", "name"), PAIRS)
def test_evaluation_and_counts_are_the_cpus(made, task, name):
    planned, model = made(task, name)
    val = reader(task, planned.folder, "val")
    found = {}
    for key, hardware in (("cpu", CPU), ("there", THERE)):
        counter = MeasuredCounter(model.eval(), planned.task.adapter(model))
        with counter.recording():
            predictions = evaluate(planned.task, model, val, 0, 0, 2, fabric=hardware.fabric()).predictions
        found[key] = planned.task.evaluate(predictions, val), counter.images(), counter.layers()
    (metrics, images, layers), (metrics_there, images_there, layers_there) = found["cpu"], found["there"]
    (main, *_) = planned.task.metrics
    print(
        f"{task} {name}: {main.name} {metrics[main.name]:.4f} and {metrics_there[main.name]:.4f}, "
        f"MACs {images['macs'].mean():.0f} and {images_there['macs'].mean():.0f}, density {images['density'].mean()}"
    )
    assert metrics_there[main.name] == pytest.approx(metrics[main.name], abs=0.01)
    assert list(images_there["image_id"]) == list(images["image_id"])
    # A decision at the threshold may fall the other way; noise of another seed moves an image's count by 1 % and more.
    np.testing.assert_allclose(images_there["macs_backbone"], images["macs_backbone"], rtol=1e-3)
    np.testing.assert_allclose(layers_there["density"].dropna(), layers["density"].dropna(), atol=2e-3)


def test_noise_of_an_image_is_the_same_on_both():
    from benchmark.nn import inference

    mask = GumbelMask(Site("layer1.0.mask1", 4, 4, 1, 1.0), grid_stride=None).eval()
    logits = torch.zeros(2, 1, 24, 40)
    with inference(["a", "b"], seed=3):
        expected, found = mask.thresholds(logits), mask.thresholds(logits.to(DEVICE))
    assert found.device.type == DEVICE and torch.equal(expected, found.cpu())
    assert not torch.equal(expected[0], expected[1])


@pytest.mark.parametrize("task", TASKS)
def test_an_interrupted_run_resumes_to_the_same_losses_and_weights(made, task, tmp_path, monkeypatch):
    """Near each other: PyTorch sums some gradients in an order that changes from run to run on a CUDA device."""

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    def training():
        planned, model = made(task, "stochastic")
        schedule = planned.schedules[-1].replace(batch=2, optimizer="sgd", learning_rate=1e-3, clip=1.0)
        return TrainingStep(planned.task, planned.method, model, schedule, 5, 0), reader(task, planned.folder, "train")

    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole, train = training()
    fit(whole, train, Loop(tmp_path / "whole", fabric=THERE.fabric()))
    monkeypatch.setattr("benchmark.train.CHECKPOINT_SECONDS", 0)
    cut, _ = training()
    with pytest.raises(KeyboardInterrupt):
        fit(cut, train, Loop(tmp_path / "cut", progress=stop, fabric=THERE.fabric()))
    resumed, _ = training()
    steps = []
    fit(resumed, train, Loop(tmp_path / "cut", progress=lambda done, total: steps.append(done), fabric=THERE.fabric()))
    assert steps == [4, 5]
    losses, expected = (pd.read_parquet(tmp_path / name / LOSSES) for name in ("cut", "whole"))
    print(f"{task}: losses {losses['loss'].tolist()} and {expected['loss'].tolist()}")
    np.testing.assert_allclose(losses["loss"], expected["loss"], rtol=1e-2)
    for key, value in whole.model.state_dict().items():
        other = resumed.model.state_dict()[key]
        assert other.device.type == "cpu"
        torch.testing.assert_close(other, value, rtol=1e-2, atol=2e-3, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("task", TASKS)
def test_mixed_precision_trains_float32_weights_to_about_the_same_losses(made, task, tmp_path):
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        planned, model = made(task, "stochastic", precision=precision)
        schedule = planned.schedules[-1].replace(batch=2)
        training = TrainingStep(planned.task, planned.method, model, schedule, STEPS, 0)
        folder = tmp_path / precision
        folder.mkdir()
        hardware = dataclasses.replace(THERE, precision=precision)
        fit(training, reader(task, planned.folder, "train"), Loop(folder, fabric=hardware.fabric()))
        assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}
        losses[precision] = pd.read_parquet(folder / LOSSES)["loss"]
    print(task, {name: values.tolist() for name, values in losses.items()})
    # Proposals at a threshold change what detection trains on; a broken cast would not end near these at all.
    np.testing.assert_allclose(losses["bf16-mixed"], losses["32-true"], rtol=0.5)
    assert (losses["bf16-mixed"] != losses["32-true"]).all()


@pytest.mark.parametrize(("task", "name"), ALL)
def test_every_method_runs_a_cell(made, task, name, tmp_path):
    """With whatever is picked without being told: a CUDA device where there is one."""
    planned, _ = made(task, name, overrides=TINY)
    record = execute(planned, Store(tmp_path))
    assert record.finished and 0 < record["gmacs_measured_mean"] < 100
    assert np.isfinite(pd.read_parquet(record.path(LOSSES))["loss"]).all()
    if DEVICE == "cuda":
        assert record["gpu"] == torch.cuda.get_device_name()


#: Task, images at a time, their height and width, classes, the recipe's fields, and those that leave little to a CPU.
MEMORY = [
    ("coco", 1, (1000, 1667), 80, {}, {"backbone": "resnet50", "shorter_side": 64, "longer_side": 128}),
    ("coco", 1, (800, 1333), 80, {"shorter_side": 800, "longer_side": 1333}, {"shorter_side": 64, "longer_side": 128}),
    ("cityscapes", 1, (1024, 2048), 19, {}, {"shorter_side": 128, "longer_side": 256, "segmenter.crop": 97}),
    ("cityscapes", 2, (1024, 2048), 19, {}, {"shorter_side": 128, "longer_side": 256, "segmenter.crop": 97}),
    ("imagenet", 256, (256, 256), 1000, {}, {"shorter_side": 64, "longer_side": 64}),
]


class RandomImages:
    """Images of noise with the task's own form of target."""

    def __init__(self, task, size, classes):
        self.task, self.size, self.classes = task, size, classes

    def __len__(self):
        return 512

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, *self.size), generator=generator, dtype=torch.uint8)
        if self.task == "imagenet":
            return image, index % self.classes, index
        if self.task == "cityscapes":
            return image, torch.randint(0, self.classes, self.size, generator=generator, dtype=torch.uint8), index
        corners = torch.rand(8, 2, generator=generator) * torch.tensor(self.size[::-1]) / 2
        boxes = torch.cat([corners, corners + 20], 1)
        return image, {"boxes": boxes, "labels": torch.arange(1, 9)}, index


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["dense", "stochastic"])
@pytest.mark.parametrize("case", MEMORY, ids=lambda case: f"{case[0]}-{case[1]}x{case[2][0]}")
def test_a_step_at_scale_paper_fits_one_device(made, case, name, precision, tmp_path):
    """Prints the most memory that was allocated: weights, gradients and the optimizer's state are part of it."""
    task, count, size, classes, overrides, reduced = case
    run = {"train.batch": count, "train.micro_batch": 0, "train.epochs": 0, "train.steps": 3}
    overrides = {**run, **overrides, "own_schedules": False}
    if DEVICE == "cpu":
        count, size, overrides = min(count, 2), (64, 128), {**overrides, **reduced, "train.batch": 2}
    folder = made(task, name)[0].folder
    planned = plan(Request(task, name, "paper", data=folder, overrides=overrides, precision=precision))
    training = TrainingStep(planned.task, planned.method, planned.build(classes), planned.schedules[0], 3, 0)
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = fit(
        training,
        RandomImages(task, size, classes),
        Loop(tmp_path, fabric=Hardware(precision, accelerator=DEVICE).fabric()),
    )
    losses = pd.read_parquet(tmp_path / LOSSES)["loss"]
    assert len(losses) == 3 and np.isfinite(losses).all()
    if DEVICE == "cuda":
        held = torch.cuda.max_memory_allocated() / 2**30
        print(f"{task} {name} {precision}: {count} of {size}: {held:.2f} GiB, 3 steps in {seconds:.1f} s")
