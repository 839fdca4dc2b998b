"""What counting adds to an evaluation, as a share of the same evaluation without it, for 8 to 128 images of each task.

Each round runs the evaluation once without and once with counting, in turns, in process time, which another program on
the machine does not stretch. Two shares come of it, each the median over the rounds:

- ``share``: the counter's own calls, timed inside of the evaluation that they count, to the evaluation without them.
  Making the counter, its hooks, the last reduction and all columns and maps that a record has are among them;
  ``with_tables`` adds what pandas takes to make tables of the columns, which is the first step of storing them.
- ``difference``: what the evaluation with counting took longer. It has, besides, what PyTorch does to call a hook, and
  the noise of two evaluations.

`test_evaluation` is the harness's own, image by image; `test_network` leaves out data, loader and predictions and runs
the bare network in batches, which is the least that there is to compare with. A structure is traced before, once for
all of its evaluations in a process; `test_trace` says what that takes. All run at scale ``mini``, whose networks are
the smallest that there are.
"""

import functools
import time
from contextlib import contextmanager, nullcontext
from statistics import median

import pandas as pd
import pytest
import torch

from benchmark.cells import Request, plan, reader
from benchmark.evaluate import evaluate
from benchmark.flops import trace
from benchmark.flops.measured import MeasuredCounter
from benchmark.flops.recorder import Recorder
from benchmark.nn import residual_blocks
from benchmark.tasks import Batch

TASKS = ("coco", "cityscapes", "imagenet")
BATCH = {"coco": 8, "cityscapes": 8, "imagenet": 32}
ROUNDS = {8: 11, 32: 5, 128: 2}  # by number of images


class Clock:
    """Adds up the process time of the calls of the functions that it wraps; a call inside of another counts once."""

    def __init__(self):
        self.seconds, self.running = 0.0, False

    def around(self, function):
        @functools.wraps(function)
        def timed(*arguments, **options):
            if self.running:
                return function(*arguments, **options)
            self.running, started = True, time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.process_time() - started
                self.running = False

        return timed


class Repeated:
    """A reader of ``count`` images that repeats those of another under identifiers of their own."""

    def __init__(self, images, count):
        self.images, self.count = images, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        sample = self.images[index % len(self.images)]
        return sample._replace(identifier=f"{sample.identifier}-{index}")


class Subject:
    """The paper's method on a task, about 4 of 10 positions sampled."""

    def __init__(self, task, folder):
        torch.manual_seed(0)
        self.plan = plan(Request(task, "stochastic", data=folder))
        self.val = reader(task, folder, "val")
        self.model = self.plan.build(len(self.val.classes)).eval()
        for block in residual_blocks(self.model):
            for mask in (block.mask1, block.mask2, block.mask3):
                if mask is not None:
                    torch.nn.init.constant_(mask.conv.bias, -0.5)

    def evaluation(self, images):
        """Return the harness's evaluation of a number of images, given a counter or None."""

        def run(counter):
            with nullcontext() if counter is None else counter.recording():
                evaluate(self.plan.task, self.model, Repeated(self.val, images), seed=0)

        return run

    def network(self, images):
        """Return forward passes of the bare network over a number of images, given a counter or None."""
        size = min(images, BATCH[self.plan.task.name])
        repeated = Repeated(self.val, size)
        batch = Batch.collate([repeated[index] for index in range(size)])
        given = []
        hook = self.model.register_forward_pre_hook(lambda module, inputs: given.append(inputs))
        with torch.inference_mode():
            self.plan.task.predict(self.model, batch)
        hook.remove()

        def run(counter):
            with torch.inference_mode(), nullcontext() if counter is None else counter.recording():
                for _ in range(images // size):
                    self.model(*given[0])

        return run


@pytest.fixture(autouse=True)
def one_thread():
    """Run on one thread, as the recipes of scale mini do, so that process time is the evaluation's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def clock(monkeypatch):
    """Return a clock around all calls into the counter."""
    clock = Clock()
    recording = MeasuredCounter.recording

    @contextmanager
    def timed(counter):
        context = recording(counter)
        clock.around(context.__enter__)()
        yield
        clock.around(context.__exit__)(None, None, None)

    monkeypatch.setattr(MeasuredCounter, "recording", timed)
    for name in ("_observed", "_batch_begins", "_batch_ends", "_regions_begin"):
        monkeypatch.setattr(Recorder, name, clock.around(getattr(Recorder, name)))
    for name in ("__init__", "image_columns", "layer_columns", "density_maps"):
        monkeypatch.setattr(MeasuredCounter, name, clock.around(getattr(MeasuredCounter, name)))
    monkeypatch.setattr(MeasuredCounter, "uncounted", property(clock.around(MeasuredCounter.uncounted.fget)))
    return clock


def counting(subject, evaluate):
    """Return an evaluation with all that a cell's record has of the counts; it returns the seconds that tables took."""

    def counted():
        counter = MeasuredCounter(subject.model, subject.plan.task.adapter(subject.model))
        evaluate(counter)
        columns = counter.image_columns(), counter.layer_columns()
        counter.density_maps(), counter.uncounted
        started = time.process_time()
        for table in columns:
            pd.DataFrame(table)
        return time.process_time() - started

    return counted


def measure(benchmark, clock, subject, evaluate, images):
    """Run an evaluation with and without counting in turns; keep the medians in the benchmark's ``extra_info``."""
    counting(subject, subject.network(1))()  # traces the structure
    plain, counted = lambda: evaluate(None), counting(subject, evaluate)
    figures = {"share": [], "with_tables": [], "difference": [], "milliseconds": []}

    def in_turns():
        seconds, tables = {}, {}
        for which in (plain, counted) if len(figures["share"]) % 2 else (counted, plain):
            clock.seconds, started = 0.0, time.process_time()
            tables[which] = which()
            seconds[which] = time.process_time() - started
            if which is counted:
                counts = clock.seconds
        figures["share"].append(counts / seconds[plain])
        figures["with_tables"].append((counts + tables[counted]) / seconds[plain])
        figures["difference"].append(seconds[counted] / seconds[plain] - 1)
        figures["milliseconds"].append(1000 * counts)

    benchmark.pedantic(in_turns, rounds=ROUNDS[images], iterations=1)
    benchmark.extra_info.update({name: median(values) for name, values in figures.items()})


@pytest.mark.parametrize("images", ROUNDS)
@pytest.mark.parametrize("task", TASKS)
def test_evaluation(benchmark, clock, tiny_set, task, images):
    subject = Subject(task, tiny_set(task))
    measure(benchmark, clock, subject, subject.evaluation(images), images)


@pytest.mark.parametrize("images", ROUNDS)
@pytest.mark.parametrize("task", TASKS)
def test_network(benchmark, clock, tiny_set, task, images):
    subject = Subject(task, tiny_set(task))
    measure(benchmark, clock, subject, subject.network(images), images)


@pytest.mark.parametrize("task", TASKS)
def test_trace(benchmark, monkeypatch, tiny_set, task):
    subject = Subject(task, tiny_set(task))
    evaluate = subject.network(1)
    counting(subject, evaluate)()  # what PyTorch and fvcore import
    monkeypatch.setattr(trace, "_skeletons", {})

    def first():
        trace._skeletons.clear()
        counting(subject, evaluate)()

    benchmark.pedantic(first, rounds=5, iterations=1)
