"""How methods are found: the project's folders, the entry-point group ``saibench.methods``, and files given by path.

Nothing else is imported, and nothing here knows a method by name. A file is read again only when it has changed.
"""

import difflib
import functools
import inspect
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from benchmark.errors import PluginError, UsageError, unknown
from benchmark.listing import METHOD_FOLDERS, method_entry_points, method_files
from benchmark.method.contract import HOOKS, Method
from benchmark.names import check_name
from benchmark.plugins import import_file, import_plugin, load_entry_point, stamp

#: What is found elsewhere than in the project's folders.
PLUGIN = "plug-in"


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
        Naming the file that raised while being imported, defines no method, or has a name that is taken or cannot
        be a folder.
    UsageError
        For a file that is not there.
    """
    for path in paths:
        if not path.is_file():
            raise UsageError(f"no such method file: {path}")
    project = tuple(_Module(path, f"{path.parent.name}.{path.stem}") for path in method_files())
    own = {module.path for module in project}
    outside = [path for path in dict.fromkeys(path.resolve() for path in paths) if path not in own]
    # Named after what it is made of: so none shares a module, and a changed one is read again.
    plugins = tuple(_Module(path, f"saibench_plugin_{stamp(path)}") for path in outside)
    return dict(_discover(project, plugins))


def resolve(names: Sequence[str]) -> list[type[Method]]:
    """Return the methods that a user named; all of the project's where none is named.

    Parameters
    ----------
    names
        Each a method's name, a file (all of its methods), or ``FILE::NAME`` (one of them).

    Raises
    ------
    UsageError
        For a name that is not there, listing those that are.
    """
    parts = [name.partition("::") for name in names]
    found = discover([Path(file) for file, _, _ in parts if file.endswith(".py") or "/" in file])
    chosen = []
    for name, (file, _, within) in zip(names, parts, strict=True):
        matches = [
            method
            for method in found.values()
            if method.name == name or (source_file(method) == Path(file).resolve() and within in ("", method.name))
        ]
        if not matches:
            raise unknown("method", name, found, ", or give a file's path")
        chosen += matches
    return chosen if names else list(found.values())


def address(method: type[Method]) -> str:
    """Return what `resolve` finds exactly this method by, in any process: its name, or its file and name."""
    return method.name if method.name in discover() else f"{source_file(method)}::{method.name}"


def kind_of(method: type[Method]) -> str:
    """Return ``method``, ``baseline`` or ``plug-in``: where the method was found."""
    file = source_file(method)
    return METHOD_FOLDERS[file.parent.name] if file in method_files() else PLUGIN


def source_file(method: type[Method]) -> Path:
    """Return the file that defines a method."""
    return Path(inspect.getsourcefile(method) or "").resolve()


@dataclass(frozen=True)
class _Module:
    """A file and the name of the module that it is imported as."""

    path: Path
    name: str


@functools.lru_cache(maxsize=8)
def _discover(project: tuple[_Module, ...], plugins: tuple[_Module, ...]) -> dict[str, type[Method]]:
    """Find the methods of the project's files, of the entry points and of plug-in files, in this order."""
    found: dict[str, type[Method]] = {}
    for source, module in _imported(project, plugins):
        for method in _methods_in(module, source):
            if method.name in found:
                raise PluginError(f"{source}: the name {method.name!r} is taken by {found[method.name].__module__}")
            found[method.name] = method
    return found


def _imported(project: Sequence[_Module], plugins: Sequence[_Module]) -> Iterator[tuple[str, ModuleType]]:
    for file in project:
        yield str(file.path), import_file(file.path, file.name)
    for point in method_entry_points():
        loaded = load_entry_point(point)
        yield point.value, loaded if isinstance(loaded, ModuleType) else sys.modules[loaded.__module__]
    for file in plugins:
        yield str(file.path), import_plugin(file.path, file.name)


def _methods_in(module: ModuleType, source: str) -> list[type[Method]]:
    methods = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if not methods:
        raise PluginError(f"{source}: defines no subclass of benchmark.Method; add one")
    for method in methods:
        _check(method, source)
    return methods


def _check(method: type[Method], source: str) -> None:
    """Refuse a class whose description cannot work."""
    if not method.name or not isinstance(method.name, str):
        raise PluginError(f'{source}: class {method.__name__} has no name; set `name = "..."`')
    try:
        check_name(method.name)
    except ValueError as error:
        raise PluginError(f"{source}: class {method.__name__}: the name {error}") from None
    for what, (fits, words) in _FORMS.items():
        if not fits(getattr(method, what)):
            told = reprlib.repr(getattr(method, what))
            raise PluginError(f"{source}: `{what}` of {method.name!r} is {told}; it must be {words}")
    _check_near_misses(method, source)
    _check_hooks(method, source)
    for what in ("curve", "follows", "at_inference"):
        for parameter in getattr(method, what):
            if parameter not in method.model_fields:
                raise PluginError(
                    f"{source}: `{what}` of {method.name!r} names {parameter!r}, which is no parameter; "
                    f"it must name one of {method.describe_parameters()}"
                )


def _check_hooks(method: type[Method], source: str) -> None:
    """Refuse a hook that cannot be called as the contract calls it, such as a `loss` from before there was a step."""
    for hook in HOOKS:
        own, member = getattr(method, hook), getattr(Method, hook)
        if own is member:
            continue
        called = inspect.signature(member).parameters
        try:
            inspect.signature(own).bind(*called)
        except (TypeError, ValueError):
            found = f"takes {inspect.signature(own)}" if callable(own) else "is no function"
            raise PluginError(
                f"{source}: `{hook}` of {method.name!r} {found}; write it as `def {hook}({', '.join(called)})`"
            ) from None


def _check_near_misses(method: type[Method], source: str) -> None:
    """Refuse a function or parameter whose name is nearly one of the contract's that the class does not set itself.

    Nothing would call it, and the method would do less than its author thinks.
    """
    classes = [each for each in method.__mro__ if issubclass(each, Method) and not _is_contracts(each)]
    stated = {name for each in classes for name in (*vars(each), *vars(each).get("__annotations__", ()))}
    known = {*vars(Method), *Method.__annotations__}
    for name in sorted(stated - known):
        own = inspect.getattr_static(method, name, None)
        is_hook = inspect.isfunction(own) or isinstance(own, classmethod | staticmethod)
        if name.startswith(("_", "model_")) or not (is_hook or name in method.model_fields):
            continue
        near = difflib.get_close_matches(name, HOOKS if is_hook else _DESCRIBING, n=1, cutoff=_NEAR)
        if near and near[0] not in stated:
            what = f"`{name}`, which nothing calls" if is_hook else f"a parameter `{name}`"
            raise PluginError(
                f"{source}: {method.name!r} has {what}; did you mean `{near[0]}`? If not, call it otherwise, such as "
                f"`_{name}`"
            )


def _is_contracts(kind: type) -> bool:
    return kind.__module__.startswith("benchmark.")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _are_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_text, value))


def _is_curve(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        _is_text(name) and isinstance(points, list | tuple) and points for name, points in value.items()
    )


#: The class variables that describe a method.
_DESCRIBING = ("name", "label", "references", "curve", "follows")
#: How alike a name is to one of the contract's, from 0 to 1, to be taken for a slip: `masks` is .89, `mask_of` is .73.
_NEAR = 0.8

#: What the class variables of a method must be: a test of the value, and its words.
_FORMS: dict[str, tuple[Callable[[object], bool], str]] = {
    "label": (_is_text, "a text on one line"),
    "references": (_are_texts, "a tuple of texts, each on one line"),
    "curve": (_is_curve, "values by parameter, such as {'target': (0.75, 0.5)}"),
    "follows": (_are_texts, "a tuple of names of parameters"),
    "at_inference": (_are_texts, "a tuple of names of parameters"),
    "only_named": (_are_texts, "a tuple of names of tasks"),
    "exits": (_are_texts, "a tuple of names of stages"),
}
