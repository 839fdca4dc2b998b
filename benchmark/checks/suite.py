"""The checks in their order, and running them on every task.

A check that raises has failed; its message, the rule and a remedy are what the user sees. What an engine refuses to run
is no failure of the method.
"""

import inspect
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from benchmark.cells import Request, plan
from benchmark.checks.counting import counts, counts_everything
from benchmark.checks.engine import engine_agrees
from benchmark.checks.masks import same_masks
from benchmark.checks.saving import saves
from benchmark.checks.subject import IMAGES, Subject
from benchmark.checks.training import builds, gradients, repeatable, trains
from benchmark.engines import EngineRefusal, EngineUnavailable
from benchmark.listing import task_names
from benchmark.method import Method, address
from benchmark.method.discovery import source_file
from benchmark.plugins import lines_in
from benchmark.tasks import find_task


class Check(NamedTuple):
    """A promise and what helps a method that breaks it; the promise's docstring is the rule."""

    promise: Callable[[Subject], str]
    remedy: str

    @property
    def rule(self) -> str:
        """The promise in one sentence."""
        return (self.promise.__doc__ or "").splitlines()[0]


CHECKS = {
    "builds": Check(builds, "let `curve` hold values that its parameters accept, and masks return `self.size(x)`"),
    "trains two steps": Check(trains, "return a finite scalar from `loss`, and leave weights that can be trained"),
    "gradients reach the masks": Check(
        gradients, "use the confidence in the mask's training values or in `loss`; hard values need `straight_through`"
    ),
    "same masks in any batch": Check(
        same_masks, "at inference, return 0 or more and decide from the image alone; draw noise for `at_hand()`"
    ),
    "counts": Check(counts, "compute with PyTorch's modules and functions, in a forward that can be traced"),
    "counts all that runs": Check(
        counts_everything,
        "compute in the forward of a mask, gate, fill or registered module, not in a hook, and use what comes of it",
    ),
    "counts match the engine": Check(
        engine_agrees, "at inference, decide from the block's input alone, with values of 0 where nothing is computed"
    ),
    "saves and loads": Check(
        saves, "keep what inference needs in parameters and buffers; let `restore` make the finished structure"
    ),
    "same seed, same result": Check(
        repeatable, "draw random numbers from PyTorch's generator, which every step seeds, and from nothing else"
    ),
}


@dataclass(frozen=True)
class Result:
    """How one promise fared on one task.

    Attributes
    ----------
    task, name : str
        Which check, where.
    status : str
        ``passed``, ``failed`` or ``skipped``.
    detail : str
        What there is to say; of a failure, what happened, with the plug-in's file and line where it raised.
    rule, remedy : str
        Of a failure, the promise that is broken and what keeps it.
    """

    task: str
    name: str
    status: str
    detail: str = ""
    rule: str = ""
    remedy: str = ""


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
    try:
        subject = Subject(plan(Request(task, address(method), data=folder)))
    except Exception as error:
        yield _failure(task, "builds", error, method)
        return
    for name, check in CHECKS.items():
        try:
            yield Result(task, name, "passed", check.promise(subject) or "")
        except (EngineUnavailable, EngineRefusal) as reason:
            yield Result(task, name, "skipped", str(reason))
        except Exception as error:
            yield _failure(task, name, error, method)


def _failure(task: str, name: str, error: Exception, method: type[Method]) -> Result:
    return Result(task, name, "failed", _describe(error, method), CHECKS[name].rule, CHECKS[name].remedy)


def _describe(error: Exception, method: type[Method]) -> str:
    """Say what a check found, or what was raised, behind the line of the plug-in that it went through, or its class."""
    source = source_file(method)
    line = (lines_in(error, source) or [inspect.getsourcelines(method)[1]])[-1]
    text = str(error).splitlines()[0] if str(error) else "no message"
    return f"{source}:{line}: {text if isinstance(error, AssertionError) else f'{type(error).__name__}: {text}'}"
