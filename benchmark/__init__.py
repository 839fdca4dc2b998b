"""Saibench: the benchmark suite for spatially adaptive inference.

The harness: contract, building blocks, tasks, data, counter, engine, training, store and command. Methods live in
``methods/`` and ``baselines/`` and are found by discovery; nothing in here knows one of them by name.
"""

from typing import TYPE_CHECKING, Any

from benchmark._version import __version__

if TYPE_CHECKING:
    from benchmark.method import Method, SampledMethod, Step

__all__ = ["Method", "SampledMethod", "Step", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the contract when it is first asked for: it needs PyTorch, which takes seconds; the command's help not."""
    if name not in ("Method", "SampledMethod", "Step"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from benchmark import method

    return getattr(method, name)
