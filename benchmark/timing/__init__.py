"""Timing: `Timing` measures networks row by row, `time_cell` a trained cell; reports are JSON-ready dictionaries.

``clock`` has the paired rounds that every ratio comes from, ``networks`` and ``cells`` what is timed, ``peers`` the
other runtimes, ``record`` where reports are kept. Not here: the printing (`benchmark.cli`) and the table
(`reports.table5`).
"""

from benchmark.timing.cells import IMAGES, empty_report, time_cell
from benchmark.timing.clock import UNSTEADY
from benchmark.timing.measure import DENSITIES, SIZES, Timing, Wanted, run
from benchmark.timing.networks import PAPER_DENSITIES
from benchmark.timing.peers import PEERS
from benchmark.timing.record import kept, save

__all__ = [
    "DENSITIES",
    "IMAGES",
    "PAPER_DENSITIES",
    "PEERS",
    "SIZES",
    "UNSTEADY",
    "Timing",
    "Wanted",
    "empty_report",
    "kept",
    "run",
    "save",
    "time_cell",
]
