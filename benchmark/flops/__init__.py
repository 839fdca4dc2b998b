"""Counting computation in multiply-accumulates (MACs), masks included.

Two conventions (docs/flops.md): `benchmark.flops.measured` counts what runs for each image, exactly, from that
image's masks; `benchmark.flops.paper` evaluates the released code's closed form at nominal sizes, to stand
beside the paper's numbers. Timing is no business of this package (see `benchmark.timing`).
"""
