"""One training, many points: cells that differ in a parameter of `at_inference` alone share one trained network."""

import pytest
import torch

from benchmark.cells import MODEL, Request, execute, handful, load_model, mask_values, plan, plan_of, reproduce
from benchmark.errors import PluginError
from benchmark.flops.command import FlopsRequest, count_flops
from benchmark.method import discover
from benchmark.nn import RandomMask
from benchmark.store import Store, verify
from benchmark.sweep import make_sweep, run_sweep, to_run
from benchmark.sweep.estimates import Estimator
from benchmark.sweep.measuring import measure
from benchmark.sweep.states import state_of
from benchmark.train import LOSSES
from tests.conftest import FIXTURES, SCRATCH, TINY
from tests.sweep.conftest import Here

DIAL = str(FIXTURES / "dial.py")


def request(tiny_set, density, **more):
    return Request("imagenet", DIAL, data=tiny_set("imagenet"), overrides=TINY, parameters={"density": density}, **more)


def swept(sweep, store):
    return run_sweep(sweep, store, Here())


@pytest.fixture(scope="module")
def read(tmp_path_factory, tiny_set):
    """A store with a sweep of three points, and their records by density."""
    store = Store(tmp_path_factory.mktemp("store"))
    sweep = make_sweep("imagenet", [DIAL], data=tiny_set("imagenet"), overrides=TINY)
    assert [each.status for each in swept(sweep, store)] == ["finished"] * 3
    return store, sweep, {each.method.density: store.find(each.cell) for each in sweep.plans}


def test_the_cell_of_the_default_trains_and_comes_first(tiny_set):
    trained, other = plan(request(tiny_set, 0.5)), plan(request(tiny_set, 0.25))
    assert trained.trained is trained and trained.schedules
    assert other.trained.cell == trained.cell and other.start is other.trained and not other.schedules
    assert other.cell.id != trained.cell.id
    (first, *_) = make_sweep("imagenet", [DIAL], data=tiny_set("imagenet"), overrides=TINY).plans
    assert first.cell.id == trained.cell.id


def test_a_parameter_of_training_makes_another_training(tiny_set):
    other = plan(Request("imagenet", DIAL, data=tiny_set("imagenet"), overrides=TINY, parameters={"stride": 2}))
    assert other.trained is other and other.cell.id != plan(request(tiny_set, 0.5)).cell.id


def test_starting_cells_of_the_training_come_before_it(tiny_set):
    sweep = make_sweep("imagenet", [DIAL], data=tiny_set("imagenet"), overrides=SCRATCH, parameters={"density": 0.25})
    assert [(each.cell.method, each.cell.parameters.get("density")) for each in sweep.plans] == [
        ("dense", None), ("dial", 0.5), ("dial", 0.25),
    ]  # fmt: skip


def test_each_point_is_a_record_of_its_own_and_one_trained(read):
    _, _, records = read
    assert len({record.cell_id for record in records.values()}) == 3
    for density, record in records.items():
        assert record["density_mean"] == pytest.approx(density, abs=0.02)
        assert (record.folder / LOSSES).exists() == (density == 0.5)
        assert (record["seconds_train"] > 0) == (density == 0.5)
    assert records[0.25]["gmacs_measured_mean"] < records[0.5]["gmacs_measured_mean"]
    assert records[0.25]["start"] == records[0.75]["start"] == records[0.5].cell_id


def test_a_store_holds_the_weights_once_and_is_sound(read):
    store, _, records = read
    assert len({(record.folder / MODEL).stat().st_ino for record in records.values()}) == 1
    assert not verify(store).problems


def test_a_loaded_model_decides_as_its_record_says(read, tiny_set):
    _, _, records = read
    model = load_model(records[0.25], plan_of(records[0.25], tiny_set("imagenet"), [FIXTURES / "dial.py"]))
    assert {mask.density for mask in model.modules() if isinstance(mask, RandomMask)} == {0.25}
    with torch.no_grad(), mask_values() as masks:
        model(torch.rand(1, 3, 64, 64))
    assert masks["layer1.1.mask1"].mean().item() == pytest.approx(0.25, abs=0.01)


def test_a_finished_sweep_has_nothing_to_run_and_a_lost_point_is_read_again(read, tiny_set, tmp_path):
    store, sweep, _ = read
    assert not to_run(sweep, store)
    other = Store(tmp_path)
    trained = execute(plan(request(tiny_set, 0.5)), other)
    (left,) = [each for each in to_run(sweep, other) if each.plan.method.density == 0.25]
    execute(left.plan, other)
    assert other.find(plan(request(tiny_set, 0.5)).cell)["finished"] == trained["finished"]


def test_a_point_is_reproduced_from_its_own_training(read, tiny_set, tmp_path):
    _, _, records = read
    planned = plan_of(records[0.75], tiny_set("imagenet"), [FIXTURES / "dial.py"])
    again = reproduce(records[0.75], planned, Store(tmp_path))
    assert again.identical and Store(tmp_path).find(planned.trained.cell).finished
    # What it takes is what its training takes, too.
    assert handful(records.values(), records[0.75]["seconds_eval"] * 1.01) == []


def test_a_training_that_was_forced_again_leaves_the_points_weights_alone(read, tiny_set, tmp_path):
    other = Store(tmp_path)
    point = execute(plan(request(tiny_set, 0.25)), other)
    before = (point.folder / MODEL).read_bytes()
    execute(plan(request(tiny_set, 0.5)), other, force=True)
    assert (point.folder / MODEL).read_bytes() == before and not verify(other).problems


def test_a_point_takes_its_evaluation_alone(read, tiny_set):
    store, sweep, _ = read
    again = [plan(request(tiny_set, each.method.density, seed=1)) for each in sweep.plans]
    estimator = Estimator(store)
    taken = {each.method.density: estimator.estimate(state_of(each, store)).seconds for each in again}
    assert taken[0.25] == taken[0.75] < taken[0.5]
    rates = measure(again[-1:], lambda done: None)
    assert rates[again[-1].cell.id].evaluation > 0


def test_untrained_counts_are_of_the_value_asked_for():
    counted = [
        count_flops(FlopsRequest("imagenet", scale="mini", method=DIAL, parameters={"density": density}))["gmacs"]
        for density in (0.75, 0.25)
    ]
    assert counted[0] > counted[1]


def test_a_name_that_is_no_parameter_is_refused(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text((FIXTURES / "dial.py").read_text().replace('at_inference = ("density",)', 'at_inference = ("x",)'))
    with pytest.raises(PluginError, match="`at_inference` of 'dial' names 'x', which is no parameter"):
        discover([wrong])
