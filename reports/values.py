"""Values as text, for tables, figures and file names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

__all__ = ["decimals", "is_missing", "least_to_most", "number", "or_dash", "plain", "shorten", "slug", "with_spread"]


def is_missing(value: object) -> bool:
    """Tell None, NaN and pandas' missing values."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def plain(value: object) -> str:
    """Return any value as short text; nothing for a missing one, ``11`` for 11.0."""
    if is_missing(value):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return " ".join(map(plain, value))
    return str(value)


def number(digits: int, scale: float = 1.0) -> Callable[[object], str]:
    """Return a formatter to so many decimals, of the value times `scale`."""

    def show(value: Any) -> str:
        return "" if is_missing(value) else f"{value * scale:.{digits}f}"

    return show


def or_dash(show: Callable[[object], str]) -> Callable[[object], str]:
    """Return a formatter that shows a missing value as a dash; why it is missing stands beside it."""
    return lambda value: "–" if is_missing(value) else show(value)


def decimals(values: Iterable[Any], digits: int = 4) -> int:
    """Return how many decimals show the largest of some numbers to so many digits, and at least one."""
    largest = max((abs(value) for value in values if not is_missing(value)), default=1.0)
    return max(1, digits - 1 - math.floor(math.log10(largest or 1.0)))


def with_spread(mean: object, spread: object, digits: int, scale: float = 1.0) -> str:
    """Return ``mean ± spread``, or the mean alone where there is no spread."""
    show = number(digits, scale)
    if is_missing(spread) or is_missing(mean):
        return show(mean)
    return f"{show(mean)} ± {number(digits, abs(scale))(spread)}"


def least_to_most(counts: Iterable[int]) -> str:
    """Return ``1 to 6``, or the one number that all are."""
    found = {int(count) for count in counts}
    return " to ".join(map(str, dict.fromkeys((min(found), max(found)))))


def shorten(text: str, length: int) -> str:
    """Cut text that is too long for its place, visibly."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def slug(text: str) -> str:
    """Return text fit for a file's name; of a long text, such as a path, the end."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text)[-40:].strip("-").lower() or "unnamed"
