"""Timing cells that no record times: a few steps and a few images of each, kept nowhere."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmark.cells import Plan, reader
from benchmark.evaluate import evaluate
from benchmark.flops.measured import MeasuredCounter
from benchmark.store import canonical_json
from benchmark.sweep.estimates import Rate
from benchmark.tasks import Reader, Sample
from benchmark.train import Loop, TrainingStep, fit

STEPS = 4  # the first, which is slower, is left out
IMAGES = 8


def measure(plans: Sequence[Plan], done: Callable[[int], None]) -> dict[str, Rate]:
    """Time a few steps and images of each method and its parameters among some plans.

    Parameters
    ----------
    done
        Called after each plan with the number of those that are timed.

    Returns
    -------
    dict
        Rates by cell id; plans that differ in their seed alone share one.
    """
    rates: dict[str, Rate] = {}
    timed: dict[str, Rate] = {}
    for number, planned in enumerate(plans, start=1):
        key = canonical_json([planned.cell.method, planned.cell.parameters])
        if key not in timed:
            timed[key] = _time(planned)
        rates[planned.cell.id] = timed[key]
        done(number)
    return rates


def _time(planned: Plan) -> Rate:
    task, seed = planned.task, planned.request.seed
    train, val = (reader(task.name, planned.folder, split) for split in ("train", "val"))
    if planned.recipe.threads is not None:
        torch.set_num_threads(planned.recipe.threads)
    model = planned.build(len(train.classes))
    planned.method.prepare(task.backbone(model))
    schedule = planned.trained.schedules[-1]
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        training = TrainingStep(task, planned.method, model, schedule, STEPS, seed)
        fabric = planned.request.hardware.fabric()
        loop = Loop(Path(folder), planned.recipe.workers, lambda *step: ends.append(time.perf_counter()), fabric)
        fit(training, train, loop)
    planned.method.finish(task.backbone(model))
    planned.method.configure(task.backbone(model))
    counter = MeasuredCounter(model.eval(), task.adapter(model))
    few = _First(val, IMAGES)
    with counter.recording():  # as in a cell: counting takes its time, too
        evaluation = evaluate(task, model, few, seed, planned.recipe.workers, planned.recipe.evaluation_batch)
    image = float(np.median(np.diff(ends))) / schedule.batch
    return Rate(image, evaluation.seconds * len(val) / len(few), None, f"{STEPS} steps and {len(few)} images, timed")


class _First:
    """The first images of a split: a reader."""

    def __init__(self, reader: Reader, count: int) -> None:
        self.reader, self.count, self.classes = reader, min(count, len(reader)), reader.classes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """Return an image."""
        return self.reader[index]

    def fingerprint(self) -> str:
        """Return the hash of the whole split."""
        return self.reader.fingerprint()
