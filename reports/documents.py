"""The figures in README.md and docs/results.md, written from stored records between marks; nothing is typed in.

    python -m reports.documents README.md docs/results.md --store results/reference

replaces what stands between ``<!-- begin: NAME -->`` and ``<!-- end -->`` for each block named in `BLOCKS`. A test
compares the files with what the command would write. The blocks of docs/results.md are `reports.findings`'.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from benchmark.files import write_atomic
from reports import findings, speed, training
from reports.base import Results
from reports.methods import REFERENCE

__all__ = ["BLOCKS", "filled", "main"]

#: Shown with so many digits behind the point; metrics are shares and are shown in percent.
_DIGITS = 1


def runs(results: Results) -> str:
    """Return a table of the sweeps: cells, seeds, minutes summed over the cells, machine."""
    lines = ["| command | cells | seeds | time, summed over cells | machine |", "| --- | ---: | ---: | ---: | --- |"]
    for task, cells in _finished(results).groupby("task", sort=True):
        minutes = (cells["seconds_train"] + cells["seconds_eval"]).sum() / 60
        machine = "; ".join(sorted(set(cells["cpu"] + ", " + cells["isa"])))
        lines.append(f"| `tox -e {task}` | {len(cells)} | {cells['seed'].nunique()} | {minutes:.0f} min | {machine} |")
    return "\n".join(lines)


def curves(results: Results) -> str:
    """Return a table of the curves: each point's metric in percent at its share of the dense network's computation."""
    lines = ["| task | method | seeds | metric, % @ share of the dense computation |", "| --- | --- | ---: | --- |"]
    for task, cells in _finished(results).groupby("task", sort=True):
        metric = _main_metric(cells)
        dense = cells.loc[cells["method"] == REFERENCE, "gmacs_measured_mean"].mean()
        for method in sorted(set(cells["method"]), key=results.methods.rank):
            own = cells[cells["method"] == method]
            parameters = [f"p_{name}" for name in results.methods.curve(method) if f"p_{name}" in own]
            points = own.groupby(parameters or ["method"], dropna=False)
            shown = sorted(
                ((group["gmacs_measured_mean"].mean() / dense, _percent(group[metric])) for _, group in points),
                reverse=True,
            )
            text = " · ".join(f"{value} @ {share:.2f}" for share, value in shown)
            name = metric.removeprefix("metric_")
            lines.append(f"| {task}, {name} | {results.methods.label(method)} | {own['seed'].nunique()} | {text} |")
    return "\n".join(lines)


BLOCKS: dict[str, Callable[[Results], str]] = {
    "runs": runs,
    "curves": curves,
    **{name: getattr(findings, name) for name in ("claims", "winners", "real", "ranks", "limits")},
    **training.BLOCKS,
    **speed.BLOCKS,
}


def filled(text: str, results: Results) -> str:
    """Return a document with its marked blocks made anew.

    Raises
    ------
    KeyError
        For a block that is not in `BLOCKS`.
    """

    def block(match: re.Match[str]) -> str:
        return f"<!-- begin: {match[1]} -->\n{BLOCKS[match[1]](results)}\n<!-- end -->"

    return re.sub(r"<!-- begin: (\w+) -->\n.*?<!-- end -->", block, text, flags=re.S)


def _finished(results: Results) -> pd.DataFrame:
    cells = results.cells(scale="mini")
    return cells[cells["status"] == "finished"] if len(cells) else cells


def _main_metric(cells: pd.DataFrame) -> str:
    """Return the column of the metric that the task's records name first."""
    described = cells["metrics"].dropna()
    return f"metric_{json.loads(described.iloc[0])[0]['name']}"


def _percent(values: pd.Series) -> str:
    mean = f"{100 * values.mean():.{_DIGITS}f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * values.std():.{_DIGITS}f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the blocks of the named documents."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("documents", nargs="+", type=Path)
    parser.add_argument("--store", type=Path, default=Path("results/reference"))
    given = parser.parse_args(arguments)
    results = Results.read([given.store])
    for path in given.documents:
        write_atomic(path, filled(path.read_text(encoding="utf-8"), results))


if __name__ == "__main__":
    main()
