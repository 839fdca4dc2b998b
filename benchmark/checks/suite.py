"""The checks in their order, and running them on every task.

A check that raises has failed; its message, the rule and a remedy are what the user sees. One cause may break several
promises on several tasks: results say by `cause` which of them belong together. What an engine refuses to run is no
failure of the method.
"""

import inspect
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.cells import Request, plan
from benchmark.checks.counting import counts, counts_everything
from benchmark.checks.engine import engine_agrees
from benchmark.checks.masks import same_masks
from benchmark.checks.saving import saves
from benchmark.checks.subject import IMAGES, Subject
from benchmark.checks.training import builds, gradients, has_effect, repeatable, trains
from benchmark.engines import EngineRefusal, EngineUnavailable
from benchmark.errors import UsageError
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
    "has an effect": Check(
        has_effect, "override a hook by its name, such as `mask(self, block)`; CONTRIBUTING.md lists them"
    ),
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
    cause : str
        Of a failure, equal for results that one thing explains.
    """

    task: str
    name: str
    status: str
    detail: str = ""
    rule: str = ""
    remedy: str = ""
    cause: str = ""


def check_method(
    method: type[Method], task: str | None = None, parameters: Mapping[str, Any] | None = None
) -> list[Result]:
    """Run every check on every task that the method supports.

    Parameters
    ----------
    task
        Name or folder of the only task to check it on.
    parameters
        Of the method, in place of its own.
    """
    results = []
    with tempfile.TemporaryDirectory() as root:
        for name in task_names() if task is None else [task]:
            reason = method.make(parameters or {}).skip(find_task(name).name)
            if reason:
                results.append(Result(find_task(name).name, "all", "skipped", reason))
                continue
            results += list(check_task(method, name, Path(root), parameters))
    return results


def check_task(
    method: type[Method], task: str, root: Path, parameters: Mapping[str, Any] | None = None
) -> Iterator[Result]:
    """Run every check on one task, with a few embedded images made in the folder `root`.

    Raises
    ------
    UsageError
        For a task without an embedded set, and for parameters that the method does not take.
    """
    found = find_task(task)
    embedded = found.embedded
    if "mini" not in embedded.sizes:
        raise UsageError(f"task {found.name!r} has no embedded set at scale 'mini' to check a method on; add one")
    method.make(parameters or {})
    folder = embedded.make("mini", root, size=replace(embedded.sizes["mini"], images=IMAGES))
    try:
        subject = Subject(plan(Request(task, address(method), parameters=parameters or {}, data=folder)))
    except Exception as error:
        yield _failure(found.name, "builds", error, method)
        return
    for name, check in CHECKS.items():
        try:
            yield Result(found.name, name, "passed", check.promise(subject) or "")
        except (EngineUnavailable, EngineRefusal) as reason:
            yield Result(found.name, name, "skipped", str(reason))
        except Exception as error:
            yield _failure(found.name, name, error, method, subject.kept)


def _failure(
    task: str, name: str, error: Exception, method: type[Method], kept: Mapping[str, str] | None = None
) -> Result:
    remedy = CHECKS[name].remedy
    if kept and name in _SPOILT_BY_KEPT:
        layer, attribute = next(iter(kept.items()))
        remedy = (
            f"{layer} keeps a tensor as `self.{attribute}`, which is no buffer: register it with `register_buffer`, or "
            "compute it anew in each forward"
        )
    cause = _cause(error, method)
    return Result(task, name, "failed", _describe(error, method), CHECKS[name].rule, remedy, cause)


#: Promises that a tensor breaks that is kept on a module without being a buffer.
_SPOILT_BY_KEPT = ("same masks in any batch", "saves and loads", "same seed, same result", "counts")


def _describe(error: Exception, method: type[Method]) -> str:
    """Say what a check found, or what was raised, behind the line of the plug-in that it went through, or its class."""
    root = _root(error)
    lines = lines_in(root, source_file(method)) or lines_in(error, source_file(method)) or _line_of(method)
    place = ":".join(map(str, [source_file(method), *lines[-1:]]))
    text = str(error).splitlines()[0] if str(error) else "no message"
    return f"{place}: {text if isinstance(error, AssertionError) else f'{type(error).__name__}: {text}'}"


def _cause(error: Exception, method: type[Method]) -> str:
    """Return a text that is equal for failures that one thing explains, whatever layer and number they name."""
    root = _root(error)
    line = lines_in(root, source_file(method))[-1:]
    text = re.sub(r"[\w.]*layer\d[\w.]*|\d[\d.,e%+-]*", "#", str(root))
    return f"{type(root).__name__} {line}: {text}"


def _root(error: BaseException) -> BaseException:
    """Return what an error was raised from in the end."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _line_of(method: type[Method]) -> list[int]:
    """Return the line at which a class begins; none for a class that no `class` statement made."""
    try:
        return [inspect.getsourcelines(method)[1]]
    except OSError:
        return []
