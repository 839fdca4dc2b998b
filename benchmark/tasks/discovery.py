"""How tasks are found: packages in `benchmark.tasks`, the entry-point group ``saibench.tasks``, and folders by path.

A folder is a Python package whose ``__init__.py`` defines ``TASK``. Nothing here knows a task by name.
"""

import functools
import hashlib
import importlib
import sys
from pathlib import Path

from benchmark.code import hash_code
from benchmark.errors import PluginError, UsageError, unknown
from benchmark.listing import is_path, project_tasks, task_entry_points, task_names
from benchmark.names import check_name
from benchmark.plugins import import_plugin, imports_of, load_entry_point
from benchmark.tasks.base import Task

__all__ = ["find_task", "outside_code"]

# Tasks of folders by name: records, readers and worker processes name a task so, once its folder was given.
_opened: dict[str, Task] = {}
# Names of the modules that define the tasks from outside of the project, by the task's.
_modules: dict[str, str] = {}


def find_task(name: str) -> Task:
    """Return a task.

    Parameters
    ----------
    name
        A task's name, or the path of its folder, with a ``/`` in it. A folder's task is then known by its name, too,
        for as long as the process lives.

    Raises
    ------
    UsageError
        For a name or folder that is not there.
    PluginError
        Naming the folder or entry point that raised while being imported, defines no task, or takes a name that is
        taken.
    """
    if is_path(name):
        return _open(Path(name).resolve())
    if name in project_tasks():
        return importlib.import_module(f"benchmark.tasks.{name}").TASK
    for point in task_entry_points():
        if point.name == name:
            task = _checked(load_entry_point(point), f"entry point {point.value!r}", name)
            _modules[name] = point.module
            return task
    if name in _opened:
        return _opened[name]
    raise unknown("task", name, [*task_names(), *_opened], ", or give a folder's path")


def outside_code(task: Task) -> str | None:
    """Return a hash of the code of a task that is not the project's own, None for one that is.

    It is part of the identity of the task's cells, with what it imports from elsewhere than installed packages. What
    the project's own tasks compute, `HARNESS_VERSION` stands for.
    """
    return _hash_task(_modules[task.name]) if task.name in _modules else None


@functools.cache  # of the code as it was imported
def _hash_task(module: str) -> str:
    file = Path(str(sys.modules[module].__file__)).resolve()
    alone = "." not in module and file.name != "__init__.py"  # among all installed packages
    digest = hashlib.blake2b(digest_size=8)
    for path in [file] if alone else sorted(file.parent.rglob("*.py")):
        digest.update(f"{path.relative_to(file.parent)}\0".encode() + path.read_bytes())
    for name, path in imports_of(module, file).items():
        if alone or file.parent not in path.parents:
            digest.update(f"{name}\0{hash_code(path)}".encode())
    return digest.hexdigest()


def _open(folder: Path) -> Task:
    start = folder / "__init__.py"
    if not start.is_file():
        raise UsageError(f"no task in {folder}: it needs an __init__.py that defines TASK")
    digest = hashlib.blake2b(str(folder).encode(), digest_size=6).hexdigest()
    module = import_plugin(start, f"saibench_task_{digest}")
    task = _checked(getattr(module, "TASK", None), str(start))
    if task.name in task_names() or _opened.get(task.name, task) is not task:
        raise PluginError(f"{start}: the name {task.name!r} is taken by another task; choose another")
    _opened[task.name] = task
    _modules[task.name] = module.__name__
    return task


def _checked(task: object, source: str, name: str | None = None) -> Task:
    """Refuse what is no task, or a task whose name cannot be a folder or is not the one that it was listed under."""
    if not isinstance(task, Task):
        raise PluginError(f"{source}: TASK is {type(task).__name__}, not an instance of benchmark.tasks.Task")
    try:
        check_name(task.name)
    except ValueError as error:
        raise PluginError(f"{source}: the task's name {error}") from None
    if name not in (None, task.name):
        raise PluginError(f"{source}: its task is called {task.name!r}, not {name!r}; list it under its own name")
    return task
