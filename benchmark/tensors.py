"""Reading and writing tensors in safetensors files, in which nothing can be executed.

What the tensors are is the business of those who ask for them.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor, nn

from benchmark.errors import DataError, one_line

__all__ = ["load_into", "read_tensors", "write_tensors"]


def read_tensors(path: Path, remedy: str) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Parameters
    ----------
    remedy
        What helps where the file is broken, for the message.

    Raises
    ------
    DataError
        If the file is missing or broken.
    """
    try:
        return load_file(path)
    except Exception as error:  # of bytes that nobody has foreseen
        raise DataError(f"{path} is broken ({one_line(error)}): {remedy}") from None


def load_into(model: nn.Module, path: Path, remedy: str, strict: bool = True) -> None:
    """Fill a model from a file.

    Parameters
    ----------
    remedy
        What helps where the file does not fit, for the message.
    strict
        Whether the file must have every key of the model; otherwise the model keeps what the file lacks. Keys that the
        model lacks are refused, or left out where it is not strict.

    Raises
    ------
    DataError
        If the file is missing or broken, or does not fit.
    """
    stored = read_tensors(path, remedy)
    if not strict:
        stored = {key: stored[key] for key in model.state_dict() if key in stored}
    try:
        model.load_state_dict(stored, strict=strict)
    except RuntimeError as error:
        raise DataError(f"{path} does not fit the network ({one_line(error)}): {remedy}") from None


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a file that others may read as any other: safetensors' own function makes it its owner's alone.

    Parameters
    ----------
    metadata
        One entry at most: safetensors writes several in an order of chance, and the same tensors would leave other
        bytes each time.
    """
    path.write_bytes(save(dict(tensors), None if metadata is None else dict(metadata)))
