"""The clock: how fast the engine runs, dense and sparse, beside what theory promises and beside other runtimes.

`run` measures and returns a JSON-ready dictionary; `save` keeps it where ``saibench report`` looks. Every ratio is
paired: in each round all variants run one after the other, a ratio is taken within its round, and the median over
rounds is reported with its spread. So a machine that other work slows down slows both sides. Not here: the printing
(`benchmark.cli`) and the table (`reports.table5`).
"""

from __future__ import annotations

import copy
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark.engine import kernels
from benchmark.engine.compiler import Engine, Result
from benchmark.engine.kernels import Floats
from benchmark.errors import SaibenchError, UsageError
from benchmark.flops import paper
from benchmark.nn import Masks, ResNet, build_backbone, interpolation, residual_blocks
from benchmark.store import provenance, timestamp

__all__ = ["DENSITIES", "PAPER_DENSITIES", "PEERS", "SIZES", "run", "save"]

PAPER_DENSITIES = {0.02: 0.493, 0.05: 0.357, 0.1: 0.264, 0.2: 0.182}
"""Densities that the GFLOPs of the paper's Table 5 imply, by the weight of the sparse loss (docs/FIDELITY)."""

DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Densities of the break-even search."""

SIZES = {"small": (256, 416), "full": (992, 1664)}
"""Image sizes: ``full`` is the paper's nominal 1000-pixel image, ``small`` the same shape for a run of minutes."""

PEERS = ("torch", "torch-frozen", "onnxruntime", "openvino")
"""Runtimes that can run beside the engine; the last two need the extra ``saibench[peers]``."""

Progress = Callable[[int, int, str], None]


@dataclass
class _Variant:
    """Something that is timed once a round."""

    name: str
    call: Callable[[], Any]
    seconds: list[float] = field(default_factory=list)
    result: Any = None


def run(
    backbone: str = "resnet101",
    size: tuple[int, int] = SIZES["full"],
    densities: Sequence[float] = DENSITIES,
    *,
    deformable: Sequence[bool] = (False, True),
    peers: Sequence[str] = (),
    threads: int | None = None,
    rounds: int = 5,
    table5: bool = True,
    cell: tuple[ResNet, Sequence[tuple[str | int, Floats]], int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time a backbone on the engine, dense and at densities, and other runtimes beside it.

    Weights are random and masks are drawn position by position at each density; neither changes what a kernel does.
    Mask convolutions run and are timed as in a trained network.

    Parameters
    ----------
    backbone
        A name of `benchmark.nn.BACKBONES`.
    size
        Image height and width in pixels.
    densities
        Shares of positions sampled, in (0, 1], all layers alike.
    deformable
        Which of without (False) and with (True) deformable convolution to time; basic blocks have only the former.
    peers
        Of `PEERS`: run the same dense network without deformable convolution, in the same rounds.
    threads
        Threads of every runtime; by default all that OpenMP offers.
    rounds
        Rounds that are timed, after one that is not.
    table5
        Also time the densities that the paper's Table 5 implies.
    cell
        A trained cell's backbone, its images as ``(identifier, (3, H, W) float32)``, and its seed: timed with its own
        masks against the same network without masks.
    progress
        Called with steps done, steps in all, and what runs next.

    Returns
    -------
    dict
        ``machine`` (what it ran on), ``settings``, ``backbone`` (one row per network and density), ``layers``
        (one row per network, density and kind of layer), ``break_even`` (highest density below which every timed
        density is faster than dense), ``peers``, and ``cell`` where one was given. Times are seconds.

    Raises
    ------
    EngineUnavailable
        If the kernels were not compiled.
    UsageError
        For a density, number of rounds or peer that does not exist.
    """
    kernels.require()
    wanted = sorted({*densities, *(PAPER_DENSITIES.values() if table5 else ())}, reverse=True)
    if not all(0 < d <= 1 for d in wanted):
        raise UsageError(f"densities must lie in (0, 1], got {wanted}")
    if rounds < 1 or min(size) < 32:
        raise UsageError(f"{rounds} rounds at {size[0]}x{size[1]}: at least one round and 32 pixels")
    unknown = [peer for peer in peers if peer not in PEERS]
    if unknown:
        raise UsageError(f"unknown peers {', '.join(unknown)}; there are {', '.join(PEERS)}")
    threads = threads or kernels.max_threads()
    variants = [d for d in deformable if not d or _has_bottlenecks(backbone)]
    started = timestamp()
    steps = _Steps((rounds + 1) * len(variants) * (len(wanted) + 1) + (rounds + 1) * len(peers), progress)
    image = np.random.default_rng(seed).standard_normal((3, *size)).astype(np.float32)
    report: dict[str, Any] = {
        "machine": {},
        "settings": {"backbone": backbone, "height": size[0], "width": size[1], "rounds": rounds, "seed": seed},
        "backbone": [],
        "layers": [],
        "break_even": [],
        "peers": [],
    }
    for number, with_deformable in enumerate(variants):
        beside = peers if number == 0 and not with_deformable else ()
        _time_network(report, backbone, with_deformable, image, wanted, beside, threads, rounds, seed, steps)
    if cell is not None:
        report["cell"] = _time_cell(*cell, threads, rounds)
    instruction_set = kernels.instruction_set()
    report["machine"] = {**provenance(started), "threads": threads, "instruction_set": instruction_set}
    return report


def save(report: dict[str, Any], store: Path) -> Path:
    """Write a report to ``<store>/timing/``, named by machine, network and time; return the path."""
    settings, machine = report["settings"], report["machine"]
    stamp = machine["started"].replace(":", "").replace("-", "")
    name = f"{settings['backbone']}-{settings['height']}x{settings['width']}-{machine['threads']}t-{stamp}.json"
    path = store / "timing" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path


class _Steps:
    """Counts steps for a progress bar."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.done, self.progress = total, 0, progress

    def next(self, what: str) -> None:
        if self.progress is not None:
            self.progress(self.done, self.total, what)
        self.done += 1


def _has_bottlenecks(backbone: str) -> bool:
    return any(hasattr(block, "conv3") for block in residual_blocks(build_backbone(backbone)))


def _network(backbone: str, deformable: bool, sparse: bool, seed: int) -> ResNet:
    """Build a network with random weights; the sparse one has the paper's masks and fills."""
    torch.manual_seed(seed)
    model = build_backbone(backbone, deformable=deformable)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("offset.weight"):
                parameter.normal_(std=0.01 / parameter.shape[1] ** 0.5)  # offsets of a part of a pixel
    if sparse:
        for block in residual_blocks(model):
            if block.adaptable:
                block.adapt(Masks.gumbel(), interpolation.rbf())
    return model.eval()


def _time_network(
    report: dict[str, Any],
    backbone: str,
    deformable: bool,
    image: Floats,
    densities: Sequence[float],
    peers: Sequence[str],
    threads: int,
    rounds: int,
    seed: int,
    steps: _Steps,
) -> None:
    model, adapted = (_network(backbone, deformable, sparse, seed) for sparse in (False, True))
    dense, sparse = Engine(model, threads=threads), Engine(adapted, threads=threads)
    shapes = {layer: mask.shape for layer, mask in sparse(image).masks.items()}
    rng = np.random.default_rng(seed)
    drawn = [{k: (rng.random(s) < d).astype(np.float32) for k, s in shapes.items()} for d in densities]
    variants = [_Variant("dense", lambda: dense(image))]
    for density, masks in zip(densities, drawn, strict=True):
        variants.append(_Variant(f"density {density:g}", lambda masks=masks: sparse(image, masks=masks)))  # type: ignore[misc]
    reference = dense(image)
    for peer in peers:
        variants.append(_peer(report, peer, model, image, reference, threads))
    tallies = _rounds(variants, rounds, steps, "deformable" if deformable else "not deformable")
    theory = float(paper.count(model, *image.shape[1:])["macs"].sum())
    base = np.array(variants[0].seconds)
    network = {"backbone": backbone, "deformable": deformable}
    macs = variants[0].result.macs
    report["backbone"].append(
        {
            **network,
            "density": None,
            "gamma": None,
            "gmacs": macs / 1e9,
            **_statistics(base),
            **dict.fromkeys(_RATIOS),
            "memory_bytes": dense.memory_bytes,
        }
    )
    ratios = []
    for density, variant in zip(densities, variants[1:], strict=False):
        seconds = np.array(variant.seconds)
        ratio = base / seconds
        promised = theory / float(paper.count(adapted, image.shape[1], image.shape[2], density)["macs"].sum())
        ratios.append((density, float(np.median(ratio))))
        report["backbone"].append(
            {
                **network,
                "density": density,
                "gamma": next((g for g, d in PAPER_DENSITIES.items() if d == density), None),
                "gmacs": variant.result.macs / 1e9,
                **_statistics(seconds),
                "speedup": float(np.median(ratio)),
                "speedup_low": float(ratio.min()),
                "speedup_high": float(ratio.max()),
                "speedup_theoretical": promised,
                "speedup_measured_macs": macs / variant.result.macs,
                "share": float(np.median(ratio)) / promised,
                "memory_bytes": sparse.memory_bytes,
            }
        )
    report["break_even"].append({**network, "density": _break_even(ratios)})
    report["layers"].extend({**network, **row} for row in _layer_rows(tallies, densities))
    for variant in variants[1 + len(densities) :]:
        seconds = np.array(variant.seconds)
        if len(seconds):
            row = next(row for row in report["peers"] if row["peer"] == variant.name)
            row.update({**_statistics(seconds), "engine_dense_speedup": float(np.median(seconds / base))})


_RATIOS = ("speedup", "speedup_low", "speedup_high", "speedup_theoretical", "speedup_measured_macs", "share")
"""What a sparse row has and the dense one has not: all rows of the report have the same fields."""


def _rounds(variants: list[_Variant], rounds: int, steps: _Steps, what: str) -> dict[str, list[dict[str, float]]]:
    """Time all variants once a round; return each round's seconds by kind of layer for the engine's own."""
    tallies: dict[str, list[dict[str, float]]] = {}
    for number in range(rounds + 1):
        for variant in variants:
            steps.next(f"{variant.name}, {what}, round {number} of {rounds}")
            start = time.perf_counter()
            variant.result = variant.call()
            seconds = time.perf_counter() - start
            if number == 0 or variant.result is None:
                continue  # warm-up: buffers grow and pages are touched for the first time
            variant.seconds.append(seconds)
            if isinstance(variant.result, Result):
                tallies.setdefault(variant.name, []).append(_by_kind(variant.result))
    return tallies


def _by_kind(result: Result) -> dict[str, float]:
    """Sum seconds over the blocks of a stage by layer: ``layer3.conv2``, and so on."""
    seconds: dict[str, float] = {}
    for layer, row in result.tally.items():
        parts = layer.split(".")
        kind = f"{parts[0]}.{parts[2]}" if layer.startswith("layer") and len(parts) > 2 else parts[0]
        seconds[kind] = seconds.get(kind, 0.0) + row.seconds
    return seconds


def _layer_rows(tallies: dict[str, list[dict[str, float]]], densities: Sequence[float]) -> Iterable[dict[str, Any]]:
    """Yield seconds of each kind of layer at each density, and of a stage altogether with its break-even."""
    dense = tallies["dense"]
    kinds = list(dict.fromkeys(kind for rows in tallies.values() for kind in rows[0]))
    for kind in kinds:
        base = [row.get(kind, 0.0) for row in dense]
        for density in densities:
            here = [row.get(kind, 0.0) for row in tallies[f"density {density:g}"]]
            yield {
                "layer": kind,
                "density": density,
                "seconds": float(np.median(here)),
                "seconds_dense": float(np.median(base)),
            }


def _break_even(ratios: list[tuple[float, float]]) -> float | None:
    """Return the highest density from which on downwards sparse beats dense, between the two timed ones."""
    previous: tuple[float, float] | None = None
    for density, ratio in sorted(ratios):
        if ratio < 1:
            if previous is None:
                return None
            low, high = previous
            return float(low + (density - low) * (high - 1) / (high - ratio))
        previous = (density, ratio)
    return previous[0] if previous else None


def _statistics(seconds: Any) -> dict[str, Any]:
    values = np.asarray(seconds, dtype=float)
    low, high = np.percentile(values, [25, 75])
    return {
        "seconds": float(np.median(values)),
        "seconds_min": float(values.min()),
        "seconds_iqr": float(high - low),
        "rounds": len(values),
    }


def _time_cell(
    backbone: ResNet, images: Sequence[tuple[str | int, Floats]], seed: int, threads: int, rounds: int
) -> dict[str, Any]:
    """Time a trained backbone with its own masks against the same network without them, image by image."""
    if not images:
        raise SaibenchError("no images to time the cell on")
    bare = copy.deepcopy(backbone)
    for block in residual_blocks(bare):
        for part in ("mask1", "mask2", "mask3", "interpolation1", "interpolation2", "interpolation3"):
            setattr(block, part, None)
    sparse, dense = Engine(backbone, threads=threads), Engine(bare, threads=threads)
    rows = []
    for identifier, image in images:
        ratios, seconds, macs = [], [], (0, 0)
        for number in range(rounds + 1):
            start = time.perf_counter()
            without = dense(image)
            middle = time.perf_counter()
            result = sparse(image, identifier=identifier, seed=seed)
            end = time.perf_counter()
            if number:
                ratios.append((middle - start) / (end - middle))
                seconds.append(end - middle)
            macs = (without.macs, result.macs)
        density = float(np.mean([(mask > 0).mean() for mask in result.masks.values()])) if result.masks else 1.0
        rows.append(
            {
                "image": identifier,
                "density": density,
                "gmacs": macs[1] / 1e9,
                **_statistics(seconds),
                "speedup": float(np.median(ratios)),
                "speedup_measured_macs": macs[0] / macs[1],
            }
        )
    speedups = [row["speedup"] for row in rows]
    promised = [row["speedup_measured_macs"] for row in rows]
    return {
        "images": rows,
        "speedup": float(np.mean(speedups)),
        "speedup_measured_macs": float(np.mean(promised)),
        "share": float(np.mean(speedups) / np.mean(promised)),
    }


# ----------------------------------------------------------------------------------------------------------- peers


def _peer(
    report: dict[str, Any], name: str, model: nn.Module, image: Floats, reference: Result, threads: int
) -> _Variant:
    """Prepare a peer; one that cannot run is reported with the reason and takes no time."""
    fields = ("version", "seconds", "seconds_min", "seconds_iqr", "rounds", "engine_dense_speedup")
    row: dict[str, Any] = {"peer": name, **dict.fromkeys((*fields, "relative_difference", "skipped"))}
    report["peers"].append(row)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call, row["version"] = _PEERS[name](model, image, threads)
            output = np.asarray(call())[0]
    except Exception as error:
        # A peer is somebody else's software: whatever it raises is a reason to go on without it, and to say so.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        row["skipped"] = f"{type(error).__name__}: {lines[0]}"
        return _Variant(name, lambda: None)
    ours = next(reversed(reference.stages.values())).transpose(2, 0, 1)
    row["relative_difference"] = float(np.abs(output - ours).max() / np.abs(ours).max())
    return _Variant(name, call)


def _torch(model: nn.Module, image: Floats, threads: int) -> tuple[Callable[[], Any], str]:
    torch.set_num_threads(threads)
    network = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.from_numpy(image)[None].to(memory_format=torch.channels_last)

    def call() -> Any:
        with torch.inference_mode():
            return network(x).numpy()

    return call, torch.__version__


def _torch_frozen(model: nn.Module, image: Floats, threads: int) -> tuple[Callable[[], Any], str]:
    torch.set_num_threads(threads)
    network = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.from_numpy(image)[None].to(memory_format=torch.channels_last)
    with torch.no_grad():
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(network, x)))

    def call() -> Any:
        with torch.no_grad():
            return frozen(x).numpy()

    call()
    return call, torch.__version__


def _onnxruntime(model: nn.Module, image: Floats, threads: int) -> tuple[Callable[[], Any], str]:
    import io

    import onnxruntime

    buffer = io.BytesIO()
    example = torch.from_numpy(image)[None]
    torch.onnx.export(copy.deepcopy(model), (example,), buffer, dynamo=False, input_names=["image"])  # type: ignore[arg-type]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Idle threads that spin would take the cores from whoever is timed next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": image[None]})[0], onnxruntime.__version__


def _openvino(model: nn.Module, image: Floats, threads: int) -> tuple[Callable[[], Any], str]:
    os.environ.setdefault("OPENVINO_TELEMETRY", "0")
    import openvino

    converted = openvino.convert_model(copy.deepcopy(model), example_input=torch.from_numpy(image)[None])
    converted.reshape([1, *image.shape])
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(converted, "CPU", options)
    return lambda: compiled(image[None])[0], openvino.__version__


_PEERS: dict[str, Callable[[nn.Module, Floats, int], tuple[Callable[[], Any], str]]] = {
    "torch": _torch,
    "torch-frozen": _torch_frozen,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
