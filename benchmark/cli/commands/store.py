"""``saibench store merge``, ``verify`` and ``gc``: stores as a whole."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.app import app
from benchmark.cli.options import DEFAULT_STORE, JsonOption, StoreOption
from benchmark.cli.output import emit, print_line, print_warning

store_app = typer.Typer(no_args_is_help=True, help="Merge, check and clean stores of records.")
app.add_typer(store_app, name="store")


@store_app.command()
def merge(
    stores: Annotated[list[Path], typer.Argument(help="stores to read, the preferred one first")],
    into: Annotated[Path, typer.Option("--into", help="store to write", envvar="SAIBENCH_STORE")] = DEFAULT_STORE,
    compact: Annotated[
        bool, typer.Option("--compact", help="for a repository: what reports read, tables compressed")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Copy the records and timings of stores into another one; finished records there stay."""
    from benchmark.store import merge as merge_stores

    merged = merge_stores(stores, into, compact=compact)
    if json_:
        emit({**vars(merged), "copied": [str(path) for path in merged.copied]})
    else:
        print_line("\n".join([*map(str, merged.copied), f"{len(merged.copied)} copied, {merged.kept} there already"]))
        for line in (*merged.conflicts, *merged.warnings):
            print_warning(line)
    if merged.warnings:
        raise typer.Exit(1)


@store_app.command()
def verify(store: StoreOption = DEFAULT_STORE, json_: JsonOption = False) -> None:
    """Check every file of every record, and say what is wrong."""
    from benchmark.store import Store
    from benchmark.store import verify as verify_store

    found = verify_store(Store(store))
    if json_:
        emit(vars(found))
    else:
        print_line("\n".join([*found.problems, f"{found.records} records, {len(found.problems)} problems"]))
    if found.problems:
        raise typer.Exit(1)


@store_app.command()
def gc(
    store: StoreOption = DEFAULT_STORE,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="also cells that a later run would resume")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be removed")] = False,
    json_: JsonOption = False,
) -> None:
    """Remove what killed runs and merges left; records stay."""
    from benchmark.store import Store, collect_garbage

    found = collect_garbage(Store(store), unfinished, dry_run)
    if json_:
        paths = {name: [str(path) for path in getattr(found, name)] for name in ("removed", "unfinished")}
        return emit({**vars(found), **paths})
    done = "would be removed" if dry_run else "removed"
    print_line("\n".join([*map(str, found.removed), f"{found.size / 1e6:.1f} MB {done}"]))
    if found.unfinished:
        print_line(f"{len(found.unfinished)} unfinished cells kept to be resumed; --unfinished removes them")
    for line in found.busy:
        print_warning(line)
