"""What there is, by name, without importing it: tasks, methods, reports, executors.

A task or a method imports PyTorch, which takes seconds: too long for help, completion and the answer to a mistyped
name. Files are therefore listed, and read as text where the name stands inside. `benchmark.method.discover` and
`benchmark.tasks.find_task` import what is named here.
"""

import ast
import functools
import importlib.util
import pkgutil
from collections.abc import Iterator
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path

#: What the files in each of the project's folders are.
METHOD_FOLDERS = {"methods": "method", "baselines": "baseline"}
ENTRY_POINT_GROUP = "saibench.methods"
TASK_ENTRY_POINT_GROUP = "saibench.tasks"


def is_path(word: str) -> bool:
    """Return whether a user who typed this means a file or folder, not a name."""
    return "/" in word


def project_tasks() -> list[str]:
    """Return the names of the project's own tasks: the packages in `benchmark.tasks`."""
    folder = Path(__file__).parent / "tasks"
    return [module.name for module in pkgutil.iter_modules([str(folder)]) if module.ispkg]


@functools.cache
def task_entry_points() -> EntryPoints:
    """Return what installed packages offer as tasks, under the tasks' names."""
    return entry_points(group=TASK_ENTRY_POINT_GROUP)


def task_names() -> list[str]:
    """Return the tasks' names: the project's own, and those of installed packages."""
    own = project_tasks()
    return own + [point.name for point in task_entry_points() if point.name not in own]


def method_files() -> list[Path]:
    """Return the project's own files of methods and baselines, in the order in which they are listed."""
    root = Path(__file__).resolve().parent.parent
    files = [path for folder in METHOD_FOLDERS for path in sorted((root / folder).glob("*.py"))]
    return [path for path in files if path.name != "__init__.py"]


@functools.cache
def method_entry_points() -> EntryPoints:
    """Return what installed packages offer as methods."""
    return entry_points(group=ENTRY_POINT_GROUP)


def method_names() -> list[str]:
    """Return the names that methods' files state as text: ``name = "..."`` in a class.

    A name that an installed package computes is missing; `benchmark.method.discover` knows it.
    """
    return [name for path in [*method_files(), *_installed_files()] for name in _stated(path)]


def report_names() -> list[str]:
    """Return the reports' names: modules of the package ``reports`` with a ``TITLE``."""
    spec = importlib.util.find_spec("reports")
    if spec is None or spec.submodule_search_locations is None:
        return []
    files = sorted(path for folder in spec.submodule_search_locations for path in Path(folder).glob("*.py"))
    titled = [path for path in files if any("TITLE" in targets for targets, _ in _assigned(_body(path)))]
    return [path.stem for path in titled if path.stem != "__init__"]


def executor_names() -> list[str]:
    """Return the executors' names: modules of `benchmark.executors` that set ``EXECUTOR``."""
    files = sorted((Path(__file__).parent / "executors").glob("*.py"))
    return [path.stem for path in files if any("EXECUTOR" in targets for targets, _ in _assigned(_body(path)))]


def _stated(path: Path) -> Iterator[str]:
    """Give the text assigned to ``name`` in each class of a file."""
    for node in _body(path):
        for targets, value in _assigned(node.body if isinstance(node, ast.ClassDef) else []):
            if "name" in targets and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value


def _assigned(statements: list[ast.stmt]) -> Iterator[tuple[list[str], ast.expr | None]]:
    """Give the names and the value of each assignment, with a type or without."""
    for statement in statements:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            yield [target.id for target in targets if isinstance(target, ast.Name)], statement.value


def _body(path: Path) -> list[ast.stmt]:
    """Return a file's statements; none where it cannot be read, which importing it will explain."""
    try:
        return ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []


def _installed_files() -> Iterator[Path]:
    """Give the files that entry points name, without `importlib.util.find_spec`, which imports the packages around."""
    for point in method_entry_points():
        stem = point.module.replace(".", "/")
        places = [] if point.dist is None else [point.dist.locate_file(stem + end) for end in (".py", "/__init__.py")]
        yield from (path for path in map(Path, map(str, places)) if path.is_file())
