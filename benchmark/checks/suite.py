"""The checks in their order, and running them on every task.

A check that raises has failed; its message is what the user sees.
"""

import inspect
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.cells import Request, plan
from benchmark.checks.counting import counts
from benchmark.checks.engine import engine_agrees
from benchmark.checks.masks import same_masks
from benchmark.checks.saving import saves
from benchmark.checks.subject import IMAGES, Skipped, Subject
from benchmark.checks.training import builds, gradients, repeatable, trains
from benchmark.listing import task_names
from benchmark.method import Method
from benchmark.tasks import find_task

CHECKS: dict[str, Callable[[Subject], str]] = {
    "builds": builds,
    "trains two steps": trains,
    "gradients reach the masks": gradients,
    "same masks in any batch": same_masks,
    "counts": counts,
    "counts match the engine": engine_agrees,
    "saves and loads": saves,
    "same seed, same result": repeatable,
}


@dataclass(frozen=True)
class Result:
    """How one promise fared on one task: ``passed``, ``failed`` or ``skipped``, and what there is to say."""

    task: str
    name: str
    status: str
    detail: str = ""


def check_method(method: type[Method]) -> list[Result]:
    """Run every check on every task that the method supports."""
    results = []
    with tempfile.TemporaryDirectory() as root:
        for task in task_names():
            reason = method.make({}).skip(task)
            if reason:
                results.append(Result(task, "all", "skipped", reason))
                continue
            results += list(check_task(method, task, Path(root)))
    return results


def check_task(method: type[Method], task: str, root: Path) -> Iterator[Result]:
    """Run every check on one task, with a few embedded images made in the folder `root`."""
    embedded = find_task(task).embedded
    folder = embedded.make("mini", root, size=replace(embedded.sizes["mini"], images=IMAGES))
    source = inspect.getsourcefile(method) or method.name
    try:
        subject = Subject(plan(Request(task, source, data=folder)))
    except Exception as error:
        yield Result(task, "builds", "failed", _describe(error))
        return
    for name, promise in CHECKS.items():
        try:
            yield Result(task, name, "passed", promise(subject) or "")
        except Skipped as reason:
            yield Result(task, name, "skipped", str(reason))
        except Exception as error:
            yield Result(task, name, "failed", _describe(error))


def _describe(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else "no message"
    return text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"
