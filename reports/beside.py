"""The paper's points beside ours, in one row: what each loses against its own dense network.

Scores of other images and another network cannot be held against each other. What is lost against the dense network of
the same data, at an equal share of its computation, can. A curve of ours is read at the paper's share, linear over the
logarithm of computation, between measured points and never beyond them. A line of one point is shown at its own share,
and gets a difference only where that is the paper's. Nothing that the paper prints enters a statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.stats import Measured, NoOverlap, Run, Statistic, estimate, measure, read_curves
from reports.base import provenance_line
from reports.comparison import runs_of
from reports.curves import Panel, Series
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
from reports.evidence import line_of
from reports.methods import REFERENCE, Methods
from reports.tables import Column, Table
from reports.values import is_missing, number, shorten

__all__ = ["Printed", "beside", "draw", "table"]

#: Shares of the dense computation that differ by no more count as equal.
SAME_SHARE = 0.02
_SOURCES = {"P": "paper", "R": "released code"}


@dataclass(frozen=True)
class Printed:
    """A point that the paper prints.

    Attributes
    ----------
    method, setting
        Which; the setting in the paper's own values.
    share
        Its computation over the dense network's; None where the paper does not say.
    drop
        What it loses against the dense network, in points; None where the paper does not say.
    score
        Its accuracy, in per cent; None where the paper prints drops alone.
    source
        Where it stands.
    """

    method: str
    setting: str
    share: float | None
    drop: float | None
    score: float | None
    source: str

    @property
    def kept(self) -> float | None:
        """Its accuracy in per cent of the dense network's."""
        if self.score is None or self.drop is None:
            return None
        return 100 * self.score / (self.score + self.drop)


def beside(panel: Panel, printed: Sequence[Printed], known: Methods) -> list[dict[str, Any]]:
    """Return a row for each point of the paper, and one for each of our own points."""
    rows = [_printed_row(panel, point, known) for point in printed]
    lines = [*([panel.reference] if panel.reference else []), *panel.main]
    lines = [line for line in lines if line is not panel.reference or all(p.method != REFERENCE for p in printed)]
    return rows + [row for line in lines for row in _measured_rows(panel, line)]


# -------------------------------------------------------------------------------------------------------- numbers


def _share(cost_a: np.ndarray, score_a: np.ndarray, cost_b: np.ndarray, score_b: np.ndarray) -> np.ndarray:
    """Return the computation of A's single point over B's."""
    del score_a, score_b
    return cost_a[0] / cost_b[0]


def _reading(share: float | None) -> Callable[..., np.ndarray]:
    """Return what reads A's accuracy: at a share of B's computation, or its only point's."""
    if share is None:
        return lambda cost_a, score_a, cost_b, score_b: score_a[0]
    return lambda cost_a, score_a, cost_b, score_b: read_curves(cost_a, score_a, share * cost_b[0])


def _statistics(share: float | None) -> dict[str, Statistic]:
    """Return the statistics of a row: accuracy, points lost, and accuracy kept in per cent."""
    read = _reading(share)
    return {
        "score": lambda *sides: 100 * read(*sides),
        "drop": lambda *sides: 100 * (sides[3][0] - read(*sides)),
        "kept": lambda *sides: 100 * read(*sides) / np.where(sides[3][0] > 0, sides[3][0], np.nan),
    }


def _ours(runs: Sequence[Run], dense: Sequence[Run], share: float | None) -> dict[str, Any]:
    """Return our numbers with their intervals.

    Raises
    ------
    NoOverlap
        If the curve does not reach the share, or no seed is shared.
    """
    row: dict[str, Any] = {}
    found: Measured | None = None
    for name, statistic in _statistics(share).items():
        found = measure(runs, dense, statistic)
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return row | {"seeds": len(found.seeds) if found else 0}


def _printed_row(panel: Panel, point: Printed, known: Methods) -> dict[str, Any]:
    row: dict[str, Any] = {
        "method": point.method, "label": known.label(point.method), "setting": point.setting,
        "paper_share": point.share, "paper_score": point.score, "paper_drop": point.drop, "paper_kept": point.kept,
        "paper_source": point.source, "share": None, "status": "",
    }  # fmt: skip
    line, dense = line_of(panel, point.method), line_of(panel, REFERENCE)
    if line is None or dense is None:
        return row | {"status": _not_run(panel, point.method if line is None else REFERENCE)}
    runs, base = runs_of(panel, line), runs_of(panel, dense)
    try:
        if len(line.points) > 1 and point.share is not None:
            row |= _ours(runs, base, point.share) | {"share": point.share}
        elif len(line.points) > 1:
            row["status"] = "the paper does not state its computation"
        else:
            row |= _ours(runs, base, None) | {"share": measure(runs, base, _share).value}
            row["status"] = _own_share(row["share"], point.share)
    except NoOverlap as error:
        row["status"] = _out_of_reach(runs, base, point.share, error)
    if not row["status"]:
        for name in ("drop", "kept"):
            theirs = row[f"paper_{name}"]
            row[f"{name}_difference"] = None if theirs is None or point.method == REFERENCE else row[name] - theirs
    return row


def _not_run(panel: Panel, method: str) -> str:
    cells = panel.cells[panel.cells["method"] == method]
    failures = [str(error) for error in cells["error"].dropna()] if "error" in cells else []
    command = f"saibench sweep {panel.task} --scale {panel.scale} --methods {method}"
    return f"failed: {failures[0]}" if failures else f"not run: {command}"


def _own_share(ours: float, theirs: float | None) -> str:
    if theirs is None:
        return "the paper does not state its computation"
    return "" if abs(ours - theirs) <= SAME_SHARE else f"one point, at {ours:.2f} of the dense computation"


def _out_of_reach(runs: Sequence[Run], dense: Sequence[Run], share: float | None, error: NoOverlap) -> str:
    base = float(np.mean([run.cost for run in dense]))
    shares = [run.cost / base for run in runs]
    if share is None or min(shares) <= share <= max(shares):
        return str(error)
    return f"our curve covers {min(shares):.2f} to {max(shares):.2f} of the dense computation"


def _measured_rows(panel: Panel, line: Series) -> list[dict[str, Any]]:
    """Return a row for each point that was measured here."""
    dense = None if panel.reference is None else runs_of(panel, panel.reference)
    rows = []
    by_point: dict[str, list[Run]] = {}
    for run in runs_of(panel, line):
        by_point.setdefault(run.point, []).append(run)
    for setting, runs in by_point.items():
        row: dict[str, Any] = {"method": line.method, "label": line.label, "setting": setting, "paper_source": ""}
        mean, low, high = estimate(runs)
        row |= {"score": 100 * mean, "score_low": None if low is None else 100 * low}
        row |= {"score_high": None if high is None else 100 * high, "seeds": len(runs), "share": None}
        if dense is None:
            row["status"] = _not_run(panel, REFERENCE)
        else:
            try:
                row |= _ours(runs, dense, None) | {"share": measure(runs, dense, _share).value, "status": "measured"}
            except NoOverlap as error:
                row["status"] = str(error)
        rows.append(row)
    return rows


# ---------------------------------------------------------------------------------------------------------- table


def table(title: str, panel: Panel, rows: Sequence[dict[str, Any]], digits: int = 1) -> Table:
    """Return the rows as a table."""
    show = number(digits)
    for row in rows:
        row["_share"] = _shares(row)
        stands = bool(row["paper_source"])
        for name in ("score", "drop", "kept"):
            row[f"_paper_{name}"] = show(row.get(f"paper_{name}")) or ("not stated" if stands else "not printed")
            row[f"_{name}"] = _with_interval(row, name, digits)
            difference = row.get(f"{name}_difference")
            row[f"_{name}_difference"] = "–" if is_missing(difference) else f"{difference:+.{digits}f}"
        row["_source"] = row["paper_source"] or "–"
    label = panel.metric.label
    columns = [
        Column("label", "Method"),
        Column("setting", "Setting"),
        Column("_share", "Share of dense", right=True),
        Column("_paper_score", f"Paper {label}", right=True),
        Column("_score", f"Our {label}, 95 %", right=True),
        Column("_paper_drop", "Paper drop", right=True),
        Column("_drop", "Our drop, 95 %", right=True),
        Column("_drop_difference", "Difference", right=True),
        Column("_paper_kept", "Paper kept (%)", right=True),
        Column("_kept", "We keep (%), 95 %", right=True),
        Column("_kept_difference", "Difference", right=True),
        Column("seeds", "Seeds", right=True),
        Column("_source", "Source"),
        Column("status", "Status"),
    ]
    if not any(row.get("paper_score") for row in rows):
        columns = [
            column for column in columns if column.key not in ("_paper_score", "_paper_kept", "_kept_difference")
        ]
    notes = [
        "Drop: points lost against the dense network of the same data. Kept: accuracy in per cent of the dense "
        "network's. Share: computation over the dense network's. Rows with a source are at the paper's share: our "
        "curve is read there between its measured points, linear over the logarithm of computation. Scores of "
        "different images and networks are not comparable; what is lost or kept at an equal share is. 95 %: interval "
        "over images and seeds, where the records keep them. Differences: ours minus the paper's.",
        f"Provenance: {provenance_line(panel.cells)}.",
    ]
    return Table(f"{title}; {panel.data()}, beside the paper", columns, rows, notes)


def _shares(row: dict[str, Any]) -> str:
    """Return the paper's share of the dense computation, or ours; both where they differ."""
    show = number(2)
    theirs, ours = show(row.get("paper_share")), show(row.get("share"))
    if theirs and ours and theirs != ours:
        return f"{theirs}; ours {ours}"
    return theirs or (f"ours {ours}" if row["paper_source"] and ours else ours) or "not stated"


def _with_interval(row: dict[str, Any], name: str, digits: int) -> str:
    if is_missing(row.get(name)):
        return str(row["status"]).partition(":")[0] if str(row["status"]).startswith(("not run", "failed")) else "–"
    show = number(digits)
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return show(row[name]) + ("" if is_missing(low) else f" [{show(low)}, {show(high)}]")


# --------------------------------------------------------------------------------------------------------- figure


def draw(panel: Panel, rows: Sequence[dict[str, Any]], known: Methods, out: Path, stem: str, title: str) -> list[Path]:
    """Draw what is lost over the share of the dense computation: ours filled, the paper's hollow."""
    styles = _styles(panel, known)
    shown: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        printed = bool(row["paper_source"])
        at, lost = (row.get("paper_share"), row.get("paper_drop")) if printed else (row.get("share"), row.get("drop"))
        if not is_missing(at) and not is_missing(lost):
            source = _SOURCES[row["paper_source"][0]] if printed else ""
            point = {"at": at, "lost": -float(lost or 0), "low": None if printed else row.get("drop_low"), "row": row}
            shown.setdefault((row["label"], source), []).append(point)
    with figure_style():
        figure = new_figure(3.75 + legend_height(len(shown), 2))
        axes = place(figure, 0.65, 0.5, 6.35, 2.6)
        line = f"{panel.data(36)}; hollow: as printed for the paper's data and network"
        write_head(axes, title, [line])
        axes.axhline(0, **REFERENCE_LINE)
        axes.set_xlabel("Computation, share of the dense network's")
        axes.set_ylabel(f"{panel.metric.label} against dense (points)")
        entries = []
        for (label, source), points in shown.items():
            points.sort(key=lambda point: point["at"])
            method = points[0]["row"]["method"]
            style = dict(styles.get(method if source else label) or line_style(known.place(method)))
            if source:
                style |= {"markerfacecolor": "white", "markeredgecolor": style["color"], "markeredgewidth": 1.0}
                style |= {"linestyle": (0, (1, 1.2)) if source == "paper" else (0, (5, 2))}
            axes.plot([p["at"] for p in points], [p["lost"] for p in points], zorder=3, **style)
            _bars(axes, points, style)
            entries.append(entry(f"{shorten(label, 34)}{f', {source}' if source else ''}", style))
        axes.margins(y=0.08)
        legend_below(figure, 0.2, 3.65, entries, 2)
        return save(figure, out, stem)


def _bars(axes: Any, points: Sequence[dict[str, Any]], style: dict[str, Any]) -> None:
    for point in points:
        if not is_missing(point["low"]):
            low, high = point["row"]["drop_low"], point["row"]["drop_high"]
            axes.plot([point["at"]] * 2, [-low, -high], color=style["color"], linewidth=0.8, zorder=2)


def _styles(panel: Panel, known: Methods) -> dict[str, dict[str, Any]]:
    """Return how a line looks by its label, and by its method's name for the paper's."""
    reference = {"color": "black", "marker": "*", "markersize": 9, "linestyle": "none"}
    styles: dict[str, dict[str, Any]] = {REFERENCE: reference}
    methods = [line.method for line in panel.main]
    for index, line in enumerate(panel.main):
        styles[line.label] = line_style(known.place(line.method), methods[:index].count(line.method))
    for name in known.order:
        styles.setdefault(name, line_style(known.place(name)))
    if panel.reference is not None:
        styles[panel.reference.label] = reference
    return styles
