"""Starting weights: made again they learn, what was changed is caught, and every method starts from them."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from benchmark.cells import Request, plan
from benchmark.data.embedded import Size
from benchmark.errors import DataError, UsageError
from benchmark.listing import task_names
from benchmark.metric import MACHINE_TOLERANCE
from benchmark.tasks import find_task
from benchmark.weights import files, making, verifying

STEPS = 40


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of this module's own, and few validation images, so that a metric takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAIBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in task_names():
            task = find_task(name)
            few = Size(*dataclasses.astuple(task.embedded.sizes["mini"])[:2], {"train": 2, "val": 4})
            patch.setattr(type(task), "embedded", dataclasses.replace(task.embedded, sizes={"mini": few}))
        yield


@pytest.fixture(scope="module")
def made(cache, tmp_path_factory):
    """Weights of a network by a shortened command: how, where, record."""
    (shortened,) = making.makings(find_task("cityscapes"), "mini", ["mini"], STEPS)
    out = tmp_path_factory.mktemp("weights")
    return shortened, out, making.make(shortened, out)


@pytest.fixture
def copied(made, tmp_path):
    """A copy of these weights, to be spoilt."""
    return shutil.copytree(made[1], tmp_path / "weights")


def test_a_shortened_making_learns(made):
    _, _, record = made
    assert len(record["losses"]) == 10
    assert record["losses"][-1] < 0.7 * record["losses"][0]
    assert record["value"] > 0.1  # sky, road and the like; one class alone gives at most 0.07


def test_what_was_just_made_is_as_its_record_says(made):
    shortened, out, record = made
    assert verifying.verify(shortened, out) == []
    assert json.loads((out / "mini.json").read_text()) == record
    for name in ("command", "git_sha", "cpu", "isa", "steps", "images", "seed", "scenes", "metric", "value", "sha256"):
        assert record[name] is not None, name


def test_matrices_are_kept_in_half_precision(made):
    stored = load_file(made[1] / "mini.safetensors")
    assert {value.dtype for value in stored.values() if value.ndim > 1} == {torch.float16}
    assert {value.dtype for key, value in stored.items() if key.endswith("running_var")} == {torch.float32}


def test_verify_catches_a_changed_byte(made, copied):
    path = copied / "mini.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (line,) = verifying.verify(made[0], copied)
    assert line.startswith(f"{path} has another SHA-256 than mini.json says")


def test_verify_catches_a_metric_that_is_not_the_records(made, copied):
    path = copied / "mini.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "value": record["value"] + 2 * MACHINE_TOLERANCE}))
    (line,) = verifying.verify(made[0], copied)
    assert "mIoU is" in line and "its record says" in line


def test_verify_names_keys_that_are_not_filled(made, copied):
    (deeper,) = making.makings(find_task("coco"), "mini", ["mini"])
    (line,) = verifying.verify(deeper, copied)
    assert "leaves" in line and "keys of the network unfilled, such as backbone.body.conv1.weight" in line


def test_verify_names_a_missing_file(made, copied):
    (copied / "mini.json").unlink()
    assert verifying.verify(made[0], copied) == [f"no such file: {copied / 'mini.json'}"]


def test_broken_weights_and_unknown_backbones_are_one_clear_error(made, copied):
    path = copied / "mini.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"mini\.safetensors is broken"):
        files.fill(torch.nn.Linear(1, 1), path)
    with pytest.raises(
        DataError, match="no starting weights .*: make them with `saibench weights make coco --backbone resnet18`"
    ):
        files.find(find_task("coco"), "resnet18")
    with pytest.raises(UsageError, match="coco ships no weights of 'resnet18'; it has mini, mini_small"):
        making.makings(find_task("coco"), "mini", ["resnet18"])
    with pytest.raises(UsageError, match="coco ships no starting weights at scale 'small'"):
        making.makings(find_task("coco"), "small")


@pytest.mark.parametrize("task", task_names())
def test_weights_are_there_for_every_backbone_and_small(task):
    places = [files.find(find_task(task), backbone) for backbone in find_task(task).recipe("mini").shipped]
    assert sum(place.stat().st_size for place in places) < 15e6 / 3
    for place in places:
        record = json.loads(place.with_suffix(".json").read_text())
        assert files.digest(place) == record["sha256"]
        assert not record["git_dirty"]


@pytest.mark.parametrize("method", ["dense", "smaller_backbone", "stochastic", "uniform", "perforated"])
def test_every_method_runs_the_same_schedule_from_the_shipped_weights(method, tiny_set):
    planned = plan(Request("coco", method, data=tiny_set("coco")))
    assert planned.schedules == [planned.recipe.train]
    assert planned.start is None and not planned.is_start and not planned.from_nothing
    assert planned.cell.determinants["start"] == files.digest(planned.weights)
    assert planned.weights.stem == ("mini_small" if method == "smaller_backbone" else "mini")


def test_from_scratch_leaves_the_shipped_weights_alone(tiny_set):
    request = Request("coco", "stochastic", data=tiny_set("coco"), overrides={"from_scratch": True})
    planned = plan(request)
    assert planned.weights is None and planned.start.is_start
    assert planned.start.schedules == [planned.recipe.pretrain]
