"""What the checks look at: a method on a task, built and trained on a handful of embedded images of two sizes."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.cells import Plan, reader
from benchmark.checks.sparse import make_sparse
from benchmark.data.reader import Sample
from benchmark.method import Method
from benchmark.nn import Decided, ResidualBlock, at_hand, inference, observing
from benchmark.tasks import Batch
from benchmark.train import Loop, TrainingStep, fit

IMAGES = {"train": 6, "val": 3}
STEPS = 2

#: An image's masks, ``(H, W)`` by place (``layer1.0.mask1``), by the image's identifier.
MasksOf = dict[str | int, dict[str, Tensor]]


class Subject:
    """A method on a task, with a few images.

    Attributes
    ----------
    large, small : list of Sample
        The validation images as they are, and the left three quarters of each.
    kept : dict
        By layer: attributes in which masks, gates or fills of the method's keep tensors that are no buffers.
    """

    def __init__(self, planned: Plan) -> None:
        self.plan = planned
        self.train = reader(planned.task.name, planned.folder, "train")
        self.val = reader(planned.task.name, planned.folder, "val")
        self.large = [self.val[index] for index in range(len(self.val))]
        self.small = [each._replace(image=each.image[..., : 3 * each.image.shape[-1] // 4]) for each in self.large]
        self.kept: dict[str, str] = {}

    def points(self) -> list[Method]:
        """Return the method at each point of its curve."""
        kind, recipe = type(self.plan.method), self.plan.recipe
        given = {**kind.defaults(recipe.parameters), **self.plan.request.parameters}
        return [kind.make({**given, **point}) for point in kind.points(recipe.curves)]

    def of(self, method: Method) -> "Subject":
        """Return a subject that has another method on the same images."""
        return Subject(dataclasses.replace(self.plan, method=method))

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
        method.configure(body)
        return model

    @cached_property
    def sparse(self) -> nn.Module:
        """The trained model, in which every mask and gate leaves about half of its map out (`make_sparse`)."""
        model = self.trained().eval()
        make_sparse(model, lambda: self.predictions(model, [0, 1]))
        return model

    @cached_property
    def mixes_sizes(self) -> bool:
        """Whether the task makes one batch of images of two sizes."""
        try:
            self.plan.task.prepare(self.build().eval(), Batch.collate([self.large[0], self.small[1]]))
        except RuntimeError:  # of tensors that cannot be stacked
            return False
        return True

    def batch(self, split: Any, indices: list[int]) -> Batch:
        """Return a batch of a split's images."""
        return Batch.collate([split[index] for index in indices])

    def predictions(self, model: nn.Module, indices: list[int]) -> list[Any]:
        """Return inference predictions of validation images."""
        return self.predict(model, [self.large[index] for index in indices])

    def predict(self, model: nn.Module, samples: Sequence[Sample]) -> list[Any]:
        """Return inference predictions of a batch."""
        batch = Batch.collate(samples)
        with inference(batch.identifiers, seed=0), torch.inference_mode():
            predictions = self.plan.task.predict(model.eval(), batch)
        self.kept.update(kept_tensors(model))
        return predictions

    def masks(self, model: nn.Module, samples: Sequence[Sample]) -> MasksOf:
        """Return what is decided for each image of a batch."""
        found: MasksOf = {}

        def keep(block: ResidualBlock, decided: Decided) -> None:
            for number, values in decided.masks.items():
                for image, mask in zip(at_hand().identifiers(len(values)), values[:, 0], strict=True):
                    found.setdefault(image, {})[f"{block.name}.mask{number}"] = mask

        with observing(keep):
            self.predict(model, samples)
        return found


def kept_tensors(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield layers of classes from elsewhere that keep a tensor, with the attribute that keeps it."""
    for name, module in model.named_modules():
        if not type(module).__module__.startswith(("benchmark.", "torch", "methods.", "baselines.")):
            for attribute, value in vars(module).items():
                if isinstance(value, Tensor) and attribute not in ("confidence", "decided"):
                    yield name, attribute


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
