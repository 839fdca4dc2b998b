"""The numbers that the paper prints (``results/paper/*.csv``): read, checked, never mixed with ours."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmark.errors import DataError

__all__ = ["FILES", "FOLDER", "labels", "load", "methods"]

FOLDER = Path(__file__).resolve().parents[1] / "results" / "paper"

_CURVE = ("backbone", "shorter_side", "metric", "score", "gflops")
_ABLATION = ("metric", "score", "gflops")

#: The columns of each file between ``method, parameter, value`` and ``source, note``.
FILES: dict[str, tuple[str, ...]] = {
    "coco": _CURVE,
    "cityscapes": _CURVE,
    "table1": _ABLATION,
    "table2": _ABLATION,
    "table3": _ABLATION,
    "table4": ("kind", "interpolation", "top1_drop", "top5_drop", "gflops", "speedup_percent"),
    "table5": (
        "machine", "threads", "metric", "score", "gflops", "seconds", "real_speedup", "theoretical_speedup",
    ),
    "densities": ("density",),
    "methods": ("label",),
    "order": ("task", "worse"),
}  # fmt: skip

_WORDS = {
    "method", "parameter", "value", "backbone", "metric", "kind", "interpolation", "machine", "label", "source", "note",
    "task", "worse",
}  # fmt: skip
_STATED = {"method", "source", "score", "seconds", "density", "top1_drop", "speedup_percent", "worse"}  # never empty
_AT_MOST = {"score": 100.0, "density": 1.0, "top1_drop": 100.0, "top5_drop": 100.0, "speedup_percent": 100.0}


def load(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """Read one of the paper's tables.

    Parameters
    ----------
    name
        A key of `FILES`.
    folder
        Where the files lie.

    Returns
    -------
    pandas.DataFrame
        ``method, parameter, value``, the columns of `FILES`, ``source, note``. Words are strings, empty where
        the paper says nothing; numbers are floats, missing where it says nothing.

    Raises
    ------
    DataError
        Naming file and line, if the file is not there, lacks a column or holds something impossible.
    """
    path = folder / f"{name}.csv"
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore it from the repository") from error
    expected = ["method", "parameter", "value", *FILES[name], "source", "note"]
    if list(frame.columns) != expected:
        raise DataError(f"{path}: columns are {', '.join(frame.columns)}; expected {', '.join(expected)}")
    for column in expected:
        if column not in _WORDS:
            frame[column] = _numbers(frame[column], path)
        if column in _STATED:
            _check(frame[column].notna() & (frame[column] != ""), path, f"{column} is empty")
    said = frame["source"].str.match(r"(P (Sec\.|Tables?|footnote) \d|R$|derived$)")
    _check(said, path, "source must begin with 'P <section, table or footnote>', or be 'R' or 'derived'")
    _check(~frame.duplicated(), path, "the line is there twice")
    return frame


def methods() -> list[str]:
    """Return the methods that the paper prints numbers of, in the order of its files."""
    return list(dict.fromkeys(name for file in FILES for name in load(file)["method"]))


def labels() -> dict[str, str]:
    """Return what the paper calls methods of others."""
    names = load("methods")
    return dict(zip(names["method"], names["label"], strict=True))


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    numbers = pd.to_numeric(column.where(column != ""), errors="coerce")
    _check(numbers.notna() | (column == ""), path, f"{column.name} is not a number")
    top = _AT_MOST.get(str(column.name), float("inf"))
    _check(numbers.isna() | numbers.between(0, top), path, f"{column.name} must lie between 0 and {top:g}")
    return numbers.astype(float)


def _check(right: pd.Series, path: Path, message: str) -> None:
    wrong = right.index[~right.astype(bool)]
    if len(wrong):
        raise DataError(f"{path}, line {int(wrong[0]) + 2}: {message}")  # line 1 is the header
