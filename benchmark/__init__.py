"""Saibench: the benchmark suite for spatially adaptive inference.

The harness: contract, building blocks, tasks, data, counter, engine, training, store and command. Methods live in
``methods/`` and ``baselines/`` and are found by discovery; nothing in here knows one of them by name.
"""

from benchmark.method import Method, SampledMethod

__all__ = ["Method", "SampledMethod", "__version__"]

__version__ = "0.1.0"
