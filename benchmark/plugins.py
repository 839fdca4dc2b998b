"""Code from outside of the project: importing a file or an entry point, saying where it failed, and hashing it.

What a plug-in must define is the business of those who look for one: methods and tasks.

A plug-in imports the files beside it as a script does. They become modules below the plug-in's own name, so that two
folders may both hold a ``helper.py``. Nothing is put on ``sys.path``, where it could hide what others import.
"""

import builtins
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.metadata import EntryPoint
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from benchmark.code import Place, counts, hash_code, imported_files
from benchmark.errors import PluginError

__all__ = ["hash_module", "import_file", "import_plugin", "imports_of", "lines_in", "load_entry_point", "stamp"]

#: Folders of imported plug-ins by the name of their module.
_folders: dict[str, Path] = {}


def import_file(path: Path, name: str) -> ModuleType:
    """Import a Python file under a name, once in a process.

    Raises
    ------
    PluginError
        Naming the file, and the line at which importing it raised.
    """
    return _import(path, name, importlib.util.spec_from_file_location(name, path))


def import_plugin(path: Path, name: str) -> ModuleType:
    """Import a plug-in's file under a name without dots, once in a process; it finds the files beside it.

    For ``__init__.py``, its folder is the package. The standard library and Saibench keep their names; a file beside a
    plug-in comes before an installed package of its name.

    Raises
    ------
    PluginError
        Naming the file, and the line at which importing it raised.
    """
    _folders[name] = path.parent
    if _Beside not in sys.meta_path:
        sys.meta_path.insert(0, _Beside)
    found = [str(path.parent)]
    loader = _Loader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader, submodule_search_locations=found)
    return _import(path, name, spec if path.suffix == ".py" else None)


def _import(path: Path, name: str, spec: ModuleSpec | None) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script that calls sys.exit must not end the command
        for loaded in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
            del sys.modules[loaded]
        told = _describe(error).replace(f"{name}.", "")
        raise PluginError(f"{_place(error, path)}: importing it raised {told}; fix the file") from None
    return module


class _Loader(SourceFileLoader):
    """Runs a plug-in's file, or one beside it: its imports look into the plug-in's folder first."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the file as it is; Python's cache takes one for unchanged whose size and second of change are."""
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        """Run the file with an ``import`` of its own: code finds that, like every built-in, through its globals."""
        vars(module)["__builtins__"] = _built_in(module.__name__.partition(".")[0])
        super().exec_module(module)


class _Beside:
    """Finds the files beside plug-ins, as modules below them."""

    @staticmethod
    def find_spec(fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return how to load a module below a plug-in, and None for any other."""
        root, dot, _ = fullname.partition(".")
        spec = PathFinder.find_spec(fullname, path, target) if dot and root in _folders else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


@functools.cache
def _built_in(root: str) -> dict[str, Any]:
    """Return Python's built-ins with an ``import`` that takes files beside a plug-in for modules below it."""
    place = Place("", _folders[root], package=True)

    def import_beside(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level or not place.holds(top):
            return builtins.__import__(name, globals, locals, fromlist, level)
        if fromlist:
            return builtins.__import__(f"{root}.{name}", globals, locals, fromlist, 0)
        importlib.import_module(f"{root}.{name}")
        return sys.modules[f"{root}.{top}"]  # `import a.b` binds a

    return {**vars(builtins), "__import__": import_beside}


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


def stamp(path: Path) -> str:
    """Return a text that changes with a plug-in's file, its path, and the files that it imports."""
    files = [path, *imported_files(path, Place("", path.parent, package=True)).values()]
    states = [(os.fspath(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    return hashlib.blake2b(repr(states).encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


@functools.cache  # of the code as it was imported, in a process that outlives a change
def hash_module(module: str, path: Path, leave_out: tuple[str, ...] = ()) -> str:
    """Return a hash of a module's code and of what it imports from elsewhere than installed packages.

    Parameters
    ----------
    module, path
        The imported module's name and file.
    leave_out
        Class variables of the file that do not count; see `benchmark.code.hash_code`.
    """
    own = hash_code(path, leave_out)
    imported = [f"{name} {hash_code(file)}" for name, file in imports_of(module, path).items()]
    return hashlib.blake2b("\n".join([own, *imported]).encode(), digest_size=8).hexdigest() if imported else own


@functools.cache
def imports_of(module: str, path: Path) -> Mapping[str, Path]:
    """Return the files that an imported module uses: what its code says, and what it has imported.

    Asked once in a process: what a function imports later, by a name that it computes, must not change an identity.
    """
    folder = _folders.get(module)
    if folder is not None:
        return imported_files(path, Place("", folder, package=True), _loaded(module, folder))
    return imported_files(path, Place(module, None, path.name == "__init__.py"))


def _loaded(root: str, folder: Path) -> Iterator[tuple[Path, Place]]:
    """Give the files of the modules below a plug-in, and of what these have in their names."""
    own = {name: module for name, module in sys.modules.items() if name == root or name.startswith(f"{root}.")}
    held = [value for module in own.values() for value in vars(module).values()]
    named = [value.__name__ if inspect.ismodule(value) else value.__module__ for value in held if _has_module(value)]
    for name in dict.fromkeys([*own, *named]):
        file = getattr(sys.modules.get(name), "__file__", None)
        if not isinstance(file, str) or name == root:
            continue
        path = Path(file).resolve()
        if name in own:
            yield path, Place(name.removeprefix(f"{root}."), folder, path.name == "__init__.py")
        elif counts(name, path):
            yield path, Place(name, None, path.name == "__init__.py")


def _has_module(value: object) -> bool:
    """Return whether a value is a module, or a class or function that says in which one it was defined."""
    if inspect.ismodule(value):
        return True
    return (inspect.isclass(value) or inspect.isfunction(value)) and isinstance(value.__module__, str)


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
    where = f" ({error.filename}:{error.lineno})" if isinstance(error, SyntaxError) and error.filename else ""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}{where}"
