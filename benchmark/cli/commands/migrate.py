"""``saibench store migrate``: records of earlier versions under today's ids."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.commands.store import store_app
from benchmark.cli.options import JsonOption
from benchmark.cli.output import emit, print_line, print_warning


@store_app.command()
def migrate(
    store: Annotated[Path, typer.Argument(help="the store to rewrite")],
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="a data set's folder that records were made from; repeatable")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Rewrite ids where a cell's identity changed in form and its result did not; the rest stays and is named."""
    from benchmark.cells import migrate_store
    from benchmark.store import Store

    done = migrate_store(Store(store), data or ())
    if json_:
        emit({**vars(done), "files": [str(path) for path in done.files]})
    else:
        told = f"{len(done.moved)} records have new ids, {done.unchanged} had theirs already, {len(done.left)} stay"
        moved = [f"{old} -> {new}" for old, new in done.moved.items()]
        print_line("\n".join([*moved, *(f"{path}: names new ids" for path in done.files), told]))
        for line in done.left:
            print_warning(line)
    if done.left:
        raise typer.Exit(1)
