"""Saibench: the benchmark suite for spatially adaptive inference.

The harness: contract, building blocks, tasks, data, counter, engine, training, store and command. Methods live in
``methods/`` and ``baselines/`` and are found by discovery; nothing in here knows one of them by name.
"""

from benchmark._version import __version__
from benchmark.method import Method, SampledMethod

__all__ = ["Method", "SampledMethod", "__version__"]
