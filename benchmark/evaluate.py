"""Evaluating one model: its predictions for a split, under the images' own noise.

It computes no metric: that is the task's business. Neither does it count: a `MeasuredCounter` that records meanwhile
sees every image of its own process.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import BatchSampler, SequentialSampler

from benchmark.data.reader import Identifier
from benchmark.errors import noting_images
from benchmark.hardware import ONE, true_float32
from benchmark.nn import inference
from benchmark.parallel import gather
from benchmark.tasks import Reader, Task
from benchmark.train import Progress, image_loader


@dataclass(frozen=True)
class Evaluation:
    """What a model predicts for a split.

    Attributes
    ----------
    predictions : mapping
        The task's predictions by image identifier, in the order of the split; nothing in any process but the first.
    exits : sequence of mapping
        The same of each exit.
    seconds : float
        What it took, reading the images included.
    places : list of list of int
        Which images of the split each process ran, in its order; nothing in any process but the first.
    """

    predictions: Mapping[Identifier, Any]
    exits: Sequence[Mapping[Identifier, Any]]
    seconds: float
    places: list[list[int]]


def evaluate(
    task: Task,
    model: nn.Module,
    reader: Reader,
    seed: int,
    workers: int = 0,
    batch_size: int = 1,
    progress: Progress | None = None,
    fabric: Fabric | None = None,
) -> Evaluation:
    """Run a split through a model in inference mode; the model is left on the CPU.

    Several processes take its batches in turn.

    Parameters
    ----------
    seed
        Seed of the images' noise.
    workers
        Processes that read images; 0 for this one.
    batch_size
        Images at a time.
    progress
        Called after each batch with the number of images.
    fabric
        The device, and the other processes; None for one device. Always in float32.
    """
    started = time.perf_counter()
    fabric = fabric or ONE.fabric()
    model.to(fabric.device).to(memory_format=torch.channels_last).eval()
    batches = list(BatchSampler(SequentialSampler(range(len(reader))), batch_size, drop_last=False))
    own = batches[fabric.global_rank :: fabric.world_size]
    predictions: dict[Identifier, tuple[Any, ...]] = {}  # of the output and of each exit
    for batch in image_loader(reader, workers, batch_sampler=own):
        with (
            noting_images(batch.identifiers),
            inference(batch.identifiers, seed),
            torch.inference_mode(),
            true_float32(),
        ):
            found = task.predict_with_exits(model, fabric.to_device(batch))
        predictions.update(zip(batch.identifiers, zip(*found, strict=True), strict=True))
        if progress is not None:
            progress(min(len(reader), len(predictions) * fabric.world_size), len(reader))
    model.cpu().to(memory_format=torch.contiguous_format)
    parts = gather(fabric, (predictions, [index for batch in own for index in batch]))
    places = [place for _, place in parts]
    placed = {place: item for each, place in parts for place, item in zip(place, each.items(), strict=True)}
    images = [placed[place] for place in sorted(placed)]
    outputs = [{name: found[index] for name, found in images} for index in range(len(images[0][1]) if images else 1)]
    return Evaluation(outputs[0], outputs[1:], time.perf_counter() - started, places)
