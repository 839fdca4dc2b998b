"""Saibench: the benchmark suite for spatially adaptive inference.

The harness: contract, building blocks, tasks, data, counter, engine, training, store and command. Methods live in
``methods/`` and ``baselines/`` and are found by discovery; nothing in here knows one of them by name.
"""

import os

# OpenMP threads that wait for work spin, by GCC's default for so long (14 ms on an Intel core) that two programs on the
# same cores mostly wait for each other: six times slower, measured. The library reads this once, when PyTorch loads it,
# hence before the imports below; what the user has set stays. docs/engine.md has the figures.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

from benchmark._version import __version__
from benchmark.method import Method, SampledMethod

__all__ = ["Method", "SampledMethod", "__version__"]
