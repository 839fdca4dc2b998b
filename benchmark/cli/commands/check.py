"""``saibench check``: one method against the contract."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from benchmark.cli.app import app
from benchmark.cli.options import JsonOption, check_methods, complete_method
from benchmark.cli.output import console, emit, visible


@app.command()
def check(
    method: Annotated[str, typer.Argument(help="a method's name or file", autocompletion=complete_method)],
    json_: JsonOption = False,
) -> None:
    """Check a method against the contract."""
    check_methods([method])

    from benchmark.checks import check_method
    from benchmark.method import resolve

    results = [result for found in resolve([method]) for result in check_method(found)]
    if json_:
        emit([vars(result) for result in results])
    else:
        table = Table("task", "check", "result")
        for result in results:
            colour = {"passed": "green", "failed": "red"}.get(result.status, "yellow")
            advice = {"rule": result.rule, "fix": result.remedy}
            lines = [result.detail, *(f"{word}: {text}" for word, text in advice.items() if text)]
            told = escape(visible("\n".join(lines)))
            table.add_row(result.task, result.name, f"[{colour}]{result.status}[/{colour}] {told}")
        console.print(table)
    if any(result.status == "failed" for result in results):
        raise typer.Exit(1)
