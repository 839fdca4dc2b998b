"""Where starting weights lie, and reading them."""

import functools
import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from benchmark.errors import DataError
from benchmark.tensors import read_tensors

ENDING = ".safetensors"


class Owner(Protocol):
    """A task, as far as this file knows it."""

    name: ClassVar[str]
    recipes: ClassVar[Mapping[str, Any]]


def folder(task: Owner) -> Path:
    """Return the folder of a task's starting weights: beside the file that defines it."""
    return Path(inspect.getfile(type(task))).parent / "weights"


def find(task: Owner, backbone: str) -> Path:
    """Return the file of a backbone's starting weights.

    Raises
    ------
    DataError
        When there is none.
    """
    path = folder(task) / f"{backbone}{ENDING}"
    if not path.is_file():
        scales = [f" --scale {name}" for name, recipe in task.recipes.items() if backbone in recipe.shipped]
        command = f"saibench weights make {task.name}{''.join(scales[:1])} --backbone {backbone}"
        raise DataError(f"no starting weights {path}: make them with `{command}`, or add --from-scratch")
    return path


def digest(path: Path) -> str:
    """Return the SHA-256 of a file: part of the identity of every cell that starts from it.

    Raises
    ------
    DataError
        When it cannot be read.
    """
    try:
        now = path.stat()
        return _digest(path, now.st_mtime_ns, now.st_size)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; make it readable") from error


@functools.cache
def _digest(path: Path, modified: int, size: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fill(model: nn.Module, path: Path) -> list[str]:
    """Fill a model from a file where keys and shapes agree; return the keys of the model that are not filled.

    Raises
    ------
    DataError
        When the file cannot be read.
    """
    stored = read_tensors(path, "fetch it again, or make it again")
    wanted = model.state_dict()
    fitting = {key: value for key, value in stored.items() if key in wanted and value.shape == wanted[key].shape}
    return list(model.load_state_dict(fitting, strict=False).missing_keys)
