"""Code from outside of the project: importing a file or an entry point, and saying where it failed.

What a plug-in must define is the business of those who look for one: methods and tasks.
"""

import importlib.util
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmark.errors import PluginError

__all__ = ["import_file", "lines_in", "load_entry_point"]


def import_file(path: Path, name: str) -> ModuleType:
    """Import a Python file under a name, once in a process; ``__init__.py`` makes its folder a package of that name.

    Raises
    ------
    PluginError
        Naming the file, and the line at which importing it raised.
    """
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script that calls sys.exit must not end the command
        for loaded in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
            del sys.modules[loaded]
        raise PluginError(f"{_place(error, path)}: importing it raised {_describe(error)}; fix the file") from None
    return module


def load_entry_point(point: EntryPoint) -> Any:
    """Return what an installed package's entry point names.

    Raises
    ------
    PluginError
        When importing it raised.
    """
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise PluginError(f"entry point {point.value!r} raised {_describe(error)}; fix or uninstall it") from None


def _place(error: BaseException, path: Path) -> str:
    """Return ``file:line`` of the last line of a file that an error went through, the file alone where none is."""
    return next((f"{path}:{line}" for line in reversed(lines_in(error, path))), str(path))


def lines_in(error: BaseException, path: Path) -> list[int]:
    """Return the lines of a file that an error's traceback goes through, outermost first."""
    if isinstance(error, SyntaxError) and error.filename == str(path) and error.lineno:
        return [error.lineno]
    lines, trace = [], error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
