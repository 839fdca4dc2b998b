"""The commands: one file each, found by being here.

A file adds its command to `benchmark.cli.app.app`: ``@app.command()`` above a function whose docstring is the help and
whose parameters are the options; for a family of commands, a ``typer.Typer`` of its own and ``app.add_typer``.
"""

import importlib
import pkgutil


def load() -> None:
    """Import every command, which adds itself to the application."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
