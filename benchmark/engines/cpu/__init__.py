"""The CPU engine: folds batch norm, packs every weight once, then computes a backbone's stage maps for images.

Convolutions run only at sampled positions, and interpolation only where a later layer reads it. `compiling` describes a
backbone (`descriptions`), the binding in ``kernels`` hands the description to C. Not here: training, necks and heads
(they stay in PyTorch), other architectures than the blocks of `benchmark.nn`.
"""

from benchmark.engines.cpu.engine import CPUEngine

__all__ = ["CPUEngine"]
