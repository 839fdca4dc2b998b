"""What the checks look at: a method on a task, built and trained on a handful of embedded images."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.cells import Plan, reader
from benchmark.nn import inference
from benchmark.tasks import Batch
from benchmark.train import Loop, TrainingStep, fit

IMAGES = {"train": 6, "val": 2}
STEPS = 2


class Subject:
    """A method on a task, with a few images."""

    def __init__(self, planned: Plan) -> None:
        self.plan = planned
        self.train = reader(planned.task.name, planned.folder, "train")
        self.val = reader(planned.task.name, planned.folder, "val")

    def build(self) -> nn.Module:
        """Return the untrained model."""
        return self.plan.build(len(self.train.classes))

    def trained(self, steps: int = STEPS) -> nn.Module:
        """Return the model after a few training steps."""
        model = self.build()
        body, method = self.plan.task.backbone(model), self.plan.method
        method.prepare(body)
        schedule = self.plan.schedules[-1].replace(batch=2, warmup_steps=0)
        training = TrainingStep(self.plan.task, method, model, schedule, steps, seed=0)
        with tempfile.TemporaryDirectory() as folder:
            fit(training, self.train, Loop(Path(folder)))
        method.finish(body)
        return model

    def batch(self, split: Any, indices: list[int]) -> Batch:
        """Return a batch of a split's images."""
        return Batch.collate([split[index] for index in indices])

    def predictions(self, model: nn.Module, indices: list[int]) -> list[Any]:
        """Return inference predictions."""
        batch = self.batch(self.val, indices)
        with inference(batch.identifiers, seed=0), torch.inference_mode():
            return self.plan.task.predict(model.eval(), batch)


@contextmanager
def _captured(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of modules by name."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: found.__setitem__(name, output)

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def outputs(model: nn.Module, names: list[str]) -> AbstractContextManager[dict[str, Tensor]]:
    """Collect the outputs of submodules by name, of the last forward inside the context."""
    return _captured({name: model.get_submodule(name) for name in names})


def equal(one: Any, other: Any) -> bool:
    """Return whether two predictions, whatever the task nests them in, are the same to the last digit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)
