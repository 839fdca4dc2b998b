"""``saibench store merge``, ``pack``, ``unpack``, ``verify`` and ``gc``: stores as a whole."""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.cli.app import app
from benchmark.cli.options import DEFAULT_STORE, JsonOption, StoreOption
from benchmark.cli.output import emit, print_line, print_warning

store_app = typer.Typer(no_args_is_help=True, help="Merge, pack, check and clean stores of records.")
app.add_typer(store_app, name="store")

PackedOption = Annotated[
    Path | None, typer.Option("--into", help="store to write to, which keeps what it has; in place without it")
]


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
def pack(
    store: Annotated[Path, typer.Argument(help="store to pack")],
    into: PackedOption = None,
    json_: JsonOption = False,
) -> None:
    """Pack the records of a store into a few tables; every command reads them there as it reads folders."""
    from benchmark.store.packing import pack as pack_store

    _tell_packing(pack_store(store, into), "packed", json_)


@store_app.command()
def unpack(
    store: Annotated[Path, typer.Argument(help="store whose packed records become folders again")],
    into: PackedOption = None,
    json_: JsonOption = False,
) -> None:
    """Write packed records as folders again."""
    from benchmark.store.packing import unpack as unpack_store

    _tell_packing(unpack_store(store, into), "unpacked", json_)


def _tell_packing(done: Any, what: str, json_: bool) -> None:
    if json_:
        emit(vars(done))
    else:
        size = f", {done.folded} of them from folders: {done.size / 1e6:.1f} MB" if done.size else ""
        print_line(f"{done.records} records {what}{size}")
        for line in done.warnings:
            print_warning(line)
    if done.warnings:
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
