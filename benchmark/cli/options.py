"""Options that several commands share, how their values are read, and what the shell completes.

Nothing here imports PyTorch: help, completion and the answer to a mistyped word take a fraction of a second.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from benchmark import listing
from benchmark.errors import UsageError, unknown
from benchmark.files import REFERENCE, reference_folder

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


def parse_recipe(settings: Sequence[str] | None, from_scratch: bool) -> dict[str, Any]:
    """Return the fields of the recipe that the user changes."""
    changed = parse_settings(settings, "--recipe")
    return {**changed, "from_scratch": True} if from_scratch else changed


def split_list(text: str | None, option: str) -> list[str]:
    """Split a comma-separated option; one that was not given is an empty list.

    Raises
    ------
    UsageError
        For an option that was given and names nothing: taking it for "all" would start everything.
    """
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    if text is not None and not words:
        raise UsageError(f"{option} {text!r}: name at least one, or leave {option} out")
    return words


def check_methods(methods: Sequence[str]) -> None:
    """Refuse a method's name that is nowhere, before anything is imported.

    Raises
    ------
    UsageError
        With the nearest name. Where packages with methods are installed, discovery has the last word.
    """
    known = listing.method_names()
    for name in methods:
        if name not in known and not _is_file(name) and not listing.method_entry_points():
            raise unknown("method", name, known, ", or give a file's path")


def _is_file(method: str) -> bool:
    return method.endswith(".py") or "/" in method


def _task(context: typer.Context, task: str | None) -> str | None:
    there = task is None or task in listing.task_names() or listing.is_path(task)
    if not there and not context.resilient_parsing:
        raise unknown("task", str(task), listing.task_names(), ", or give a folder's path")
    return task


def _method(context: typer.Context, method: str | None) -> str | None:
    if method is not None and not context.resilient_parsing:
        check_methods([method])
    return method


def _executor(context: typer.Context, executor: str) -> str:
    if executor not in listing.executor_names() and not context.resilient_parsing:
        raise unknown("executor", executor, listing.executor_names())
    return executor


def _store(store: Path) -> Path:
    return reference_folder() if store == REFERENCE else store


def _stores(stores: list[Path] | None) -> list[Path] | None:
    return None if stores is None else [_store(store) for store in stores]


def complete_executor(incomplete: str) -> list[str]:
    """Return the executors that start so."""
    return _starting(incomplete, listing.executor_names())


def complete_task(incomplete: str) -> list[str]:
    """Return the tasks that start so."""
    return _starting(incomplete, listing.task_names())


def complete_method(incomplete: str) -> list[str]:
    """Return the methods that start so."""
    return _starting(incomplete, listing.method_names())


def complete_methods(incomplete: str) -> list[str]:
    """Return the comma-separated lists of methods that start so."""
    return _lists(incomplete, listing.method_names())


def complete_reports(incomplete: str) -> list[str]:
    """Return the comma-separated lists of reports that start so."""
    return _lists(incomplete, listing.report_names())


def _starting(incomplete: str, known: Sequence[str]) -> list[str]:
    return [name for name in known if name.startswith(incomplete)]


def _lists(incomplete: str, known: Sequence[str]) -> list[str]:
    """Complete the last word of a comma-separated list; a name is offered once."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [f"{before}{comma}{name}" for name in _starting(last, known) if name not in taken]


TaskName = Annotated[
    str,
    typer.Argument(
        help=f"{', '.join(listing.task_names())}, or a task's folder",
        metavar="TASK",
        callback=_task,
        autocompletion=complete_task,
    ),
]
OptionalTaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        help=f"{', '.join(listing.task_names())}; all without it",
        callback=_task,
        autocompletion=complete_task,
    ),
]
MethodName = Annotated[
    str,
    typer.Option("--method", help="a method's name or file", callback=_method, autocompletion=complete_method),
]
OptionalMethodName = Annotated[
    str | None,
    typer.Option(
        "--method", help="a method's name or file; dense without it", callback=_method, autocompletion=complete_method
    ),
]
ShownTaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        help=f"{', '.join(listing.task_names())}, or a task's folder: whose network reads the image; coco without it",
        callback=_task,
        autocompletion=complete_task,
    ),
]
ShownMethodName = Annotated[
    str | None,
    typer.Option(
        "--method", help="a method's name or file, untrained", callback=_method, autocompletion=complete_method
    ),
]
Scale = Literal["mini", "evidence", "small", "paper"]
ScaleOption = Annotated[Scale, typer.Option("--scale", help="of data, model and training")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="seed of everything random")]
DataOption = Annotated[Path | None, typer.Option("--data", help="the data set's folder; the embedded set without it")]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="file of a record's method, or folder of its task, that is not found; repeatable"),
]
StoreOption = Annotated[
    Path, typer.Option("--store", help="folder of the records", envvar="SAIBENCH_STORE", callback=_store)
]
StoresOption = Annotated[
    list[Path] | None,
    typer.Option("--store", help="folder of records; repeatable", envvar="SAIBENCH_STORE", callback=_stores),
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="a method's parameter, name=value; repeatable")]
RecipeOption = Annotated[
    list[str] | None, typer.Option("--recipe", help="a recipe's field, such as train.steps=100; repeatable")
]
ScratchOption = Annotated[
    bool, typer.Option("--from-scratch", help="train from nothing, not from the weights that come with the project")
]
PrecisionOption = Annotated[
    Literal["32-true", "bf16-mixed"],
    typer.Option("--precision", help="of training; evaluation and counting are in float32"),
]
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        help=f"where cells run: {', '.join(listing.executor_names())}",
        callback=_executor,
        autocompletion=complete_executor,
    ),
]
DevicesOption = Annotated[
    int, typer.Option("--devices", help="GPUs that share each cell; without one, processes; see docs/devices.md")
]
ForceOption = Annotated[bool, typer.Option("--force", help="run finished cells again")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]
