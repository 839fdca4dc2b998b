"""What a sweep will take: from records of its like, from a measurement, or unknown."""

import json

import pytest

from benchmark.flops.command import FlopsRequest, count_flops
from benchmark.sweep import run_sweep, state_of
from benchmark.sweep.estimates import NOTHING_MEASURED, Estimate, Estimator, Total
from benchmark.sweep.measuring import measure
from tests.sweep.conftest import STRIPES, TOYS, Here, toys


def edit(store, planned, **changes):
    """Change what a record says."""
    path = store.folder(planned.cell) / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def finished(store):
    """A store with one finished cell of the toys, and the plans of it and its start."""
    sweep = toys("many", parameters={"number": 1})
    run_sweep(sweep, store, Here())
    edit(store, sweep.plans[-1], seconds_train=16.0, seconds_eval=3.0)
    return store, sweep.plans


def estimates(store, sweep, **arguments):
    estimator = Estimator(store, **arguments)
    return [estimator.estimate(state_of(each, store)) for each in sweep.plans]


def test_nothing_is_said_of_what_nothing_measured(store):
    for each in estimates(store, toys("many")):
        assert each.seconds is None and each.size is None and each.gmacs is None
        assert each.source == NOTHING_MEASURED and each.gmacs_dense > 0


def test_a_finished_cell_takes_what_it_took(finished):
    store, (_, planned) = finished
    (_, found) = estimates(store, toys("many", parameters={"number": 1}))
    record = store.find(planned.cell)
    files = [path for path in record.folder.rglob("*") if path.is_file()]
    assert (found.seconds, found.source) == (19.0, "its record")
    assert found.size == sum(path.stat().st_size for path in files) and found.gmacs == record["gmacs_measured_mean"]


def test_a_record_times_cells_of_other_seeds_parameters_and_lengths(finished):
    store, (_, planned) = finished
    (_, seed) = estimates(store, toys("many", parameters={"number": 1}, seeds=[7]))
    assert seed.seconds == 19.0 and seed.source == "1 record of these parameters"
    assert seed.gmacs == store.find(planned.cell)["gmacs_measured_mean"]
    (_, other) = estimates(store, toys("many", parameters={"number": 2}))
    assert other.seconds == 19.0 and other.source == "1 record of other parameters" and other.gmacs is None
    (_, longer) = estimates(store, toys("many", parameters={"number": 1}, overrides={"train.steps": 6}))
    assert longer.seconds == pytest.approx(3 * 16.0 + 3.0) and longer.size == seed.size
    (_, batch) = estimates(store, toys("many", parameters={"number": 1}, overrides={"train.batch": 8}))
    assert batch.seconds == pytest.approx(2 * 16.0 + 3.0)


@pytest.mark.parametrize("change", [{"cpu": "another"}, {"isa": "none"}, {"gpu": "one"}, {"threads": 9}])
def test_a_record_of_another_machine_times_nothing_here(finished, change):
    store, (_, planned) = finished
    edit(store, planned, **change)
    (_, found) = estimates(store, toys("many", parameters={"number": 1}, seeds=[7]))
    assert found.seconds is None and found.source == NOTHING_MEASURED and found.gmacs is not None


def test_a_record_of_another_network_or_method_says_nothing(finished):
    store, _ = finished
    for sweep in (toys("many", overrides={"shorter_side": 32}), toys("slow")):
        assert {each.seconds for each in estimates(store, sweep)[1:]} == {None}


def test_a_failed_record_times_nothing(finished):
    store, (_, planned) = finished
    edit(store, planned, status="failed", error="an accident")
    (_, found) = estimates(store, toys("many", parameters={"number": 1}))
    assert found.seconds is None


def test_a_few_steps_measure_what_no_record_does(store):
    sweep, told = toys("many", seeds=[0, 1]), []
    plans = [each for each in sweep.plans if each.cell.parameters.get("number") in (0, 1)]
    rates = measure(plans, told.append)
    assert set(rates) == {each.cell.id for each in plans} and told == [1, 2, 3, 4]
    assert len({id(rate) for rate in rates.values()}) == 2  # seeds share a measurement
    sweep.plans[:] = plans
    for each in estimates(store, sweep, measured=rates):
        assert each.seconds > 0 and each.size is None and "timed" in each.source
    assert not store.root.exists()


def test_the_dense_count_is_the_one_of_the_command(store):
    counted = count_flops(FlopsRequest(STRIPES, scale="mini", scope="backbone"))["gmacs"]
    assert {each.gmacs_dense for each in estimates(store, toys("many"))} == {counted}


def test_a_total_says_what_it_leaves_out():
    cells = [Estimate(1, 1, 10.0, 5.0, ""), Estimate(1, 1, 30.0, None, ""), Estimate(1, 1, None, None, "")]
    total = Total.of(cells)
    assert (total.seconds, total.size, total.untimed, total.unsized) == (40.0, 5.0, 1, 2)
    assert [total.span(jobs) for jobs in (1, 2, 4)] == [40.0, 30.0, 30.0]


def test_the_command_says_what_is_to_do(finished, run_cli):
    store, _ = finished
    command = ["sweep", STRIPES, "--methods", f"{TOYS}::many", "--store", store.root, "--dry-run"]
    code, out, err = run_cli(*command, "--json")
    found = json.loads(out)
    assert code == 0, err
    assert [cell["state"] for cell in found["cells"]].count("finished") == 2
    assert found["to_run"]["cells"] == 19 and found["to_run"]["untimed"] == 0
    assert found["to_run"]["seconds"] == pytest.approx(19 * 19.0)
    code, out, _ = run_cli(*command, "--jobs", 2)
    assert code == 0 and "21 cells: 2 finished, 19 to do" in out and "to run: 19 cells 6.0 min" in out
    assert "with 2 at a time: at least 3.0 min" in out and "19 cells" in out.splitlines()[-1]
    code, out, _ = run_cli(*command, "--seeds", 5, "--recipe", "shorter_side=32")
    assert code == 0 and "21 cells unknown, nothing measured" in out


def test_measuring_goes_with_a_dry_run(run_cli, store):
    code, _, err = run_cli("sweep", STRIPES, "--measure", "--store", store.root)
    assert code == 2 and "--measure goes with --dry-run" in err
    command = ["sweep", STRIPES, "--methods", f"{TOYS}::slow", "--store", store.root, "--dry-run", "--measure"]
    code, out, err = run_cli(*command, "--json")
    cells = json.loads(out)["cells"]
    slow = next(cell for cell in cells if "slow" in cell["cell"])
    assert code == 0 and slow["seconds"] > 2 * 0.2 and slow["size"] is None
