"""These tests share what tests of sweeps have."""

from tests.sweep.conftest import cache, store, trained

__all__ = ["cache", "store", "trained"]
