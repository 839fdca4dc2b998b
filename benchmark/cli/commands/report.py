"""``saibench report``: tables and figures from the records."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.app import app
from benchmark.cli.options import DEFAULT_STORE, JsonOption, split_list
from benchmark.cli.output import emit, print_error, print_line


@app.command()
def report(
    only: Annotated[str, typer.Option("--only", help="names of reports, comma-separated; all without it")] = "",
    store: Annotated[list[Path] | None, typer.Option("--store", help="folder of records; repeatable")] = None,
    out: Annotated[Path, typer.Option("--out", help="folder to write to")] = Path("results/reports"),
    json_: JsonOption = False,
) -> None:
    """Write the paper's tables and figures from the records: Markdown, CSV, LaTeX, PNG, SVG."""
    import reports

    outputs = reports.build(store or [DEFAULT_STORE], out, split_list(only) or None)
    if json_:
        return emit([{**vars(output), "files": [str(path) for path in output.files]} for output in outputs])
    for output in outputs:
        print_line(output.text)
        for warning in output.warnings:
            print_error(warning, "warning", "yellow")
        for path in output.files:
            print_line(str(path))
