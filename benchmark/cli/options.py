"""Options that several commands share, and how their values are read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.errors import UsageError

TaskName = Annotated[str, typer.Argument(help="coco, cityscapes or imagenet", metavar="TASK")]
ScaleOption = Annotated[str, typer.Option("--scale", help="mini, small or paper")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="seed of everything random")]
DataOption = Annotated[Path | None, typer.Option("--data", help="the data set's folder; the embedded set without it")]
StoreOption = Annotated[Path, typer.Option("--store", help="folder of the records", envvar="SAIBENCH_STORE")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="a method's parameter, name=value; repeatable")]
RecipeOption = Annotated[
    list[str] | None, typer.Option("--recipe", help="a recipe's field, such as train.steps=100; repeatable")
]
ForceOption = Annotated[bool, typer.Option("--force", help="run finished cells again")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]
DEFAULT_STORE = Path("results/runs")


def parse_settings(settings: Sequence[str] | None, option: str) -> dict[str, Any]:
    """Turn ``name=value`` words into values: JSON where it is JSON, text otherwise.

    Raises
    ------
    UsageError
        For a word without ``=``.
    """
    values = {}
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {setting!r}: write it as name=value")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values


def split_list(text: str) -> list[str]:
    """Split a comma-separated option."""
    return [word for word in text.split(",") if word]
