"""``saibench claims``: each claim of the paper against the records."""

from collections import Counter

from benchmark.cli.app import app
from benchmark.cli.options import DEFAULT_STORE, JsonOption, StoresOption
from benchmark.cli.output import emit, print_error, print_line


@app.command()
def claims(
    store: StoresOption = None,
    json_: JsonOption = False,
) -> None:
    """Check the paper's claims: reproduced, contradicted, inconclusive or not run, and what would settle each."""
    from reports.base import Results
    from reports.claims import check

    results = Results.read(store or [DEFAULT_STORE])
    rows = [checked.row() for checked in check(results)]
    if json_:
        return emit(rows)
    for warning in results.warnings:
        print_error(warning, "warning", "yellow")
    for row in rows:
        print_line(f"{row['claim']:2}  {row['status']}: {row['text']}")
        print_line(f"    paper: {row['paper']}\n    ours: {row['ours']} ({row['where']})")
        if row["settle"]:
            print_line(f"    settle: {row['settle']}")
    counts = Counter(row["status"] for row in rows)
    print_line(", ".join(f"{count} {status}" for status, count in counts.items()))
