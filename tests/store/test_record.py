"""Records: every field in its order, plain values, files beside them."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.errors import StoreError
from benchmark.store import RECORD_FIELDS, Record, Store
from benchmark.store.record import as_json


def test_a_record_has_every_field_in_order_and_its_provenance(a_cell, finish, tmp_path):
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
    plain = as_json(value, "metric_AP")
    assert json.loads(json.dumps(plain, allow_nan=False)) == (value if math.isfinite(value) else None)


def test_numbers_of_numpy_and_torch_become_numbers(a_cell, tmp_path):
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


def test_a_record_is_flat(a_cell, tmp_path):
    with Store(tmp_path).begin(a_cell()) as work, pytest.raises(TypeError, match="metric_AP"):
        work.commit({"metric_AP": {"small": 1}})


def test_a_missing_file_of_a_record_is_named(a_cell, finish, tmp_path):
    record = finish(Store(tmp_path), a_cell())
    with pytest.raises(StoreError, match=r"model\.safetensors.*--force"):
        record.path("model.safetensors")


def test_a_record_from_a_later_version_keeps_its_unknown_fields(a_cell, finish, tmp_path):
    store = Store(tmp_path)
    path = finish(store, a_cell()).folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"energy_joules": 3.5}))
    assert store.records()["energy_joules"].tolist() == [3.5]
    assert Record.load(path.parent)["energy_joules"] == 3.5
