"""A packed store holds the same records: file by file, value by value, whatever kills the packing."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from benchmark.errors import StoreError
from benchmark.store import CellFinished, Record, Store, merge, read_table, verify
from benchmark.store.columns import described, digest, joined, restored
from benchmark.store.packing import pack, unpack
from benchmark.store.record import write_table

TABLE = pd.DataFrame({"image_id": [1], "macs": [2.0]})
TABLES = ("layers.parquet", "images.parquet", "outcomes.parquet")


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def fill(a_cell):
    """Return a function that finishes cells with every kind of file: odd tables, masks, predictions in a folder."""

    def run(store, seeds=(0, 1, 2), **changes):
        for seed in seeds:
            rng = np.random.default_rng(seed)
            with store.begin(a_cell(seed=seed, **changes)) as work:
                (work.folder / "sampling.npz").write_bytes(rng.bytes(100))
                (work.folder / "predictions").mkdir()
                (work.folder / "predictions" / "1.txt").write_text(f"seed {seed}\n")
                scores = rng.random(5).astype(np.float32).astype(float)
                outcomes = pd.DataFrame({
                    "image": [f"Bild {name} ü" for name in range(5)], "score": np.where(scores > 0.5, np.nan, scores),
                    "hits": rng.integers(0, 1 << 10, 5).astype(np.uint16), "right": scores > 0.5,
                })  # fmt: skip
                write_table(outcomes, work.folder / "outcomes.parquet")
                layers = pd.DataFrame({
                    "layer": ["a", "b"], "macs": rng.random(2) * 1e9, "sigma": [None, None] if seed else [0.5, -0.0],
                })  # fmt: skip
                images = pd.DataFrame({"image_id": np.arange(5), "density": rng.random(5), "nan": [np.nan] * 5})
                work.commit({"metric_AP": 0.1 + seed / 10}, layers, images)
        return store

    return run


@pytest.fixture
def folders(tmp_path, fill, finish, a_cell):
    store = fill(Store(tmp_path / "folders"))
    finish(store, a_cell(task="imagenet", dataset="other data/ü", dataset_fingerprint="x"))
    with store.begin(a_cell(seed=9)) as work:
        work.fail("the loss is nan")
    (store.root / "timing").mkdir()
    (store.root / "timing" / "a-1t.json").write_text('{"a": 1}')
    (store.root / "weights" / "coco").mkdir(parents=True)
    (store.root / "weights" / "coco" / "mini.json").write_text("{}\n")
    return store


def same(packed, folders):
    """Hold a store against another one, record by record and file by file."""
    ours, theirs = packed.scan(), folders.scan()
    assert [record.fields for record in ours[0]] == [record.fields for record in theirs[0]]
    assert [line.replace(str(packed.root), "") for line in ours[1]] == [
        line.replace(str(folders.root), "") for line in theirs[1]
    ]
    for record, folder in zip(ours[0], theirs[0], strict=True):
        assert record.names == folder.names and record.names
        for name in record.names:
            assert record.read(name) == folder.read(name), name  # tables too: the library is the same one
            if name in TABLES:
                pd.testing.assert_frame_equal(read_table(record.folder / name), read_table(folder.folder / name))
    assert [content for _, content in sorted(packed.timings().items())] == list(folders.timings().values())


def test_a_packed_store_is_the_same_store(folders, tmp_path):
    before = files(folders.root)
    done = pack(folders.root, tmp_path / "packed")
    assert (done.records, done.folded, done.warnings) == (5, 5, [])
    assert files(folders.root) == before
    packed = Store(tmp_path / "packed")
    same(packed, folders)
    assert not list(packed.root.rglob("record.json")) and len(list(packed.root.rglob("*.parquet"))) <= 12
    frames = [store.records("coco").drop(columns="folder") for store in (packed, folders)]
    pd.testing.assert_frame_equal(*frames)
    assert verify(packed).problems == [] and verify(packed).records == 5


def test_packing_in_place_and_unpacking_give_the_folders_back(folders):
    before = {name: content for name, content in files(folders.root).items() if not name.startswith(".locks")}
    pack(folders.root)
    left = [name for name in files(folders.root) if not name.startswith((".locks", "packed/"))]
    assert left == [] and verify(folders).problems == []
    once = files(folders.root / "packed")
    assert pack(folders.root).folded == 0 and files(folders.root / "packed") == once
    unpack(folders.root)
    after = {name: content for name, content in files(folders.root).items() if not name.startswith(".locks")}
    assert after == before


def test_new_folders_beside_a_pack_are_read_and_folded_in(folders, tmp_path, fill):
    shutil.copytree(folders.root, tmp_path / "mixed")
    mixed = Store(tmp_path / "mixed")
    pack(mixed.root)
    fill(folders, (7,))
    fill(folders, (0,), method="other")
    assert len(merge([folders.root], mixed.root).copied) == 2
    same(mixed, folders)
    assert verify(mixed).problems == []
    assert pack(mixed.root).folded == 2
    same(mixed, folders)
    assert verify(mixed).problems == [] and not list(mixed.root.rglob("record.json"))


def test_a_packed_cell_is_finished_and_is_replaced_when_forced(folders, a_cell):
    pack(folders.root)
    cell = a_cell(seed=1)
    assert folders.find(cell).finished and folders.find(cell).packed
    assert folders.get(cell.id).packed
    with pytest.raises(CellFinished), folders.begin(cell):
        pass
    with folders.begin(cell, force=True) as work:
        work.commit({"metric_AP": 0.9})
    assert folders.find(cell)["metric_AP"] == 0.9 and not folders.find(cell).packed
    with folders.begin(cell, force=True) as work:
        assert work.fail("no")["status"] == "failed"  # does not replace the finished one
    pack(folders.root)
    assert folders.find(cell)["metric_AP"] == 0.9 and folders.find(cell).packed
    with folders.begin(a_cell(seed=9)) as work:  # failed ones run again
        work.commit({"metric_AP": 0.5})
    assert folders.find(a_cell(seed=9)).finished


def test_a_file_is_attached_to_a_packed_record(folders, a_cell):
    pack(folders.root)
    record = folders.find(a_cell(seed=2))
    folders.attach(record, "sampling.npz", b"new")
    again = folders.find(a_cell(seed=2))
    assert again.read("sampling.npz") == b"new" and again.fields == record.fields and not again.packed
    assert verify(folders).problems == []
    pack(folders.root)
    assert folders.find(a_cell(seed=2)).read("sampling.npz") == b"new" and verify(folders).problems == []


def test_merging_takes_records_out_of_packs_and_leaves_those_in_packs(folders, tmp_path):
    pack(folders.root, tmp_path / "packed")
    merged = merge([tmp_path / "packed"], tmp_path / "into")
    assert len(merged.copied) == 6 and not merged.warnings  # five records, one timing
    for record in folders.scan()[0]:
        copy = Store(tmp_path / "into").get(record.cell_id)
        assert files(copy.folder) == files(record.folder)
    assert merge([folders.root], tmp_path / "packed").kept == 6
    compact = merge([tmp_path / "packed"], tmp_path / "compact", compact=True)
    assert not compact.warnings and not list((tmp_path / "compact").rglob("predictions"))
    assert verify(Store(tmp_path / "compact")).problems == []


def test_a_file_of_a_packed_record_has_a_path(folders, monkeypatch, tmp_path, a_cell):
    monkeypatch.setenv("SAIBENCH_CACHE", str(tmp_path / "cache"))
    pack(folders.root)
    record = folders.find(a_cell(seed=1))
    assert record.path("predictions/1.txt").read_text() == "seed 1\n"
    assert record.has("predictions/1.txt") and not record.has("model.safetensors")
    with pytest.raises(StoreError, match="the record has no model"):
        record.path("model.safetensors")


@pytest.mark.parametrize("name", ["records.parquet", "images.parquet", "files.parquet", "checksums.sha256"])
@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_a_spoilt_pack_is_told_of_and_not_built_on(folders, name, how, fill, a_cell):
    pack(folders.root)
    path = next((folders.root / "packed").rglob(name))
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:middle] if how == "cut" else content[:middle] + b"\1\2\3" + content[middle + 3 :])
    found = verify(folders)
    assert found.problems and all("\n" not in line for line in found.problems)
    assert any("packed" in line and "fetch the folder again" in line for line in found.problems)
    fill(folders, (5,))
    if not (name == "checksums.sha256" and how == "gone"):
        with pytest.raises(StoreError, match="packed"):
            pack(folders.root)
    assert folders.folder(a_cell(seed=5)).exists()


def test_values_that_were_changed_with_their_checksum_are_found(folders):
    pack(folders.root)
    path = next((folders.root / "packed" / "coco").rglob("images.parquet"))
    table = pq.read_table(path)
    values = table["density"].to_pylist()
    values[3] += 1e-9
    pq.write_table(table.set_column(table.column_names.index("density"), "density", [values]), path)
    of_the_record, of_the_pack = verify(folders).problems
    assert of_the_pack.startswith(f"{folders.root / 'packed'}: ") and "is not as it was packed" in of_the_pack
    assert "images.parquet is not as it was packed; unpack the store" in of_the_record


KILLED = """
import os, sys
from benchmark.store import packing
name, after = sys.argv[2], int(sys.argv[3])
seen = []
def killing(call):
    def wrapped(*given, **named):
        if len(seen) == after:
            os._exit(9)
        seen.append(1)
        return call(*given, **named)
    return wrapped
place = packing.os if name == "rename" else packing.shutil if name == "rmtree" else packing
setattr(place, name, killing(getattr(place, name)))
packing.pack(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("name", "after"), [("_write_table", 2), ("_check", 0), ("rename", 0), ("rename", 1), ("rmtree", 1), ("rmtree", 4)]
)
def test_a_killed_packing_loses_nothing(folders, tmp_path, name, after, fill, a_cell):
    shutil.copytree(folders.root, tmp_path / "killed")
    killed = Store(tmp_path / "killed")
    pack(killed.root)
    fill(folders, (7, 8))
    merge([folders.root], killed.root)
    with folders.begin(a_cell(seed=1), force=True) as work:
        work.commit({"metric_AP": 0.75}, TABLE, TABLE)
    shutil.copytree(folders.folder(a_cell(seed=1)), killed.folder(a_cell(seed=1)))
    code = subprocess.run([sys.executable, "-c", KILLED, str(killed.root), name, str(after)]).returncode
    assert code == 9
    same(killed, folders)
    pack(killed.root)
    same(killed, folders)
    assert verify(killed).problems == [] and not list(killed.root.rglob("record.json"))
    assert not [path for path in killed.root.iterdir() if path.name.startswith(".packed")]


def test_tables_of_any_types_come_back_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    tables = {}
    for number, kinds in enumerate([("i1", "u4", "f4"), ("i8", "u8", "f8"), ("i2", "i4", "f8")]):
        frame = pd.DataFrame({f"c{place}": (rng.random(4) * 100).astype(kind) for place, kind in enumerate(kinds)})
        frame["mixed"] = ["a", None, "c", "d"] if number == 1 else [1.5, np.inf, -0.0, np.nan]
        frame["big"] = [(1 << 63) - 1, -(1 << 63), 0, number]
        frame["truth"] = [True, False, True, number == 1]
        write_table(frame.iloc[:number] if number == 2 else frame, tmp_path / f"{number}.parquet")
        tables[str(number)] = pq.ParquetFile(tmp_path / f"{number}.parquet").read()
    whole, start = joined(tables), 0
    for key, table in tables.items():
        again = restored(whole.slice(start, len(table)), described(table))
        start += len(table)
        assert again.equals(table, check_metadata=True) and digest(again) == digest(table), key
    assert len({digest(table) for table in tables.values()}) == 3


def test_the_command_packs_and_unpacks(folders, run_cli, tmp_path):
    code, out, _ = run_cli("store", "pack", folders.root, "--into", tmp_path / "packed")
    assert code == 0 and "5 records packed, 5 of them from folders" in out
    code, out, _ = run_cli("store", "unpack", tmp_path / "packed", "--json")
    assert code == 0 and json.loads(out)["records"] == 5
    same(Store(tmp_path / "packed"), folders)
    code, _, err = run_cli("store", "unpack", tmp_path / "packed")
    assert code and "no pack" in err
    code, _, err = run_cli("store", "pack", tmp_path / "nowhere")
    assert code and "no such store" in err


def test_a_broken_folder_stays_where_it_is(folders, a_cell):
    torn = folders.folder(a_cell(seed=2)) / "record.json"
    torn.write_text("{")
    done = pack(folders.root)
    assert done.records == 4 and str(torn) in done.warnings[0] and torn.exists()
    assert Record.load(folders.folder(a_cell(seed=1))).packed
