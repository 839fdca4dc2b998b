"""Counting takes at most 2 % of an evaluation's time, on the smallest networks that there are.

Both times come from one run: the counter's own code is timed inside of the evaluation that it counts, in process time,
which another program on the machine does not stretch. The structure is traced before, once for all cells that share it.
"""

import time

import pytest
import torch

from benchmark.flops.measured import MeasuredCounter
from benchmark.flops.recorder import Recorder
from benchmark.nn import interpolation
from benchmark.nn.classifier import Classifier
from benchmark.nn.detector import DetectorSize, build_detector
from benchmark.nn.masks import Masks
from benchmark.nn.resnet import build_backbone, residual_blocks

SHARE = 0.02


class Clock:
    """Adds up the process time of the calls of the functions that it wraps."""

    def __init__(self):
        self.seconds = 0.0

    def around(self, function):
        def timed(*arguments, **options):
            started = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.process_time() - started

        return timed


def adapt(model, fill):
    for block in residual_blocks(model):
        if block.adaptable:
            block.adapt(Masks.gumbel(initial_bias=-0.5), fill)
    return model.eval()


def detector():
    size = DetectorSize(48, 128, 8, proposals_before=(100, 100), proposals_after=(64, 40))
    model = build_detector(adapt(build_backbone("mini"), interpolation.rbf(5)), 5, 128, 224, size).eval()
    return model, list(torch.rand(8, 3, 128, 192)), (128, 192)


def classifier():
    return adapt(Classifier("mini_basic", 10, 64), interpolation.rbf(5)), torch.rand(32, 3, 64, 64), (64, 64)


@pytest.mark.parametrize(("build", "batches"), [(detector, 8), (detector, 24), (classifier, 24), (classifier, 48)])
def test_share_of_counting(benchmark, monkeypatch, build, batches):
    torch.manual_seed(0)
    model, images, size = build()
    counter, clock = MeasuredCounter(model), Clock()
    counter.adapter.image_counts(size)
    counter.adapter.region_counts()
    keep = Recorder._keep
    monkeypatch.setattr(Recorder, "_keep", lambda self, slot: clock.around(keep(self, slot)))
    for name in ("_batch_ends", "_regions_begin"):
        monkeypatch.setattr(Recorder, name, clock.around(getattr(Recorder, name)))

    def evaluate():
        with torch.inference_mode():
            for _ in range(batches):
                model(images)

    def counted():
        with counter.recording():
            evaluate()
            left = time.process_time()  # what is left to count is counted when the recording ends
        clock.seconds += time.process_time() - left
        return clock.around(lambda: (counter.images(), counter.layers(), counter.density_maps()))()

    evaluate()
    started = time.process_time()
    benchmark.pedantic(counted, rounds=1, iterations=1)
    share = clock.seconds / (time.process_time() - started)
    benchmark.extra_info["share_of_counting"] = share
    benchmark.extra_info["images"] = batches * len(images)
    assert share <= SHARE
