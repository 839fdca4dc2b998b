"""What every test shares: embedded sets of a handful of images, and recipes of a handful of steps."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from benchmark.data.embedded import Size
from benchmark.files import reference_folder
from benchmark.tasks import find_task

# No deadline: machines are shared, and a test says what is right, not how fast. Derandomised: CI is repeatable.
settings.register_profile("saibench", deadline=None, derandomize=True)
settings.load_profile("saibench")
# The networks here are too small for two threads, and on a machine with other work, threads that wait for each other
# take seven times as long. The engine's threads are its own.
torch.set_num_threads(1)
# A terminal's extent from outside would be kept by what prints, from its import on; pytest-xdist sets one.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

FIXTURES = Path(__file__).parent / "fixtures"
TINY = {"train.steps": 2, "train.batch": 2, "pretrain.steps": 2, "pretrain.batch": 2}
SCRATCH = {**TINY, "from_scratch": True}  # from nothing, where a test is about the cell that others start from
SMALL_SIZES = {
    "coco": Size(128, 128, {"train": 40, "val": 16}),
    "cityscapes": Size(64, 128, {"train": 4, "val": 3}),
    "imagenet": Size(48, 48, {"train": 2, "val": 1}),
}


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory):
    """Return a function: task to the folder of its embedded set with 6 training and 3 validation images."""
    root = tmp_path_factory.mktemp("data")

    def make(task):
        embedded = find_task(task).embedded
        return embedded.make(
            "mini", root, size=dataclasses.replace(embedded.sizes["mini"], images={"train": 6, "val": 3})
        )

    return make


@pytest.fixture
def copied_set(tiny_set, tmp_path):
    """Give a copy of a tiny embedded set by task, to be changed."""
    return lambda task: Path(shutil.copytree(tiny_set(task), tmp_path / task))


@pytest.fixture(scope="session")
def sizes():
    """Extent of the small embedded sets by task."""
    return SMALL_SIZES


@pytest.fixture(scope="session")
def embedded(tmp_path_factory):
    """Folder of a small embedded set by task; not to be changed."""
    root = tmp_path_factory.mktemp("embedded")
    return {task: find_task(task).embedded.make("mini", root, size=size) for task, size in SMALL_SIZES.items()}


@pytest.fixture
def copied(embedded, tmp_path):
    """Give a copy of an embedded set, to be spoilt."""
    return lambda task: Path(shutil.copytree(embedded[task], tmp_path / task))


@pytest.fixture(scope="session")
def reference():
    """Folder of the project's own records."""
    return reference_folder(Path(__file__).parents[1])


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

    def run(*arguments, columns=240):
        monkeypatch.setattr("sys.argv", ["saibench", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return run
