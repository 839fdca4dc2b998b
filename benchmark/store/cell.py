"""A cell's identity: a hash of what determines its result, and of nothing else.

It reads and writes no file; where a cell's record lies is the store's business.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmark.errors import StoreError
from benchmark.names import check_name

__all__ = ["Cell", "canonical_json"]


def _canonical(value: object, where: str) -> Any:
    """Reduce a value to JSON types, so that equal settings have equal text whatever their Python type."""
    if isinstance(value, enum.Enum):
        value = value.value
    if hasattr(value, "tolist"):  # a number or an array of numpy, which is not imported for this
        value = value.tolist()
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: {value} cannot be part of a cell's identity; give a finite number")
        return int(value) if value.is_integer() else value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _canonical(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_canonical(item, where) for item in value), key=canonical_json)
    if isinstance(value, list | tuple):
        return [_canonical(item, where) for item in value]
    raise TypeError(f"{where}: a {type(value).__name__} cannot be part of a cell's identity")


def canonical_json(value: object) -> str:
    """Text that is equal for equal settings: sorted keys, ``1.0`` as ``1``, tuples as lists, no white space.

    Raises
    ------
    TypeError
        If a value has no JSON form.
    ValueError
        If a number is not finite.
    """
    return json.dumps(_canonical(value, "value"), sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Cell:
    """One (task, scale, data set, method, parameters, seed), the unit of work and of storage.

    Parameters
    ----------
    task, scale, method
        Names; they are folders of the store.
    dataset
        What people call the data set. Not part of the identity: the fingerprint is, so a data set may be
        moved.
    dataset_fingerprint
        Hash of the data, from the reader.
    parameters
        All parameters of the method, defaults included: ``1`` and ``1.0`` are the same value.
    seed
        Seed of everything random in the cell.
    determinants
        Everything else that the result depends on: recipe, code fingerprint, id of the starting checkpoint's
        cell.
    """

    task: str
    scale: str
    dataset: str = field(compare=False)
    dataset_fingerprint: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    seed: int = 0
    determinants: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check what will be a path or a field of the record, before anything runs; reduce settings to JSON types."""
        for name in ("task", "scale", "method"):
            try:
                check_name(getattr(self, name))
            except ValueError as error:
                raise StoreError(f"cell: {name} {error}") from None
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 1 << 63:
            raise StoreError(f"cell: the seed {self.seed!r} should be an integer from 0 to 2^63 - 1")
        # Copies, reduced to JSON types: a caller who changes its dictionary later must not change the
        # identity.
        object.__setattr__(self, "parameters", _canonical(self.parameters, f"{self.method} parameters"))
        object.__setattr__(self, "determinants", _canonical(self.determinants, f"{self.method} determinants"))

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the result, as JSON types."""
        return {
            "task": self.task,
            "scale": self.scale,
            "dataset_fingerprint": self.dataset_fingerprint,
            "method": self.method,
            "parameters": self.parameters,
            "seed": self.seed,
            "determinants": self.determinants,
        }

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits: the hash of `identity`."""
        return hashlib.sha256(canonical_json(self.identity).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        """Return one line that names the cell in messages."""
        settings = " ".join(f"{name}={value}" for name, value in sorted(self.parameters.items()))
        words = [self.task, self.scale, self.method, settings, f"seed={self.seed}", f"({self.id})"]
        return " ".join(filter(None, words))
