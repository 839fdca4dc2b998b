"""The figures in README.md and docs/results.md, written from stored records between marks; nothing is typed in.

    python -m reports.documents README.md docs/results.md --store results/reference

replaces what stands between ``<!-- begin: NAME -->`` and ``<!-- end -->`` for each block named in `BLOCKS`. A test
compares the files with what the command would write. The blocks of docs/results.md are `reports.findings`'.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmark.files import reference_folder, write_atomic
from reports import findings, speed, training
from reports.base import Results
from reports.curves import COST, Panel, panels
from reports.values import least_to_most, with_spread

__all__ = ["BLOCKS", "filled", "main"]


def runs(results: Results) -> str:
    """Return a table of the sweeps of scale mini: cells, seeds, minutes summed over the cells, machine."""
    lines = ["| command | cells | seeds | time, summed over cells | machine |", "| --- | ---: | ---: | ---: | --- |"]
    for panel in _mini(results):
        cells = panel.cells[panel.cells["status"] == "finished"]
        minutes = (cells["seconds_train"] + cells["seconds_eval"]).sum() / 60
        machine = "; ".join(sorted(set(cells["cpu"] + ", " + cells["isa"])))
        scratch = " --from-scratch" if "from_scratch" in panel.changes else ""
        given = f"saibench sweep {panel.task} --data {panel.dataset}{scratch}"
        command = f"tox -e {panel.task}" if panel.embedded else given
        lines.append(f"| `{command}` | {len(cells)} | {cells['seed'].nunique()} | {minutes:.0f} min | {machine} |")
    return "\n".join(lines)


def curves(results: Results) -> str:
    """Return a table of the curves on the rendered scenes of scale mini."""
    return _curves([panel for panel in _mini(results) if panel.embedded])


def curves_real(results: Results) -> str:
    """Return a table of the curves on data that was given, at scale mini."""
    return _curves([panel for panel in _mini(results) if not panel.embedded])


def _mini(results: Results) -> list[Panel]:
    return sorted((panel for panel in panels(results) if panel.scale == "mini"), key=lambda panel: not panel.embedded)


def _curves(shown: Sequence[Panel]) -> str:
    """Return each point's metric in percent, at its share of the dense network's computation."""
    lines = ["| data | method | seeds | metric, % @ share of the dense computation |", "| --- | --- | ---: | --- |"]
    for panel in shown:
        if panel.reference is None:
            continue
        dense = float(panel.reference.points[COST].mean())
        for line in (panel.reference, *panel.main):
            points = line.points.sort_values(COST, ascending=False)
            text = " · ".join(
                f"{with_spread(row[panel.score], row[_spread(panel)], 1, panel.metric.scale)} @ {row[COST] / dense:.2f}"
                for _, row in points.iterrows()
            )
            name = f"{panel.task if panel.embedded else panel.dataset}, {panel.metric.label}"
            lines.append(f"| {name} | {line.label} | {least_to_most(points['seeds'])} | {text} |")
    return "\n".join(lines)


def _spread(panel: Panel) -> str:
    return f"{panel.score}_spread"


BLOCKS: dict[str, Callable[[Results], str]] = {
    "runs": runs,
    "curves": curves,
    "curves_real": curves_real,
    **{name: getattr(findings, name) for name in ("claims", "winners", "falls", "real", "ranks", "limits")},
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the blocks of the named documents."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("documents", nargs="+", type=Path)
    parser.add_argument("--store", type=Path, default=reference_folder())
    given = parser.parse_args(arguments)
    results = Results.read([given.store])
    for path in given.documents:
        write_atomic(path, filled(path.read_text(encoding="utf-8"), results))


if __name__ == "__main__":
    main()
