"""The contract tests that `saibench check` runs on any method, the project's own or a plug-in.

Each test builds the method on a task at scale ``mini`` with a handful of embedded images, and states one promise of
DESIGN §4 and §5. A test that raises has failed; its message is what the user sees.
"""

import inspect
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmark.cells import Plan, Request, plan, reader
from benchmark.data import embedded
from benchmark.engine.compiler import Engine
from benchmark.engine.kernels import EngineUnavailable
from benchmark.flops.measured import MeasuredCounter
from benchmark.method import Method
from benchmark.nn import Mask, identify_images
from benchmark.tasks import Batch
from benchmark.tasks.base import task_names
from benchmark.train import CellModule, Loop, fit

IMAGES = {"train": 6, "val": 2}
STEPS = 2
ENGINE_TOLERANCE = 1e-4


class Skipped(Exception):
    """A promise cannot be tested here; the message says why."""


@dataclass(frozen=True)
class Result:
    """How one promise fared on one task: ``passed``, ``failed`` or ``skipped``, and what there is to say."""

    task: str
    name: str
    status: str
    detail: str = ""


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
        schedule = replace(self.plan.schedules[-1], batch=2, warmup_steps=0)
        module = CellModule(self.plan.task, method, model, schedule, steps, seed=0)
        with tempfile.TemporaryDirectory() as folder:
            fit(module, self.train, Loop(Path(folder)))
        method.finish(body)
        return model

    def batch(self, split: Any, indices: list[int]) -> Batch:
        """Return a batch of a split's images."""
        return Batch.collate([(*split[index], split.image_id(index)) for index in indices])

    def predictions(self, model: nn.Module, indices: list[int]) -> list[Any]:
        """Return inference predictions."""
        batch = self.batch(self.val, indices)
        identify_images(model.eval(), batch.identifiers, seed=0)
        with torch.inference_mode():
            return self.plan.task.predict(model, batch)


def check_method(method: type[Method]) -> list[Result]:
    """Run every contract test on every task that the method supports."""
    results = []
    with tempfile.TemporaryDirectory() as root:
        for task in task_names():
            reason = method.make({}).skip(task)
            if reason:
                results.append(Result(task, "all", "skipped", reason))
                continue
            results += list(_check_task(method, task, Path(root)))
    return results


def _check_task(method: type[Method], task: str, root: Path) -> Iterator[Result]:
    size = replace(embedded.SIZES[task, "mini"], images=IMAGES)
    folder = embedded.make(task, "mini", root, size=size)
    source = inspect.getsourcefile(method) or method.name
    try:
        subject = Subject(plan(Request(task, source, data=folder)))
    except Exception as error:
        yield Result(task, "builds", "failed", _describe(error))
        return
    for name, test in TESTS.items():
        try:
            yield Result(task, name, "passed", test(subject) or "")
        except Skipped as reason:
            yield Result(task, name, "skipped", str(reason))
        except Exception as error:
            yield Result(task, name, "failed", _describe(error))


def _describe(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else "no message"
    return text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"


def builds(subject: Subject) -> str:
    """Every point of the curve makes a model that runs."""
    kind = type(subject.plan.method)
    points = kind.points(subject.plan.recipe.curves)
    for point in points:
        kind.make(point)
    subject.predictions(subject.build(), [0])
    return f"{len(points)} point{'s' if len(points) != 1 else ''} on its curve"


def trains(subject: Subject) -> str:
    """Two steps change the weights and leave them finite."""
    before = {key: value.clone() for key, value in subject.build().state_dict().items()}
    after = subject.trained().state_dict()
    changed = [key for key, value in after.items() if key not in before or not torch.equal(value, before[key])]
    assert changed, "training changed no weight"
    broken = [key for key, value in after.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    assert not broken, f"{broken[0]} is not finite after {STEPS} steps"
    return f"{len(changed)} tensors change"


def gradients(subject: Subject) -> str:
    """The loss reaches every learned mask and every interpolation parameter."""
    model = subject.build().train()
    torch.manual_seed(0)
    subject.plan.method.on_step(model, 0.5)
    loss = subject.plan.task.loss(model, subject.batch(subject.train, [0, 1]))
    (loss + subject.plan.method.loss(subject.plan.task.backbone(model))).backward()
    learned = {
        name: parameter
        for owner, module in model.named_modules()
        if isinstance(module, Mask)
        for name, parameter in module.named_parameters(prefix=owner)
    }
    unreached = [name for name, parameter in learned.items() if not _reached(parameter)]
    assert not unreached, f"no gradient reaches {unreached[0]} ({len(unreached)} of {len(learned)})"
    return f"{len(learned)} mask parameters" if learned else "no learned masks"


def _reached(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()) and bool(parameter.grad.any())


def same_masks(subject: Subject) -> str:
    """An image's masks do not depend on the batch or the order; positions are sampled where the value is positive."""
    model = subject.trained()
    pair, reverse, single = (_masks(subject, model, indices) for indices in ([0, 1], [1, 0], [0]))
    for name, values in pair.items():
        assert (values >= 0).all(), f"{name} has negative values"
        for other, place in ((reverse[name], -1), (single[name], 0)):
            agreement = float(((values[0] > 0) == (other[place] > 0)).float().mean())
            # Convolutions round differently in another batch; a position on the very edge may flip.
            assert agreement > 0.999, f"{name}: only {agreement:.1%} of the positions agree in another batch"
    return f"{len(pair)} masks" if pair else "no masks"


def _masks(subject: Subject, model: nn.Module, indices: list[int]) -> dict[str, Tensor]:
    with _mask_values(model) as found:
        subject.predictions(model, indices)
    return found


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


def _mask_values(model: nn.Module) -> AbstractContextManager[dict[str, Tensor]]:
    return _captured({module.layer: module for module in model.modules() if isinstance(module, Mask)})


def _outputs(model: nn.Module, names: list[str]) -> AbstractContextManager[dict[str, Tensor]]:
    return _captured({name: model.get_submodule(name) for name in names})


def counts(subject: Subject) -> str:
    """The count is positive, finite and no more than dense, the masks' own cost and interpolation aside."""
    model = subject.trained()
    counter = MeasuredCounter(model.eval())
    with counter.recording():
        subject.predictions(model, [0])
        subject.predictions(model, [1])
    images = counter.images()
    assert len(images) == 2, f"{len(images)} images counted instead of 2"
    assert (images["gmacs"] > 0).all(), "an image has no computation"
    return f"{images['gmacs'].mean():.4f} GMACs an image"


def engine_agrees(subject: Subject) -> str:
    """With the same masks, the CPU engine gives the PyTorch maps and executes the counted MACs, layer by layer."""
    body = subject.plan.task.backbone(subject.trained()).eval()
    try:
        engine = Engine(body, threads=1)
    except EngineUnavailable as reason:
        raise Skipped(str(reason)) from None
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 72, 104)).astype(np.float32))
    identify_images(body, [0], seed=0)
    counter = MeasuredCounter(body)
    stages = [name for name, _ in body.named_children() if name.startswith("layer")]
    with counter.recording(), torch.inference_mode(), _outputs(body, stages) as maps, _mask_values(body) as masks:
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
    return f"{result.macs:,} MACs in {len(executed)} layers"


def saves(subject: Subject) -> str:
    """A saved model, loaded into a fresh one, predicts the same."""
    model = subject.trained()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
        other = subject.build()
        subject.plan.method.restore(subject.plan.task.backbone(other))
        other.load_state_dict(load_file(path))
    assert _equal(subject.predictions(model, [0]), subject.predictions(other, [0])), (
        "the loaded model predicts otherwise"
    )
    return f"{sum(value.numel() for value in model.state_dict().values()):,} values"


def repeatable(subject: Subject) -> str:
    """The same seed gives the same weights and the same predictions."""
    first, second = subject.trained(), subject.trained()
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), f"{key} differs between two runs of one seed"
    assert _equal(subject.predictions(first, [0]), subject.predictions(second, [0])), "predictions differ"
    return ""


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


TESTS: dict[str, Callable[[Subject], str]] = {
    "builds": builds,
    "trains two steps": trains,
    "gradients reach the masks": gradients,
    "same masks in any batch": same_masks,
    "counts": counts,
    "counts match the engine": engine_agrees,
    "saves and loads": saves,
    "same seed, same result": repeatable,
}
