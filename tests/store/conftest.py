"""What the store's tests share: a cell, and a way to finish it."""

import pandas as pd
import pytest

from benchmark.store import Cell


@pytest.fixture(scope="session")
def a_cell():
    """Return a function: changed fields to a cell."""

    def make(**changes):
        fields = {
            "task": "coco", "scale": "mini", "dataset": "embedded", "dataset_fingerprint": "f00d",
            "method": "stochastic", "parameters": {"gamma": 0.05, "stride": 11}, "seed": 0,
            "determinants": {"recipe": {"steps": 200, "lr": 1e-3}, "code": "abc"},
        }  # fmt: skip
        return Cell(**(fields | changes))

    return make


@pytest.fixture(scope="session")
def finish():
    """Return a function that gives a cell a finished record."""

    def run(store, cell, ap=0.5, force=False):
        with store.begin(cell, force=force) as work:
            (work.folder / "predictions.json").write_text("[]")
            return work.commit(
                {"metric_AP": ap, "gmacs_measured_mean": 1.25, "density_mean": 0.3},
                layers=pd.DataFrame({"layer": ["a"], "density": [0.3]}),
                images=pd.DataFrame({"image": [1, 2], "gmacs": [1.0, 1.5]}),
            )

    return run
