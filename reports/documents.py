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
from typing import Any

import pandas as pd

from benchmark.files import write_atomic
from reports import findings, table5, training
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


def speed(results: Results) -> str:
    """Return a table of real against theoretical speed-up from the newest timing of the largest image."""
    found = table5.networks(results.stores, [])
    if not found:
        return "not run: `saibench time --size full --peers all`"
    run = max(found, key=lambda each: (each["settings"]["height"], -_dense(each)["seconds"]))
    machine, settings = run["machine"], run["settings"]
    lines = [
        f"{settings['backbone']}, {settings['height']}×{settings['width']}, {machine['threads']} threads of "
        f"{machine['cpu']} ({machine['instruction_set']}), {settings['rounds']} rounds:",
        "",
        "| density | seconds | speed-up | in theory | share realised |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in run["backbone"]:
        if row["deformable"] or (row["density"] is not None and row["gamma"] is None):
            continue
        name = "dense" if row["density"] is None else f"{row['density']:.3f} (γ {row['gamma']:g})"
        rest = (row["speedup"], row["speedup_theoretical"], row["share"])
        lines.append(
            f"| {name} | {row['seconds']:.2f} | " + " | ".join("" if v is None else f"{v:.2f}" for v in rest) + " |"
        )
    peers = [f"{peer['peer']} {peer['seconds']:.2f} s" for peer in run["peers"] if peer.get("seconds")]
    return "\n".join([*lines, "", f"Other runtimes, dense: {', '.join(peers)}."])


def engine(results: Results) -> str:
    """Return a table of all networks and sizes timed: dense against other runtimes, and sparse against dense."""
    found = sorted(table5.networks(results.stores, []), key=_size)
    if not found:
        return "not run: `saibench time --peers all --density 0.75`"
    densities = sorted({row["density"] for run in found for row in _sparse(run)}, reverse=True)
    lines = [
        "| network | | dense, ms | against the fastest other runtime | "
        + " | ".join(f"{density:g}" for density in densities)
        + " | sparse ahead below |",
        "| --- | --- | ---: | --- |" + " ---: |" * (len(densities) + 1),
    ]
    for run in found:
        machine, settings = run["machine"], run["settings"]
        rows = {row["density"]: row for row in _sparse(run)}
        cells = [_speedup(rows[density]) if density in rows else "–" for density in densities]
        even = next((row["density"] for row in run["break_even"] if not row["deformable"]), None)
        lines.append(
            f"| {settings['backbone']}, {settings['height']}×{settings['width']} | {machine['instruction_set']}, "
            f"{machine['threads']} threads | {1000 * _dense(run)['seconds']:.1f} | {_fastest_peer(run)} | "
            f"{' | '.join(cells)} | {'–' if even is None else f'{even:.2f}'} |"
        )
    machines = sorted({run["machine"]["cpu"] for run in found})
    return "\n".join([*lines, "", f"Machine: {'; '.join(machines)}. Medians; ratios within a round."])


def _size(run: dict[str, Any]) -> tuple[Any, ...]:
    settings = run["settings"]
    return run["machine"]["instruction_set"], settings["height"] * settings["width"], _dense(run)["seconds"]


def _dense(run: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in run["backbone"] if row["density"] is None and not row["deformable"])


def _sparse(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in run["backbone"] if row["density"] is not None and not row["deformable"]]


def _speedup(row: dict[str, Any]) -> str:
    return f"{row['speedup']:.2f} of {row['speedup_theoretical']:.2f}"


def _fastest_peer(run: dict[str, Any]) -> str:
    """Say how fast the dense run is beside the fastest other runtime; above 1 it is faster."""
    timed = [peer for peer in run["peers"] if peer.get("seconds")]
    if not timed:
        return "not timed"
    fastest = min(timed, key=lambda peer: peer["seconds"])
    return f"{fastest['engine_dense_speedup']:.2f} ({fastest['peer']})"


BLOCKS: dict[str, Callable[[Results], str]] = {
    "runs": runs,
    "curves": curves,
    "speed": speed,
    "engine": engine,
    **{name: getattr(findings, name) for name in ("claims", "winners", "real", "ranks", "limits")},
    **training.BLOCKS,
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
