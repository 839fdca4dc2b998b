"""What code says, as a hash, and which files it imports: the part of code in a cell's identity.

Files are read as text and parsed; nothing is imported here. Importing plug-ins is `benchmark.plugins`' business.
"""

import ast
import functools
import hashlib
import importlib.machinery
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Place", "counts", "hash_code", "imported_files"]

#: The project's packages of which `HARNESS_VERSION` stands for the code. Files of methods have a hash each.
_HARNESS = ("benchmark", "reports", "results")
_METHODS = ("methods", "baselines")
_INSTALLED = ("site-packages", "dist-packages")
_STANDARD = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))


def hash_code(path: Path, leave_out: Sequence[str] = ()) -> str:
    """Return a hash of a file's code, 16 hexadecimal digits; comments and docstrings do not count.

    A file that is no Python source, such as an extension module, is hashed byte by byte.

    Parameters
    ----------
    leave_out
        Class variables whose assignments do not count either.
    """
    now = path.stat()
    return _hash_code(path, tuple(leave_out), now.st_mtime_ns, now.st_size)


@functools.cache
def _hash_code(path: Path, leave_out: tuple[str, ...], modified: int, size: int) -> str:
    content = path.read_bytes()
    if path.suffix != ".py":
        return hashlib.blake2b(content, digest_size=8).hexdigest()
    tree = ast.parse(content)  # bytes, so that Python itself finds out how the file is encoded
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        if isinstance(node, ast.ClassDef):
            node.body = [statement for statement in node.body if not _assigns(statement, leave_out)]
    # Python 3.12 gave classes and functions a field, and 3.13 leaves out what is empty: the same file must be the same
    # method whichever Python reads it.
    whole = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    code = ast.dump(tree, **whole).replace(", type_params=[]", "")
    return hashlib.blake2b(code.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _assigns(statement: ast.stmt, names: Sequence[str]) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return any(isinstance(target, ast.Name) and target.id in names for target in targets)


@dataclass(frozen=True)
class Place:
    """Where a file stands among modules, as far as its imports go.

    Attributes
    ----------
    module : str
        Its dotted name: what names with leading dots are relative to. Empty for a plug-in's first file.
    folder : Path or None
        The plug-in's folder, in which its imports are looked up first; None for a module of an installed package.
    package : bool
        Whether the file is a package's ``__init__.py``, or a plug-in's first file.
    """

    module: str
    folder: Path | None = None
    package: bool = False

    def holds(self, top: str) -> bool:
        """Return whether a plug-in means the file or package beside it by a name; never a name that Python has."""
        if self.folder is None or top in sys.stdlib_module_names or top in (*_HARNESS, *_METHODS):
            return False
        spec = importlib.machinery.PathFinder.find_spec(top, [str(self.folder)])
        # A folder without __init__.py is a package only where nothing else has the name: folders of data are common.
        return spec is not None and (spec.loader is not None or _find(top) is None)


def counts(module: str, path: Path, own: str | None = None) -> bool:
    """Return whether a module's code counts: no version stands for it.

    Parameters
    ----------
    own
        The top-level package of whoever imports it: its version is in no identity.
    """
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in _HARNESS:
        return False
    installed = any(part in _INSTALLED for part in path.parts) or any(each in path.parents for each in _STANDARD)
    return not installed or top == own or top in _METHODS


def imported_files(path: Path, place: Place, also: Iterable[tuple[Path, Place]] = ()) -> dict[str, Path]:
    """Return the files that a file imports from elsewhere than installed packages, directly or through one another.

    Imports inside of functions count. What is imported by a name that the code computes is not seen.

    Parameters
    ----------
    path, place
        The file, and where it stands.
    also
        More files that it is known to import.

    Returns
    -------
    dict
        Files by dotted name; those beside a plug-in have a dot before it. The file's own is not among them.
    """
    own = place.module.partition(".")[0] if place.folder is None else None
    found: dict[str, Path] = {}
    waiting = [(path, place), *also]
    while waiting:
        file, here = waiting.pop()
        name = here.module if here.folder is None else f".{here.module}"
        if name in found or (file == path and found):
            continue
        if file != path:
            found[name] = file
        for dotted, relative in _imports(file, here):
            waiting += _files_of(dotted, relative, here, own)
    return dict(sorted(found.items()))


def _imports(path: Path, place: Place) -> Iterator[tuple[str, bool]]:
    """Give the modules that a file may import: each dotted name, and whether it was given relative to the file."""
    try:
        tree = ast.parse(path.read_bytes()) if path.suffix == ".py" else ast.Module([], [])
    except (OSError, SyntaxError, ValueError):  # importing it will say what is wrong
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, place)
            # A name that is taken from a package may be a module of it.
            names = [base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)]
            yield from ((name, node.level > 0) for name in names if name)


def _base(node: ast.ImportFrom, place: Place) -> str:
    """Return the dotted name after ``from``."""
    if not node.level:
        return node.module or ""
    parts = place.module.split(".") if place.module else []
    kept = parts[: len(parts) - (node.level - place.package)]
    return ".".join([*kept, *filter(None, [node.module])])


def _files_of(dotted: str, relative: bool, place: Place, own: str | None) -> Iterator[tuple[Path, Place]]:
    """Give a module and the packages around it, as far as they count; see `imported_files`."""
    top, *rest = dotted.split(".")
    beside = place.folder is not None and (relative or place.holds(top))
    spec = importlib.machinery.PathFinder.find_spec(top, [str(place.folder)]) if beside else _find(top)
    module = top
    while spec is not None:
        file = Path(spec.origin).resolve() if spec.has_location and spec.origin else None
        if file is not None and file.is_file():
            if not beside and not counts(module, file, own):
                return
            yield file, Place(module, place.folder if beside else None, file.name == "__init__.py")
        if not rest or spec.submodule_search_locations is None:
            return
        part = rest.pop(0)
        module = f"{module}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(part, list(spec.submodule_search_locations))


def _find(top: str) -> importlib.machinery.ModuleSpec | None:
    """Return how Python would find a top-level module, without importing it."""
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):  # one that was made by hand and has no description
        return None
