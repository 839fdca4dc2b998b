"""Running a record's cell again: what is compared, what is said of the packages, and what cannot be run again."""

import dataclasses
import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from benchmark.cells import Request, execute, handful, on_rendered_scenes, plan, plan_of, reproduce
from benchmark.cells.reproducing import Compared, compare
from benchmark.errors import SaibenchError, UsageError
from benchmark.metric import COUNT_TOLERANCE, MACHINE_TOLERANCE, MASK_TOLERANCE
from benchmark.store import ENVIRONMENT, Record, Store, environment, read_environment
from benchmark.tasks import discovery
from tests.conftest import FIXTURES, TINY


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_set, plugin):
    """A store with a finished cell of a plug-in, whose data are not the embedded set's."""
    store = Store(tmp_path_factory.mktemp("store"))
    data = tiny_set("imagenet")
    return store, data, execute(plan(Request("imagenet", str(plugin), data=data, overrides=TINY)), store)


@pytest.fixture
def copied(made, tmp_path):
    """A copy of that store, to be changed."""
    store, data, record = made
    root = Path(shutil.copytree(store.root, tmp_path / "copy"))
    return Store(root), data, Record.load(root / record.folder.relative_to(store.root))


def rewrite(record, **changes):
    (record.folder / "record.json").write_text(json.dumps({**record.fields, **changes}))


def test_the_same_cell_gives_the_same_numbers_and_names_no_package(made, tmp_path, plugin):
    _, data, record = made
    found = reproduce(record, plan_of(record, data, [plugin]), Store(tmp_path))
    assert found.reproduced.cell_id == record.cell_id and found.reproduced.folder.is_relative_to(tmp_path)
    assert found.agrees and found.identical and found.packages == {} and found.machine == {}
    judged = {number.name: number.tolerance for number in found.numbers}
    assert judged["metric_top1"] == MACHINE_TOLERANCE and judged["metric_top5"] is None
    assert judged["gmacs_measured_mean"] == pytest.approx(COUNT_TOLERANCE * record["gmacs_measured_mean"])


@pytest.mark.parametrize(("density", "limit"), [(0.25, MACHINE_TOLERANCE), (0.26, MASK_TOLERANCE)])
def test_masks_that_settled_elsewhere_have_a_tolerance_of_their_own(density, limit):
    recorded, again = {"metric_AP": 0.5, "density_mean": 0.25}, {"metric_AP": 0.48, "density_mean": density}
    judged = {number.name: number for number in compare(recorded, again, "AP")}
    assert judged["metric_AP"].tolerance == limit and judged["metric_AP"].agrees == (limit == MASK_TOLERANCE)


def test_a_record_lists_the_installed_packages(made):
    *_, record = made
    listed = read_environment(record.path(ENVIRONMENT))
    assert listed == environment() and listed["torch"] == metadata.version("torch")
    assert "saibench" not in listed and {"numpy", "pillow", "typing-extensions"} <= listed.keys()


def test_packages_of_other_versions_are_named(copied, tmp_path, plugin):
    _, data, record = copied
    path = record.path(ENVIRONMENT)
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("numpy==", "torch=="))]
    path.write_text("\n".join([*lines, "numpy==1.0", "gone==3.1", ""]))
    found = reproduce(record, plan_of(record, data, [plugin]), Store(tmp_path / "again"))
    here = environment()
    assert found.packages == {
        "gone": ("3.1", None),
        "numpy": ("1.0", here["numpy"]),
        "torch": (None, here["torch"]),
    }


def test_the_command_says_what_differs_and_ends_with_1_where_a_number_is_out_of_its_tolerance(
    copied, tmp_path, plugin, run_cli
):
    store, data, record = copied
    moved = record["metric_top1"] + 2 * MACHINE_TOLERANCE if record["metric_top1"] < 0.5 else 0.0
    rewrite(record, metric_top1=moved, python="3.0.0")
    record.path(ENVIRONMENT).unlink()  # as records of earlier versions are
    words = ["reproduce", record.cell_id, "--store", store.root, "--into", tmp_path / "again", "--data", data]
    code, out, err = run_cli(*words, "--plugin", plugin)
    assert code == 1 and "not reproduced" in out and "differs: python 3.0.0 there" in out
    assert "lists no packages" in err
    code, out, _ = run_cli(*words, "--plugin", plugin, "--json")
    (result,) = json.loads(out)
    wrong = [row["field"] for row in result["numbers"] if not row["agrees"]]
    assert code == 1 and wrong == ["metric_top1"] and result["packages"] is None and not result["identical"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "{data}"], 1, "its method 'checkerboard' is not here; give its file with --plugin"),
        (["--data", "{other}", "--plugin", "{plugin}"], 1, "was made with other data (now "),
        (["--data", "{data}", "--plugin", "{data}/no.py"], 1, "no such method file: {data}/no.py"),
        (["--data", "{data}", "--plugin", "{plugin}", "--into", "{store}"], 1, "holds the record itself"),
        (["--data", "/no/such", "--plugin", "{plugin}"], 1, "no data folder /no/such"),
    ],
)
def test_what_is_not_there_is_one_line(made, embedded, tmp_path, plugin, run_cli, arguments, code, message):
    store, data, record = made
    names = {"data": data, "other": embedded["imagenet"], "plugin": plugin, "store": store.root}
    words = [word.format(**names) for word in arguments]
    into = [] if "--into" in words else ["--into", tmp_path / "again"]
    found, _, err = run_cli("reproduce", record.folder, *into, *words)
    assert found == code and message.format(**names) in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "again").exists()


def test_a_record_of_other_code_says_which_part_and_which_commit(copied, tmp_path, plugin):
    _, data, record = copied
    changed = tmp_path / "checkerboard.py"
    changed.write_text(plugin.read_text() + "\n\nX = 1\n")
    with pytest.raises(SaibenchError, match=r"made with other code of the method \(now .*: check out the commit"):
        plan_of(record, data, [changed])


def test_a_record_without_a_result_is_not_compared(copied, plugin, tmp_path):
    _, data, record = copied
    planned = plan_of(record, data, [plugin])
    failed = dataclasses.replace(record, fields={**record.fields, "status": "failed"})
    with pytest.raises(UsageError, match="no result to compare with"):
        reproduce(failed, planned, Store(tmp_path / "again"))


def test_a_task_of_a_folder_is_asked_for_and_taken(tmp_path, monkeypatch, run_cli):
    monkeypatch.setenv("SAIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(discovery, "_opened", {})
    folder = FIXTURES / "stripes"
    record = execute(plan(Request(str(folder), "dense")), Store(tmp_path / "store"))
    monkeypatch.setattr(discovery, "_opened", {})
    words = ["reproduce", record.folder, "--into", tmp_path / "again"]
    code, _, err = run_cli(*words)
    assert code == 1 and "its task 'stripes' is not here; give its folder with --plugin" in err
    code, out, _ = run_cli(*words, "--plugin", folder)
    assert code == 0 and f"{record.cell_id}: identical" in out


def test_a_number_agrees_within_its_tolerance_and_an_undefined_one_with_an_undefined_one_alone():
    assert Compared("m", 0.5, 0.509, 0.01).agrees and not Compared("m", 0.5, 0.52, 0.01).agrees
    assert Compared("m", None, None, 0.01).agrees and not Compared("m", None, 0.5, 0.01).agrees
    assert Compared("m", 0.5, 0.9).agrees  # not judged
    numbers = compare({"metric_b": 0.1, "metric_a": 0.2, "gmacs_paper": 3.0}, {"metric_b": 0.1}, "b")
    assert [number.name for number in numbers[:3]] == ["metric_b", "metric_a", "density_mean"]
    assert not numbers[-1].agrees  # gmacs_paper, which one of them lacks


def test_a_handful_is_the_quickest_of_each_method_task_by_task_within_the_time():
    def record(task, method, seconds, status="finished"):
        fields = {"task": task, "method": method, "seconds_train": seconds, "seconds_eval": 1.0, "status": status}
        return Record(Path(task) / method / str(seconds), fields)

    records = [
        record("a", "x", 30.0), record("a", "x", 10.0), record("a", "y", 20.0), record("a", "z", 90.0),
        record("b", "x", 15.0), record("b", "y", 1.0, "failed"),
    ]  # fmt: skip
    chosen = [(each["task"], each["method"], each["seconds_train"]) for each in handful(records, 60.0)]
    assert chosen == [("a", "x", 10.0), ("b", "x", 15.0), ("a", "y", 20.0)]
    assert handful(records, 5.0) == []


def test_records_of_given_data_are_told_from_those_of_rendered_scenes():
    def record(dataset):
        return Record(Path(dataset), {"task": "coco", "scale": "mini", "dataset": dataset})

    assert on_rendered_scenes(record("coco-mini-v4-seed0")) and not on_rendered_scenes(record("bccd-coco"))


def test_what_is_chosen_of_the_reference_needs_no_data_set_that_was_given(monkeypatch, run_cli, reference):
    """The quickest cells of segmentation are of CamVid, which a machine need not have."""
    chosen = []

    def run(record, *_):
        chosen.append(record)
        return {"agrees": True}

    monkeypatch.setattr("benchmark.cli.commands.reproduce._reproduced", run)
    code, _, _ = run_cli("reproduce", "--minutes", "8", "--store", reference)
    assert code == 0
    assert {record["dataset"] for record in chosen} == {
        f"{task}-mini-v4-seed0" for task in ("coco", "cityscapes", "imagenet")
    }
