"""``saibench reproduce``: a record's cell run again, and both results compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.cli.app import app
from benchmark.cli.options import DEFAULT_STORE, DataOption, ForceOption, JsonOption, PluginOption, StoreOption
from benchmark.cli.output import emit, print_error, print_line, print_note, print_table
from benchmark.cli.progress import display
from benchmark.errors import SaibenchError, UsageError


@app.command()
def reproduce(
    records: Annotated[
        list[str] | None, typer.Argument(metavar="RECORD", help="cell ids of the store, or records' folders")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="choose records of the store that took so long in all")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    into: Annotated[Path, typer.Option("--into", help="store to run the cells in")] = Path("results/reproduced"),
    data: DataOption = None,
    plugin: PluginOption = None,
    force: ForceOption = False,
    json_: JsonOption = False,
) -> None:
    """Run a record's cell again in another store, compare both results, and say what was different."""
    if bool(records) == (minutes is not None):
        raise UsageError("give records, by cell id or folder, or --minutes to have them chosen")

    from benchmark.cells import handful, on_rendered_scenes
    from benchmark.store import Record, Store

    source = Store(store)
    if records:
        chosen = [
            Record.load(Path(word).resolve()) if Path(word).is_dir() or "/" in word else source.get(word)
            for word in records
        ]
    else:
        known = [record for record in source.scan()[0] if data is not None or on_rendered_scenes(record)]
        chosen = handful(known, 60 * (minutes or 0))
        if not chosen:
            raise SaibenchError(f"{store}: no finished record took less than {minutes} minutes; give more")
    results = [_reproduced(record, Store(into), data, plugin or (), force, json_) for record in chosen]
    if json_:
        emit(results)
    if not all(result["agrees"] for result in results):
        raise typer.Exit(1)


def _reproduced(
    record: Any, into: Any, data: Path | None, plugins: Sequence[Path], force: bool, quiet: bool
) -> dict[str, Any]:
    """Run one cell again and say how it compares; an error of its own does not stop the others."""
    from benchmark.cells import plan_of, reproduce
    from benchmark.progress import StepReporter

    told: dict[str, Any] = {"cell_id": record.cell_id, "record": str(record.folder), "agrees": False}
    try:
        planned = plan_of(record, data, plugins)
        into.check_writable()
        with display(quiet) as shown:
            name = str(planned.cell)
            reporter = StepReporter(lambda phase, done, total: shown.update(phase, f"{name}: {phase}", done, total))
            found = reproduce(record, planned, into, force, reporter)
    except SaibenchError as error:
        print_error(str(error))
        return {**told, "error": str(error)}
    if not quiet:
        _print(found, name)
    return {
        **told,
        "agrees": found.agrees,
        "identical": found.identical,
        "numbers": [_row(number) for number in found.numbers],
        "machine": dict(found.machine),
        "packages": None if found.packages is None else dict(found.packages),
    }


def _row(number: Any) -> dict[str, Any]:
    return {
        "field": number.name,
        "recorded": number.recorded,
        "reproduced": number.reproduced,
        "difference": number.difference,
        "tolerance": number.tolerance,
        "agrees": number.agrees,
    }


def _print(found: Any, title: str) -> None:
    numbers = [each for each in found.numbers if (each.recorded, each.reproduced) != (None, None)]
    print_table([{**_row(each), "agrees": _verdict(each)} for each in numbers], title=title)
    if found.packages is None:
        print_note("the record lists no packages: it was made by an earlier version")
    for name, (before, now) in {**found.machine, **(found.packages or {})}.items():
        print_line(f"differs: {name} {before or 'none'} there, {now or 'none'} here")
    verdict = "identical" if found.identical else "reproduced within tolerance" if found.agrees else "not reproduced"
    print_line(f"{found.recorded.cell_id}: {verdict}; {found.reproduced.folder}")


def _verdict(number: Any) -> str:
    return "not judged" if number.tolerance is None else "yes" if number.agrees else "no"
