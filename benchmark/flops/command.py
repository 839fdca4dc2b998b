"""What ``saibench flops`` answers: the count of a task's model at a nominal image size, without running it.

`count_flops` does the work and returns what the command prints; parsing and printing are the command's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmark.errors import UsageError
from benchmark.flops import paper
from benchmark.flops.adapter import SCOPES
from benchmark.flops.geometry import BlockSizes, block_sizes
from benchmark.flops.measured import MeasuredCounter
from benchmark.flops.trace import Size
from benchmark.method import Method, resolve
from benchmark.nn import work
from benchmark.nn.blocks import Decided
from benchmark.nn.masks import CarriedMask, FixedMask, Mask, RandomMask
from benchmark.nn.noise import uniform_field
from benchmark.tasks import Task, find_task

CONVENTIONS = ("paper", "measured")


@dataclass(frozen=True)
class FlopsRequest:
    """What to count.

    Attributes
    ----------
    task : str
        Name of the task.
    backbone, shorter_side
        In place of the recipe's and the method's own.
    method : str
        Name or file of a method; None counts the dense model.
    parameters : mapping
        Of the method, in place of the recipe's and its own.
    density : float or None
        Of every masked layer; for methods whose masks depend on the image.
    convention : str
        ``paper`` or ``measured``.
    scope : str
        ``backbone``, ``neck``, ``head``, or ``all`` that the convention counts.
    scale : str
        Whose recipe gives the model.
    seed : int
        Draws the masks of the measured convention.
    """

    task: str
    backbone: str | None = None
    shorter_side: int | None = None
    method: str | None = None
    parameters: Mapping[str, Any] | None = None
    density: float | None = None
    convention: Literal["paper", "measured"] = "paper"
    scope: Literal["all", "backbone", "neck", "head"] = "all"
    scale: str = "paper"
    seed: int = 0


def count_flops(request: FlopsRequest) -> dict[str, Any]:
    """Count the model of a request.

    Returns
    -------
    dict
        ``gmacs``, ``convention``, ``height``, ``width`` (pixels), ``layers`` (each with ``layer, kind, scope, density,
        macs``), ``uncounted`` (names), and ``task, backbone, method, density, scope`` as resolved. Ready for JSON.

    Raises
    ------
    UsageError
        For an unknown name, a value out of range, a learned mask without a density, or a density without one.
    """
    _check(request)
    task, method = find_task(request.task), _method(request)
    recipe = task.recipe(request.scale)
    side, name = recipe.shorter_side, recipe.backbone
    if method is not None:
        side, name = method.image_size(side), method.backbone(name)
    side = side if request.shorter_side is None else request.shorter_side
    name = name if request.backbone is None else request.backbone
    size = task.nominal_size(side)
    model = _model(task, method, name, side, request)
    masks = _masks(task.backbone(model), size, request)
    if request.convention == "paper":
        densities = _densities(masks) if request.density is None else request.density
        rows = paper.count(task.backbone(model), *size, densities)
        uncounted = list(paper.UNCOUNTED)
    else:
        counter = MeasuredCounter(model.eval(), task.adapter(model))
        names = {module: path for path, module in model.named_modules()}
        decided = {names[sizes.block]: given for sizes, given in masks}
        counter.record(size, decided, counter.adapter.most_regions)
        rows, uncounted = counter.layers(), counter.uncounted
    rows = _within_scope(rows, request)
    return {
        "gmacs": float(rows["macs"].sum() / 1e9),
        "convention": request.convention,
        "height": size[0],
        "width": size[1],
        "layers": _records(rows[["layer", "kind", "scope", "density", "macs"]]),
        "uncounted": uncounted,
        "task": task.name,
        "backbone": name,
        "method": None if method is None else method.name,
        "density": request.density,
        "scope": request.scope,
    }


def _check(request: FlopsRequest) -> None:
    if request.convention not in CONVENTIONS:
        raise UsageError(f"unknown convention {request.convention!r}; there are {', '.join(CONVENTIONS)}")
    if request.scope not in ("all", *SCOPES):
        raise UsageError(f"unknown scope {request.scope!r}; there are all, {', '.join(SCOPES)}")
    if request.density is not None and not 0 <= request.density <= 1:
        raise UsageError(f"density {request.density} is outside of 0 to 1")
    if request.density is not None and request.method is None:
        raise UsageError("a density needs a method that masks layers: add --method stochastic")


def _method(request: FlopsRequest) -> Method | None:
    if request.method is None:
        return None
    kind = resolve([request.method])[0]
    reason = kind.make({}).skip(find_task(request.task).name)
    if reason:
        raise UsageError(f"method {kind.name!r} does not run on {request.task}: {reason}")
    recipe = find_task(request.task).recipe(request.scale)
    return kind.make({**kind.defaults(recipe.parameters), **(request.parameters or {})})


def _model(task: Task, method: Method | None, backbone: str, side: int, request: FlopsRequest) -> nn.Module:
    """Build the adapted model; without weights, unless the method's structure is made from them."""
    weightless = method is None or all(
        getattr(type(method), hook) is getattr(Method, hook) for hook in ("prepare", "finish", "restore")
    )
    with torch.device("meta") if weightless else nullcontext():
        model = task.build(task.recipe(request.scale), backbone, task.nominal_classes, side)
        body = task.backbone(model)
        if method is not None:
            task.add_exits(model, method.exits)
            method.adapt(body)
            method.restore(body)
            method.configure(body)
    return model


def _masks(backbone: nn.Module, size: Size, request: FlopsRequest) -> list[tuple[BlockSizes, Decided]]:
    """Make what every block decides, masks ``(1, 1, H, W)``.

    A mask that does not depend on the image is itself, and one that is carried on is its owner's. Any other is drawn:
    ``density * H * W`` positions without replacement, from the seed and the mask's name. Gates are open.
    """
    made: list[tuple[BlockSizes, Decided]] = []
    drawn: dict[Mask, Tensor] = {}
    for sizes in block_sizes(backbone, size):
        decided = Decided(sizes.size)
        for index, map_size in sizes.block.work.mask_sizes(sizes.size).items():
            mask = getattr(sizes.block, f"mask{index}")
            owner = mask.owner if isinstance(mask, CarriedMask) else None
            if owner in drawn and drawn[owner].shape[-2:] == map_size:
                values = drawn[owner]
            else:
                nominal = _nominal(mask, f"{sizes.block.name}.mask{index}", map_size, request)
                values = torch.from_numpy(np.asarray(nominal, dtype=np.float32))[None, None]
            decided.masks[index] = drawn[mask] = values
        for index in sizes.block.work.gates:
            decided.gates[index] = torch.ones(1, getattr(sizes.block, f"gate{index}").channels)
        made.append((sizes, decided))
    if request.density is not None and not drawn:
        raise UsageError(f"method {request.method!r} masks no layer, so that it has no density")
    return made


def _nominal(mask: Mask, layer: str, size: Size, request: FlopsRequest) -> np.ndarray:
    """Return a mask's values ``(H, W)``: its own pattern or density, or the one that was asked for."""
    if isinstance(mask, FixedMask | RandomMask):
        if request.density is not None:
            raise UsageError(f"the masks of {request.method!r} have a density of their own: leave out --density")
        return mask.pattern(size) if isinstance(mask, FixedMask) else _drawn(request.seed, layer, size, mask.density)
    if request.density is None:
        raise UsageError(f"the density of {request.method!r} depends on the image: add --density, as 0.25")
    return _drawn(request.seed, layer, size, request.density)


def _drawn(seed: int, layer: str, size: Size, density: float) -> np.ndarray:
    order = np.argsort(uniform_field(seed, "nominal", layer, size), axis=None)
    values = np.zeros(size, dtype=np.float32)
    values.flat[order[: round(density * values.size)]] = 1
    return values


def _densities(masks: list[tuple[BlockSizes, Decided]]) -> dict[str, float]:
    """Return the density of every convolution that a mask changes: of what it computes, and of what its fill leaves."""
    densities: dict[str, float] = {}
    for sizes, decided in masks:
        for step, size in zip(sizes.block.work.convolutions, sizes.maps, strict=True):
            computed = work.positions(step.computes if step.fill is None else step.fill.mask, decided.masks, size)
            if computed is not None:
                densities[f"{sizes.block.name}.{step.layer}"] = float(computed.float().mean())
    return densities


def _within_scope(rows: pd.DataFrame, request: FlopsRequest) -> pd.DataFrame:
    if request.scope == "all":
        return rows
    chosen = rows[rows["scope"] == request.scope]
    if chosen.empty:
        raise UsageError(
            f"the {request.convention} convention counts no {request.scope} on {request.task}"
            + ("; try --convention measured" if request.convention == "paper" else "")
        )
    return chosen


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Turn rows into plain values; a missing density becomes None."""
    return [
        {str(key): None if isinstance(value, float) and np.isnan(value) else value for key, value in record.items()}
        for record in rows.to_dict("records")
    ]
