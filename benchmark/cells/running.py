"""Running a plan: build, train, evaluate, count and keep, or find the record that is there."""

import functools
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import nn

from benchmark.cells.looking import look_at_first
from benchmark.cells.planning import Plan, plan
from benchmark.cells.request import Request, examined, reader
from benchmark.data.reader import Identifier
from benchmark.errors import DataError, SaibenchError, noted
from benchmark.evaluate import Evaluation, evaluate
from benchmark.files import atomic_path, write_atomic
from benchmark.flops import paper
from benchmark.flops.joining import Recorded, join
from benchmark.flops.measured import MeasuredCounter
from benchmark.hardware import advising, launch
from benchmark.method import kind_of
from benchmark.metric import describe_metrics
from benchmark.nn.interpolation import RadialInterpolation
from benchmark.parallel import gather
from benchmark.progress import Relay, Report, StepReporter
from benchmark.recipe import Recipe, Schedule
from benchmark.sampling import SAMPLING, pack
from benchmark.stats.outcomes import OUTCOMES, read_outcomes
from benchmark.store import CellFinished, Record, Store, Work, write_table
from benchmark.store.errors import explain
from benchmark.tasks import Reader
from benchmark.tensors import load_into, write_tensors
from benchmark.train import LOSSES, DivergedError, Loop, Progress, TrainingStep, fit
from benchmark.weights import files

MODEL = "model.safetensors"
DENSITY_MAPS = "density_maps.safetensors"  # by layer, averaged over the images
SECONDS = "seconds.txt"  # what a finished schedule took, beside its weights
QUANTILES = (0.05, 0.5, 0.95)
_SAME_METRIC = 1e-6  # sums in another order


def execute(planned: Plan, store: Store, force: bool = False, report: Report | None = None) -> Record:
    """Run a cell, or return its finished record; the cell that it starts from is run first where need be.

    Parameters
    ----------
    force
        Run it even where it is finished. The cell that it starts from is not run again.
    report
        Called as ``report(phase, done, total)`` after each step of phase ``train`` and each image of phase
        ``evaluate``, also of the cell that it starts from.

    Raises
    ------
    DivergedError, SaibenchError
        After the cell's record says so.
    """
    record = store.find(planned.cell)
    if record is not None and record.finished and not force:
        return record
    planned.request.hardware.check()
    examined(planned.task.name, planned.folder)
    if planned.imagenet is not None:  # before there is a record that says which weights were missing or did not fit
        load_start(planned, planned.build(len(reader(planned.task.name, planned.folder, "train").classes)), None)
    start = planned.start
    started_from = None if start is None else execute(start, store, report=report)
    if planned.recipe.threads is not None:
        torch.set_num_threads(planned.recipe.threads)
    try:
        return _begin(planned, store, force, started_from, report)
    except CellFinished:  # by another process, since it was looked for
        return Record.load(store.folder(planned.cell))


def _begin(planned: Plan, store: Store, force: bool, started_from: Record | None, report: Report | None) -> Record:
    """Run a cell alone; whatever goes wrong in it becomes its record."""
    described = _description(planned)
    with store.begin(planned.cell, force=force) as work:
        try:
            return _run(planned, work, started_from, _noting(work, report))
        except DivergedError as error:
            work.fail(error, status="diverged", **described)
            raise SaibenchError(f"{planned.cell}: diverged: {error}") from error
        except SaibenchError as error:
            work.fail(error, **described)
            raise
        except Exception as error:
            if explain(error, work.folder):
                raise  # a full disk is no failure of the cell's: its checkpoint stays, and the store says what to do
            told = f"{type(error).__name__}: {noted(error)}"
            work.fail(told, **described)
            raise SaibenchError(f"{planned.cell}: failed: {told}") from error


#: A cell's fields, its layers and its images, as `Work.commit` takes them.
Computed = tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]


@dataclass(frozen=True)
class _Places:
    """Where a cell's computation reads and writes: plain values, to be sent to another process."""

    folder: Path
    scratch: Path
    start: Path | None


def _run(planned: Plan, work: Work, start: Record | None, report: Report | None) -> Record:
    places = _Places(work.folder, work.scratch, None if start is None else start.path(MODEL))
    hardware = planned.request.hardware
    if hardware.devices == 1:
        return work.commit(*_compute(hardware.fabric(), planned, places, report))
    with Relay(report) as relay:
        return work.commit(*launch(hardware, _compute_apart, planned.request, places, relay.queue))


def _compute_apart(fabric: Fabric, request: Request, places: _Places, queue: Any) -> Computed | None:
    """Compute a cell in one of several processes."""
    planned = plan(request)
    torch.set_num_threads(planned.recipe.threads or torch.get_num_threads())
    report = StepReporter(lambda *step: queue.put(step)) if fabric.is_global_zero else None
    return _compute(fabric, planned, places, report)


def _compute(fabric: Fabric, planned: Plan, places: _Places, report: Report | None) -> Any:
    """Train, evaluate and count a cell; return what its record holds, in the first process alone."""
    task, recipe, seed = planned.task, planned.recipe, planned.request.seed
    train, val = (reader(task.name, planned.folder, split) for split in ("train", "val"))
    model = planned.build(len(train.classes))
    seconds = 0.0
    if planned.trained is planned:
        load_start(planned, model, places.start)
        planned.method.prepare(task.backbone(model))
        seconds = _train(fabric, planned, model, train, places, report)
        planned.method.finish(task.backbone(model))
        if fabric.is_global_zero:
            _keep_weights(planned, model, places.folder)
    else:
        _load_trained(fabric, planned, model, places)
    planned.method.configure(task.backbone(model))
    counter = MeasuredCounter(model.eval(), task.adapter(model))
    batch = recipe.evaluation_batch
    lower = f"evaluation_batch={batch // 2}" if batch > 1 else _smaller(recipe)
    with counter.recording(), advising(f"evaluation does not fit with {batch} at a time; give --recipe {lower}"):
        evaluation = evaluate(
            task, model, val, seed, recipe.workers, batch, _progress(report, "evaluate"), fabric
        )  # fmt: skip
    if fabric.world_size > 1:
        join(counter.recorder, gather(fabric, Recorded.of(counter.recorder)), evaluation.places)
    return (
        _describe(planned, places.folder, model, counter, evaluation, val, seconds) if fabric.is_global_zero else None
    )


def _keep_weights(planned: Plan, model: nn.Module, folder: Path) -> None:
    """Write a trained model's weights, in a file of its own: cells that share them hold links to it."""
    with atomic_path(folder / MODEL) as temporary:
        write_tensors(_shareable(model), temporary, {"cell": planned.cell.id})


def _load_trained(fabric: Fabric, planned: Plan, model: nn.Module, places: _Places) -> None:
    """Load the weights of the cell that trained a model, and share its file, so that a store holds them once."""
    trained = cast(Path, places.start)
    planned.method.restore(planned.task.backbone(model))
    load_into(model, trained, f"run cell {trained.parent.name} again with --force")
    if fabric.is_global_zero:
        try:
            os.link(trained, places.folder / MODEL)
        except OSError:  # a file system without links
            shutil.copyfile(trained, places.folder / MODEL)


def _describe(
    planned: Plan,
    folder: Path,
    model: nn.Module,
    counter: MeasuredCounter,
    evaluation: Evaluation,
    val: Reader,
    seconds: float,
) -> Computed:
    """Judge predictions, write a cell's files, and return what its record holds."""
    task, predictions = planned.task, evaluation.predictions
    layers = _layers(model, counter)
    task.save(predictions, val, folder)
    outcomes = task.outcomes(predictions, val)
    if outcomes is not None:
        write_table(outcomes, folder / OUTCOMES)
    metrics = task.evaluate(predictions, val)
    _check_outcomes(planned, folder, list(predictions), metrics)
    maps = {layer: torch.from_numpy(values.astype(np.float32)) for layer, values in counter.density_maps().items()}
    write_tensors(maps, folder / DENSITY_MAPS)
    samplings = look_at_first(planned, model)
    if samplings:
        write_atomic(folder / SAMPLING, pack(samplings))
    images = counter.images()
    backbone = images["macs_backbone"] / 1e9
    fields = {
        **{f"metric_{name}": value for name, value in metrics.items()},
        # The paper's curves have the backbone's computation, averaged over the images (§4); the rest stands beside it.
        "gmacs_measured_mean": float(backbone.mean()),
        "gmacs_measured_std": float(backbone.std(ddof=0)),
        **{f"gmacs_measured_q{100 * q:02.0f}": float(backbone.quantile(q)) for q in QUANTILES},
        "gmacs_paper": _paper_gmacs(planned, model, layers),
        "density_mean": float(images["density"].mean()),
        "seconds_train": seconds,
        "seconds_eval": evaluation.seconds,
        "gmacs_whole_mean": float((images["macs"] / 1e9).mean()),
        "uncounted": counter.uncounted,
        **_exits(planned, evaluation, val, layers),
        **_description(planned),
    }
    return fields, layers, images.drop(columns="macs")  # the sum of its parts: tables of images are a record's largest


def _check_outcomes(planned: Plan, folder: Path, images: Sequence[Identifier], metrics: Mapping[str, float]) -> None:
    """Make sure that a cell's outcomes, each image weighed once, give its metric: intervals and verdicts rest on them.

    Raises
    ------
    SaibenchError
        If they do not.
    """
    main = planned.task.metrics[0]
    if not (folder / OUTCOMES).exists() or math.isnan(metrics[main.name]):
        return
    outcomes = read_outcomes(folder, pd.Series(images))
    found = math.nan if outcomes is None else float(outcomes.scores(np.ones((1, len(images))))[0])
    if not math.isclose(found, metrics[main.name], abs_tol=_SAME_METRIC):
        raise SaibenchError(
            f"{planned.cell}: what it got right on each image gives {main.label} {found:.6f}, and all predictions "
            f"{metrics[main.name]:.6f}: look for identifiers that several images share, or at the task's `outcomes`"
        )


def _exits(planned: Plan, evaluation: Evaluation, val: Reader, layers: pd.DataFrame) -> dict[str, Any]:
    """Return the main metric of each exit, and the backbone's GMACs up to it, the exits before included."""
    fields: dict[str, Any] = {"exits": list(planned.method.exits)} if planned.method.exits else {}
    metric = planned.task.metrics[0].name
    stages = layers["layer"].str.extract(r"\b(layer\d+)\.", expand=False).fillna("")  # the stem stands before all
    for stage, predictions in zip(planned.method.exits, evaluation.exits, strict=True):
        reached = (layers["scope"] == "backbone") & (stages <= stage)
        fields[f"exit_{stage}_{metric}"] = planned.task.evaluate(predictions, val)[metric]
        fields[f"exit_{stage}_gmacs"] = float(layers.loc[reached, "macs"].sum() / 1e9)
    return fields


def _description(planned: Plan) -> dict[str, Any]:
    """Return what a record says about its method and its start, however the run ends."""
    method, weights = type(planned.method), planned.weights or planned.imagenet
    return {
        "metrics": describe_metrics(planned.task.metrics),
        "method_label": method.title(),
        "method_kind": kind_of(method),
        "method_curve": list(method.curve),
        "method_references": list(method.references),
        "start": planned.cell.determinants["start"],
        "start_weights": None if weights is None else weights.name,
        "overrides": _overrides(planned),
        "precision": planned.request.precision,
        "devices": planned.request.devices,
    }


def _overrides(planned: Plan) -> str | None:
    """Return what the user changed in the recipe as JSON, in the values that the recipe made of it."""
    values = planned.recipe.select(planned.request.overrides)
    return json.dumps(values, sort_keys=True) if values else None


def load_start(planned: Plan, model: nn.Module, start: Path | None) -> None:
    """Fill a model with the weights that it starts from."""
    if planned.weights is not None:
        files.fill(model, planned.weights)
    elif start is not None:
        load_into(model, start, f"run cell {start.parent.name} again with --force", strict=False)
    elif planned.imagenet is not None:
        planned.task.load_weights(model, planned.imagenet)
        if files.digest(planned.imagenet) != planned.cell.determinants["start"]:
            raise DataError(f"{planned.imagenet} is another file than when {planned.cell} was planned: run it again")


def _train(
    fabric: Fabric, planned: Plan, model: nn.Module, train: Reader, places: _Places, report: Report | None
) -> float:
    """Run the plan's schedules, resuming where an interrupted run stopped; return the seconds that they took."""
    seconds = 0.0
    folders = [places.scratch / f"phase{phase}" for phase in range(len(planned.schedules))]
    try:
        for schedule, folder in zip(planned.schedules, folders, strict=True):
            seconds += _train_phase(fabric, planned, schedule, model, train, folder, report)
    finally:  # also of a run that diverges: what its losses did is the first question
        if fabric.is_global_zero:
            write_table(_gather_losses(folders), places.folder / LOSSES)
    return seconds


def _train_phase(
    fabric: Fabric,
    planned: Plan,
    schedule: Schedule,
    model: nn.Module,
    train: Reader,
    folder: Path,
    report: Report | None,
) -> float:
    """Run a schedule, or load the weights that it ended with."""
    folder.mkdir(exist_ok=True)
    kept, taken = folder / MODEL, folder / SECONDS
    if kept.is_file():
        load_into(model, kept, f"delete {folder} to train again")
        return float(taken.read_text())
    training = TrainingStep(
        planned.task, planned.method, model, schedule, schedule.length(len(train)), planned.request.seed
    )
    with advising(_lower(planned, schedule)):
        seconds = fit(training, train, Loop(folder, planned.recipe.workers, _progress(report, "train"), fabric))
    if not fabric.is_global_zero:
        return seconds
    write_atomic(taken, repr(seconds))
    with atomic_path(kept) as temporary:
        write_tensors(_shareable(model), temporary)
    return seconds


def _lower(planned: Plan, schedule: Schedule) -> str:
    """Return which setting to lower where a training step does not fit a device."""
    name = "train" if schedule == planned.recipe.train else "pretrain"
    images = min(schedule.micro_batch or schedule.batch, schedule.batch // planned.request.devices)
    if images > 1:
        return f"a step runs {images} images at a time; give --recipe {name}.micro_batch={images // 2}"
    smaller = "" if planned.request.precision == "bf16-mixed" else "--precision bf16-mixed, or "
    return f"a step runs 1 image at a time; give {smaller}--recipe {_smaller(planned.recipe)}"


def _smaller(recipe: Recipe) -> str:
    return f"shorter_side={recipe.shorter_side * 3 // 4}"


def _gather_losses(folders: Sequence[Path]) -> pd.DataFrame:
    """Return the losses of all schedules, one row a step; ``step`` counts on, ``phase`` says which schedule it was."""
    tables: list[pd.DataFrame] = []
    for phase, folder in enumerate(folders):
        if (folder / LOSSES).is_file():
            table = pd.read_parquet(folder / LOSSES)
            tables.append(table.assign(step=table["step"] + sum(map(len, tables)), phase=phase))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _noting(work: Work, report: Report | None) -> Report:
    """Return a report that also tells the store, where other processes read it."""

    def both(phase: str, done: int, total: int) -> None:
        work.note(phase, done, total)
        if report is not None:
            report(phase, done, total)

    return both


def _progress(report: Report | None, phase: str) -> Progress | None:
    return None if report is None else functools.partial(report, phase)


def _shareable(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict in the form that safetensors writes."""
    return {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}


def _layers(model: nn.Module, counter: MeasuredCounter) -> pd.DataFrame:
    """Return the counter's rows with each radial kernel's sigma and lambda."""
    widths = {name: module.widths for name, module in model.named_modules() if isinstance(module, RadialInterpolation)}
    table = counter.layers()
    for place, column in enumerate(("sigma", "lambda")):
        table[column] = [widths[layer][place] if layer in widths else None for layer in table["layer"]]
    return table


def _paper_gmacs(planned: Plan, model: nn.Module, layers: pd.DataFrame) -> float:
    """Return the cell's GMACs by the released code's closed form, from the mean densities over the images."""
    shorter_side = planned.method.image_size(planned.recipe.shorter_side)
    height, width = planned.task.nominal_size(shorter_side)
    rows = paper.count(planned.task.backbone(model), height, width, layers)
    return float(rows["macs"].sum() / 1e9)
