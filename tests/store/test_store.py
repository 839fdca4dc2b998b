"""The store: finding, listing, and what may be in the way."""

import errno
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import benchmark
from benchmark.errors import StoreError
from benchmark.store import RECORD_FIELDS, Store


def test_a_committed_cell_is_found_as_it_was_written(a_cell, finish, tmp_path):
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


def test_get_finds_by_the_beginning_of_an_id(a_cell, finish, tmp_path):
    store = Store(tmp_path)
    record = finish(store, a_cell())
    assert store.get(record.cell_id[:5]).folder == record.folder
    with pytest.raises(StoreError, match="found: none"):
        store.get("zzz")


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
def test_an_unwritable_store_is_one_clear_line_before_the_work(a_cell, tmp_path, monkeypatch, code, message):
    def refuses(self, *_, **__):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "mkdir", refuses)
    with pytest.raises(StoreError, match=message), Store(tmp_path / "store").begin(a_cell()):
        pytest.fail("the work began")


def test_records_is_a_flat_table_over_all_cells(a_cell, finish, tmp_path):
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


def test_foreign_and_broken_folders_are_named_and_the_rest_is_read(a_cell, finish, tmp_path, caplog):
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


def test_get_says_what_it_could_not_read(a_cell, finish, tmp_path):
    record = finish(Store(tmp_path), a_cell())
    (record.folder / "record.json").write_text("{")
    with pytest.raises(StoreError, match=rf"found: none; not read: .*{record.cell_id}.*delete the folder"):
        Store(tmp_path).get(record.cell_id)


def test_a_broken_record_is_replaced_only_by_force(a_cell, finish, tmp_path):
    store = Store(tmp_path)
    path = finish(store, a_cell()).folder / "record.json"
    path.write_text("{")
    with pytest.raises(StoreError, match="broken"):
        finish(store, a_cell())
    with store.begin(a_cell(), force=True) as work:
        work.fail("boom")
    assert store.find(a_cell()).status == "failed"


PROGRAM = """
    import sys, types
    package = types.ModuleType("benchmark")  # the package's own imports are not the store's
    package.__path__ = [sys.argv[1]]
    sys.modules["benchmark"] = package
    from benchmark.store import Store
    Store(sys.argv[2]).scan()
    print(sorted({"torch", "pandas", "numpy", "pyarrow"} & set(sys.modules)))
"""


def test_reading_records_imports_neither_torch_nor_pandas(a_cell, finish, tmp_path):
    finish(Store(tmp_path), a_cell())
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(Path(benchmark.__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
