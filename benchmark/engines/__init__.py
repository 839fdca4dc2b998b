"""Engines, which turn counted savings into time: each runs a trained cell's backbone on one kind of processor.

`find` gives an engine by name. Not for training, and not general inference engines: they know the blocks of
`benchmark.nn` and nothing else.
"""

from importlib import import_module
from typing import cast

from benchmark.engines.base import Engine, EngineRefusal, EngineUnavailable, Floats, Result, Row
from benchmark.errors import UsageError

__all__ = ["ENGINES", "Engine", "EngineRefusal", "EngineUnavailable", "Floats", "Result", "Row", "find"]

ENGINES = {"cpu": "benchmark.engines.cpu:CPUEngine", "onnx": "benchmark.engines.onnx:ONNXEngine"}
"""The engines' classes by name; imported when one is asked for."""


def find(name: str = "cpu") -> type[Engine]:
    """Return an engine's class.

    Raises
    ------
    UsageError
        If there is no engine of that name.
    EngineUnavailable
        If a package that it needs is not installed.
    """
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}; there are {', '.join(ENGINES)}")
    module, _, attribute = ENGINES[name].partition(":")
    try:
        return cast(type[Engine], getattr(import_module(module), attribute))
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("benchmark"):
            raise
        raise EngineUnavailable(
            f"engine {name!r} needs {error.name}, which is not installed: pip install 'saibench[export]'"
        ) from None
