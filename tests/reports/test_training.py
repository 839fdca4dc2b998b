"""The tables of docs/training.md: starting weights, and those that were made again."""

import json
from pathlib import Path

import pytest

import benchmark
from benchmark.errors import StoreError
from reports import training
from reports.base import Results

SHIPPED = Path(benchmark.__file__).parent / "tasks" / "coco" / "weights" / "mini.json"


def row(store):
    """Return the row of detection's starting weights."""
    lines = training.weights(Results([store], [], [])).splitlines()
    (found,) = [line for line in lines if line.startswith("| `coco` | `mini` |")]
    return found


def made_again(store, **changes):
    """Keep a record of the weights made again in a store."""
    record = json.loads(SHIPPED.read_text(encoding="utf-8")) | changes
    path = store / "weights" / "coco" / SHIPPED.name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record), encoding="utf-8")


def test_weights_are_shown_beside_those_made_again_with_machine_and_commit(tmp_path):
    assert row(tmp_path).endswith("| – |")
    made_again(tmp_path, value=0.5432, sha256="another", isa="AVX2", git_sha="abcdef0123")
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8"))
    assert row(tmp_path).endswith(f"| AP {100 * shipped['value']:.1f} | AP 54.3 (AVX2, commit abcdef0) |")


def test_weights_that_came_out_equal_are_said_to_be_the_same_file(tmp_path):
    made_again(tmp_path)
    assert ", the same file (" in row(tmp_path)


def test_weights_made_in_another_way_are_not_shown_beside_the_shipped_ones(tmp_path):
    made_again(tmp_path, steps=10)
    with pytest.raises(StoreError, match="steps is 10, and 4000 of the shipped weights"):
        row(tmp_path)
