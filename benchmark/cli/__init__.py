"""The command ``saibench``: what it accepts and how it prints; the work is done elsewhere.

One file a command, in `benchmark.cli.commands`: it is found by being there. What commands share is here: options
(`options`), printing and errors (`output`), progress (`progress`). `app` puts them together.
"""

from benchmark.cli.app import main

__all__ = ["main"]
