"""``saibench new-method``: the file of a new method and its test."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.app import app
from benchmark.cli.output import print_line


@app.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="small letters, digits and _")],
    folder: Annotated[Path, typer.Option("--folder", help="where to write them")] = Path(),
) -> None:
    """Write a method's file and its test from a template that says when each hook is called."""
    from benchmark.method.scaffold import write_method

    method, test = write_method(name, folder)
    print_line(f"{method}\n{test}")
    print_line(f"next: saibench check {method}; pytest {test}")
