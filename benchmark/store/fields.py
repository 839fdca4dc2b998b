"""The fields of a record: their names, types and ranges, and the check that every record passes.

A record may have been edited, cut off or made by another program. What it says is checked when it is read, so that
no table is made from a seed that is no number or an accuracy of -5.
"""

from __future__ import annotations

import enum
import json
import math
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from benchmark.metric import parse_metrics

__all__ = ["RECORD_FIELDS", "STATUSES", "as_json", "check_fields", "parse_record"]

Status = Literal["finished", "failed", "diverged"]
STATUSES: tuple[str, ...] = get_args(Status)


# Bounds that nothing real comes near. They keep sums and means finite.
_Amount = Annotated[float, Field(ge=0, le=1e12)]
_Share = Annotated[float, Field(ge=0, le=1)]


class _Fields(BaseModel):
    """A record's fields in their order; those with a default may be missing, as in records of earlier versions."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    cell_id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    task: str
    scale: str
    dataset: str
    dataset_fingerprint: str
    method: str
    seed: Annotated[int, Field(ge=0, lt=1 << 63)]
    status: Status
    gmacs_measured_mean: _Amount | None = None
    gmacs_measured_std: _Amount | None = None
    gmacs_paper: _Amount | None = None
    density_mean: _Share | None = None
    seconds_train: _Amount | None = None
    seconds_eval: _Amount | None = None
    git_sha: str | None = None
    git_dirty: bool | None = None
    saibench: str | None = None
    torch: str | None = None
    python: str | None = None
    cpu: str | None = None
    #: Instruction set that PyTorch uses: machines of one ``cpu`` name may differ in it.
    isa: str | None = None
    #: Environment variables that lower the instruction set, as ``NAME=value`` words.
    isa_limit: str | None = None
    gpu: str | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    started: str | None = None
    finished: str | None = None
    error: str | None = None


def _described(text: str) -> str:
    parse_metrics(text)
    return text


class _Described(BaseModel):
    """What a record says of its method and its task; records of earlier versions lack some of it."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    metrics: Annotated[str, AfterValidator(_described)] | None = None
    method_label: str | None = None
    method_kind: str | None = None
    method_curve: list[str] | None = None
    method_references: list[str] | None = None
    #: The cell or the SHA-256 of the weights that it starts from, and the name of their file.
    start: str | None = None
    start_weights: str | None = None
    overrides: str | None = None
    migrated_from: list[str] | None = None
    uncounted: list[str] | None = None


#: The fields of every record, in the order in which they are written; ``p_*`` follow ``method``, ``metric_*``
#: follow ``status``, and fields of the caller's own come last.
RECORD_FIELDS: tuple[str, ...] = tuple(_Fields.model_fields)

_METRIC: TypeAdapter[float | None] = TypeAdapter(_Share | None, config=ConfigDict(strict=True, allow_inf_nan=False))


def check_fields(fields: Mapping[str, Any]) -> None:
    """Check a record's fields.

    A field that is not one of `RECORD_FIELDS` is a text, a number, a truth value, a list or null. A metric
    (``metric_*``) is a share from 0 to 1, or null where it is not defined.

    Raises
    ------
    ValueError
        Naming the field, in one line.
    """
    name = ""
    try:
        _Fields.model_validate(dict(fields))
        _Described.model_validate(dict(fields))
        for name in fields.keys() - _Fields.model_fields.keys():
            if name.startswith("metric_"):
                _METRIC.validate_python(fields[name])
            elif not isinstance(fields[name], str | int | float | list | None):
                raise ValueError(f"{name} should be a text, a number or a list, got {_short(fields[name])}")
    except ValidationError as error:
        first = error.errors()[0]
        field = name or str(first["loc"][0])
        if first["type"] == "missing":
            raise ValueError(f"{field} is missing") from None
        message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
        raise ValueError(f"{field} {message[0].lower()}{message[1:]}, got {_short(first['input'])}") from None


def parse_record(text: str) -> dict[str, Any]:
    """Read a record's JSON and check it; fields that earlier versions did not write are null.

    Raises
    ------
    ValueError
        If it is no JSON or not a record, in one line.
    """
    try:
        fields = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError("holds no JSON object")
    check_fields(fields)
    json.dumps(fields, ensure_ascii=False).encode()  # halves of characters, which JSON may hold, raise ValueError
    return fields | {name: None for name in RECORD_FIELDS if name not in fields}


def _finite(text: str) -> float:
    """Convert a number; Python reads ``NaN`` and ``Infinity``, which JSON lacks, and ``1e999`` as infinite."""
    if not math.isfinite(float(text)):
        raise ValueError(f"holds {text}, which is not finite")
    return float(text)


def as_json(value: object, name: str) -> Any:
    """Convert a field's value to JSON types: numbers that are not finite, which JSON lacks, become null.

    Raises
    ------
    TypeError
        Naming the field, for a value that a flat record cannot hold.
    """
    if isinstance(value, enum.Enum):
        value = value.value
    if hasattr(value, "tolist"):  # of numpy or torch, which are not imported for this
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [as_json(item, name) for item in value]
    raise TypeError(f"record field {name}: a record is flat and holds no {type(value).__name__}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
