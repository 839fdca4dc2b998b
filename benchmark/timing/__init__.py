"""Timing: `run` measures and returns a JSON-ready dictionary, `save` keeps it where ``saibench report`` looks.

``clock`` has the paired rounds that every ratio comes from, ``networks`` and ``cells`` what is timed, ``peers`` the
other runtimes. Not here: the printing (`benchmark.cli`) and the table (`reports.table5`).
"""

from benchmark.timing.measure import DENSITIES, SIZES, run
from benchmark.timing.networks import PAPER_DENSITIES
from benchmark.timing.peers import PEERS
from benchmark.timing.record import save

__all__ = ["DENSITIES", "PAPER_DENSITIES", "PEERS", "SIZES", "run", "save"]
