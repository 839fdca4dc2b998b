"""``saibench report``: tables and figures from the records."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.app import app
from benchmark.cli.options import DEFAULT_STORE, JsonOption, StoresOption, complete_reports, split_list
from benchmark.cli.output import emit, print_line, print_warning
from benchmark.errors import unknown
from benchmark.listing import report_names


@app.command()
def report(
    only: Annotated[
        str | None,
        typer.Option(
            "--only", help="names of reports, comma-separated; all without it", autocompletion=complete_reports
        ),
    ] = None,
    store: StoresOption = None,
    out: Annotated[Path, typer.Option("--out", help="folder to write to")] = Path("results/reports"),
    json_: JsonOption = False,
) -> None:
    """Write the paper's tables and figures from the records: Markdown, CSV, LaTeX, PNG, SVG."""
    chosen, stores = split_list(only, "--only"), store or [DEFAULT_STORE]
    for name in chosen:
        if name not in report_names():
            raise unknown("report", name, report_names())

    import reports

    outputs = reports.build(stores, out, chosen or None)
    if json_:
        return emit([{**vars(output), "files": [str(path) for path in output.files]} for output in outputs])
    for output in outputs:
        print_line(output.text)
        for warning in output.warnings:
            print_warning(warning)
        for path in output.files:
            print_line(str(path))
