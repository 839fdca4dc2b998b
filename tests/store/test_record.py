"""Records: every field in its order, plain values, files beside them."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from benchmark.errors import StoreError
from benchmark.store import RECORD_FIELDS, Record, Store, read_table, write_table
from benchmark.store.fields import as_json


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
                "metric_n": torch.tensor(0.25),
                "metric_none": np.nan,
                "steps": [1, 2],
            }
        )
    record = store.find(a_cell())
    assert record.metrics == {"AP": 0.5, "n": 0.25, "none": None}
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


def rewrite(record, **changes):
    """Put fields into a record's file, as a foreign program would."""
    path = record.folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BROKEN = [
    ({"metric_AP": math.inf}, "holds Infinity, which is not finite"),
    ({"metric_AP": math.nan}, "holds NaN, which is not finite"),
    ({"metric_AP": -5}, "metric_AP should be greater than or equal to 0, got -5"),
    ({"metric_AP": 1e308}, "metric_AP should be less than or equal to 1, got 1e+308"),
    ({"metric_AP": "0.5"}, "metric_AP should be a valid number, got '0.5'"),
    ({"metric_AP": True}, "metric_AP should be a valid number, got True"),
    ({"metric_later": -5}, "metric_later should be"),
    ({"gmacs_measured_mean": 1e308}, "gmacs_measured_mean should be less than"),
    ({"gmacs_measured_mean": -1.0}, "gmacs_measured_mean should be greater than"),
    ({"density_mean": 1.5}, "density_mean should be less than or equal to 1"),
    ({"seed": "three"}, "seed should be a valid integer, got 'three'"),
    ({"seed": None}, "seed should be a valid integer, got None"),
    ({"seed": -1}, "seed should be greater than or equal to 0"),
    ({"seed": True}, "seed should be a valid integer"),
    ({"threads": "many"}, "threads should be a valid integer"),
    ({"error": 5}, "error should be a valid string"),
    ({"status": "perhaps"}, "status should be 'finished', 'failed' or 'diverged', got 'perhaps'"),
    ({"p_gamma": {"a": 1}}, "p_gamma should be a text, a number or a list"),
    ({"cell_id": "[red]x[/red]"}, "cell_id string should match"),
]


@pytest.mark.parametrize(("changes", "message"), BROKEN)
def test_a_record_that_says_what_cannot_be_is_broken_in_one_line(a_cell, finish, tmp_path, changes, message):
    record = finish(Store(tmp_path), a_cell())
    rewrite(record, **changes)
    with pytest.raises(StoreError) as caught:
        Record.load(record.folder)
    line = str(caught.value)
    assert line.startswith(f"{record.folder / 'record.json'}: broken (")
    assert message in line
    assert line.endswith("delete the folder to run the cell again")
    assert "\n" not in line


@pytest.mark.parametrize(
    "content",
    [b"", b'{"cell_id": ', b"\xff\xfe\x00", b"[]", b"5", b"{}", b"[" * 100_000, b'{"seed": 1e999}', b"1" * 5000],
)
def test_a_file_that_is_no_record_is_broken_in_one_line(a_cell, finish, tmp_path, content):
    record = finish(Store(tmp_path), a_cell())
    (record.folder / "record.json").write_bytes(content)
    with pytest.raises(StoreError, match="broken .*delete the folder") as caught:
        Record.load(record.folder)
    assert "\n" not in str(caught.value)


#: JSON objects with a record's names and anything as values.
NEARLY = st.dictionaries(
    st.sampled_from(RECORD_FIELDS) | st.just("metric_AP"),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
).map(lambda fields: json.dumps(fields).encode())


@given(content=st.binary(max_size=200) | st.text().map(str.encode) | NEARLY)
def test_no_content_of_a_record_raises_anything_else(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("store") / "coco" / "mini" / "dense" / "0123456789ab"
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(content)
    with pytest.raises(StoreError):
        Record.load(folder)


def test_every_cut_of_a_record_is_broken(a_cell, finish, tmp_path):
    record = finish(Store(tmp_path), a_cell())
    whole = (record.folder / "record.json").read_bytes()
    for length in range(len(whole.rstrip())):
        (record.folder / "record.json").write_bytes(whole[:length])
        with pytest.raises(StoreError, match="broken"):
            Record.load(record.folder)


def test_a_record_of_an_earlier_version_is_read_and_lacks_what_it_lacks(a_cell, finish, tmp_path):
    record = finish(Store(tmp_path), a_cell())
    path = record.folder / "record.json"
    fields = json.loads(path.read_text())
    assert {"isa", "isa_limit"} <= fields.keys()
    path.write_text(json.dumps({name: value for name, value in fields.items() if name not in ("isa", "isa_limit")}))
    earlier = Record.load(record.folder)
    assert earlier.finished
    assert earlier["isa"] is None and earlier["isa_limit"] is None


def test_the_reference_records_are_read(reference):
    records, warnings = Store(reference).scan()
    assert len(records) >= 700 and all(record.finished for record in records)
    assert warnings == []


@pytest.mark.parametrize(("name", "value"), [("metric_AP", 37.5), ("gmacs_paper", -1.0), ("density_mean", 2)])
def test_a_result_that_cannot_be_is_refused_when_it_is_committed(a_cell, tmp_path, name, value):
    store = Store(tmp_path)
    with store.begin(a_cell()) as work:
        with pytest.raises(StoreError, match=rf"{a_cell().id}.*{name} should be"):
            work.commit({name: value})
        work.fail("no record")
    assert store.find(a_cell()).status == "failed"


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "images.parquet"
    write_table(pd.DataFrame({"image": ["a", "b"] * 20, "gmacs": range(40)}), path)
    return path.read_bytes()


DTYPES = st.sampled_from(["bool", "int64", "uint16", "int8", "float64", "float32"])


@given(data=st.data(), rows=st.integers(0, 30))
def test_a_table_is_read_as_it_was_written(tmp_path_factory, data, rows):
    columns = data.draw(st.dictionaries(st.sampled_from(["density", "μ", "a.b", ""]), DTYPES))
    table = pd.DataFrame({name: data.draw(arrays.arrays(dtype, rows)) for name, dtype in columns.items()})
    table["layer"] = data.draw(st.lists(st.text("ab.1"), min_size=rows, max_size=rows))
    path = tmp_path_factory.mktemp("table") / "layers.parquet"
    write_table(table, path)
    read = read_table(path)
    assert list(read) == list(table) and len(read) == rows
    for name in columns:
        assert read[name].dtype == table[name].dtype
        np.testing.assert_array_equal(read[name], table[name])
    assert read["layer"].tolist() == table["layer"].tolist()


@given(data=st.data())
def test_a_changed_or_truncated_table_is_read_or_is_one_line(parquet, tmp_path_factory, data):
    content = bytearray(parquet[: data.draw(st.integers(1, len(parquet)))])
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=5)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("record") / "images.parquet"
    path.write_bytes(content)
    try:
        read_table(path)
    except StoreError as error:
        assert str(error).startswith(f"{path}: cannot be read (") and "\n" not in str(error)
    else:
        assert len(content) == len(parquet)
