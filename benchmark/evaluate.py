"""Evaluating one model: its predictions for a split, under the images' own noise.

It computes no metric: that is the task's business. Neither does it count: a `MeasuredCounter` that records meanwhile
sees every image.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmark.data.reader import Identifier
from benchmark.hardware import ONE, Hardware, true_float32
from benchmark.nn import inference
from benchmark.tasks import Reader, Task
from benchmark.train import Progress, image_loader


@dataclass(frozen=True)
class Evaluation:
    """What a model predicts for a split.

    Attributes
    ----------
    predictions : mapping
        The task's predictions by image identifier.
    seconds : float
        What it took, reading the images included.
    """

    predictions: Mapping[Identifier, Any]
    seconds: float


def evaluate(
    task: Task,
    model: nn.Module,
    reader: Reader,
    seed: int,
    workers: int = 0,
    batch_size: int = 1,
    progress: Progress | None = None,
    hardware: Hardware = ONE,
) -> Evaluation:
    """Run a split through a model in inference mode; the model is left on the CPU.

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
    hardware
        Where it runs; always in float32.
    """
    started = time.perf_counter()
    fabric = hardware.evaluating()
    model.to(fabric.device).to(memory_format=torch.channels_last).eval()
    predictions: dict[Identifier, Any] = {}
    for batch in image_loader(reader, workers, batch_size=batch_size):
        with inference(batch.identifiers, seed), torch.inference_mode(), true_float32():
            found = task.predict(model, fabric.to_device(batch))
        predictions.update(zip(batch.identifiers, found, strict=True))
        if progress is not None:
            progress(len(predictions), len(reader))
    model.cpu().to(memory_format=torch.contiguous_format)
    return Evaluation(predictions, time.perf_counter() - started)
