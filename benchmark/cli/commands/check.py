"""``saibench check``: one method against the contract."""

from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from benchmark.cli.app import app
from benchmark.cli.options import (
    JsonOption,
    OptionalTaskName,
    SetOption,
    check_methods,
    complete_method,
    parse_settings,
)
from benchmark.cli.output import console, emit, visible


@app.command()
def check(
    method: Annotated[str, typer.Argument(help="a method's name or file", autocompletion=complete_method)],
    task: OptionalTaskName = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Check a method against the contract."""
    check_methods([method])
    parameters = parse_settings(set_, "--set")

    from benchmark.checks import check_method
    from benchmark.method import resolve

    results = [result for found in resolve([method]) for result in check_method(found, task, parameters)]
    if json_:
        emit([vars(result) for result in results])
    else:
        table = Table("task", "check", "result")
        for tasks, names, result in _by_cause(results):
            colour = {"passed": "green", "failed": "red"}.get(result.status, "yellow")
            advice = {"rule": result.rule, "fix": result.remedy}
            lines = [result.detail, *(f"{word}: {text}" for word, text in advice.items() if text)]
            told = escape(visible("\n".join(lines)))
            table.add_row(tasks, names, f"[{colour}]{result.status}[/{colour}] {told}")
        console.print(table)
    if any(result.status == "failed" for result in results):
        raise typer.Exit(1)


def _by_cause(results: Iterable[Any]) -> list[tuple[str, str, Any]]:
    """Return tasks, checks and first result of each row: failures of one cause share a row."""
    rows: dict[tuple[str, ...], list[Any]] = {}
    for result in results:
        key = ("cause", result.cause) if result.cause else (result.task, result.name)
        rows.setdefault(key, []).append(result)
    return [
        (
            ", ".join(dict.fromkeys(each.task for each in row)),
            ", ".join(dict.fromkeys(each.name for each in row)),
            row[0],
        )
        for row in rows.values()
    ]
