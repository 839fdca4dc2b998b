"""Identity: equal settings have equal ids, and whatever determines the result changes the id."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.errors import StoreError
from benchmark.store import Store, canonical_json

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
def test_a_whole_float_is_the_same_setting_as_the_integer(a_cell, number):
    same = {
        a_cell(parameters={"x": value}).id for value in (number, float(number), np.float64(number), np.int64(number))
    }
    assert len(same) == 1


@given(json_values)
def test_canonical_json_is_what_it_says_and_reads_back_equal(value):
    assert json.loads(canonical_json(value)) == value


def test_true_is_not_one(a_cell):
    assert a_cell(parameters={"x": True}).id != a_cell(parameters={"x": 1}).id


def test_tuples_lists_and_arrays_are_the_same_setting(a_cell):
    assert len({a_cell(parameters={"x": x}).id for x in ((1, 2), [1, 2], np.array([1.0, 2.0]))}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"task": "imagenet"}, {"scale": "small"}, {"dataset_fingerprint": "beef"}, {"method": "dense"},
        {"parameters": {"gamma": 0.1, "stride": 11}}, {"seed": 1}, {"determinants": {"code": "abd"}},
    ],
)  # fmt: skip
def test_everything_that_determines_the_result_changes_the_id(a_cell, change):
    assert a_cell(**change).id != a_cell().id


def test_the_name_of_the_data_set_does_not_change_the_id(a_cell):
    moved = a_cell(dataset="/elsewhere/embedded")
    assert moved.id == a_cell().id
    assert moved == a_cell()
    assert len({moved, a_cell()}) == 1


def test_the_id_is_the_same_in_another_process(a_cell):
    program = (
        "from benchmark.store import Cell; "
        "print(Cell('coco','mini','x','f00d','stochastic',{'stride':11.0,'gamma':0.05},0,"
        "{'code':'abc','recipe':{'lr':0.001,'steps':200}}).id)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == a_cell().id


def test_changing_the_dictionary_afterwards_does_not_change_the_cell(a_cell):
    parameters = {"gamma": 0.05, "rates": [1, 2]}
    cell = a_cell(parameters=parameters)
    before = cell.id
    parameters["gamma"] = 1
    parameters["rates"].append(3)
    assert cell.id == before


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_no_identity(a_cell, value):
    with pytest.raises(ValueError, match=r"stochastic parameters\.gamma"):
        a_cell(parameters={"gamma": value})


def test_an_object_is_no_identity(a_cell):
    with pytest.raises(TypeError, match="a object"):
        a_cell(determinants={"model": object()})


@pytest.mark.parametrize("field", ["task", "scale", "method"])
@pytest.mark.parametrize(
    "name",
    ["../escape", "", ".hidden", "-x", "a/b", "a\\b", "[red]x[/red]", "<b>", "a b", "a\n", "é", "x" * 101, "x" * 300],
)
def test_a_name_that_is_no_folder_is_refused_in_one_line(a_cell, field, name):
    with pytest.raises(StoreError, match=f"cell: {field} ") as caught:
        a_cell(**{field: name})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 160


def test_a_name_of_a_hundred_characters_is_a_folder(a_cell, finish, tmp_path):
    assert finish(Store(tmp_path), a_cell(method="x" * 100)).finished


@pytest.mark.parametrize("seed", [-1, "0", 0.0, True, None, 1 << 63])
def test_a_seed_that_no_record_can_hold_is_refused(a_cell, seed):
    with pytest.raises(StoreError, match=r"cell: the seed .* should be an integer"):
        a_cell(seed=seed)
