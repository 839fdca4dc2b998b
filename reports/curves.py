"""From cells to curves: which cells belong together, which parameter a curve runs along, what is on the front.

It draws nothing. A panel is all cells of one task, scale and data set; a series is one line in it.
"""

from __future__ import annotations

import json
import numbers
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark.stats import Metric, find_metric, over_seeds, pareto_front, task_metrics
from benchmark.store import is_rendered
from reports.base import Results
from reports.methods import REFERENCE, Methods
from reports.values import is_missing, plain, shorten, slug

__all__ = ["COST", "SYMBOLS", "Panel", "Series", "describe", "panels", "stems"]

#: The cost that curves are drawn over: exact, mean per image.
COST = "gmacs_measured_mean"

#: Symbols of parameters that have one.
SYMBOLS: Mapping[str, str] = {"gamma": "γ"}


@dataclass(frozen=True)
class Series:
    """One line: the cells of a method that differ in one parameter and in their seeds.

    Attributes
    ----------
    method, label
        The record's name, and what the line is called: with the settings that tell it from the method's other
        lines.
    usual
        Whether the line has the method's commonest settings, so that its label is the method's own.
    variant
        Whether it differs from the usual line in a parameter that is no trade-off: an ablation, for which there are
        tables of their own.
    parameter
        The trade-off parameter, which the points are sorted by; None for a single point.
    points
        `benchmark.stats.over_seeds` of the cells: cost and score with spread, ``seeds``, the parameters,
        ``front``.
    """

    method: str
    label: str
    usual: bool
    variant: bool
    parameter: str | None
    points: pd.DataFrame


@dataclass(frozen=True)
class Panel:
    """All cells of one task, scale and data set.

    Attributes
    ----------
    task, scale, dataset, fingerprint
        What the cells share.
    changes
        Changes to the recipe that all cells share, as they are typed: ``from_scratch=true``; "" for none.
    metric
        The task's main metric.
    metrics
        The task's metrics that the cells have, the main one first. Others, such as each class's, are in `cells` only.
    cells
        One row a cell, all statuses, sorted like the series; with ``label``, ``setting`` and ``front``.
    series
        The lines; the reference is not among them.
    reference
        The dense network, a single point; None if there is none.
    warnings
        Cells that were left out, and why.
    """

    task: str
    scale: str
    dataset: str
    fingerprint: str
    changes: str
    metric: Metric
    metrics: Sequence[Metric]
    cells: pd.DataFrame
    series: Sequence[Series]
    reference: Series | None
    warnings: Sequence[str]

    def data(self, length: int | None = None) -> str:
        """Say in a heading what the cells share: ``bccd-coco, scale mini, from_scratch=true``.

        Parameters
        ----------
        length
            Where there is little room, the most characters of each of the names.
        """
        names = [self.dataset, f"scale {self.scale}", *([self.changes] if self.changes else [])]
        return ", ".join(names if length is None else [shorten(name, length) for name in names])

    @property
    def embedded(self) -> bool:
        """Whether the data set is the one that is rendered for the scale, and not one that was given."""
        return is_rendered(self.dataset, self.task, self.scale)

    @property
    def score(self) -> str:
        """The column of the main metric, the higher the better."""
        return self.metric.column

    @property
    def main(self) -> Sequence[Series]:
        """The lines that methods are compared by: all but variants of methods that have a usual line."""
        usual = {line.method for line in self.series if not line.variant}
        return [line for line in self.series if not line.variant or line.method not in usual]

    @property
    def unfinished(self) -> pd.DataFrame:
        """The cells that failed or diverged."""
        return self.cells[self.cells["status"] != "finished"]

    def failures(self) -> list[str]:
        """Return one line a cell that failed or diverged: what it was and why."""
        return [
            f"{str(cell['status']).capitalize()}: {cell['label']}, "
            f"{', '.join(filter(None, [cell['setting'], 'seed ' + plain(cell['seed'])]))} "
            f"({cell['cell_id']}): {cell['error']}"
            for _, cell in self.unfinished.iterrows()
        ]


def panels(results: Results, task: str | None = None) -> list[Panel]:
    """Return the panels of a task, or of all."""
    known = results.once("panels", lambda: _panels(results))
    return [panel for panel in known if task in (None, panel.task)]


def _panels(results: Results) -> list[Panel]:
    groups = results.cells().groupby(["task", "scale", "dataset_fingerprint"], sort=True, dropna=False)
    return [_panel(group.reset_index(drop=True), results.methods) for _, group in groups]


def stems(report: str, found: Sequence[Panel]) -> list[str]:
    """Name a report's files by panel; data sets of one name are told apart by their fingerprints."""
    names = []
    for panel in found:
        start = f"{slug(panel.task)}-{slug(panel.scale)}"
        data = slug(panel.dataset).removeprefix(start).strip("-")  # the embedded sets' names begin so already
        names.append("-".join(filter(None, [report, start, data])))
    count = Counter(names)
    return [
        f"{name}-{slug(panel.fingerprint)[:8]}" if count[name] > 1 else name
        for name, panel in zip(names, found, strict=True)
    ]


def describe(setting: Mapping[str, Any]) -> str:
    """Return settings as text: ``γ = 0.05, window = 5``; a word alone speaks for itself."""
    return ", ".join(
        _changes(value)
        if name == "overrides"
        else value
        if isinstance(value, str)
        else f"{SYMBOLS.get(name, name.replace('_', ' '))} = {plain(value)}"
        for name, value in setting.items()
    )


def _changes(overrides: str) -> str:
    """Return changes to a recipe, which a record holds as JSON, as they are typed."""
    try:
        values = json.loads(overrides)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        return overrides  # older records have them as they were typed
    return " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()
    )


def _panel(cells: pd.DataFrame, known: Methods) -> Panel:
    foreign = [name for name in (*_settings(cells), *_columns(cells, "metric_")) if cells[name].isna().all()]
    cells = cells.drop(columns=foreign)  # other tasks' and methods'
    first = cells.iloc[0]
    there = [name.removeprefix("metric_") for name in _columns(cells, "metric_") if cells[name].notna().any()]
    described = _described(first["task"], cells)
    metrics = [metric for metric in described if metric.name in there] or [find_metric((), name) for name in there]
    metric = next(iter([*metrics, *described, find_metric((), "score")]))
    warnings: list[str] = []
    cells = _latest(cells, warnings)
    cells = cells.assign(**{name: pd.to_numeric(cells[name], errors="coerce") for name in _numeric(cells)})
    if f"metric_{metric.name}" not in cells:
        cells[f"metric_{metric.name}"] = float("nan")
    # All that compares, ranks and draws reads this column, in which the higher is the better, by `Panel.score`.
    natural, metric = cells[f"metric_{metric.name}"], metric.upward
    score = metric.column
    cells[score] = natural if score == natural.name else -natural
    usable = cells["status"].eq("finished") & cells[COST].notna() & cells[score].notna()
    for _, cell in cells[cells["status"].eq("finished") & ~usable].iterrows():
        warnings.append(f"{cell['folder']}: has no {metric.name} or no {COST}; the figure leaves it out")

    changes = _shared_changes(cells)
    methods = [(str(method), group) for method, group in cells.groupby("method")]
    split = [pair for method, group in methods for pair in _split(known, method, group, usable, score, changes)]
    split.sort(key=lambda pair: (known.rank(pair[0].method), pair[0].label))
    lines = [line for line, _ in split if len(line.points)]
    points = pd.concat([line.points for line in lines]) if lines else pd.DataFrame(columns=[COST, score])
    front = pareto_front(points[COST], points[score])
    start = 0
    for line in lines:
        line.points["front"] = front[start : start + len(line.points)]
        start += len(line.points)

    best = pd.concat([line.points for line in lines]) if lines else pd.DataFrame({"front": [], "ids": []})
    on_front = best.loc[best["front"].astype(bool), "ids"].explode()
    merged = pd.concat([rows for _, rows in split], ignore_index=True)
    merged["front"] = merged["cell_id"].isin(on_front)
    reference = next((line for line in lines if line.method == REFERENCE), None)
    return Panel(
        first["task"],
        first["scale"],
        str(first["dataset"]),
        str(first["dataset_fingerprint"]),
        _changes(changes) if changes else "",
        metric,
        metrics,
        merged,
        [line for line in lines if line is not reference],
        reference,
        warnings,
    )


def _described(task: str, cells: pd.DataFrame) -> list[Metric]:
    """Return a task's metrics, as its newest record has them that says what they are."""
    said = cells.sort_values("finished").get("metrics", pd.Series(dtype=object)).dropna().tolist()
    return task_metrics(task, said[-1] if said else None)


def _columns(cells: pd.DataFrame, prefix: str) -> list[str]:
    return [str(name) for name in cells.columns if str(name).startswith(prefix)]


def _numeric(cells: pd.DataFrame) -> list[str]:
    names = [COST, "gmacs_measured_std", "gmacs_paper", "density_mean", "seconds_train", "seconds_eval"]
    return [*names, *_columns(cells, "metric_")]


def _settings(cells: pd.DataFrame) -> list[str]:
    """Name what a user chose for a cell: the method's parameters, and changes to the recipe."""
    return [*_columns(cells, "p_"), *_columns(cells, "overrides")]


def _varying(cells: pd.DataFrame) -> list[str]:
    """Tell which settings of a method's cells have more than one value."""
    return [name for name in _settings(cells) if cells[name].map(plain).nunique() > 1]


def _latest(cells: pd.DataFrame, warnings: list[str]) -> pd.DataFrame:
    """Leave out cells that a newer finished one stands for: results of two versions of a recipe are not one mean."""
    names = ["method", "seed", *_settings(cells)]
    keys = cells[names].map(plain).agg("\0".join, axis=1)
    kept: list[Any] = []
    told = cells[["status", "folder"]].assign(_when=cells["finished"].map(plain))
    for _, group in told.sort_values("_when", kind="stable").groupby(keys):
        finished = group["status"].eq("finished").tolist()
        start = len(group) - 1 - finished[::-1].index(True) if True in finished else 0
        kept += group.index[start:].tolist()
        for _, cell in group.iloc[:start].iterrows():
            warnings.append(
                f"{cell['folder']}: left out, because there is a newer cell of the same method, parameters and seed "
                "under another recipe or code"
            )
    return cells.loc[sorted(kept)].reset_index(drop=True)


def _only(cells: pd.DataFrame) -> str | None:
    """Of a method whose cells all agree, the parameter worth telling: one with a symbol, or the only one."""
    names = [name for name in _columns(cells, "p_") if cells[name].map(_is_number).all()]
    known = [name for name in names if name.removeprefix("p_") in SYMBOLS]
    return known[0] if known else names[0] if len(names) == 1 else None


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and not is_missing(value)


def _is_number_or_missing(value: object) -> bool:
    return is_missing(value) or _is_number(value)


def _shared_changes(cells: pd.DataFrame) -> str:
    """Return the changes to the recipe that all cells have, as their records hold them."""
    found = {plain(value) for value in cells["overrides"]} if "overrides" in cells else set()
    return found.pop() if len(found) == 1 else ""


def _split(
    known: Methods, method: str, cells: pd.DataFrame, usable: pd.Series, score: str, changes: str
) -> list[tuple[Series, pd.DataFrame]]:
    """Split a method's cells into lines.

    The trade-off parameter is the method's own, or, where its records do not say, the number with the most values; the
    other parameters that vary tell lines apart. The line with the commonest settings has the method's plain name, if
    there is a commonest. A line is a variant where a parameter differs that is none of the method's trade-off.
    """
    varying = _varying(cells)
    numeric = [name for name in varying if cells[name].map(_is_number_or_missing).all()]
    stated = [f"p_{name}" for name in known.curve(method) if f"p_{name}" in numeric]
    parameter = max(stated or numeric, key=lambda name: cells[name].nunique(), default=None) or _only(cells)
    apart = [name for name in varying if name != parameter]
    usual = {"overrides": changes}  # another recipe than the panel's is told even where all cells of the method have it
    if "overrides" in cells and "overrides" not in apart:
        apart.append("overrides")
    for name in apart:
        if name in usual:
            continue
        counts = cells[name].map(plain).value_counts()
        if len(counts) == 1 or counts.iloc[0] > counts.iloc[1]:
            usual[name] = counts.index[0]
    keys = cells[apart].map(plain).agg("\0".join, axis=1) if apart else pd.Series("", index=cells.index)
    lines = []
    for _, rows in cells.groupby(keys, sort=False):
        setting = {
            name.removeprefix("p_"): rows[name].iloc[0]
            for name in apart
            if plain(rows[name].iloc[0]) not in ("", usual.get(name))
        }
        name = f"{known.label(method)} ({describe(setting)})" if setting else known.label(method)
        rows = rows.sort_values([*([parameter] if parameter else []), "seed"], kind="stable")
        bare = parameter.removeprefix("p_") if parameter else None
        variant = bool(known.curve(method)) and not set(setting) <= {*known.curve(method), "overrides"}
        settings = [describe({bare: value}) for value in rows[parameter]] if parameter and bare else ""
        rows = rows.assign(label=name, parameter=bare or "", setting=settings)
        points = _points(rows[usable.loc[rows.index]], parameter, score)
        lines.append((Series(method, name, not setting, variant, bare, points), rows))
    return lines


def _points(rows: pd.DataFrame, parameter: str | None, score: str) -> pd.DataFrame:
    by = [parameter] if parameter else ["method"]
    points = over_seeds(rows, by, [COST, score, "gmacs_paper", "density_mean"])
    ids = rows.groupby(by, sort=False, dropna=False)["cell_id"].agg(list)
    points["ids"] = ids.tolist()
    return points
