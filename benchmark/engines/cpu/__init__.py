"""The CPU engine: folds batch norm, packs every weight once, then computes a backbone's stage maps image by image.

Convolutions run only at sampled positions, and interpolation only where a later layer reads it. ``kernels`` are the
validated kernels; the other files turn a backbone's parts into calls of them. Not here: training, necks and heads (they
stay in PyTorch), batches, other architectures than the blocks of `benchmark.nn`.
"""

from benchmark.engines.cpu.engine import CPUEngine

__all__ = ["CPUEngine"]
