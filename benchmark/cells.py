"""From a user's request to a cell, and from a cell to its record: build, train, evaluate, count, keep.

`plan` resolves names, parameters, recipe and data into a `Plan` without training anything; `execute` runs it, or finds
its record. Many cells at once are `benchmark.sweep`'s business, one training run is `benchmark.train`'s.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmark import __version__
from benchmark.data import embedded
from benchmark.errors import DataError, SaibenchError, UsageError
from benchmark.flops import paper
from benchmark.flops.measured import MeasuredCounter
from benchmark.method import Method, resolve
from benchmark.nn import identify_images, residual_blocks
from benchmark.recipe import Recipe, Schedule
from benchmark.store import Cell, Record, Store, Work
from benchmark.tasks import Batch, Task, find_task
from benchmark.train import CellModule, DivergedError, Loop, derive_seed, fit, predict, quiet

HARNESS_VERSION = 1  # part of every cell's identity; raise it when a change of the harness changes results
MODEL = "model.safetensors"
DENSITY_MAPS = "density_maps.safetensors"  # by layer, averaged over the images
QUANTILES = (0.05, 0.5, 0.95)


def cache_folder() -> Path:
    """Return where embedded sets and weights are kept: ``$SAIBENCH_CACHE``, else ``~/.cache/saibench``."""
    return Path(os.environ.get("SAIBENCH_CACHE") or Path.home() / ".cache" / "saibench").expanduser()


@dataclass(frozen=True)
class Request:
    """What a user asks for; plain values, so that it can be sent to another process.

    Attributes
    ----------
    method
        Name, or a plug-in's path.
    parameters
        What the user set; the recipe's and the method's own values stand for the rest.
    data
        Folder of the data set; None for the embedded one.
    overrides
        Recipe fields by dotted name, such as ``train.steps``.
    """

    task: str
    method: str
    scale: str = "mini"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    data: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A request resolved: everything that `execute` needs."""

    request: Request
    task: Task
    recipe: Recipe
    method: Method
    folder: Path
    cell: Cell

    @property
    def is_start(self) -> bool:
        """Whether the other methods start from this cell's weights."""
        return bool(self.recipe.start) and self.method.name == self.recipe.start

    @property
    def own_backbone(self) -> bool:
        """Whether the method's backbone is not the recipe's, so that no starting weights fit it."""
        return _own_backbone(self.recipe, self.method)

    @property
    def start(self) -> "Plan | None":
        """The plan of the cell whose weights this one starts from."""
        request = _start_request(self.request, self.recipe, self.method)
        return None if request is None else plan(request)

    @property
    def schedules(self) -> list[Schedule]:
        """The training runs, one after the other."""
        return _schedules(self.recipe, self.method)

    def build(self, classes: int) -> nn.Module:
        """Return the untrained model with the method's masks in place, on the CPU."""
        torch.manual_seed(derive_seed(self.request.seed, "weights"))
        shorter_side = self.method.image_size(self.recipe.shorter_side)
        model = self.task.build(self.recipe, self.method.backbone(self.recipe.backbone), classes, shorter_side)
        body = self.task.backbone(model)
        self.method.adapt(body)
        for name in self.recipe.frozen:
            for parameter in cast(nn.Module, getattr(body, name)).parameters():
                parameter.requires_grad_(False)
        return model


def plan(request: Request) -> Plan:
    """Resolve a request.

    Raises
    ------
    UsageError
        For names or values that do not exist.
    DataError
        For a data folder that cannot be read.
    """
    task = find_task(request.task)
    recipe = override(task.recipe(request.scale), request.overrides)
    kind = resolve([request.method])[0]
    reason = kind.make({}).skip(task.name)
    if reason:
        raise UsageError(f"method {kind.name!r} does not run on {task.name}: {reason}")
    defaults = {name: value for name, value in recipe.parameters.items() if name in kind.model_fields}
    method = kind.make({**defaults, **request.parameters})
    folder = data_folder(request)
    start = _start_request(request, recipe, method)
    cell = Cell(
        task=task.name,
        scale=request.scale,
        dataset=folder.name,
        dataset_fingerprint=_fingerprint(task.name, folder),
        method=kind.name,
        parameters=method.model_dump(),
        seed=request.seed,
        determinants={
            "recipe": recipe.determinants(),
            "schedules": [dataclasses.asdict(schedule) for schedule in _schedules(recipe, method)],
            "method": kind.code_fingerprint(),
            "start": None if start is None else plan(start).cell.id,
            "harness": HARNESS_VERSION,
        },
    )
    return Plan(request, task, recipe, method, folder, cell)


def _own_backbone(recipe: Recipe, method: Method) -> bool:
    return method.backbone(recipe.backbone) != recipe.backbone


def _start_request(request: Request, recipe: Recipe, method: Method) -> Request | None:
    """Return the request of the cell that a method starts from, if it starts from one."""
    if not recipe.start or method.name == recipe.start or _own_backbone(recipe, method):
        return None
    return dataclasses.replace(request, method=recipe.start, parameters={})


def _schedules(recipe: Recipe, method: Method) -> list[Schedule]:
    if recipe.pretrain is None:
        return [recipe.train]
    if method.name == recipe.start:
        return [recipe.pretrain]
    return [recipe.pretrain, recipe.train] if _own_backbone(recipe, method) else [recipe.train]


def override(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a recipe with some fields changed, by dotted name.

    Raises
    ------
    UsageError
        For a field that is not there or a value of another type.
    """
    for path, value in values.items():
        head, _, rest = path.partition(".")
        known = {entry.name: getattr(recipe, entry.name) for entry in dataclasses.fields(recipe)}
        if head not in known or (rest and not dataclasses.is_dataclass(known[head])):
            raise UsageError(f"the recipe has no field {path!r}; it has {', '.join(known)}")
        current = known[head]
        if rest:
            value = override(cast(Any, current), {rest: value})
        elif current is not None and not isinstance(
            value, (int, float) if isinstance(current, float) else type(current)
        ):
            raise UsageError(f"recipe field {path!r} takes {type(current).__name__}, got {value!r}")
        recipe = dataclasses.replace(recipe, **{head: value})
    return recipe


def data_folder(request: Request) -> Path:
    """Return the data set's folder; the embedded one is rendered on first use.

    Raises
    ------
    DataError
        When the folder is not there, or the scale has no embedded set and none was given.
    """
    if request.data is not None:
        if not request.data.is_dir():
            raise DataError(f"no data folder {request.data}: give --data the folder of a {request.task} data set")
        return request.data.resolve()
    if (request.task, request.scale) not in embedded.SIZES:
        raise DataError(f"{request.task} at scale {request.scale!r} has no embedded set: give the real one with --data")
    return embedded.make(request.task, request.scale, cache_folder() / "data")


@functools.cache
def reader(task: str, folder: Path, split: str) -> Any:
    """Return a split's reader, opened once in a process: decoded images stay in memory where they fit."""
    return find_task(task).open(folder, split)


@functools.cache
def _fingerprint(task: str, folder: Path) -> str:
    return "-".join(reader(task, folder, split).fingerprint()[:12] for split in ("train", "val"))


def execute(planned: Plan, store: Store, force: bool = False, callbacks: Sequence[Any] = ()) -> Record:
    """Run a cell, or return its finished record; the cell that it starts from is run first where need be.

    Parameters
    ----------
    force
        Run it even where it is finished. The cell that it starts from is not run again.
    callbacks
        Lightning callbacks, such as a progress bar.

    Raises
    ------
    DivergedError, SaibenchError
        After the cell's record says so.
    """
    record = store.find(planned.cell)
    if record is not None and record.finished and not force:
        return record
    start = planned.start
    started_from = None if start is None else execute(start, store, callbacks=callbacks)
    quiet()
    if planned.recipe.threads is not None:
        torch.set_num_threads(planned.recipe.threads)
    with store.begin(planned.cell, force=force) as work:
        try:
            return _run(planned, work, started_from, callbacks)
        except DivergedError as error:
            work.fail(error, status="diverged")
            raise SaibenchError(f"{planned.cell}: diverged: {error}") from error
        except SaibenchError as error:
            work.fail(error)
            raise
        except Exception as error:
            work.fail(f"{type(error).__name__}: {error}")
            raise SaibenchError(f"{planned.cell}: failed: {type(error).__name__}: {error}") from error


def _run(planned: Plan, work: Work, start: Record | None, callbacks: Sequence[Any]) -> Record:
    task, recipe, seed = planned.task, planned.recipe, planned.request.seed
    train, val = (reader(task.name, planned.folder, split) for split in ("train", "val"))
    model = planned.build(len(train.classes))
    _load_start(planned, model, start)
    planned.method.prepare(task.backbone(model))
    seconds = _train(planned, model, train, work, callbacks)
    planned.method.finish(task.backbone(model))
    module = CellModule(task, planned.method, model, recipe.train, 1, seed)
    counter = MeasuredCounter(model.eval())
    elapsed = predict(module, val, Loop(work.scratch, list(callbacks), recipe.workers), counter)
    layers = _layers(model, counter)
    task.save(module.predictions, val, work.folder)
    save_file(_shareable(model), work.folder / MODEL, {"saibench": __version__, "cell": planned.cell.id})
    maps = {layer: torch.from_numpy(values.astype(np.float32)) for layer, values in counter.density_maps().items()}
    save_file(maps, work.folder / DENSITY_MAPS)
    images = counter.images()
    fields = {
        **{f"metric_{name}": value for name, value in task.evaluate(module.predictions, val).items()},
        # The paper's curves have the backbone's computation, averaged over the images (§4); the rest stands beside it.
        "gmacs_measured_mean": float(images["gmacs_backbone"].mean()),
        "gmacs_measured_std": float(images["gmacs_backbone"].std(ddof=0)),
        **{f"gmacs_measured_q{100 * q:02.0f}": float(images["gmacs_backbone"].quantile(q)) for q in QUANTILES},
        "gmacs_paper": _paper_gmacs(planned, model, layers),
        "density_mean": float(images["density"].mean()),
        "seconds_train": seconds,
        "seconds_eval": elapsed,
        "gmacs_whole_mean": float(images["gmacs"].mean()),
        "uncounted": counter.uncounted,
        "start": None if start is None else start.cell_id,
        "overrides": " ".join(f"{name}={value}" for name, value in planned.request.overrides.items()) or None,
    }
    return work.commit(fields, layers, images)


def _load_start(planned: Plan, model: nn.Module, start: Record | None) -> None:
    """Fill a model with the weights that it starts from."""
    if start is not None:
        stored = load_file(start.path(MODEL))
        model.load_state_dict({key: stored[key] for key in model.state_dict() if key in stored}, strict=False)
    elif not planned.recipe.start:
        name = planned.method.backbone(planned.recipe.backbone)
        planned.task.load_weights(model, cache_folder() / "weights" / f"{name}.safetensors")


def _train(planned: Plan, model: nn.Module, train: Any, work: Work, callbacks: Sequence[Any]) -> float:
    """Run the plan's schedules, going on where an interrupted run stopped; return the seconds that they took."""
    seconds = 0.0
    for phase, schedule in enumerate(planned.schedules):
        kept = work.scratch / f"phase{phase}.safetensors"
        if kept.is_file():
            model.load_state_dict(load_file(kept))
            continue
        folder = work.scratch / f"phase{phase}"
        folder.mkdir(exist_ok=True)
        steps = schedule.length(len(train))
        module = CellModule(planned.task, planned.method, model, schedule, steps, planned.request.seed)
        seconds += fit(module, train, Loop(folder, list(callbacks), planned.recipe.workers))
        model.cpu()
        partial = kept.with_suffix(".tmp")
        save_file(_shareable(model), partial)
        partial.rename(kept)
    return seconds


def _shareable(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict in the form that safetensors writes."""
    return {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}


def _layers(model: nn.Module, counter: MeasuredCounter) -> pd.DataFrame:
    """Return the counter's rows with each interpolation's lambda."""
    lambdas = {
        f"{block.name}.{name}": child.lam.item()
        for block in residual_blocks(model)
        for name, child in block.named_children()
        if hasattr(child, "lam")
    }
    table = counter.layers()
    table["lambda"] = [
        next((lam for key, lam in lambdas.items() if layer.endswith(key)), None) for layer in table["layer"]
    ]
    return table


def _paper_gmacs(planned: Plan, model: nn.Module, layers: pd.DataFrame) -> float:
    """Return the cell's GMACs by the released code's closed form, from the mean densities over the images."""
    shorter_side = planned.method.image_size(planned.recipe.shorter_side)
    height, width = paper.nominal_size(planned.task.name, shorter_side)
    rows = paper.count(planned.task.backbone(model), height, width, layers)
    return float(rows["macs"].sum() / 1e9)


def load_model(record: Record, planned: Plan) -> nn.Module:
    """Return a finished cell's trained model, in inference mode."""
    classes = len(reader(planned.task.name, planned.folder, "train").classes)
    model = planned.build(classes)
    planned.method.restore(planned.task.backbone(model))
    model.load_state_dict(load_file(record.path(MODEL)))
    return model.eval()


def plan_of(record: Record, data: Path | None = None) -> Plan:
    """Return the plan that a record was made by.

    Parameters
    ----------
    data
        The data set's folder, where it was not the embedded one.

    Raises
    ------
    SaibenchError
        When data, recipe or code are not those of the record any more.
    """
    words = (word.partition("=") for word in (record.fields.get("overrides") or "").split())
    overrides = {name: json.loads(text) if _is_json(text) else text for name, _, text in words}
    fields = record.fields
    planned = plan(
        Request(fields["task"], fields["method"], fields["scale"], record.parameters, fields["seed"], data, overrides)
    )
    if planned.cell.id != record.cell_id:
        raise SaibenchError(
            f"cell {record.cell_id} was made with other data, recipe or code (now {planned.cell.id}): "
            f"give the data set {fields['dataset']} with --data, or run the cell again"
        )
    return planned


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


def backbone_inputs(model: nn.Module, planned: Plan, count: int) -> list[tuple[str | int, np.ndarray]]:
    """Return what the backbone of a trained model reads for the first validation images.

    Returns
    -------
    list of (identifier, array)
        Arrays ``(3, H, W)``, float32: resized, normalised and padded as the task does.
    """
    val, body = reader(planned.task.name, planned.folder, "val"), planned.task.backbone(model)
    inputs: list[tuple[str | int, np.ndarray]] = []
    stem = cast(nn.Module, body.conv1)
    for index in range(min(count, len(val))):
        batch = Batch.collate([(*val[index], val.image_id(index))])
        hook = stem.register_forward_pre_hook(
            lambda module, given, name=batch.identifiers[0]: inputs.append((name, given[0][0].contiguous().numpy()))
        )
        identify_images(model, batch.identifiers, planned.request.seed)
        with torch.inference_mode():
            planned.task.predict(model, batch)
        hook.remove()
    return inputs
