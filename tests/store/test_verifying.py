"""Verifying a store: every change of a committed record is found."""

import hashlib
import json
import shutil
import subprocess

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmark.errors import StoreError
from benchmark.store import Store, verify


@pytest.fixture
def record(a_cell, tmp_path):
    import pandas as pd

    with Store(tmp_path).begin(a_cell()) as work:
        save_file({"weight": np.zeros(1000, np.float32)}, work.folder / "model.safetensors")
        (work.folder / "labels").mkdir()
        (work.folder / "labels" / "1.png").write_bytes(b"png")
        table = pd.DataFrame({"layer": ["a"], "density": [0.3]})
        return work.commit({"metric_AP": 0.5}, table, table)


FILES = ["cell.json", "environment.txt", "layers.parquet", "images.parquet", "model.safetensors", "labels/1.png"]


def test_a_store_as_it_was_committed_has_no_problems(record, tmp_path):
    found = verify(Store(tmp_path))
    assert (found.records, found.problems) == (1, [])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["truncated", "one byte"])
def test_a_changed_file_is_found_and_named(record, tmp_path, name, change):
    path = record.folder / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if change == "truncated" else bytes([content[0] ^ 1]) + content[1:])
    (line,) = verify(Store(tmp_path)).problems
    assert str(record.folder) in line and name in line and "delete the folder" in line and "\n" not in line


@pytest.mark.parametrize("name", FILES)
def test_only_what_may_be_left_out_may_be_missing(record, tmp_path, name):
    (record.folder / name).unlink()
    problems = verify(Store(tmp_path)).problems
    assert bool(problems) == (name in ("cell.json", "layers.parquet", "images.parquet"))


@pytest.mark.parametrize("name", ["layers.parquet", "images.parquet", "model.safetensors"])
def test_a_truncated_file_of_a_record_without_checksums_is_found(record, tmp_path, name):
    (record.folder / "checksums.sha256").unlink()
    assert verify(Store(tmp_path)).problems == []
    path = record.folder / name
    path.write_bytes(path.read_bytes()[:-20])
    (line,) = verify(Store(tmp_path)).problems
    assert name in line and "\n" not in line


def test_a_record_of_another_cell_is_found(record, tmp_path):
    path = record.folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 7}))
    (line,) = verify(Store(tmp_path)).problems
    assert "record.json says seed 7, cell.json 0" in line


def test_broken_records_timings_and_checksums_are_problems(a_cell, finish, record, tmp_path):
    torn = finish(Store(tmp_path), a_cell(seed=1)).folder
    (torn / "record.json").write_text("{")
    escaping = finish(Store(tmp_path), a_cell(seed=2)).folder
    (escaping / "checksums.sha256").write_text(f"{'0' * 64}  ../../secret\n")
    (tmp_path / "timing").mkdir()
    (tmp_path / "timing" / "resnet.json").write_text("{")
    found = verify(Store(tmp_path))
    assert found.records == 2 and len(found.problems) == 3
    for name in (torn.name, "checksums.sha256 is broken", "resnet.json"):
        assert sum(name in line for line in found.problems) == 1


def test_the_checksums_are_those_of_sha256sum(record):
    lines = (record.folder / "checksums.sha256").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == set(FILES)
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((record.folder / name).read_bytes()).hexdigest() == digest
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "-c", "--quiet", "checksums.sha256"], cwd=record.folder, check=True)


def test_the_reference_records_have_no_problems(reference):
    assert verify(Store(reference)).problems == []


def test_a_store_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(StoreError, match="no such store"):
        verify(Store(tmp_path / "none"))
