"""How methods are found: the project's folders, the entry-point group ``saibench.methods``, and files given by path.

Nothing else is imported, and nothing here knows a method by name.
"""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from benchmark.errors import PluginError, UsageError
from benchmark.method.contract import Method
from benchmark.names import check_name

ENTRY_POINT_GROUP = "saibench.methods"
FOLDERS = ("methods", "baselines")


def discover(paths: Sequence[Path] = ()) -> dict[str, type[Method]]:
    """Find every method.

    Parameters
    ----------
    paths
        Plug-in files, beside the project's folders and the entry points.

    Returns
    -------
    dict
        Method classes by name, in the order found.

    Raises
    ------
    PluginError
        Naming the file that raised while being imported, defines no method, or takes a name that is taken.
    """
    found: dict[str, type[Method]] = {}
    for source, module in _modules(paths):
        for method in _methods_in(module, source):
            if method.name in found:
                raise PluginError(f"{source}: the name {method.name!r} is taken by {found[method.name].__module__}")
            found[method.name] = method
    return found


def _modules(paths: Sequence[Path]) -> Iterator[tuple[str, ModuleType]]:
    seen = set()
    for folder in FOLDERS:
        root = Path(__file__).resolve().parents[2] / folder
        for path in sorted(root.glob("*.py")):
            if path.name != "__init__.py":
                seen.add(path)
                yield str(path), _import_file(path, f"{folder}.{path.stem}")
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            loaded = point.load()
        except Exception as error:
            raise PluginError(f"entry point {point.value!r} raised {_describe(error)}; mend or uninstall it") from None
        yield point.value, loaded if isinstance(loaded, ModuleType) else sys.modules[loaded.__module__]
    for path in paths:
        if not path.is_file():
            raise UsageError(f"no such method file: {path}")
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        digest = hashlib.blake2b(str(path.resolve()).encode(), digest_size=6).hexdigest()
        yield str(path), _import_file(path, f"saibench_plugin_{digest}")


def _import_file(path: Path, name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PluginError(f"{path}: importing it raised {_describe(error)}; mend the file") from None
    return module


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _methods_in(module: ModuleType, source: str) -> list[type[Method]]:
    methods = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if not methods:
        raise PluginError(f"{source}: defines no subclass of benchmark.Method")
    for method in methods:
        if not method.name:
            raise PluginError(f'{source}: class {method.__name__} has no name; set `name = "..."`')
        try:
            check_name(method.name)
        except ValueError as error:
            raise PluginError(f"{source}: class {method.__name__}: the name {error}") from None
        for parameter in method.curve:
            if parameter not in method.model_fields:
                raise PluginError(f"{source}: the curve of {method.name!r} names {parameter!r}, which is no parameter")
    return methods


def resolve(names: Sequence[str]) -> list[type[Method]]:
    """Return the methods that a user named, by name or by file; all of the project's where none is named.

    Raises
    ------
    UsageError
        For a name that is not there, listing those that are.
    """
    found = discover([Path(name) for name in names if name.endswith(".py") or "/" in name])
    chosen = []
    for name in names:
        matches = [
            method
            for method in found.values()
            if method.name == name or Path(inspect.getsourcefile(method) or "").resolve() == Path(name).resolve()
        ]
        if not matches:
            raise UsageError(f"unknown method {name!r}; there are {', '.join(sorted(found))}, or give a file's path")
        chosen += matches
    return chosen if names else list(found.values())
