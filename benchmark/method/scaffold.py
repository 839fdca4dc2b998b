"""A new method's file and its test, written from a template: what the author begins with.

When a hook is called is told by the contract's own docstrings, so that the template cannot say anything else.
"""

import importlib.util
import inspect
import keyword
import re
import string
import textwrap
from collections.abc import Iterator
from pathlib import Path

from benchmark.errors import UsageError
from benchmark.listing import method_names
from benchmark.method.contract import HOOKS, Method
from benchmark.names import check_name

__all__ = ["write_method"]

_TEMPLATES = Path(__file__).parent / "template"
_NAME = re.compile("[a-z][a-z0-9_]*")
_WIDTH = 112  # characters of a comment's line, the mark aside


def write_method(name: str, folder: Path) -> list[Path]:
    """Write ``NAME.py`` and ``test_NAME.py``, and return their paths.

    Raises
    ------
    UsageError
        For a name that cannot name a module or is taken, a folder that is not there or cannot be written, and where
        one of the files is there already. Then nothing is written.
    """
    _check(name)
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}")
    files = {folder / f"{name}.py": "method.py.txt", folder / f"test_{name}.py": "test.py.txt"}
    for path in files:
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} is there already; choose another name or folder")
    for path, template in files.items():
        content = string.Template((_TEMPLATES / template).read_text(encoding="utf-8")).substitute(_words(name))
        try:
            with open(path, "x", encoding="utf-8") as stream:
                stream.write(content)
        except OSError as error:
            raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another folder") from None
    return list(files)


def _check(name: str) -> None:
    try:
        check_name(name)
    except ValueError as error:
        raise UsageError(f"the name {error}") from None
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise UsageError(f"{name!r} cannot name a Python file; use small letters, digits and '_', such as my_method")
    if name in method_names():
        raise UsageError(f"the name {name!r} is taken by another method; choose another")
    if importlib.util.find_spec(name) is not None:
        raise UsageError(f"a file {name}.py would hide the Python module of this name; choose another")


def _words(name: str) -> dict[str, str]:
    title = name.replace("_", " ").strip()
    return {
        "name": name,
        "title": title[:1].upper() + title[1:],
        "class_name": "".join(part[:1].upper() + part[1:] for part in name.split("_")),
        "called_mask": _called("mask"),
        "called_loss": _called("loss"),
        "other_hooks": "\n".join(line for hook in HOOKS if hook not in ("mask", "loss") for line in _comment(hook)),
    }


def _comment(hook: str) -> Iterator[str]:
    """Give the lines that say what a hook is for and when it is called."""
    arguments = ", ".join(list(inspect.signature(getattr(Method, hook)).parameters)[1:])
    summary = (inspect.getdoc(getattr(Method, hook)) or "").partition("\n\n")[0]
    text = f"{hook}({arguments}): {' '.join(summary.split())} {_called(hook)}"
    for number, line in enumerate(textwrap.wrap(text, _WIDTH - 4, break_long_words=False)):
        yield f"    # {'    ' if number else ''}{line}"


def _called(hook: str) -> str:
    """Return the contract's sentence about when a hook is called."""
    text = " ".join((inspect.getdoc(getattr(Method, hook)) or "").split())
    found = re.search(r"Called .*?[.:](?= [A-Z`]|$| )", text)
    if found is None:
        raise AssertionError(f"the contract does not say when {hook} is called")
    return found[0].rstrip(".:") + "."
