"""The folder of real images, where there is one, and copies of embedded sets."""

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real():
    """Give a folder of real images by name, or skip."""
    beside = Path(__file__).parents[2] / ".." / "shared" / "data"
    root = Path(os.environ.get("SAIBENCH_DATA") or beside).resolve()

    def find(name):
        if not (root / name).is_dir():
            pytest.skip(f"no real images: {root / name} is not there (set SAIBENCH_DATA)")
        return root / name

    return find


@pytest.fixture
def copied_set(tiny_set, tmp_path):
    """Give a copy of a tiny embedded set, to be changed."""
    return lambda task: Path(shutil.copytree(tiny_set(task), tmp_path / task))
