"""The dense network: every position of every layer."""

from benchmark import Method


class Dense(Method):
    """Compute everything. At the small scales its trained weights are where the other methods start."""

    name = "dense"
