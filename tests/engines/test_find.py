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
        promised = inspect.signature(getattr(Engine, member)).parameters
        own = inspect.signature(getattr(kind, member)).parameters
        assert {name: own.get(name) for name in promised} == dict(promised), member
        # An engine may have options of its own, which nobody has to give.
        assert all(own[name].default is not inspect.Parameter.empty for name in own.keys() - promised.keys()), member
    assert isinstance(inspect.getattr_static(kind, "memory_bytes"), property)


def test_a_name_that_no_engine_has():
    with pytest.raises(UsageError, match="unknown engine 'abacus'; there are cpu"):
        find("abacus")


def test_a_refusal_names_layer_and_reason():
    refusal = EngineRefusal("layer2", "no halting")
    assert (str(refusal), refusal.layer, refusal.reason) == ("layer2: no halting", "layer2", "no halting")
    assert isinstance(refusal, SaibenchError)
