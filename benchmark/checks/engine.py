"""The promise about the engine: it computes the PyTorch maps and executes what is counted."""

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark.cells import mask_values
from benchmark.checks.subject import Subject, outputs
from benchmark.engines import find
from benchmark.flops.measured import MeasuredCounter

ENGINE_TOLERANCE = 1e-4
SIZES = ((72, 104), (97, 64))


def engine_agrees(subject: Subject) -> str:
    """With the same masks, the CPU engine gives the PyTorch maps and executes the counted MACs, layer by layer."""
    body = subject.plan.task.backbone(subject.sparse).eval()
    engine = find()(body, threads=1)
    told = [_agrees(body, engine, size) for size in SIZES]
    return f"{' and '.join(f'{macs:,}' for macs, _ in told)} MACs for images of two sizes, in {told[0][1]} layers"


def _agrees(body: nn.Module, engine: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Compare the engine with PyTorch and the counter on an image of a size; return its MACs and layers."""
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, *size)).astype(np.float32))
    counter = MeasuredCounter(body)
    stages = [name for name, _ in body.named_children() if name.startswith("layer")]
    with counter.recording(), torch.inference_mode(), outputs(body, stages) as maps, mask_values() as masks:
        body(image)
    result = engine(image[0].numpy(), masks={name: value[0, 0].numpy().copy() for name, value in masks.items()})
    for name in stages:
        expected = maps[name][0].permute(1, 2, 0).numpy()
        difference = float(np.linalg.norm(result.stages[name] - expected) / np.linalg.norm(expected))
        assert difference <= ENGINE_TOLERANCE, f"{name}: the engine's map differs by {difference:.1e} (relative)"
    table = counter.image_layers().query("scope == 'backbone'")
    counted = {str(layer): int(macs) for layer, macs in zip(table["layer"], table["macs"], strict=True) if macs}
    executed = {layer: row.macs for layer, row in result.tally.items() if row.macs}
    for layer in sorted(counted.keys() | executed.keys()):
        run, count = executed.get(layer, 0), counted.get(layer, 0)
        assert run == count, f"{layer}: the engine executes {run:,} MACs, {count:,} are counted"
    return result.macs, len(executed)
