"""Several devices: the results of one, the same draws, and one line where something does not go."""

import itertools
import os

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from benchmark.cells import MODEL, Request, execute, plan, reader
from benchmark.errors import SaibenchError, UsageError
from benchmark.evaluate import evaluate
from benchmark.flops.joining import Recorded, join
from benchmark.flops.measured import MeasuredCounter
from benchmark.recipe import Schedule
from benchmark.store import Store
from benchmark.tasks import Batch
from benchmark.train import LOSSES, StepSampler, TrainingStep
from benchmark.weights import files
from tests.conftest import TINY

two_processes = pytest.mark.skipif(
    (os.cpu_count() or 1) < 2 or torch.cuda.is_available(), reason="takes two processor cores and no CUDA device"
)
PARTS = {**TINY, "train.batch": 4, "train.steps": 3, "evaluation_batch": 1}


def request(tiny_set, task="imagenet", devices=1, method="stochastic", **overrides):
    return Request(task, method, data=tiny_set(task), overrides={**PARTS, **overrides}, devices=devices)


@two_processes
@pytest.mark.parametrize(("task", "images"), [("imagenet", 2), ("coco", 1)])
def test_two_processes_give_the_weights_metrics_and_counts_of_one(tiny_set, tmp_path, task, images):
    """Classification's batch norm goes on measuring; detection draws which proposals train, and freezes it."""
    wanted = [request(tiny_set, task, devices, **{"train.micro_batch": images}) for devices in (1, 2)]
    one, two = (execute(plan(each), Store(tmp_path / str(each.devices))) for each in wanted)
    assert one.cell_id == two.cell_id and (one["devices"], two["devices"]) == (1, 2)
    expected, found = (load_file(record.path(MODEL)) for record in (one, two))
    planned = plan(wanted[0])
    model = planned.build(len(reader(task, tiny_set(task), "train").classes))
    files.fill(model, planned.weights)
    start = model.state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}")
    moved = [key for key in expected if key.endswith("running_var") and not torch.equal(expected[key], start[key])]
    assert bool(moved) == (task == "imagenet")
    losses, expected = (pd.read_parquet(record.path(LOSSES)) for record in (two, one))
    pd.testing.assert_frame_equal(losses, expected, rtol=1e-4)
    for name, value in one.fields.items():
        if name.startswith(("metric_", "gmacs_", "density_")):
            assert two[name] == (value if value is None else pytest.approx(value, rel=1e-3)), name
    counts, expected = (pd.read_parquet(record.path("images.parquet")) for record in (two, one))
    assert list(counts["image_id"]) == list(expected["image_id"])
    np.testing.assert_allclose(counts["macs_backbone"], expected["macs_backbone"], rtol=1e-3)
    assert two["seconds_train"] > 0 and two["gpu"] is None


@two_processes
def test_what_fails_in_one_of_several_processes_is_the_cells_error(copied_set, tmp_path):
    folder = copied_set("imagenet")
    for spoilt in folder.rglob("train/*/*.JPEG"):  # validation images are decoded before anything runs
        spoilt.write_bytes(b"no image")
    wanted = Request("imagenet", "dense", data=folder, overrides={**PARTS, "train.micro_batch": 2}, devices=2)
    with pytest.raises(SaibenchError, match="cannot decode .*JPEG") as caught:
        execute(plan(wanted), Store(tmp_path / "store"))
    assert "\n" not in str(caught.value)
    assert Store(tmp_path / "store").find(plan(wanted).cell).status == "failed"


@two_processes
def test_devices_are_no_part_of_a_cells_identity(tiny_set):
    ids = {plan(request(tiny_set, devices=devices, **{"train.micro_batch": 2})).cell.id for devices in (1, 2)}
    assert len(ids) == 1


@pytest.mark.parametrize("task", ["coco", "cityscapes", "imagenet"])
def test_a_device_draws_for_its_images_what_one_device_draws_for_them(tiny_set, task):
    planned = plan(request(tiny_set, task, **{"train.micro_batch": 1}))
    train = reader(task, planned.folder, "train")
    model = planned.build(len(train.classes)).train()
    training = TrainingStep(planned.task, planned.method, model, planned.schedules[-1], 3, 0).train()
    samples = [train[index] for index in range(4)]
    whole = training.begin(Batch.collate(samples), 1)
    shares = [training.begin(Batch.collate(samples[first : first + 2]), 1, first) for first in (0, 2)]
    assert [part.seed for share in shares for part in share] == [part.seed for part in whole]
    assert len({part.seed for part in whole}) == 4
    for part, other in zip(whole, itertools.chain(*shares), strict=True):
        assert all(torch.equal(one, two) for one, two in zip(part.images, other.images, strict=True))
        with torch.no_grad():
            assert [float(loss) for loss in training(part)] == [float(loss) for loss in training(other)]


def test_the_devices_shares_of_a_batch_are_the_batch():
    whole = list(StepSampler(10, 6, 5, seed=1))
    shares = [list(StepSampler(10, 6, 5, 1, rank, 3)) for rank in range(3)]
    assert [list(itertools.chain(*step)) for step in zip(*shares, strict=True)] == whole


@pytest.mark.parametrize(("task", "method"), [("coco", "stochastic"), ("imagenet", "equal_interval")])
def test_joined_recorders_hold_what_one_would(tiny_set, task, method):
    planned = plan(request(tiny_set, task, method=method))
    val = reader(task, planned.folder, "val")
    model = planned.build(len(val.classes)).eval()

    class Some:
        def __init__(self, places):
            self.places = places

        def __len__(self):
            return len(self.places)

        def __getitem__(self, index):
            image, target, identifier = val[self.places[index]]
            # Two sizes: images of one process alone must be there, too.
            return (image[:, :64] if self.places[index] == 1 else image), target, identifier

    def count(places):
        counter = MeasuredCounter(model, planned.task.adapter(model))
        with counter.recording():
            evaluate(planned.task, model, Some(places), 0)
        return counter

    whole, parts = count([0, 1, 2]), [count([2, 0]), count([1])]
    joined = MeasuredCounter(model, planned.task.adapter(model))
    join(joined.recorder, [Recorded.of(part.recorder) for part in parts], [[2, 0], [1]])
    pd.testing.assert_frame_equal(joined.images(), whole.images())
    pd.testing.assert_frame_equal(joined.layers(), whole.layers())
    for name, values in whole.density_maps().items():
        np.testing.assert_allclose(joined.density_maps()[name], values)


@pytest.mark.parametrize(
    ("devices", "overrides", "message"),
    [
        (0, {}, "--devices 0: give 1 or more"),
        (-1, {}, "--devices -1: give 1 or more"),
        (2, {}, "a step of 4 images runs 4 at a time.*give --recipe train.micro_batch=2 or a divisor of that"),
        (2, {"train.micro_batch": 4}, "--recipe train.micro_batch=2"),
        (2, {"train.batch": 3}, "train.batch 3 is not divisible by it; give --recipe train.batch=4"),
        (2, {"train.micro_batch": 2, "from_scratch": True}, "pretrain.micro_batch=1"),
    ],
)
def test_what_does_not_go_is_said_before_work_starts(tiny_set, devices, overrides, message):
    with pytest.raises(UsageError, match=message) as caught:
        plan(request(tiny_set, method="dense", devices=devices, **overrides))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--devices", "0"], "--devices 0: give 1 or more"),
        (["--devices", "4096", "--recipe", "train.batch=4096", "--recipe", "train.micro_batch=1"], "this machine has"),
    ],
)
def test_the_command_refuses_a_number_of_devices_in_one_line(tiny_set, run_cli, tmp_path, given, message):
    for command in (("run", "imagenet", "--method", "dense"), ("sweep", "imagenet", "--methods", "dense")):
        code, _, err = run_cli(*command, "--data", tiny_set("imagenet"), "--store", tmp_path, *given)
        assert code == 2 and message in err and len(err.strip().splitlines()) == 1
        assert not list(tmp_path.rglob("record.json"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.batch": 4}, "4 images at a time; give --recipe train.micro_batch=2"),
        ({"train.micro_batch": 1}, "1 image at a time; give --precision bf16-mixed, or --recipe shorter_side=48"),
    ],
)
def test_out_of_memory_in_training_says_what_to_lower(tiny_set, tmp_path, monkeypatch, overrides, message):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has …")

    monkeypatch.setattr(TrainingStep, "forward", full)
    planned = plan(request(tiny_set, **overrides))
    with pytest.raises(SaibenchError, match=f"^out of memory: .*{message}$"):
        execute(planned, Store(tmp_path))
    assert message in Store(tmp_path).find(planned.cell)["error"]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (8, "8 at a time; give --recipe evaluation_batch=4"),
        (1, "1 at a time; give --recipe shorter_side=48"),
    ],
)
def test_out_of_memory_in_evaluation_says_what_to_lower(tiny_set, tmp_path, monkeypatch, batch, message):
    planned = plan(request(tiny_set, evaluation_batch=batch))

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(type(planned.task), "forward", full)
    with pytest.raises(SaibenchError, match=f"^out of memory: evaluation does not fit with {message}$"):
        execute(planned, Store(tmp_path))


def test_recipes_of_scale_paper_are_divisible_by_eight_devices_in_detection():
    from benchmark.tasks import find_task

    schedule: Schedule = find_task("coco").recipe("paper").train
    assert schedule.batch % (8 * schedule.micro_batch) == 0
