"""What the records say, in tables and sentences that are computed: the blocks of ``docs/results.md``.

Each function returns Markdown. What a sentence claims follows from the statistics of `benchmark.stats`; nothing here
names a result.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.errors import DataError
from benchmark.stats import (
    Agreement,
    Measured,
    NoOverlap,
    Run,
    Statistic,
    compare,
    estimate,
    find_metric,
    mean_gaps,
    measure,
    order_agreement,
    rank_agreement,
    read_curves,
    verdict,
)
from reports import published
from reports.base import Results
from reports.claims import check
from reports.comparison import run_of, runs_of
from reports.curves import COST, Panel, Series, describe, panels
from reports.evidence import SEEDS, STATUSES, score_gap
from reports.values import is_missing, least_to_most

__all__ = ["claims", "falls", "limits", "ranks", "real", "reported", "winners"]

#: Shares of the dense computation at which methods are held against each other.
SHARES = (0.9, 0.7, 0.5, 0.35)
#: Whose gap is what the orders are made of: the paper's own method.
_CENTRE = "stochastic"
_REPORTED = Path(__file__).resolve().parents[1] / "results" / "reported" / "real.csv"
_COLUMNS = ["task", "dataset", "metric", "value", "model", "source", "note"]

# --------------------------------------------------------------------------------------------------------- claims


def claims(results: Results) -> str:
    """Return each claim of the paper with its status, its numbers, and what would settle it."""
    rows = [checked.row() for checked in check(results)]
    counts = Counter(row["status"] for row in rows)
    said = ", ".join(f"{counts[status]} {status}" for status in STATUSES)
    lines = [f"Of the paper's {len(rows)} claims: {said}.", ""]
    for status in STATUSES:
        for row in rows:
            if row["status"] == status:
                lines += [*_claim(row), ""]
    return "\n".join(lines).rstrip("\n")


def _claim(row: dict[str, Any]) -> list[str]:
    seeds = f", {_seeds(row['seeds'])}" if row["seeds"] else ""
    lines = [
        f"- **{row['claim']}. {row['text']}** *{row['status'].capitalize()}* ({row['where']}{seeds}).",
        f"  - The paper: {row['paper']}.",
        f"  - Ours: {row['ours']}.",
    ]
    lines += [f"  - Also {line}." for line in row["others"]]
    return [*lines, f"  - To settle it: {_code(row['settle'])}."] if row["settle"] else lines


def _code(settle: str) -> str:
    """Set commands in type: from "saibench" to the end of its options."""
    return re.sub(r"saibench( -{0,2}[\w,./=-]+)+?(?= on | for |, |; |\)|$)", r"`\g<0>`", settle)


# -------------------------------------------------------------------------------------------------------- winners


@dataclass(frozen=True)
class _Place:
    """Which method is highest at a share of the dense computation, and by how much over the next."""

    share: float
    first: Series | None
    kept: float
    second: Series | None
    gap: Measured | None


def winners(results: Results) -> str:
    """Return which method is highest at which share of the dense computation, for each task, scale and data set."""
    parts = []
    for panel in panels(results):
        if panel.reference is None or not panel.main:
            continue
        base = estimate(runs_of(panel, panel.reference))
        seeds = len(panel.reference.points["ids"].explode())
        parts += [
            f"**{_name(panel)}**; dense: {_in_unit(panel, *base)} {panel.metric.label} over {_seeds(seeds)}.",
            "",
            "| share of dense | highest | keeps (%) | next | gap (points, 95 %) | seeds | verdict |",
            "| ---: | --- | ---: | --- | ---: | ---: | --- |",
            *(_place_row(place) for place in _places(panel)),
            "",
        ]
    return "\n".join(parts).rstrip("\n") or _nothing("saibench sweep coco")


def _places(panel: Panel) -> list[_Place]:
    assert panel.reference is not None
    cost = float(panel.reference.points[COST].mean())
    base = float(panel.reference.points[panel.score].mean())
    places = []
    for share in SHARES:
        found = [(_reading(line, panel.score, share * cost), line) for line in panel.main]
        found = sorted((pair for pair in found if not np.isnan(pair[0])), key=lambda pair: -pair[0])
        if not found:
            places.append(_Place(share, None, np.nan, None, None))
            continue
        (score, first), second = found[0], found[1][1] if len(found) > 1 else None
        gap = None if second is None else _gap_at(share * cost, runs_of(panel, first), runs_of(panel, second))
        places.append(_Place(share, first, 100 * score / base, second, gap))
    return places


def _reading(line: Series, score: str, at: float) -> float:
    """Return the mean curve's accuracy at a computation; NaN beyond its points."""
    cost, value = (line.points[name].to_numpy(dtype=float)[:, None] for name in (COST, score))
    return float(read_curves(cost, value, np.array([at]))[0])


def _gap_at(at: float, a: Sequence[Run], b: Sequence[Run]) -> Measured | None:
    def statistic(cost_a: np.ndarray, score_a: np.ndarray, cost_b: np.ndarray, score_b: np.ndarray) -> np.ndarray:
        where = np.full(cost_a.shape[1], at)
        return read_curves(cost_a, score_a, where) - read_curves(cost_b, score_b, where)

    return _measured(a, b, statistic)


def _measured(a: Sequence[Run], b: Sequence[Run], statistic: Statistic) -> Measured | None:
    try:
        return measure(a, b, statistic)
    except NoOverlap:
        return None


def _place_row(place: _Place) -> str:
    if place.first is None:
        return f"| {place.share:g} | no method's curve reaches it | – | – | – | – | – |"
    kept = f"| {place.share:g} | {_cell(place.first.label)} | {place.kept:.1f}"
    if place.second is None:
        return f"{kept} | no other method's curve reaches it | – | – | – |"
    if place.gap is None:
        return f"{kept} | {_cell(place.second.label)} | – | – | no seed has both there |"
    gap = place.gap
    return f"{kept} | {_cell(place.second.label)} | {_in_points(gap)} | {len(gap.seeds)} | {_verdict(gap)} |"


def _verdict(gap: Measured) -> str:
    p, word, reason = verdict(gap)
    if p is None:
        return reason.partition(";")[0]
    return ("distinguishable" if word in ("better", "worse") else word) + f", p = {p:.3g}"


# ---------------------------------------------------------------------------------------------------------- falls


@dataclass(frozen=True)
class _Step:
    """From a point of a curve to the next one, which computes less: by how much accuracy changes."""

    label: str
    end: str
    change: Measured

    @property
    def falls(self) -> bool:
        """Whether accuracy is lower at its end, by the interval."""
        return self.change.high is not None and self.change.high < 0

    @property
    def rises(self) -> bool:
        """Whether accuracy is higher at its end, by the interval."""
        return self.change.low is not None and self.change.low > 0


def falls(results: Results) -> str:
    """Return whether accuracy falls with computation along each curve, from point to point."""
    lines = [
        "| cells | curves | steps | accuracy falls | within its interval | rises | where it rises (points, 95 %) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for panel in panels(results):
        curves = [found for line in panel.main if (found := _steps(panel, line))]
        if curves:
            lines.append(_falls_row(panel, curves))
    return "\n".join(lines) if len(lines) > 2 else _nothing("saibench sweep coco")


def _falls_row(panel: Panel, curves: Sequence[Sequence[_Step]]) -> str:
    steps = [step for found in curves for step in found]
    rising = [step for step in steps if step.rises]
    fall = sum(step.falls for step in steps)
    where = "; ".join(f"{_cell(step.label)}, to {step.end}: {_in_points(step.change)}" for step in rising) or "–"
    counts = (len(curves), len(steps), fall, len(steps) - fall - len(rising), len(rising))
    return f"| {_name(panel)} | {' | '.join(map(str, counts))} | {where} |"


def _steps(panel: Panel, line: Series) -> list[_Step]:
    """Measure each step of a curve, along its trade-off parameter and towards less computation."""
    points = line.points if line.points[COST].iloc[0] >= line.points[COST].iloc[-1] else line.points[::-1]
    settings = [describe({str(line.parameter): value}) for value in points.get(f"p_{line.parameter}", [])]
    runs: dict[str, list[Run]] = {setting: [] for setting in settings}
    for run in runs_of(panel, line) if settings else ():
        runs[run.point].append(run)
    changes = [(end, _measured(runs[end], runs[start], score_gap)) for start, end in itertools.pairwise(settings)]
    return [_Step(line.label, end, change) for end, change in changes if change is not None]


# ----------------------------------------------------------------------------------------------------------- real


def reported(path: Path = _REPORTED) -> pd.DataFrame:
    """Read what others report on the real sets.

    Raises
    ------
    DataError
        If the file is not there or has other columns.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore it from the repository") from error
    if list(frame.columns) != _COLUMNS:
        raise DataError(f"{path}: columns are {', '.join(frame.columns)}; expected {', '.join(_COLUMNS)}")
    return frame


def real(results: Results) -> str:
    """Return our dense models on the real sets, beside what is commonly reported on each."""
    lines = [
        "| data | metric | our dense network | seeds | commonly reported | by | how they differ |",
        "| --- | --- | ---: | ---: | ---: | --- | --- |",
    ]
    for _, line in reported().iterrows():
        found = [panel for panel in panels(results, line["task"]) if panel.dataset == line["dataset"]]
        found = [panel for panel in found if panel.reference is not None]
        shown = [_dense(panel, line["metric"]) for panel in found] or [_not_run(line)]
        lines += [
            f"| {line['dataset']}{where} | {line['metric']} | {value} | {seeds} | {line['value']} | "
            f"[{line['model']}]({line['source'].split(' ')[0]}) | {_cell(line['note'])} |"
            for where, value, seeds in shown
        ]
    return "\n".join(lines)


def _dense(panel: Panel, metric: str) -> tuple[str, str, str]:
    """Return scale, value with interval or spread, and seeds of a panel's dense network in one of its metrics."""
    assert panel.reference is not None
    cells = panel.cells[panel.cells["cell_id"].isin(panel.reference.points["ids"].explode())]
    column, scale = f"metric_{metric}", find_metric(panel.metrics, metric).scale
    if column not in cells or cells[column].isna().all():
        return f", scale {panel.scale}", "not in the records", "0"
    if column == panel.score:
        mean, low, high = estimate([run_of(cell, column) for _, cell in cells.iterrows()])
        return f", scale {panel.scale}", _with_bounds(100 * mean, _times(low), _times(high)), str(len(cells))
    values = cells[column].dropna() * scale
    spread = f" ± {values.std():.1f}" if len(values) > 1 else ""
    return f", scale {panel.scale}", f"{values.mean():.1f}{spread}", str(len(values))


def _not_run(line: pd.Series) -> tuple[str, str, str]:
    command = f"saibench sweep {line['task']} --data {line['dataset']} --from-scratch --methods dense --seeds 0,1,2"
    return "", f"not run: `{command}`", "0"


# ---------------------------------------------------------------------------------------------------------- ranks


def ranks(results: Results) -> str:
    """Return how far the orders of methods agree between sets of cells, and with what the paper says."""
    lines = [
        "| order | against | methods | Kendall's τ, 95 % | what it says |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    known = [(panel, _orders(panel)) for panel in panels(results)]
    known = [(panel, orders) for panel, orders in known if len(orders) > 1]
    for index, (panel, orders) in enumerate(known):
        lines.append(_paper_row(panel, orders))
        for other, theirs in known[index + 1 :]:
            if other.task == panel.task:
                shared = [name for name in orders if name in theirs]
                found = rank_agreement(_matrix(orders, shared), _matrix(theirs, shared))
                lines.append(_rank_row(_name(panel), _name(other), found, "methods"))
    if len(lines) == 2:
        return _nothing("saibench sweep coco")
    return "\n".join(lines)


def _orders(panel: Panel) -> dict[str, dict[int, float]]:
    """Return each method's mean gap to the paper's method over their common computation, by seed."""
    centre = next((line for line in panel.main if line.method == _CENTRE), None)
    if centre is None:
        return {}
    base = runs_of(panel, centre)
    orders = {_CENTRE: {run.seed: 0.0 for run in base}}
    for line in panel.main:
        if line.method not in orders:
            found = _measured(runs_of(panel, line), base, mean_gaps)
            if found is not None:
                orders[line.method] = dict(zip(found.seeds, found.by_seed, strict=True))
    return orders


def _matrix(orders: dict[str, dict[int, float]], names: Sequence[str]) -> np.ndarray:
    """Return values of methods by seed, ``(M, S)``: of the seeds that all have, or their means where none is shared."""
    seeds = set.intersection(*(set(orders[name]) for name in names)) if names else set()
    if not seeds:
        return np.array([[float(np.mean(list(orders[name].values())))] for name in names])
    return np.array([[orders[name][seed] for seed in sorted(seeds)] for name in names])


def _paper_row(panel: Panel, orders: dict[str, dict[int, float]]) -> str:
    printed = published.load("order")
    printed = printed[printed["task"] == panel.task]
    pairs = [(a, b) for a, b in zip(printed["method"], printed["worse"], strict=True) if {a, b} <= set(orders)]
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    places = [(names.index(a), names.index(b)) for a, b in pairs]
    found = order_agreement(places, _matrix(orders, names))
    return _rank_row(_name(panel), "the paper's order", found, f"pairs of {len(printed)} stated")


def _rank_row(one: str, other: str, found: Agreement, of: str) -> str:
    value = "–" if np.isnan(found.value) else _with_bounds(found.value, found.low, found.high, "+", 2)
    return f"| {one} | {other} | {found.methods} {of} | {value} | {_agreement(found)} |"


def _agreement(found: Agreement) -> str:
    if np.isnan(found.value):
        return "nothing to compare"
    if found.seeds < SEEDS:
        return f"too few seeds to tell: {found.seeds} of {SEEDS}"
    if found.low is None or found.high is None:
        return "too few methods to tell"
    if found.low > 0:
        return "the orders agree more than by chance"
    return "the orders contradict each other" if found.high < 0 else "not distinguishable from no agreement"


# --------------------------------------------------------------------------------------------------------- limits


def limits(results: Results) -> str:
    """Return how fine a difference each set of cells can show, and how little computation its curves reach."""
    lines = [
        "| cells | seeds of a method | least share of dense, sampled | gaps told apart | half an interval, median |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for panel in panels(results):
        if panel.main:
            lines.append(_limit_row(panel))
    return "\n".join(lines) if len(lines) > 2 else _nothing("saibench sweep coco")


def _limit_row(panel: Panel) -> str:
    centre = next((line for line in panel.main if line.method == _CENTRE), panel.main[0])
    seeds = [int(line.points["seeds"].max()) for line in panel.main]
    others = [line for line in panel.main if line is not centre]
    found = []
    for line in others:
        try:
            found.append(compare(runs_of(panel, line), runs_of(panel, centre), rates=False))
        except NoOverlap:
            continue
    told = sum(each.verdict in ("better", "worse") for each in found)
    halves = [50 * (each.high - each.low) for each in found if each.low is not None and each.high is not None]
    half = f"± {np.median(halves):.2f} points" if halves else "no interval"
    least = "no dense network"
    if panel.reference is not None:
        share = float(centre.points[COST].min() / panel.reference.points[COST].mean())
        least = f"{share:.2f}"
    return f"| {_name(panel)} | {least_to_most(seeds)} | {least} | {told} of {len(found)} | {half} |"


# ----------------------------------------------------------------------------------------------------------- text


def _name(panel: Panel) -> str:
    return f"{panel.task}: {_cell(panel.data())}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _seeds(count: int) -> str:
    return f"{count} seed" if count == 1 else f"{count} seeds"


def _times(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _in_unit(panel: Panel, value: float, low: float | None, high: float | None) -> str:
    """Write a panel's score, and its interval, in the metric's own unit and direction."""
    scale = panel.metric.scale
    ends = (None, None) if low is None or high is None else sorted((scale * low, scale * high))
    return _with_bounds(scale * value, *ends)


def _in_points(change: Measured) -> str:
    return _with_bounds(100 * change.value, _times(change.low), _times(change.high), "+")


def _with_bounds(value: float, low: float | None, high: float | None, sign: str = "", digits: int = 1) -> str:
    shape = f"{sign}.{digits}f"
    bounds = "" if is_missing(low) or is_missing(high) else f" [{low:{shape}}, {high:{shape}}]"
    return f"{value:{shape}}{bounds}"


def _nothing(command: str) -> str:
    return f"Not run: `{command}`."
