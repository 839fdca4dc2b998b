"""Small embedded sets, made once."""

import shutil
from pathlib import Path

import pytest

from benchmark.data.embedded import Size, make

SMALL_SIZES = {
    "coco": Size(128, 128, {"train": 40, "val": 16}),
    "cityscapes": Size(64, 128, {"train": 4, "val": 3}),
    "imagenet": Size(48, 48, {"train": 2, "val": 1}),
}


@pytest.fixture(scope="session")
def sizes():
    """Extent of the small embedded sets by task."""
    return SMALL_SIZES


@pytest.fixture(scope="session")
def embedded(tmp_path_factory):
    """Folder of a small embedded set by task; not to be changed."""
    root = tmp_path_factory.mktemp("embedded")
    return {task: make(task, "mini", root, size=size) for task, size in SMALL_SIZES.items()}


@pytest.fixture
def copied(embedded, tmp_path):
    """Give a copy of an embedded set, to be spoilt."""
    return lambda task: Path(shutil.copytree(embedded[task], tmp_path / task))
