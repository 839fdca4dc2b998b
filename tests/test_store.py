"""The store: identity of cells, atomic records, interruption, locks, foreign folders."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import store as store_module
from benchmark.errors import StoreError
from benchmark.store import RECORD_FIELDS, Cell, CellBusy, CellFinished, Record, Store, canonical_json


def a_cell(**changes):
    fields = {
        "task": "coco", "scale": "mini", "dataset": "embedded", "dataset_fingerprint": "f00d",
        "method": "stochastic", "parameters": {"gamma": 0.05, "stride": 11}, "seed": 0,
        "determinants": {"recipe": {"steps": 200, "lr": 1e-3}, "code": "abc"},
    }  # fmt: skip
    return Cell(**(fields | changes))


def finish(store, cell, ap=0.5, force=False):
    with store.begin(cell, force=force) as work:
        (work.folder / "predictions.json").write_text("[]")
        return work.commit(
            {"metric_AP": ap, "gmacs_measured_mean": 1.25, "density_mean": 0.3},
            layers=pd.DataFrame({"layer": ["a"], "density": [0.3]}),
            images=pd.DataFrame({"image": [1, 2], "gmacs": [1.0, 1.5]}),
        )


# ------------------------------------------------------------------------------------------------ identity

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1), json_values, max_size=5))
def test_the_order_of_settings_does_not_change_the_identity(settings):
    backwards = dict(reversed(list(settings.items())))
    assert canonical_json(settings) == canonical_json(backwards)


@given(st.integers(-(10**9), 10**9))
def test_a_whole_float_is_the_same_setting_as_the_integer(number):
    same = {
        a_cell(parameters={"x": value}).id for value in (number, float(number), np.float64(number), np.int64(number))
    }
    assert len(same) == 1


@given(json_values)
def test_canonical_json_is_what_it_says_and_reads_back_equal(value):
    assert json.loads(canonical_json(value)) == value


def test_true_is_not_one():
    assert a_cell(parameters={"x": True}).id != a_cell(parameters={"x": 1}).id


def test_tuples_lists_and_arrays_are_the_same_setting():
    assert len({a_cell(parameters={"x": x}).id for x in ((1, 2), [1, 2], np.array([1.0, 2.0]))}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"task": "imagenet"}, {"scale": "small"}, {"dataset_fingerprint": "beef"}, {"method": "dense"},
        {"parameters": {"gamma": 0.1, "stride": 11}}, {"seed": 1}, {"determinants": {"code": "abd"}},
    ],
)  # fmt: skip
def test_everything_that_determines_the_result_changes_the_id(change):
    assert a_cell(**change).id != a_cell().id


def test_the_name_of_the_data_set_does_not_change_the_id():
    moved = a_cell(dataset="/elsewhere/embedded")
    assert moved.id == a_cell().id
    assert moved == a_cell()
    assert len({moved, a_cell()}) == 1


def test_the_id_is_the_same_in_another_process():
    program = (
        "from benchmark.store import Cell; "
        "print(Cell('coco','mini','x','f00d','stochastic',{'stride':11.0,'gamma':0.05},0,"
        "{'code':'abc','recipe':{'lr':0.001,'steps':200}}).id)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == a_cell().id


def test_changing_the_dictionary_afterwards_does_not_change_the_cell():
    parameters = {"gamma": 0.05, "rates": [1, 2]}
    cell = a_cell(parameters=parameters)
    before = cell.id
    parameters["gamma"] = 1
    parameters["rates"].append(3)
    assert cell.id == before


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_no_identity(value):
    with pytest.raises(ValueError, match=r"stochastic parameters\.gamma"):
        a_cell(parameters={"gamma": value})


def test_an_object_is_no_identity():
    with pytest.raises(TypeError, match="a object"):
        a_cell(determinants={"model": object()})


@pytest.mark.parametrize("name", ["../escape", "", ".hidden", "a/b"])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(StoreError, match="method"):
        a_cell(method=name)


# ------------------------------------------------------------------------------------------------- records


def test_a_committed_cell_is_found_as_it_was_written(tmp_path):
    store, cell = Store(tmp_path / "store"), a_cell()
    assert store.find(cell) is None
    finish(store, cell, ap=1 / 3)
    record = store.find(cell)
    assert record.finished
    assert record.metrics == {"AP": 1 / 3}
    assert record.parameters == {"gamma": 0.05, "stride": 11}
    assert record["dataset_fingerprint"] == "f00d"
    assert record.folder == tmp_path / "store" / "coco" / "mini" / "stochastic" / cell.id
    assert record.layers().to_dict("list") == {"layer": ["a"], "density": [0.3]}
    assert record.images()["gmacs"].tolist() == [1.0, 1.5]
    assert record.path("predictions.json").read_text() == "[]"
    assert sorted(path.name for path in record.folder.parent.iterdir()) == [cell.id]
    assert not (record.folder / "scratch").exists()


def test_a_record_has_every_field_in_order_and_its_provenance(tmp_path):
    record = finish(Store(tmp_path), a_cell())
    fields = list(json.loads((record.folder / "record.json").read_text()))
    assert [name for name in fields if name in RECORD_FIELDS] == list(RECORD_FIELDS)
    assert fields[fields.index("method") + 1 : fields.index("seed")] == ["p_gamma", "p_stride"]
    assert fields[fields.index("status") + 1] == "metric_AP"
    for name in ("torch", "python", "cpu", "threads", "started", "finished"):
        assert record[name]
    assert record["started"] <= record["finished"]
    assert record["error"] is None


@given(value=st.floats())
def test_floats_come_back_as_they_were_and_nan_as_null(value):
    plain = store_module._plain(value, "metric_AP")
    assert json.loads(json.dumps(plain, allow_nan=False)) == (value if math.isfinite(value) else None)


def test_numbers_of_numpy_and_torch_become_numbers(tmp_path):
    torch = pytest.importorskip("torch")
    store = Store(tmp_path)
    with store.begin(a_cell()) as work:
        work.commit(
            {
                "metric_AP": np.float32(0.5),
                "metric_n": torch.tensor(3),
                "metric_none": np.nan,
                "steps": [1, 2],
            }
        )
    record = store.find(a_cell())
    assert record.metrics == {"AP": 0.5, "n": 3, "none": None}
    assert record["steps"] == [1, 2]


def test_a_record_is_flat(tmp_path):
    with Store(tmp_path).begin(a_cell()) as work, pytest.raises(TypeError, match="metric_AP"):
        work.commit({"metric_AP": {"small": 1}})


def test_a_missing_file_of_a_record_is_named(tmp_path):
    record = finish(Store(tmp_path), a_cell())
    with pytest.raises(StoreError, match=r"model\.safetensors.*--force"):
        record.path("model.safetensors")


def test_a_failed_cell_is_a_record_and_runs_again(tmp_path):
    store, cell = Store(tmp_path), a_cell()
    with store.begin(cell) as work:
        work.fail(ValueError("loss is nan\nat step 3"), status="diverged", seconds_train=1.5)
    record = store.find(cell)
    assert (record.status, record["error"], record["seconds_train"]) == (
        "diverged",
        "loss is nan at step 3",
        1.5,
    )
    assert not record.finished
    finish(store, cell)
    assert store.find(cell).finished


def test_a_finished_cell_runs_again_only_by_force(tmp_path):
    store, cell = Store(tmp_path), a_cell()
    finish(store, cell, ap=0.1)
    with pytest.raises(CellFinished, match="--force"):
        finish(store, cell, ap=0.2)
    assert store.find(cell).metrics["AP"] == 0.1
    finish(store, cell, ap=0.2, force=True)
    assert store.find(cell).metrics["AP"] == 0.2


def test_a_forced_run_that_fails_leaves_the_finished_record(tmp_path):
    store, cell = Store(tmp_path), a_cell()
    finish(store, cell, ap=0.1)
    with store.begin(cell, force=True) as work:
        assert store.find(cell).metrics["AP"] == 0.1
        assert work.fail("boom").status == "failed"
    assert store.find(cell).metrics["AP"] == 0.1
    assert len(list(store.find(cell).folder.parent.iterdir())) == 1


def test_get_finds_by_the_beginning_of_an_id(tmp_path):
    store = Store(tmp_path)
    record = finish(store, a_cell())
    assert store.get(record.cell_id[:5]).folder == record.folder
    with pytest.raises(StoreError, match="found: none"):
        store.get("zzz")


# -------------------------------------------------------------------------------------------- interruption


def test_an_interrupted_cell_is_no_record_and_resumes(tmp_path):
    store, cell = Store(tmp_path), a_cell()
    with pytest.raises(KeyboardInterrupt), store.begin(cell) as work:
        assert not work.resumed
        (work.scratch / "step100.ckpt").write_text("weights")
        raise KeyboardInterrupt
    assert store.find(cell) is None
    frame = store.records()
    assert frame.empty and frame.attrs["warnings"] == []
    with store.begin(cell) as work:
        assert work.resumed
        assert (work.scratch / "step100.ckpt").read_text() == "weights"
        work.commit({"metric_AP": 0.5})
    assert store.find(cell).finished


STAGES = ["_write_json", "_promote", "rename"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("calls", range(4))
@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_at_any_moment_of_a_commit_loses_nothing(tmp_path, monkeypatch, stage, calls, force):
    """Whatever rename or write the process dies at, the old or the new record is found, whole."""
    store, cell = Store(tmp_path), a_cell()
    if force:
        finish(store, cell, ap=0.1)
    owner = os if stage == "rename" else store_module
    original, count = getattr(owner, stage), 0

    def dies(*arguments):
        nonlocal count
        count += 1
        if count > calls:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(owner, stage, dies)
    try:
        finish(store, cell, ap=0.2, force=force)
        died = False
    except KeyboardInterrupt:
        died = True
    monkeypatch.undo()
    record = store.find(cell)
    if not died:
        assert record.metrics["AP"] == 0.2
    elif force:
        assert record.metrics["AP"] in (0.1, 0.2)
    else:
        assert record is None or record.metrics["AP"] == 0.2
    finish(store, cell, ap=0.3, force=True)
    assert store.find(cell).metrics["AP"] == 0.3
    assert [path.name for path in store.folder(cell).parent.iterdir()] == [cell.id]


def test_records_finds_a_record_whose_replacement_was_cut_in_two(tmp_path):
    store = Store(tmp_path)
    final = finish(store, a_cell()).folder
    final.rename(final.with_name(f".{final.name}.old"))
    assert store.records()["cell_id"].tolist() == [final.name]


# --------------------------------------------------------------------------------------------------- locks

HOLDER = """
    import sys, time, pathlib, multiprocessing
    sys.path.insert(0, sys.argv[2])
    from benchmark.store import Store, Cell
    from tests.test_store import a_cell
    with Store(sys.argv[1]).begin(a_cell()) as work:
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True).start()
        (work.scratch / "here.ckpt").write_text("weights")
        print("holding", flush=True)
        time.sleep(60)
"""


def test_another_process_is_kept_off_and_a_killed_one_leaves_no_lock(tmp_path):
    root = Path(__file__).parents[1]
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path), str(root)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline().strip() == "holding"
        with pytest.raises(CellBusy, match=rf"pid {holder.pid} on .*wait") as caught:
            finish(Store(tmp_path), a_cell())
        assert "\n" not in str(caught.value)
        finish(Store(tmp_path), a_cell(seed=1))  # other cells are free
        holder.kill()  # its forked worker lives on, as a data loader's does for a while
        holder.wait()
        with Store(tmp_path).begin(a_cell()) as work:
            assert work.resumed
    finally:
        os.killpg(holder.pid, signal.SIGKILL)


def test_two_threads_do_not_share_a_cell(tmp_path):
    store, outcomes = Store(tmp_path), []

    def other():
        try:
            finish(store, a_cell())
        except CellBusy as error:
            outcomes.append(error)

    with store.begin(a_cell()):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(outcomes) == 1


# ----------------------------------------------------------------------------------- what may be in the way


def test_a_store_that_is_a_file_is_one_clear_line(tmp_path):
    (tmp_path / "store").write_text("")
    for act in (Store(tmp_path / "store").check_writable, Store(tmp_path / "store").records):
        with pytest.raises(StoreError, match="is not a folder; use another --store"):
            act()
    with pytest.raises(StoreError, match="is not a folder"):
        Store(tmp_path / "store" / "below").check_writable()


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.EROFS, "make it writable"), (errno.EACCES, "make it writable"), (errno.ENOSPC, "no space")],
)
def test_an_unwritable_store_is_one_clear_line_before_the_work(tmp_path, monkeypatch, code, message):
    def refuses(self, *_, **__):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "mkdir", refuses)
    with pytest.raises(StoreError, match=message), Store(tmp_path / "store").begin(a_cell()):
        pytest.fail("the work began")


def test_a_disk_that_fills_up_is_one_clear_line_and_keeps_the_scratch(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="no space left"), store.begin(a_cell()) as work:
        (work.scratch / "a.ckpt").write_text("weights")
        raise OSError(errno.ENOSPC, "No space left on device")
    with store.begin(a_cell()) as work:
        assert work.resumed


def test_an_error_of_the_work_itself_passes_through(tmp_path):
    with pytest.raises(FileNotFoundError, match="image"), Store(tmp_path).begin(a_cell()):
        raise FileNotFoundError("image.jpg")


def test_records_is_a_flat_table_over_all_cells(tmp_path):
    store = Store(tmp_path)
    finish(store, a_cell())
    finish(store, a_cell(method="dense", parameters={}))
    finish(store, a_cell(task="imagenet"))
    frame = store.records("coco", "mini")
    assert frame["method"].tolist() == ["dense", "stochastic"]
    assert math.isnan(frame["p_gamma"][0]) and frame["p_gamma"][1] == 0.05
    assert len(store.records()) == 3
    assert store.records(method="dense", status="finished")["method"].tolist() == ["dense"]
    assert set(RECORD_FIELDS) <= set(Store(tmp_path / "nowhere").records().columns)


def test_foreign_and_broken_folders_are_named_and_the_rest_is_read(tmp_path, caplog):
    store = Store(tmp_path)
    good = finish(store, a_cell())
    empty = good.folder.with_name("empty")
    empty.mkdir()
    torn = finish(store, a_cell(seed=1)).folder
    (torn / "record.json").write_text('{"cell_id": ')
    moved = finish(store, a_cell(seed=2)).folder
    moved.rename(moved.with_name("elsewhere"))
    (good.folder.parent / "notes.txt").write_text("hello")
    (tmp_path / "README.md").write_text("a store")
    frame = store.records()
    assert frame["cell_id"].tolist() == [good.cell_id]
    lines = frame.attrs["warnings"]
    assert len(lines) == 4
    for name in ("empty", torn.name, "elsewhere", "notes.txt"):
        assert sum(name in line for line in lines) == 1
    assert [record.message for record in caplog.records] == lines
    with pytest.raises(StoreError, match="delete the folder"):
        store.find(a_cell(seed=1))


def test_a_record_from_a_later_version_keeps_its_unknown_fields(tmp_path):
    store = Store(tmp_path)
    path = finish(store, a_cell()).folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"energy_joules": 3.5}))
    assert store.records()["energy_joules"].tolist() == [3.5]
    assert Record.load(path.parent)["energy_joules"] == 3.5


def test_provenance_names_the_commit_only_of_a_checkout_that_tracks_this_code(tmp_path, monkeypatch):
    copy = tmp_path / "site-packages" / "benchmark" / "store.py"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(Path(store_module.__file__).read_bytes())
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(store_module, "__file__", str(copy))
    monkeypatch.chdir(tmp_path)
    assert store_module._checkout.__wrapped__() == (None, None)
