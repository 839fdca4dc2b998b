"""Table 5: seconds per image on a CPU, and how much of the theoretical speed-up is realised.

Reads what ``saibench time`` keeps in ``<store>/timing/*.json``. The paper's two machines stand in a table of their own,
and in the figure as hollow marks; the theoretical speed-up of both is the ratio of GMACs in the ``paper`` convention.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from reports import published, timings
from reports.base import Output, Results
from reports.drawing import (
    REFERENCE_LINE,
    entry,
    figure_style,
    legend_below,
    legend_height,
    line_style,
    new_figure,
    place,
    save,
)
from reports.tables import Column, Table
from reports.values import number

TITLE = "Table 5: real and theoretical speed-up on CPUs"

_NAME = "table5"
_SHOWN = [
    Column("network", "Network"),
    Column("gamma", "γ"),
    Column("density", "Density", number(3), True),
    Column("seconds", "Seconds", number(3), True),
    Column("seconds_dense", "Dense beside it (s)", number(3), True),
    Column("spread", "IQR (s)", number(3), True),
    Column("gmacs", "GFLOPs (MACs), measured", number(1), True),
    Column("theoretical", "Theoretical speed-up", number(2), True),
    Column("real", "Real speed-up", number(2), True),
    Column("share", "Share realised", number(2), True),
]


def build(results: Results, out: Path) -> Output:
    """Write a table for each timing run, the peers beside it, the paper's table, and the figure."""
    timed = timings.read(results)
    warnings = [*results.warnings, *timed.warnings]
    runs, trained = timed.networks, _cells(timed.cells)
    if not runs and not trained.rows:
        where = ", ".join(map(str, results.stores)) or "no store"
        text = f"{TITLE}: no data in {where}; make some with: saibench time"
        return Output(_NAME, TITLE, text=text, warnings=warnings)
    files: list[Path] = []
    tables: list[Table] = []
    for path, run in runs:
        for table, kind in ((_table(run), ""), (_peers(run), "-peers")):
            if table.rows:
                files += table.write(out, f"{_NAME}-{path.stem}{kind}")
                tables.append(table)
    if trained.rows:
        files += trained.write(out, f"{_NAME}-cells")
        tables.append(trained)
    printed = _paper_table()
    files += printed.write(out, f"{_NAME}-paper")
    with figure_style():
        files += save(_figure([run for _, run in runs]), out, _NAME)
    tables.append(printed)
    text = "\n".join(table.markdown() for table in tables)
    return Output(_NAME, TITLE, files, text, warnings, tables)


def _rows(run: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for row in run["backbone"]:
        name = f"{row['backbone']}{', deformable' if row['deformable'] else ''}"
        gamma = row.get("gamma")
        rows.append(
            {
                "network": name if row["density"] is not None else f"{name}, dense",
                "deformable": row["deformable"],
                "gamma": "" if gamma is None else f"{gamma:g}",
                "density": row["density"],
                "seconds": row["seconds"],
                "seconds_dense": timings.paired_dense(row)[0] if row.get("speedup") else None,
                "spread": row["seconds_iqr"],
                "gmacs": row["gmacs"],
                "theoretical": row.get("speedup_theoretical"),
                "real": row.get("speedup"),
                "share": row.get("share"),
            }
        )
    return rows


def _where(run: dict[str, Any]) -> str:
    machine, settings = run["machine"], run["settings"]
    cpu = f"{machine['cpu']} ({machine['instruction_set']})"
    return f"{settings['height']}×{settings['width']}, {cpu}, {machine['threads']} threads"


def _table(run: dict[str, Any]) -> Table:
    machine, settings = run["machine"], run["settings"]
    even = [
        f"{'with' if row['deformable'] else 'without'} deformable convolution "
        + (f"up to density {row['density']:.2f}" if row["density"] is not None else "at none of the densities timed")
        for row in run["break_even"]
    ]
    dirty = " with uncommitted changes" if machine.get("git_dirty") else ""
    notes = [
        "Medians over rounds; in each round the dense run goes before the sparse one, and the real speed-up is the "
        "ratio of the two medians. Older records have the median of the ratios within a round, which gives the dense "
        "seconds. Random masks of the density in every layer, mask convolutions included.",
        f"Sparse is faster than dense {'; '.join(even)}.",
        f"Provenance: Saibench {machine['saibench']}, commit {str(machine['git_sha'])[:10]}{dirty}; torch "
        f"{machine['torch']}; {machine['instruction_set']}; {settings['rounds']} rounds; {machine['finished']}.",
    ]
    return Table(f"Table 5: {_where(run)}, measured here", _SHOWN, _rows(run), notes)


def _peers(run: dict[str, Any]) -> Table:
    columns = [
        Column("peer", "Runtime, dense network"),
        Column("version", "Version"),
        Column("seconds", "Seconds", number(3), True),
        Column("seconds_dense", "Our dense run beside it (s)", number(3), True),
        Column("seconds_iqr", "IQR (s)", number(3), True),
        Column("engine_dense_speedup", "Our dense run is faster by", number(2), True),
        Column("skipped", "Not run because"),
    ]
    return Table(f"Table 5: other runtimes, {_where(run)}, measured in the same rounds", columns, run["peers"])


def _cells(timed: dict[str, dict[str, Any]]) -> Table:
    """Return the trained cells that were timed: their own masks on validation images."""
    rows, machines = [], set()
    for name, run in timed.items():
        cell, machine = run["cell"], run["machine"]
        method = str(cell.get("method", ""))
        alike = [other["cell"] for other in timed.values() if other["cell"].get("method") == method]
        mean = pd.DataFrame(cell["images"]).mean(numeric_only=True)
        rows.append(
            {
                "cell_id": name,
                "task": cell.get("task", ""),
                "method": " ".join([method, *_setting(cell, alike)]),
                "seed": cell.get("seed", ""),
                "score": cell.get("score"),
                "density": mean["density"],
                "milliseconds": 1000 * mean["seconds"],
                "dense": 1000 * mean["seconds_dense"] if "seconds_dense" in mean else None,
                "theoretical": cell.get("speedup_measured_macs"),
                "real": cell.get("speedup"),
                "share": cell.get("share"),
            }
        )
        machines.add(", ".join(str(machine[key]) for key in ("cpu", "threads", "instruction_set") if key in machine))
    columns = [
        Column("cell_id", "Cell"),
        Column("task", "Task"),
        Column("method", "Method"),
        Column("seed", "Seed", right=True),
        Column("score", "Score", number(3), True),
        Column("density", "Density", number(3), True),
        Column("milliseconds", "Backbone (ms)", number(2), True),
        Column("dense", "Without masks (ms)", number(2), True),
        Column("theoretical", "Ratio of measured GMACs", number(2), True),
        Column("real", "Real speed-up", number(2), True),
        Column("share", "Share realised", number(2), True),
    ]
    notes = [
        "Trained masks on validation images: medians over rounds, means over images. Score: the task's main metric.",
        f"Machines (threads, instruction set): {'; '.join(sorted(machines))}.",
    ]
    return Table("Table 5: trained cells, measured here", columns, rows, notes)


def _setting(cell: dict[str, Any], alike: list[dict[str, Any]]) -> list[str]:
    """Return a cell's parameters that not all timed cells of its method have alike."""
    given = [each.get("parameters") or {} for each in alike]
    return [
        f"{key}={value}"
        for key, value in (cell.get("parameters") or {}).items()
        if value is not None and any(other.get(key) != value for other in given)
    ]


def _paper_table() -> Table:
    rows = []
    for _, line in published.load("table5").iterrows():
        row = {str(name): value for name, value in line.items()}
        row["gamma"] = f"{float(line['value']):g}" if line["value"] else "dense"
        row["share"] = line["real_speedup"] / line["theoretical_speedup"]
        rows.append(row)
    columns = [
        Column("machine", "Machine"),
        Column("gamma", "γ"),
        Column("gflops", "GFLOPs (MACs)", number(1), True),
        Column("seconds", "Seconds", number(1), True),
        Column("theoretical_speedup", "Theoretical speed-up", number(2), True),
        Column("real_speedup", "Real speed-up", number(2), True),
        Column("share", "Share realised", number(2), True),
        Column("source", "Source"),
    ]
    return Table("Table 5 as the paper prints it: ResNet-101, 1000 pixels, not measured here", columns, rows)


def _figure(runs: list[dict[str, Any]]) -> Figure:
    """Draw real against theoretical speed-up, with the diagonal that would be all of it."""
    handles = []
    most = 1.0
    lines: list[tuple[str, pd.DataFrame, dict[str, Any]]] = []
    for run in runs:
        frame = pd.DataFrame(_rows(run)).dropna(subset=["real"])
        for deformable, rows in frame.groupby("deformable"):
            name = f"{run['settings']['backbone']}{', deformable' if deformable else ''}, {_where(run)}"
            lines.append((name, rows, line_style(len(lines))))
    printed = published.load("table5").dropna(subset=["real_speedup"])
    printed = printed.rename(columns={"real_speedup": "real", "theoretical_speedup": "theoretical"})
    for machine, rows in printed.groupby("machine", sort=False):
        style = line_style(len(lines)) | {"markerfacecolor": "white", "linestyle": ":"}
        style["markeredgecolor"] = style["color"]
        lines.append((f"paper, {machine}", rows, style))
    figure = new_figure(3.6 + legend_height(len(lines), 1), 5.6)
    axes = place(figure, 0.6, 0.25, 4.7, 2.6)
    for name, rows, style in lines:
        rows = rows.sort_values("theoretical")
        axes.plot(rows["theoretical"], rows["real"], **style)
        handles.append(entry(name, style))
        most = max(most, float(rows["theoretical"].max()), float(rows["real"].max()))
    axes.plot([0.9, most * 1.05], [0.9, most * 1.05], **REFERENCE_LINE)
    axes.set_xlabel("Theoretical speed-up (ratio of GMACs, paper's convention)")
    axes.set_ylabel("Real speed-up")
    legend_below(figure, 0.6, 3.35, handles, 1)
    return figure
