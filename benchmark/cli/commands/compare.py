"""``saibench compare``: methods against each other, with intervals and a verdict in words."""

import itertools
from typing import Annotated

import typer

from benchmark.cli.app import app
from benchmark.cli.options import DEFAULT_STORE, JsonOption, OptionalTaskName, Scale, StoresOption, complete_method
from benchmark.cli.output import emit, print_line, print_warning
from benchmark.errors import UsageError


@app.command()
def compare(
    methods: Annotated[
        list[str],
        typer.Argument(
            help="two methods or more: names, plug-in files, or labels of lines", autocompletion=complete_method
        ),
    ],
    task: OptionalTaskName = None,
    scale: Annotated[Scale | None, typer.Option("--scale", help="all without it")] = None,
    store: StoresOption = None,
    json_: JsonOption = False,
) -> None:
    """Compare curves over shared seeds and images: gap, interval, test, verdict."""
    if len(set(methods)) < 2:
        raise UsageError("give two methods or more, such as: saibench compare METHOD METHOD")

    from reports.base import Results
    from reports.comparison import comparisons, table

    results = Results.read(store or [DEFAULT_STORE])
    pairs = comparisons(results, [_name(method) for method in methods], task, scale)
    if json_:
        return emit([pair.row() for pair in pairs])
    for warning in results.warnings:
        print_warning(warning)
    for _, group in itertools.groupby(pairs, key=lambda pair: id(pair.panel)):
        print_line(table(list(group)).markdown())


def _name(method: str) -> str:
    """Return the name of a method that was given as a file."""
    if not method.endswith(".py"):
        return method
    from benchmark.method import resolve

    return resolve([method])[0].name
