"""Tables of one method under different settings, beside the paper's: Tables 1 to 3, and the placements of Figure 3.

A row is a value of one parameter; all others are as on the method's usual line. Scores of different images and networks
are not comparable: what is compared with the paper is what a row gains or loses against the table's reference row, and
its computation over that row's. What was not run says which command runs it, what failed says why; so a table is
complete from an empty store on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.stats import Measured, NoOverlap, Run, estimate, measure, task_metrics
from reports import published
from reports.base import Output, Results, provenance_line
from reports.comparison import run_of
from reports.curves import COST, Panel, Series, panels, stems
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
    write_head,
)
from reports.tables import Column, Table
from reports.values import decimals, is_missing, number, plain, shorten

__all__ = ["Ablation", "Found", "build", "find", "line_of_row"]

#: Place on the curve at which the paper ablates: γ = 0.1, its third.
POINT = 2
NOT_RUN = "not run"


@dataclass(frozen=True)
class Ablation:
    """What a table shows.

    Attributes
    ----------
    name, title
        The report's.
    task, method
        Whose cells.
    parameter
        The parameter that rows differ in.
    rows
        Label and value of each row; a callable value is given the usual one, such as ``lambda usual: usual + 2``.
    reference
        Label of the row that computation is compared with.
    printed
        File of the paper's numbers; "" where it prints none.
    printed_values
        The paper's value of each row, by label, where it is not ours.
    equal
        Whether the trade-off parameter of a row is the one whose accuracy is nearest to the reference's; else all rows
        have the reference's.
    extra
        More columns: from a row's cells to values by key.
    columns
        How those are shown.
    notes
        Lines under the table.
    """

    name: str
    title: str
    task: str
    method: str
    parameter: str
    rows: Sequence[tuple[str, Any]]
    reference: str
    printed: str = ""
    printed_values: Mapping[str, str] = field(default_factory=dict)
    equal: bool = False
    extra: Callable[[pd.DataFrame], dict[str, Any]] | None = None
    columns: Sequence[Column] = ()
    notes: Sequence[str] = ()

    @property
    def command(self) -> str:
        """What runs the cells."""
        return f"saibench sweep {self.task} --cells {self.name}"


@dataclass(frozen=True)
class Found:
    """A row's cells: finished ones of one point, or those that failed; none where it was not run."""

    label: str
    value: Any
    cells: pd.DataFrame

    @property
    def finished(self) -> pd.DataFrame:
        """The cells with a result."""
        return self.cells[self.cells["status"] == "finished"] if len(self.cells) else self.cells

    def runs(self, score: str) -> list[Run]:
        """Return the finished cells, for `benchmark.stats`."""
        return [run_of(cell, score) for _, cell in self.finished.iterrows()]


def build(what: Ablation, results: Results, out: Path) -> Output:
    """Write a table for each panel in which it was run, and a figure where rows can be compared.

    Where it was run nowhere, the tables of all panels say what to run; from no records, one does.
    """
    found = panels(results, what.task)
    found = [panel for panel in found if _was_run(what, panel)] or found
    files: list[Path] = []
    tables: list[Table] = []
    names = stems(what.name, found) if found else [f"{what.name}-{what.task}"]
    shown: list[Panel | None] = [*found] or [None]
    for panel, stem in zip(shown, names, strict=True):
        tables.append(_table(what, panel))
        files += tables[-1].write(out, stem)
        if what.printed and panel is not None and any(row["against"] is not None for row in tables[-1].rows):
            files += _draw(what, tables[-1], panel, out, stem)
    text = "\n".join(table.markdown() for table in tables)
    return Output(what.name, what.title, files, text, list(results.warnings), tables)


# ----------------------------------------------------------------------------------------------------------- cells


def _was_run(what: Ablation, panel: Panel) -> bool:
    """Whether a panel has cells of any row but the reference, whose cells belong to other figures, too."""
    return any(len(row.cells) for row in find(what, panel) if row.label != what.reference)


def find(what: Ablation, panel: Panel | None) -> list[Found]:
    """Return each row's cells."""
    empty = pd.DataFrame({"status": []})
    if panel is None:
        return [Found(label, None, empty) for label, _ in what.rows]
    mine = panel.cells[panel.cells["method"] == what.method]
    key, trade = f"p_{what.parameter}", _trade_off(what, panel)
    usual = _usual(mine, trade)
    if key not in mine or mine.empty:
        return [Found(label, None, empty) for label, _ in what.rows]
    same = mine
    for name, value in usual.items():
        if name not in (key, trade):
            same = same[same[name].map(plain) == value]
    rows = []
    for label, value in what.rows:
        wanted = value(_number_or_text(usual[key])) if callable(value) else value
        rows.append(Found(label, wanted, same[same[key].map(plain) == plain(wanted)]))
    return _at_one_point(what, rows, panel.score, trade)


def line_of_row(panel: Panel, row: Found) -> Series | None:
    """Return the line that a row's finished cells belong to, with all its points; None where there is none."""
    ids = set(row.finished["cell_id"]) if len(row.finished) else set()
    return next((line for line in panel.series if ids & set(line.points["ids"].explode())), None)


def _trade_off(what: Ablation, panel: Panel) -> str | None:
    """Return the column of a method's trade-off parameter: any but the one that is ablated."""
    names = (line.parameter for line in panel.series if line.method == what.method)
    name = next((name for name in names if name and name != what.parameter), None)
    return None if name is None else f"p_{name}"


def _usual(cells: pd.DataFrame, trade: str | None) -> dict[str, str]:
    """Return each parameter's commonest value, as text."""
    names = [str(name) for name in cells if str(name).startswith("p_") and name != trade]
    return {name: str(cells[name].map(plain).mode().iloc[0]) for name in names if len(cells)}


def _number_or_text(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _at_one_point(what: Ablation, rows: list[Found], score: str, trade: str | None) -> list[Found]:
    """Keep each row's cells at one value of the trade-off parameter."""
    reference = next(row for row in rows if row.label == what.reference)
    if trade is None or reference.cells.empty:
        return rows
    values = sorted(reference.cells[trade].dropna().unique())
    # Where the ablation was run is where the others have cells; before that, where it would be.
    shared = [v for v in values if any((row.cells[trade] == v).any() for row in rows if row is not reference)]
    at = (shared or values)[0] if len(shared) == 1 else values[min(POINT, len(values) - 1)]
    target = reference.cells[reference.cells[trade] == at]
    if not what.equal:
        return [_where(row, trade, at) for row in rows]
    aim = target.loc[target["status"] == "finished", score].mean()
    found = []
    for row in rows:
        means = row.finished.groupby(trade)[score].mean()
        nearest = at if row is reference or means.empty or np.isnan(aim) else (means - aim).abs().idxmin()
        found.append(_where(row, trade, nearest))
    return found


def _where(row: Found, trade: str, value: Any) -> Found:
    return Found(row.label, row.value, row.cells[row.cells[trade] == value])


# ----------------------------------------------------------------------------------------------------------- table


def _table(what: Ablation, panel: Panel | None) -> Table:
    metric = panel.metric if panel else task_metrics(what.task)[0].upward
    found = find(what, panel)
    printed = _printed(what)
    trade = None if panel is None else _trade_off(what, panel)
    rows = [_row(what, row, printed.get(row.label, []), metric.column, metric.scale, trade) for row in found]
    reference = next(row for row in rows if row["label"] == what.reference)
    digits = decimals([row["gmacs"] for row in rows])
    reference_runs = next(row for row in found if row.label == what.reference).runs(metric.column)
    for row, each in zip(rows, found, strict=True):
        runs = [] if row is reference else each.runs(metric.column)
        row |= _against(runs, reference_runs, metric.scale)
        row |= _paper_against(row, reference)
        for key, base in (("gmacs", "gmacs"), ("paper_gflops", "paper_gflops")):
            there = not is_missing(row[key]) and not is_missing(reference[base])
            row[f"{key}_of_reference"] = row[key] / reference[base] if there else None
        row |= _texts(row, digits)
    columns = [
        Column("label", "Setting"),
        Column("trade_off", "γ", right=True),
        Column("seeds", "Seeds", right=True),
        Column("_score", f"{metric.title}, 95 %", right=True),
        Column("_paper", "Paper", right=True),
        Column("_against", f"against {what.reference}, 95 %", right=True),
        Column("_paper_against", "Paper, against it", right=True),
        Column("_difference", "Difference", right=True),
        Column("_gmacs", "GMACs", right=True),
        Column("_share", f"of {what.reference}", right=True),
        Column("_paper_gflops", "Paper GFLOPs", right=True),
        Column("_paper_share", f"of {what.reference}", right=True),
        *what.columns,
        Column("status", "Status"),
    ]
    if not printed:
        columns = [column for column in columns if "aper" not in column.key and column.key != "_difference"]
    notes = [
        f"Difference: what ours gains against {what.reference}, in points, minus what the paper's does; the scores "
        "themselves are of different images and networks. 95 %: interval over images and seeds, where the records keep "
        "them. GMACs: measured, the backbone's, mean per image; the paper's GFLOPs are GMACs by its convention.",
        *what.notes,
    ]
    heading = f"{what.title}; {panel.data()}" if panel else f"{what.title}; nothing run yet"
    if panel is not None:
        cells = pd.concat([row.cells for row in found if len(row.cells)] or [panel.cells])
        notes.append(f"Provenance: {provenance_line(cells)}.")
    return Table(heading, columns, rows, notes)


def _printed(what: Ablation) -> dict[str, list[Mapping[str, Any]]]:
    """Return the paper's lines by row; the paper contradicts itself in places, so there may be several."""
    if not what.printed:
        return {}
    lines: list[Mapping[str, Any]] = [dict(line) for _, line in published.load(what.printed).iterrows()]
    return {
        label: [line for line in lines if line["value"] == what.printed_values.get(label, plain(value))]
        for label, value in what.rows
    }


def _row(
    what: Ablation, found: Found, printed: Sequence[Mapping[str, Any]], score: str, scale: float, trade: str | None
) -> dict[str, Any]:
    runs = found.runs(score) if len(found.finished) else []
    runs = [run for run in runs if not np.isnan(run.score)]
    mean, low, high = estimate(runs) if runs else (None, None, None)
    row: dict[str, Any] = {
        "label": found.label,
        what.parameter: found.value,
        "trade_off": found.finished[trade].iloc[0] if runs and trade else None,
        "seeds": len(runs),
        "score": None if mean is None else mean * scale,
        "score_low": None if low is None else low * scale,
        "score_high": None if high is None else high * scale,
        "gmacs": float(found.finished[COST].mean()) if runs else None,
        "paper_score": printed[0]["score"] if printed else None,
        "paper_gflops": printed[0]["gflops"] if printed else None,
        "paper_source": "; ".join(line["source"] for line in printed),
        "_lines": printed,
    }
    there = row["score"] is not None and row["paper_score"] is not None
    row["difference"] = row["score"] - row["paper_score"] if there else None
    row["status"] = _status(what, found, bool(runs))
    if what.extra is not None:
        row |= what.extra(found.cells)
    return row


def _gap(cost_a: np.ndarray, score_a: np.ndarray, cost_b: np.ndarray, score_b: np.ndarray) -> np.ndarray:
    del cost_a, cost_b
    return score_a[0] - score_b[0]


def _against(runs: Sequence[Run], reference: Sequence[Run], scale: float) -> dict[str, float | None]:
    """Return what a row gains against the reference row, paired over seeds and images, in points."""
    found: Measured | None = None
    sides = [[replace(run, point="") for run in each if not np.isnan(run.score)] for each in (runs, reference)]
    if all(sides):
        with contextlib.suppress(NoOverlap):
            found = measure(sides[0], sides[1], _gap)
    values = (None, None, None) if found is None else (found.value, found.low, found.high)
    return {
        name: None if value is None else value * scale
        for name, value in zip(("against", "against_low", "against_high"), values, strict=True)
    }


def _paper_against(row: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, float | None]:
    """Return what the paper's row gains against its reference row, and how far ours is from that."""
    there = row is not reference and not is_missing(row["paper_score"]) and not is_missing(reference["paper_score"])
    theirs = row["paper_score"] - reference["paper_score"] if there else None
    ours = row["against"]
    return {
        "paper_against": theirs,
        "against_difference": None if theirs is None or ours is None else ours - theirs,
    }


def _status(what: Ablation, found: Found, finished: bool) -> str:
    failures = [str(error) for error in found.cells["error"].dropna()] if "error" in found.cells else []
    if finished:
        return "finished" if not failures else f"finished; other seeds failed: {failures[0]}"
    return f"failed: {failures[0]}" if failures else f"{NOT_RUN}: {what.command}"


def _texts(row: Mapping[str, Any], digits: int) -> dict[str, str]:
    """Return what the columns show; a number that is not there says why."""
    missing = NOT_RUN if str(row["status"]).startswith(NOT_RUN) else "failed"
    tenth, hundredth, share = number(1), number(2), number(2)
    score = missing if row["score"] is None else hundredth(row["score"])
    if row["score_low"] is not None:
        score += f" [{hundredth(row['score_low'])}, {hundredth(row['score_high'])}]"
    lines = row["_lines"]
    return {
        "_score": score,
        "_paper": " or ".join(tenth(line["score"]) for line in lines) or "not stated",
        "_against": _signed(row, "against"),
        "_paper_against": "–" if row["paper_against"] is None else f"{row['paper_against']:+.1f}",
        "_difference": "–" if row["against_difference"] is None else f"{row['against_difference']:+.2f}",
        "_gmacs": missing if row["gmacs"] is None else number(digits)(row["gmacs"]),
        "_share": "–" if row["gmacs_of_reference"] is None else share(row["gmacs_of_reference"]),
        "_paper_gflops": " or ".join(tenth(line["gflops"]) for line in lines) or "not stated",
        "_paper_share": "–" if row["paper_gflops_of_reference"] is None else share(row["paper_gflops_of_reference"]),
    }


def _signed(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return "–"
    bounds = "" if row[f"{name}_low"] is None else f" [{row[f'{name}_low']:+.2f}, {row[f'{name}_high']:+.2f}]"
    return f"{row[name]:+.2f}{bounds}"


# --------------------------------------------------------------------------------------------------------- figure


def _draw(what: Ablation, table: Table, panel: Panel, out: Path, stem: str) -> list[Path]:
    """Draw accuracy and computation against the reference row: ours filled, the paper's hollow."""
    height = 2.4
    with figure_style():
        figure = new_figure(height + 1.15 + legend_height(2 * len(table.rows), 2))
        axes = place(figure, 0.65, 0.5, 6.35, height)
        line = f"{panel.data(36)}; hollow: as printed for the paper's data and network"
        write_head(axes, shorten(what.title, 80), [line])
        axes.axhline(0, **REFERENCE_LINE)
        axes.set_xlabel(f"Computation over that of {what.reference}")
        axes.set_ylabel(f"{panel.metric.label} against {what.reference} (points)")
        entries = []
        for index, row in enumerate(table.rows):
            style = line_style(index) | {"linestyle": "none"}
            hollow = style | {"markerfacecolor": "white", "markeredgecolor": style["color"], "markeredgewidth": 1.0}
            gained = 0.0 if row["label"] == what.reference else row["against"]
            if gained is not None and row["gmacs_of_reference"] is not None:
                axes.plot(row["gmacs_of_reference"], gained, zorder=4, **style)
                if row["against_low"] is not None:
                    bar = [row["against_low"], row["against_high"]]
                    axes.plot([row["gmacs_of_reference"]] * 2, bar, color=style["color"], linewidth=0.8)
                entries.append(entry(row["label"], style))
            else:
                entries.append(entry(f"{row['label']}: {str(row['status']).partition(':')[0]}", style))
            _draw_printed(axes, row, table.rows, what.reference, hollow)
            entries.append(entry(f"{row['label']}, paper", hollow))
        axes.margins(0.08)
        legend_below(figure, 0.2, height + 1.0, entries, 2)
        return save(figure, out, stem)


def _draw_printed(
    axes: Any, row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str, style: dict[str, Any]
) -> None:
    """Draw each of the paper's lines of a row against its reference row."""
    base = next(each for each in rows if each["label"] == name)["_lines"][0]
    for line in row["_lines"]:
        if not is_missing(line["gflops"]):
            axes.plot(line["gflops"] / base["gflops"], line["score"] - base["score"], zorder=3, **style)
