"""Check a data folder as a whole and say, file by file, what is wrong and what to do.

The readers stop at the first fault that they meet; this goes on to the end. It changes nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmark.cores import usable_cores
from benchmark.data.images import TURNED, ImageStore, Look
from benchmark.errors import DataError

SPLITS = ("train", "val")
SHOWN = 10  # files named per problem on the screen; `Report.to_dict` has them all

Progress = Callable[[int, int], None]


@dataclass
class Problem:
    """One kind of fault of a split.

    Attributes
    ----------
    split : str
        Where it was found.
    kind : str
        What is wrong, e.g. ``missing image``.
    remedy : str
        What to do.
    serious : bool
        Whether the set cannot be used as it is; otherwise the readers cope with it.
    where : list of str
        The files or annotations concerned.
    """

    split: str
    kind: str
    remedy: str
    serious: bool
    where: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What was found in a data folder.

    Attributes
    ----------
    task, root : str
        What was checked.
    counts : dict
        Numbers of images, classes, annotations, … by split.
    problems : list of Problem
        Empty if all is well.
    """

    task: str
    root: str
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the set can be used: no serious problem."""
        return not any(problem.serious for problem in self.problems)

    def add(self, split: str, kind: str, where: str, remedy: str, serious: bool = True) -> None:
        """Note one fault; faults of one kind with one remedy are gathered."""
        for problem in self.problems:
            if (problem.split, problem.kind, problem.remedy, problem.serious) == (
                split,
                kind,
                remedy,
                serious,
            ):
                problem.where.append(where)
                return
        self.problems.append(Problem(split, kind, remedy, serious, [where]))

    def lines(self) -> list[str]:
        """Return the report as lines of plain text."""
        lines = [f"{self.task}: {self.root}"]
        for split, counts in self.counts.items():
            lines.append(f"  {split}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
        for problem in self.problems:
            mark = "error" if problem.serious else "warning"
            lines.append(f"{mark}: {problem.split}: {len(problem.where)} x {problem.kind}: {problem.remedy}")
            lines += [f"    {where}" for where in problem.where[:SHOWN]]
            if len(problem.where) > SHOWN:
                lines.append(f"    and {len(problem.where) - SHOWN} more")
        serious = sum(len(problem.where) for problem in self.problems if problem.serious)
        lines.append("all is well" if not self.problems else "usable" if self.ok else f"{serious} faults to mend")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "task": self.task,
            "root": self.root,
            "ok": self.ok,
            "counts": self.counts,
            "problems": [vars(problem) for problem in self.problems],
        }


class Verifiable(Protocol):
    """What `verify` asks of a task."""

    @property
    def name(self) -> str:
        """Key on the command line."""

    def verify_split(self, report: Report, root: Path, split: str, progress: Progress) -> None:
        """Note what is wrong with a split."""

    def compare_splits(self, report: Report, root: Path, splits: Sequence[str]) -> None:
        """Note what is wrong between splits."""


def verify(
    task: Verifiable,
    root: str | os.PathLike[str],
    splits: Sequence[str] = SPLITS,
    progress: Progress | None = None,
) -> Report:
    """Check a data folder: counts, missing and surplus files, unreadable images, labels, boxes.

    Every image is decoded, as coarsely as its format allows.

    Parameters
    ----------
    task : Task
        Whose format is expected.
    root : path
        The data set's folder.
    splits : sequence of str
        What to check.
    progress : callable, optional
        Called as ``progress(images_done, images_of_the_split)``.

    Raises
    ------
    DataError
        If there is no such folder.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"no such data folder: {folder}")
    report = Report(task.name, str(folder))
    for split in splits:
        task.verify_split(report, folder, split, progress or (lambda done, total: None))
    task.compare_splits(report, folder, splits)
    return report


def inspect_images(
    report: Report,
    split: str,
    images: ImageStore,
    names: list[str],
    progress: Progress,
    listed: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, tuple[int, int]]:
    """Decode the named images of a split; note those that cannot be, and return (height, width) of the others.

    Parameters
    ----------
    listed
        The sizes that labels say, by name.
    """

    def look(name: str) -> Look | DataError:
        try:
            return images.inspect(name, (listed or {}).get(name))
        except DataError as error:
            return error

    sizes: dict[str, tuple[int, int]] = {}
    with ThreadPoolExecutor(usable_cores()) as pool:  # decoding releases the interpreter
        for done, (name, found) in enumerate(zip(names, pool.map(look, names), strict=True), start=1):
            where = images.where(name)
            if isinstance(found, DataError):
                reason = str(found).removeprefix(f"cannot decode {where}: ").removeprefix(f"cannot use {where}: ")
                report.add(split, "unreadable image", where, reason)
            else:
                sizes[name] = found.size
                if found.turned:
                    report.add(split, "image that EXIF data turn", where, TURNED, serious=False)
            progress(done, len(names))
    return sizes


def compare_pictures(report: Report, pictures: Mapping[str, tuple[ImageStore, Sequence[str]]]) -> None:
    """Note pictures of later splits that are also in the first one, byte for byte.

    Parameters
    ----------
    pictures
        By split: where its images are, and their names.
    """
    (first, (images, names)), *others = pictures.items()
    known = {digest: name for name, digest in _digests(images, names).items()}
    for split, (these, own) in others:
        for name, digest in _digests(these, own).items():
            if digest in known:
                where = f"{these.where(name)} is {images.where(known[digest])}"
                report.add(split, f"picture that is in {first}, too", where, SHARED, serious=False)


def _digests(images: ImageStore, names: Sequence[str]) -> dict[str, str]:
    """Return digests by name, without those of pictures that cannot be read: these are noted already."""
    try:
        return dict(zip(names, images.digests(names), strict=True))
    except DataError:
        found = {}
        for name in names:
            with contextlib.suppress(DataError):
                found[name] = images.digests([name])[0]
        return found


#: What pictures in both splits mean.
SHARED = "its result says nothing of other pictures: take it out of one of the splits"
