"""What every test shares: embedded sets of a handful of images, and recipes of a handful of steps."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from benchmark.data import embedded

# No deadline: machines are shared, and a test says what is right, not how fast. Derandomised: CI is repeatable.
settings.register_profile("saibench", deadline=None, derandomize=True)
settings.load_profile("saibench")

FIXTURES = Path(__file__).parent / "fixtures"
TINY = {"train.steps": 2, "train.batch": 2, "pretrain.steps": 2, "pretrain.batch": 2}


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory):
    """Return a function: task to the folder of its embedded set with 6 training and 3 validation images."""
    root = tmp_path_factory.mktemp("data")

    def make(task):
        size = dataclasses.replace(embedded.SIZES[task, "mini"], images={"train": 6, "val": 3})
        return embedded.make(task, "mini", root, size=size)

    return make


@pytest.fixture
def copied_set(tiny_set, tmp_path):
    """Give a copy of a tiny embedded set by task, to be changed."""
    return lambda task: Path(shutil.copytree(tiny_set(task), tmp_path / task))


@pytest.fixture(scope="session")
def real():
    """Give a folder of real images by name, or skip."""
    beside = Path(__file__).parents[1] / ".." / "shared" / "data"
    root = Path(os.environ.get("SAIBENCH_DATA") or beside).resolve()

    def find(name):
        if not (root / name).is_dir():
            pytest.skip(f"no real images: {root / name} is not there (set SAIBENCH_DATA)")
        return root / name

    return find


@pytest.fixture(scope="session")
def plugin():
    """Return the path of a plug-in file outside the project's folders."""
    return FIXTURES / "checkerboard.py"


@pytest.fixture
def run_cli(capsys, monkeypatch):
    """Return a function that runs the command in this process: arguments to (exit code, stdout, stderr)."""
    from benchmark.cli import main

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["saibench", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "240")
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return run
