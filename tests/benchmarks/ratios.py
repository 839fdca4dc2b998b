"""Print the benchmark records of several commits beside each other, as ratios within each run.

Seconds of two runs say little on a shared machine. Within a run, a group's first benchmark is the measure of the
others: ``0.520`` beside density 0.264 says that it took 52 % of the dense network's time, in the same minute. The
counter's rows are its share of an evaluation. A record without a benchmark shows ``-``::

    python tests/benchmarks/ratios.py                      # every record in results/bench, oldest first
    python tests/benchmarks/ratios.py a.json b.json
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

STORE = Path(__file__).parents[2] / "results" / "bench"


def ratios(record: dict) -> dict[str, float]:
    """Return each benchmark's ratio, by name: to the first of its group, or the share that it measured itself."""
    first: dict[str, float] = {}
    found = {}
    for each in record["benchmarks"]:
        if "share" in each["extra_info"]:
            found[each["name"]] = each["extra_info"]["share"]
        elif each["group"] is not None:
            median = each["stats"]["median"]
            found[each["name"]] = median / first.setdefault(each["group"], median)
    return found


def table(records: Iterable[dict]) -> str:
    """Return a table: a row a benchmark, a column a record."""
    records = list(records)
    columns = [ratios(each) for each in records]
    names = list(dict.fromkeys(name for column in columns for name in column))
    heads = [each["commit_info"]["id"][:7] + ("*" if each["commit_info"]["dirty"] else "") for each in records]
    rows = [["", *heads], ["", *(each["machine_info"]["saibench"]["instruction_set"] for each in records)]]
    rows += [[name, *(f"{column[name]:.3f}" if name in column else "-" for column in columns)] for name in names]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


if __name__ == "__main__":
    paths = [Path(path) for path in sys.argv[1:]] or sorted(STORE.rglob("*.json"))
    if not paths:
        sys.exit(f"no benchmark records in {STORE}; tox -e bench makes one")
    print(table(json.loads(path.read_text(encoding="utf-8")) for path in paths))
