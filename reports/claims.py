"""The paper's seventeen claims, each checked against the records.

A status is computed, never written: `reports.evidence` has the rules. A claim is judged on the panel of the largest
scale that has its cells, with enough seeds where one has, and the others are told beside it. The paper's evidence is in
its own words and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.stats import Measured, Run, mean_gaps, over_seeds_alone
from reports import ablation, figure3, lambdas, table1, table2, table3, timings
from reports.base import Output, Results
from reports.comparison import runs_of
from reports.curves import Panel, Series, panels
from reports.evidence import (
    APART,
    CONTRADICTED,
    FEW,
    INCONCLUSIVE,
    NOT_RUN,
    RECIPE,
    REPRODUCED,
    ROUNDS,
    SEEDS,
    STATUSES,
    TRADED,
    WIDE,
    Finding,
    above,
    better,
    better_runs,
    combine,
    cost_of_equal_score,
    cost_ratio,
    gap_at_share,
    kept_open,
    limited,
    line_of,
    low_end_gap,
    measured,
    missing,
    score_gap,
    signed,
    similar,
)
from reports.methods import REFERENCE
from reports.stability import stability
from reports.tables import Column, Table

__all__ = ["CLAIMS", "Checked", "Claim", "build", "check"]

TITLE = "The paper's claims"

_NAME = "claims"
_OURS = "stochastic"
_SIX = "--seeds 0,1,2,3,4,5"
_THREE = "--seeds 0,1,2"
#: What counts as similar where the paper says so without a number: a point of accuracy.
MARGIN = 0.01
_EQUAL = 0.005  # Table 1's accuracies differ by less: half a point


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes
    ----------
    number, text, evidence
        Its number, what it says, and what the paper shows for it.
    task
        Whose panels it is judged on; "" for one about all results together.
    check
        From a panel, or from the results where there is no task, to a finding.
    settle
        The command that makes what is missing.
    """

    number: int
    text: str
    evidence: str
    task: str
    check: Callable[[Any], Finding]
    settle: str


@dataclass(frozen=True)
class Checked:
    """A claim with what the records say."""

    claim: Claim
    finding: Finding
    where: str
    others: Sequence[str] = ()

    def row(self) -> dict[str, Any]:
        """Return a flat row for tables and JSON."""
        return {
            "claim": self.claim.number,
            "text": self.claim.text,
            "paper": self.claim.evidence,
            "status": self.finding.status,
            "ours": self.finding.text,
            "where": self.where,
            "seeds": self.finding.seeds,
            "others": list(self.others),
            "settle": _settle(self.claim, self.finding),
        }


def check(results: Results) -> list[Checked]:
    """Check every claim."""
    known = panels(results)
    return results.once("claims", lambda: [_check(claim, results, known) for claim in CLAIMS])


def build(results: Results, out: Path) -> Output:
    """Write the table of claims."""
    table = table_of(check(results))
    files = table.write(out, _NAME)
    return Output(_NAME, TITLE, files, table.markdown(), list(results.warnings), [table])


def table_of(checked: Sequence[Checked]) -> Table:
    """Return the claims as a table."""
    rows = [each.row() for each in checked]
    count = ", ".join(f"{sum(row['status'] == status for row in rows)} {status}" for status in STATUSES)
    columns = [
        Column("claim", "No.", right=True),
        Column("text", "Claim"),
        Column("paper", "The paper's evidence"),
        Column("status", "Status"),
        Column("ours", "Ours"),
        Column("where", "Records"),
        Column("seeds", "Seeds", right=True),
        Column("settle", "What would settle it"),
    ]
    notes = [
        f"{count}. What is settled is settled at the scale of its records; scale {_SCALES[-1]} says whether it holds "
        "for the paper's networks.",
        "Better and worse take an interval without zero and six seeds; a limit or a similarity takes a whole interval "
        f"on its side and three seeds; similar is within {100 * MARGIN:g} point unless the claim has a number.",
        *(f"Claim {each.claim.number}, {line}" for each in checked for line in each.others),
    ]
    return Table(TITLE, columns, rows, notes)


_SCALES = ("mini", "small", "paper")


def _check(claim: Claim, results: Results, known: Sequence[Panel]) -> Checked:
    if not claim.task:
        return Checked(claim, claim.check(results), "all records")
    found = [(panel, _under_its_recipe(panel, claim.check(panel))) for panel in known if panel.task == claim.task]
    if not found:
        return Checked(claim, missing(claim.task), "none")
    found.sort(key=lambda pair: _weight(*pair), reverse=True)
    (panel, finding), *rest = found
    others = [
        f"{_where(other)}: {each.status}: {each.text}" for other, each in rest if each.status != NOT_RUN
    ]  # fmt: skip
    return Checked(claim, finding, _where(panel) if finding.status != NOT_RUN else "none", others)


def _under_its_recipe(panel: Panel, finding: Finding) -> Finding:
    """Leave a claim open that cells of another recipe speak against: a shorter training contradicts nobody.

    Training from nothing is the way for data of one's own, and no such change.
    """
    others = [change for change in panel.changes.split() if change != "from_scratch=true"]
    if finding.status != CONTRADICTED or not others:
        return finding
    text = f"{finding.text}; but the recipe was changed: {', '.join(others)}"
    return Finding(INCONCLUSIVE, text, finding.seeds, frozenset({RECIPE}))


def _weight(panel: Panel, finding: Finding) -> tuple[Any, ...]:
    """Return what makes one panel's finding come before another's: a single cell at a large scale tells nothing yet."""
    return finding.status != NOT_RUN, FEW not in finding.lacks, _rank(panel.scale), len(panel.cells)


def _rank(scale: str) -> int:
    return _SCALES.index(scale) if scale in _SCALES else -1


def _where(panel: Panel) -> str:
    return f"{panel.task}, {panel.data()}"


_REMEDIES = {
    FEW: "more seeds",
    WIDE: "more seeds or more images, for a narrower interval",
    APART: "points of both at one computation, by other values of the trade-off parameter",
    TRADED: "rows that are equal in accuracy, by another value of the trade-off parameter",
    ROUNDS: "more rounds, for a narrower interval",
    RECIPE: "the recipe as it is, without --recipe",
}


def _settle(claim: Claim, finding: Finding) -> str:
    """Return what would settle an open claim: what its finding lacks, and the command; "" for one that is settled."""
    if finding.status in (REPRODUCED, CONTRADICTED):
        return ""
    if finding.status == NOT_RUN:
        return claim.settle
    lacking = [text for name, text in _REMEDIES.items() if name in finding.lacks]
    return f"{' and '.join(lacking) or _REMEDIES[FEW]}: {claim.settle}"


# ---------------------------------------------------------------------------------------------------------- checks


def _runs(panel: Panel, method: str) -> list[Run]:
    return _runs_of(panel, line_of(panel, method))


def _runs_of(panel: Panel, line: Series | None) -> list[Run]:
    return [] if line is None else runs_of(panel, line)


def _loses(limit: float, share: float) -> Callable[[Panel], Finding]:
    """Judge that the paper's method loses at most so much accuracy at a share of the dense network's computation."""

    def judge(panel: Panel) -> Finding:
        ours, dense = _runs(panel, _OURS), _runs(panel, REFERENCE)
        if not ours or not dense:
            return missing(_OURS if not ours else REFERENCE)

        def loss(*sides: np.ndarray) -> np.ndarray:
            return -gap_at_share(share)(*sides)

        return measured(ours, dense, loss, partial(limited, f"loss at {share:.2f} of the computation", limit=limit))

    return judge


def _all_better(*pairs: tuple[str, str]) -> Callable[[Panel], Finding]:
    return lambda panel: combine([better(panel, a, b) for a, b in pairs])


def _claim2(panel: Panel) -> Finding:
    findings = [
        better(panel, a, b) for a, b in ((_OURS, "deterministic_gumbel"), ("deterministic_gumbel", "relu_gating"))
    ]
    a, b = _runs(panel, _OURS), _runs(panel, "relu_gating")
    if a and b:
        name = "gap over ReLU gating, low end minus high end:"
        findings.append(measured(a, b, low_end_gap, partial(signed, name, scale=100, unit=" points")))
    return combine(findings)


def _claim4(panel: Panel) -> Finding:
    a, b = _runs(panel, "uniform"), _runs(panel, "equal_interval")
    if not a or not b:
        return missing("uniform" if not a else "equal_interval")
    name = "downsampled images minus equal-interval mask, at its computation:"
    return measured(a, b, gap_at_share(1.0), partial(similar, name, margin=MARGIN))


def _rows(what: ablation.Ablation, panel: Panel) -> dict[str, list[Run]]:
    """Return the runs of an ablation's rows as single points."""
    return {row.label: _single_point(panel, row) for row in ablation.find(what, panel)}


def _single_point(panel: Panel, row: ablation.Found) -> list[Run]:
    runs = [run for run in row.runs(panel.score) if not np.isnan(run.score)] if len(row.finished) else []
    return [Run("", run.seed, run.score, run.cost, run.outcomes, run.costs) for run in runs]


def _claim6(panel: Panel) -> Finding:
    found = {row.label: row for row in ablation.find(table1.WHAT, panel)}
    rbf = _single_point(panel, found["RBF"])
    return combine([_less_computation(panel, found[name], rbf) for name in ("plain convolution", "average pooling")])


def _less_computation(panel: Panel, other: ablation.Found, rbf: Sequence[Run]) -> Finding:
    """Judge that RBF computes less than another kernel: beside its row, or on its curve where accuracies differ."""
    name, row = other.label, _single_point(panel, other)
    if not row or not rbf:
        return missing(f"{name} beside RBF")
    judge = partial(signed, scale=100, unit=" %")
    gap = np.mean([run.score for run in rbf]) - np.mean([run.score for run in row])
    if abs(gap) <= _EQUAL:
        return measured(rbf, row, cost_ratio, partial(judge, f"{name}, computation more than RBF's at equal accuracy:"))
    curve = _runs_of(panel, ablation.line_of_row(panel, other))
    unequal = f"{name}: accuracies differ by {100 * gap:+.2f} points, too much to be equal"
    if len({run.point for run in curve}) < 2:
        return Finding(INCONCLUSIVE, unequal, len(row), frozenset({TRADED}))
    more = f"{name}, by its curve, computation more than RBF's at RBF's accuracy:"
    read = measured(rbf, curve, cost_of_equal_score, partial(judge, more))
    lacks = frozenset({TRADED}) if APART in read.lacks else read.lacks  # its curve does not reach that accuracy
    return Finding(read.status, f"{unequal}; {read.text}" if lacks == {TRADED} else read.text, read.seeds, lacks)


def _claim7(panel: Panel) -> Finding:
    rows = _rows(table2.WHAT, panel)
    ours, curve = rows["interpolation"], _runs(panel, _OURS)
    findings = []
    for name in ("fill zeros", "reuse features"):
        if not rows[name] or not ours:
            findings.append(missing(f"{name} beside interpolation"))
            continue
        accuracy = measured(ours, rows[name], score_gap, partial(above, f"over {name}:"))
        cost = measured(ours, rows[name], cost_ratio, partial(above, f"{name} computes more by", unit=" %"))
        findings.append(_read_off(name, _beats(accuracy, cost), curve, rows[name]))
    return combine(findings)


def _read_off(name: str, beaten: Finding, curve: Sequence[Run], row: Sequence[Run]) -> Finding:
    """Judge a row whose accuracy was bought with computation by our curve, at the row's computation."""
    if TRADED not in beaten.lacks or len({run.point for run in curve}) < 2:
        return beaten
    there = measured(curve, row, gap_at_share(1.0), partial(above, f"over {name} at its computation, by our curve:"))
    return Finding(there.status, f"{beaten.text}; {there.text}", min(beaten.seeds, there.seeds), there.lacks)


def _beats(accuracy: Finding, cost: Finding) -> Finding:
    """Judge that one point beats another: better in accuracy or computation and not worse in the other."""
    statuses = {accuracy.status, cost.status}
    if REPRODUCED in statuses and CONTRADICTED not in statuses:
        status = REPRODUCED
    elif CONTRADICTED in statuses and REPRODUCED not in statuses:
        status = CONTRADICTED
    else:
        status = INCONCLUSIVE  # nothing is known, or accuracy was bought with computation
    lacks = frozenset({TRADED}) if {REPRODUCED, CONTRADICTED} <= statuses else accuracy.lacks | cost.lacks
    return Finding(status, f"{accuracy.text}, {cost.text}", min(accuracy.seeds, cost.seeds), lacks)


def _claim8(panel: Panel) -> Finding:
    rows = _rows(table3.WHAT, panel)
    usual = rows["the scale's stride"]
    found = {row.label: row for row in ablation.find(table3.WHAT, panel)}
    findings = []
    for name in ("stride − 2", "stride + 2", "no grid prior"):
        if not rows[name] or not usual:
            findings.append(missing(f"{name} beside the scale's stride"))
            continue
        label = f"{name} against the scale's stride:"
        findings.append(measured(
            rows[name], usual, score_gap, partial(similar, label, margin=MARGIN),
        ))  # fmt: skip
    for name in ("stride + 2", "no grid prior"):
        findings.append(_less_stable(name, found[name], found["the scale's stride"]))
    return combine(findings)


def _less_stable(name: str, row: ablation.Found, usual: ablation.Found) -> Finding:
    """Judge that runs jump or diverge more often: by the share of steps that jump, all of them in a diverged run."""
    there = [_unstable(each.cells) for each in (row, usual)]
    if not all(there):
        return missing(f"{name} with a loss curve")
    seeds = sorted(set(there[0]) & set(there[1]))
    found = over_seeds_alone([there[0][seed] - there[1][seed] for seed in seeds])
    return signed(f"{name}: steps whose loss jumps, more than with the scale's stride", found, 100, " % of all")


def _unstable(cells: pd.DataFrame) -> dict[int, float]:
    """Return the share of steps whose loss jumps, by seed: all of them where the run diverged."""
    found = {}
    for _, rows in cells.groupby("cell_id") if len(cells) else ():
        said = stability(rows)
        if said["diverged"] or said["loss_curves"]:
            found[int(rows["seed"].iloc[0])] = 1.0 if said["diverged"] else float(said["spikes"])
    return found


def _claim9(panel: Panel) -> Finding:
    rows = ablation.find(figure3.WHAT, panel)
    lines = {row.label: _runs_of(panel, ablation.line_of_row(panel, row)) for row in rows}
    two = lines["(b) two masks"]
    return combine([
        missing(f"{other} beside (b) two masks") if not lines[other] or not two
        else better_runs(panel, ("(b) two masks", two), (other, lines[other]))
        for other in ("(a) one mask", "(c) three masks")
    ])  # fmt: skip


def _claim11(panel: Panel) -> Finding:
    findings = []
    for name in ("lccl", "pfec"):
        a, b = _runs(panel, _OURS), _runs(panel, name)
        if not a or not b:
            findings.append(missing(_OURS if not a else name))
            continue
        label = f"against {name.upper()}:"
        findings.append(measured(
            a, b, mean_gaps, partial(similar, label, margin=MARGIN),
        ))  # fmt: skip
    return combine([*findings, better(panel, _OURS, "sfp"), better(panel, _OURS, "fpgm")])


def _claim12(panel: Panel) -> Finding:
    a, b = _runs(panel, _OURS), _runs(panel, "stochastic_without_interpolation")
    if not a or not b:
        return missing(_OURS if not a else "stochastic_without_interpolation")
    return measured(a, b, mean_gaps, partial(similar, "with minus without interpolation:", margin=MARGIN))


def _claim13(results: Results) -> Finding:
    findings = []
    for task in ("coco", "cityscapes", "imagenet"):
        points = _lambdas(panels(results, task))
        if points is None:
            findings.append(missing(f"{_OURS} with λ on {task}"))
            continue
        by_seed = [lambdas.correlation(rows) for _, rows in points.groupby("seed")]
        found = over_seeds_alone(by_seed)
        name = f"{task}: rank correlation of λ and sparsity"
        if task == "imagenet":
            findings.append(similar(name, found, 0.3, 1.0, ""))
            continue
        findings.append(_negated(name, found))
        means = points.groupby(["seed", "place"])["lambda"].mean().unstack()
        if {1, 2} <= set(means):
            findings.append(signed(f"{task}: λ(conv2/3) − λ(conv1)", over_seeds_alone((means[2] - means[1]).tolist())))
    return combine(findings)


def _lambdas(known: Sequence[Panel]) -> pd.DataFrame | None:
    """Return each λ of the largest scale that has some, with enough seeds where one has; None without any.

    Of several data sets of that scale, the one with the most seeds.
    """
    found = []
    for panel in known:
        line = line_of(panel, _OURS)
        ids = [] if line is None else list(line.points["ids"].explode())
        points = lambdas.read(panel.cells[panel.cells["cell_id"].isin(ids)])
        if len(points):
            seeds = points["seed"].nunique()
            found.append((seeds >= SEEDS, _rank(panel.scale), seeds, points))
    return max(found, key=lambda each: each[:3])[3] if found else None


def _negated(name: str, found: Measured) -> Finding:
    """Judge that a number is below zero."""
    low, high = (None if bound is None else -bound for bound in (found.high, found.low))
    turned = Measured(-found.value, low, high, [-value for value in found.by_seed], found.seeds, found.resampled)
    finding = signed(f"minus the {name.partition(': ')[2]}", turned)
    return replace(finding, text=f"{name.partition(': ')[0]}: {finding.text}")


def _timings(results: Results) -> list[dict[str, Any]]:
    """Return the timings of the largest network and image under the paper's densities, one of each machine.

    An instruction set that was forced, or another number of threads, has an entry of its own. Shares of theory differ
    by network and size, and so the smaller ones stay out where a larger one was timed.
    """
    found = []
    for _, run in timings.read(results).networks:
        machine, settings, dense = run["machine"], run["settings"], timings.dense_row(run)
        rows = [row for row in run["backbone"] if row.get("gamma") is not None and row.get("speedup")]
        if rows:
            found.append({
                "rows": rows, "machine": machine["cpu"], "dense": None if dense is None else dense["seconds"],
                "name": f"{machine['instruction_set']}, {machine['threads']} threads",
                "image": settings["height"] * settings["width"], "backbone": settings["backbone"],
                "gmacs": max(row["gmacs"] for row in run["backbone"]),
            })  # fmt: skip
    largest = max(found, key=lambda entry: (entry["image"], entry["gmacs"]), default=None)
    return [
        entry for entry in found
        if largest is not None and all(entry[name] == largest[name] for name in ("image", "backbone"))
    ]  # fmt: skip


def _claim14(results: Results) -> Finding:
    found = _timings(results)
    if not found:
        return missing("timings at the paper's densities")
    findings = []
    for timing in found:
        for row in timing["rows"]:
            low, high, theory = row["speedup_low"], row["speedup_high"], row["speedup_theoretical"]
            text = f"{timing['name']}: " if len(found) > 1 else ""
            text += f"γ {row['gamma']:g}: {row['speedup']:.2f} [{low:.2f}, {high:.2f}] of {theory:.2f}"
            if row["deformable"]:
                text += ", deformable"
            held = low > 1 and high < theory
            broken = high <= 1 or low >= theory
            status = REPRODUCED if held else CONTRADICTED if broken else INCONCLUSIVE
            findings.append(Finding(status, text, 0, kept_open(status, ROUNDS)))
    return combine(findings)


def _claim15(results: Results) -> Finding:
    cells = results.cells()
    cells = cells[(cells["method"] == _OURS) & (cells["status"] == "finished") & cells["density_mean"].notna()]
    if cells.empty:
        return missing(_OURS)
    sparsity = 1 - cells["density_mean"].astype(float)
    best = cells.iloc[int(sparsity.to_numpy().argmax())]
    text = f"at most {100 * sparsity.max():.1f} %: {best['task']}, scale {best['scale']}, cell {best['cell_id']}"
    return Finding(REPRODUCED if sparsity.max() > 0.7 else CONTRADICTED, text, int(cells["seed"].nunique()))


def _claim17(results: Results) -> Finding:
    found = [timing for timing in _timings(results) if timing["dense"]]
    if len({timing["machine"] for timing in found}) < 2:
        return Finding(NOT_RUN, "no timings of two machines")
    fast, slow = (f(found, key=lambda timing: timing["dense"]) for f in (min, max))
    findings = []
    for row in slow["rows"]:
        same = next(
            (r for r in fast["rows"] if (r["gamma"], r["deformable"]) == (row["gamma"], row["deformable"])), None
        )
        if same is not None:
            findings.append(_nearer(row, same))
    return combine(findings) if findings else missing("one network timed on two machines")


def _nearer(slow: dict[str, Any], fast: dict[str, Any]) -> Finding:
    """Judge that the slower machine realises the larger share of theory, by the intervals of the medians."""
    shares = [
        [row[name] / row["speedup_theoretical"] for name in ("speedup", "speedup_low", "speedup_high")]
        for row in (slow, fast)
    ]
    (ours, low, high), (theirs, other_low, other_high) = shares
    status = REPRODUCED if low > other_high else CONTRADICTED if high < other_low else INCONCLUSIVE
    text = f"γ {slow['gamma']:g}: share {ours:.2f} [{low:.2f}, {high:.2f}] on the slower, "
    text += f"{theirs:.2f} [{other_low:.2f}, {other_high:.2f}] on the faster"
    return Finding(status, text, 0, kept_open(status, ROUNDS))


CLAIMS: Sequence[Claim] = (
    Claim(1, "At γ = 0.02 the method loses at most 0.1 AP at 0.55 of the computation (COCO).",
          "43.3 of 43.4 AP at 160.4 of 289.5 GFLOPs (§4.3)", "coco", _loses(0.001, 160.4 / 289.5),
          f"saibench sweep coco --methods stochastic,dense {_THREE}"),
    Claim(2, "At equal computation stochastic beats deterministic Gumbel sampling, and that beats ReLU gating, most at "
          "low computation.", "Figure 4(a), drawn only", "coco", _claim2,
          f"saibench sweep coco --methods stochastic,deterministic_gumbel,relu_gating {_SIX}"),
    Claim(3, "Stochastic sampling beats uniform sampling.", "Figure 4(a): 42.0 AP at 96.6 against 40.4 at 100.2 GFLOPs",
          "coco", _all_better((_OURS, "uniform")), f"saibench sweep coco --methods stochastic,uniform {_SIX}"),
    Claim(4, "Downsampled images are about as good as an equal-interval mask.", "38.5 and 38.7 AP (footnote 6)", "coco",
          _claim4, f"saibench sweep coco --methods uniform,equal_interval {_THREE}"),
    Claim(5, "On the deep network the method beats the dense shallower one at its computation.",
          "R101 with sampling above R50's 41.2 AP at 149.2 GFLOPs (§4.3)", "coco",
          _all_better((_OURS, "smaller_backbone")),
          f"saibench sweep coco --methods stochastic,smaller_backbone {_SIX}"),
    Claim(6, "The RBF kernel needs less computation than convolution or average pooling at equal accuracy.",
          "96.6 against 109.8 and 110.0 GFLOPs (Table 1)", "coco", _claim6,
          f"saibench sweep coco --cells table1 {_THREE}"),
    Claim(7, "Interpolation beats filling zeros and reusing features.",
          "42.0 AP at 96.6 GFLOPs against 42.0 at 164.9 and 42.1 at 226.1 (Table 2)", "coco", _claim7,
          f"saibench sweep coco --cells table2 {_SIX}"),
    Claim(8, "Strides of the grid prior give similar accuracy; training is less stable with a large one and without.",
          "41.8 to 42.0 AP (Table 3, §4.2)", "coco", _claim8, f"saibench sweep coco --cells table3 {_THREE}"),
    Claim(9, "Two masks a block beat one and three.", "stated in §3.5, no numbers", "coco", _claim9,
          f"saibench sweep coco --cells figure3 {_SIX}"),
    Claim(10, "On Cityscapes the method loses 0.2 mIoU at 0.41 of the computation.",
          "80.6 of 80.8 mIoU at 373.2 of 920.6 GFLOPs (§4.4)", "cityscapes", _loses(0.002, 373.2 / 920.6),
          f"saibench sweep cityscapes --methods stochastic,dense {_THREE}"),
    Claim(11, "On ImageNet it is comparable with LCCL and PFEC and drops less than SFP and FPGM at equal computation.",
          "drops 0.45 and 1.19 against 0.43, 1.06, 2.09 and 1.29 (Table 4)", "imagenet", _claim11,
          f"saibench sweep imagenet --methods stochastic,lccl,pfec,sfp,fpgm {_SIX}"),
    Claim(12, "On ImageNet interpolation does not matter.", "drops 1.19 with and 1.07 without (Table 4)", "imagenet",
          _claim12, f"saibench sweep imagenet --methods stochastic,stochastic_without_interpolation {_SIX}"),
    Claim(13, "λ falls as sparsity rises in detection and segmentation, not in classification; it is smaller after "
          "conv1.", "Figure 5, drawn only", "", _claim13,
          f"saibench sweep TASK --cells figure5 {_THREE}, for each of the three tasks"),
    Claim(14, "The real speed-up on a CPU is below the theoretical one and above 1 at every γ.",
          "1.23 to 2.39 of 1.80 to 3.95 (Table 5)", "", _claim14, "saibench time --size full --rounds 15"),
    Claim(15, "Sparsity above 70 % is reached.", "stated in §3.1", "", _claim15,
          "saibench sweep coco --methods stochastic"),
    Claim(16, "On Cityscapes stochastic sampling beats deterministic and uniform sampling.", "Figure 4(b), §4.4",
          "cityscapes", _all_better((_OURS, "deterministic_gumbel"), (_OURS, "uniform")),
          f"saibench sweep cityscapes --methods stochastic,deterministic_gumbel,uniform {_SIX}"),
    Claim(17, "The gap between real and theoretical speed-up is smaller on the slower machine.",
          "0.61 to 0.74 of theory on the laptop, 0.46 to 0.68 on the workstation (§4.7)", "", _claim17,
          "saibench time --size full on two machines, and both stores given to saibench claims"),
)  # fmt: skip
