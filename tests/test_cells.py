"""End to end at a handful of steps: cells, sweeps, and what they leave in the store."""

import contextlib
import dataclasses
import json
import os
import shutil
import stat

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from benchmark.cells import Request, execute, load_model, plan, plan_of
from benchmark.errors import DataError, SaibenchError
from benchmark.executors.local import LocalExecutor, default_jobs
from benchmark.store import Store
from benchmark.sweep import make_sweep, run_sweep, to_run
from tests.conftest import SCRATCH, TINY

SAME = ["metric_AP", "gmacs_measured_mean", "gmacs_measured_std", "gmacs_paper", "density_mean", "cell_id"]


def swept_by(jobs, sweep, store):
    """Run a sweep with so many cells at a time."""
    with contextlib.closing(LocalExecutor(jobs)) as executor:
        return run_sweep(sweep, store, executor)


@pytest.fixture(scope="module")
def swept(tmp_path_factory, tiny_set, plugin):
    """A sweep of the plug-in and dense on six images."""
    store = Store(tmp_path_factory.mktemp("store"))
    sweep = make_sweep("coco", [str(plugin), "dense"], data=tiny_set("coco"), overrides=SCRATCH)
    outcomes = swept_by(2, sweep, store)
    return store, sweep, outcomes


def test_a_sweep_runs_the_starting_cell_first_and_every_point(swept):
    store, sweep, outcomes = swept
    assert [outcome.status for outcome in outcomes] == ["finished"] * 3
    assert outcomes[0].plan.is_start
    records = store.records("coco")
    assert sorted(records["method"]) == ["checkerboard", "checkerboard", "dense"]
    assert set(records.loc[records["method"] == "checkerboard", "start"]) == {sweep.plans[0].cell.id}


def test_a_second_sweep_runs_nothing(swept, tiny_set, plugin):
    store, sweep, _ = swept
    again = make_sweep("coco", [str(plugin), "dense"], data=tiny_set("coco"), overrides=SCRATCH)
    assert [each.cell.id for each in again.plans] == [each.cell.id for each in sweep.plans]
    assert swept_by(1, again, store) == []


def test_a_record_has_what_the_design_asks_for(swept):
    store, sweep, _ = swept
    record = store.find(sweep.plans[-1].cell)
    for name in ("metric_AP", "metric_APs", "gmacs_measured_mean", "gmacs_paper", "density_mean", "seconds_train"):
        assert isinstance(record[name], float), name
    assert record["p_stride"] in (2, 3) and record["threads"] == 1 and record["uncounted"]
    assert record["method_label"] == "Checkerboard" and record["method_kind"] == "plug-in"
    assert record["method_curve"] == ["stride"] and record["method_references"] == ["An example."]
    images, layers = record.images(), record.layers()
    assert len(images) == 3 and (images[["macs_backbone", "macs_neck", "macs_head"]] > 0).all(axis=None)
    assert record["gmacs_measured_mean"] == pytest.approx(images["macs_backbone"].mean() / 1e9)
    assert layers["lambda"].notna().sum() == 16
    assert record["gmacs_measured_q05"] <= record["gmacs_measured_q50"] <= record["gmacs_measured_q95"]
    for layer, densities in load_file(record.path("density_maps.safetensors")).items():
        assert 0 <= densities.min() <= densities.max() <= 1, layer
    losses = pd.read_parquet(record.path("losses.parquet"))
    assert list(losses["step"]) == [0, 1] and {"loss", "task_loss", "method_loss"} < set(losses)
    for name in ("predictions.json", "model.safetensors", "cell.json"):
        assert record.path(name).is_file()
    assert isinstance(json.loads(record.path("predictions.json").read_text()), list)


def test_the_equal_interval_density_is_exact(swept):
    store, sweep, _ = swept
    for each in sweep.plans[1:]:
        stride = each.method.stride
        layers = store.find(each.cell).layers()
        conv1 = layers[layers["layer"].str.endswith("layer1.0.conv1")].iloc[0]
        assert conv1["density"] == pytest.approx((-(-32 // stride)) ** 2 / 32**2)


def test_same_command_and_seed_give_the_same_record(tiny_set, tmp_path):
    planned = plan(Request("coco", "stochastic", data=tiny_set("coco"), overrides=TINY))
    first, second = (execute(planned, Store(tmp_path / name)) for name in ("a", "b"))
    for name in SAME:
        assert first[name] == second[name], name
    pd.testing.assert_frame_equal(first.images(), second.images())
    pd.testing.assert_frame_equal(first.layers(), second.layers())
    assert first.path("predictions.json").read_bytes() == second.path("predictions.json").read_bytes()


def test_force_runs_a_finished_cell_again(tiny_set, tmp_path):
    planned = plan(Request("coco", "dense", data=tiny_set("coco"), overrides=TINY))
    store = Store(tmp_path)
    first = execute(planned, store)
    assert execute(planned, store)["finished"] == first["finished"]
    again = execute(planned, store, force=True)
    assert again["started"] >= first["finished"] and again["metric_AP"] == first["metric_AP"]


def test_a_kept_model_loads(swept):
    store, sweep, _ = swept
    model = load_model(store.find(sweep.plans[0].cell), sweep.plans[0])
    with torch.inference_mode():
        (found,) = model([torch.rand(3, 128, 128)])
    assert set(found) == {"boxes", "labels", "scores"}


def test_identity_depends_on_what_determines_the_result_and_on_nothing_else(tiny_set):
    base = Request("coco", "stochastic", data=tiny_set("coco"))

    def cell_id(**changes):
        return plan(dataclasses.replace(base, **changes)).cell.id

    assert cell_id() == cell_id(parameters={"gamma": 0.05}) == cell_id(parameters={"window": 5})
    changed = [
        cell_id(seed=1), cell_id(parameters={"gamma": 0.1}), cell_id(overrides={"train.steps": 3}),
        cell_id(method="deterministic_gumbel"), cell_id(overrides={"from_scratch": True}),
        cell_id(overrides={"from_scratch": True, "pretrain.steps": 3}),
    ]  # fmt: skip
    assert len({cell_id(), *changed}) == 7
    assert cell_id(overrides={"workers": 3}) == cell_id(overrides={"pretrain.steps": 3}) == cell_id()


def test_a_record_leads_back_to_its_plan_whatever_was_changed_in_the_recipe(tiny_set, tmp_path):
    data = tiny_set("coco")
    changes = {**TINY, "deformable": True, "backbone": "mini_small", "detector.proposals_after": [32, 20], "threads": 1}
    planned = plan(Request("coco", "dense", data=data, overrides=changes))
    record = execute(planned, Store(tmp_path))
    assert json.loads(record["overrides"]) == changes
    assert plan_of(record, data).recipe == planned.recipe
    assert load_model(record, plan_of(record, data)).backbone.body.layer2[0].offset is not None


def test_a_record_whose_changes_are_in_the_older_form_is_one_line(swept):
    record = swept[0].find(swept[1].plans[0].cell)
    older = dataclasses.replace(record, fields={**record.fields, "overrides": "train.steps=2 deformable=True"})
    with pytest.raises(SaibenchError, match=f"cell {record.cell_id} .* run the cell again"):
        plan_of(older)


def test_methods_with_their_own_backbone_start_from_nothing(tiny_set):
    base = Request("coco", "smaller_backbone", data=tiny_set("coco"), overrides=SCRATCH)
    planned = plan(base)
    assert planned.start is None and len(planned.schedules) == 2
    assert plan(dataclasses.replace(base, method="stochastic")).start.is_start


def test_the_paper_scale_asks_for_data_and_weights(tiny_set, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no embedded set: give the real one with --data"):
        plan(Request("coco", "stochastic", scale="paper"))
    monkeypatch.setenv("SAIBENCH_CACHE", str(tmp_path / "cache"))
    planned = plan(Request("coco", "stochastic", scale="paper", data=tiny_set("coco")))
    with pytest.raises(DataError, match=r"place them at .*cache/weights/resnet101\.safetensors"):
        execute(planned, Store(tmp_path / "store"))


def test_jobs_follow_the_cores_a_cell_uses():
    assert default_jobs(1) >= default_jobs(2) >= 1
    assert default_jobs(None) == 1


def test_a_truncated_record_fails_alone_and_the_sweep_uses_the_others(tmp_path, tiny_set, plugin):
    store = Store(tmp_path)
    sweep = make_sweep("imagenet", [str(plugin), "dense"], data=tiny_set("imagenet"), overrides=TINY)
    assert [outcome.status for outcome in swept_by(1, sweep, store)] == ["finished"] * 3
    torn = store.find(sweep.plans[-1].cell).folder / "record.json"
    torn.write_bytes(torn.read_bytes()[:100])
    assert [each.plan.cell.id for each in to_run(sweep, store)] == [torn.parent.name]
    (outcome,) = swept_by(1, sweep, store)
    assert outcome.status == "failed"
    assert outcome.error.startswith(f"{torn}: broken")
    assert outcome.error.endswith("delete the folder to run the cell again")
    shutil.rmtree(torn.parent)
    assert [outcome.status for outcome in swept_by(1, sweep, store)] == ["finished"]


def test_a_record_whose_outcomes_do_not_give_its_metric_is_refused(tiny_set, tmp_path, monkeypatch):
    planned, store = plan(Request("coco", "dense", data=tiny_set("coco"), overrides=TINY)), Store(tmp_path)
    # As if every detection hit an object at every overlap.
    whole = type(planned.task).outcomes
    monkeypatch.setattr(
        type(planned.task),
        "outcomes",
        lambda self, predictions, reader: whole(self, predictions, reader).assign(hits=1023, ignored=0),
    )
    with pytest.raises(
        SaibenchError, match=rf"\({planned.cell.id}\): what it got right on each image gives AP .*all pred"
    ):
        execute(planned, store)
    assert store.find(planned.cell).status == "failed"


def test_an_error_of_a_network_names_the_images_at_hand(tiny_set, tmp_path, monkeypatch):
    planned = plan(Request("coco", "dense", data=tiny_set("coco"), overrides=TINY))
    monkeypatch.setattr(type(planned.task), "training_outputs", lambda self, model, batch: 1 / 0)
    with pytest.raises(SaibenchError, match=r"failed: ZeroDivisionError: division by zero; at image \d+, \d+"):
        execute(planned, Store(tmp_path))


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_every_file_of_a_record_has_the_mode_of_any_other(umask, tiny_set, tmp_path, monkeypatch):
    before = os.umask(umask)
    try:
        store = Store(tmp_path / "store")
        execute(plan(Request("imagenet", "dense", data=tiny_set("imagenet"), overrides=TINY)), store)
        (tmp_path / "plain").touch()
        (tmp_path / "folder").mkdir()
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in store.root.rglob("*")}
    plain, folder = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "folder"))
    assert {path.name for path, mode in modes.items() if mode != (folder if path.is_dir() else plain)} == set()
    assert any(path.suffix == ".safetensors" for path in modes)
