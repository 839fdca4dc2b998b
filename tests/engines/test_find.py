"""Engines by name, and what they say of what they cannot run."""

import inspect

import pytest

from benchmark.engines import ENGINES, Engine, EngineRefusal, EngineUnavailable, find
from benchmark.errors import SaibenchError, UsageError


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_has_what_the_protocol_says(name):
    try:
        kind = find(name)
    except EngineUnavailable as reason:
        pytest.skip(str(reason))
    for member in ("__init__", "__call__", "max_threads", "hardware"):
        assert inspect.signature(getattr(kind, member)) == inspect.signature(getattr(Engine, member)), member
    assert isinstance(inspect.getattr_static(kind, "memory_bytes"), property)


def test_a_name_that_no_engine_has():
    with pytest.raises(UsageError, match="unknown engine 'abacus'; there are cpu"):
        find("abacus")


def test_a_refusal_names_layer_and_reason():
    refusal = EngineRefusal("layer2", "no halting")
    assert (str(refusal), refusal.layer, refusal.reason) == ("layer2: no halting", "layer2", "no halting")
    assert isinstance(refusal, SaibenchError)
