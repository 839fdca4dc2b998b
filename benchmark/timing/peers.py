"""Other runtimes, on the same dense network in the same rounds."""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark.engines import Floats, Result
from benchmark.timing.clock import STATISTICS, Variant


def prepare(
    name: str, model: nn.Module, image: Floats, reference: Result, threads: int
) -> tuple[dict[str, Any], Variant]:
    """Return a peer's row, and the peer; one that cannot run says why in its row, and takes no time."""
    fields = (
        "version", *STATISTICS, "seconds_dense", "engine_dense_speedup", "engine_dense_speedup_low",
        "engine_dense_speedup_high", "relative_difference", "skipped",
    )  # fmt: skip
    row: dict[str, Any] = {"peer": name, **dict.fromkeys(fields)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call, row["version"] = _RUNTIMES[name](model, image, threads)
            output = np.asarray(call())[0]
    except Exception as error:
        # A peer is somebody else's software: whatever it raises is a reason to go on without it, and to say so.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        row["skipped"] = f"{type(error).__name__}: {lines[0]}"
        return row, Variant(name, lambda: None)
    ours = next(reversed(reference.stages.values())).transpose(2, 0, 1)
    row["relative_difference"] = float(np.abs(output - ours).max() / np.abs(ours).max())
    return row, Variant(name, call)


def _torch(model: nn.Module, image: Floats, threads: int) -> tuple[Callable[[], Any], str]:
    torch.set_num_threads(threads)
    network = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x = torch.from_numpy(image)[None].to(memory_format=torch.channels_last)

    def call() -> Any:
        with torch.inference_mode():
            return network(x).numpy()

    return call, torch.__version__


def _torch_frozen(model: nn.Module, image: Floats, threads: int) -> tuple[Callable[[], Any], str]:
    torch.set_num_threads(threads)
    network = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x = torch.from_numpy(image)[None].to(memory_format=torch.channels_last)
    with torch.no_grad():
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(network, x)))

    def call() -> Any:
        with torch.no_grad():
            return frozen(x).numpy()

    call()
    return call, torch.__version__


def _onnxruntime(model: nn.Module, image: Floats, threads: int) -> tuple[Callable[[], Any], str]:
    import onnxruntime

    example = torch.from_numpy(image)[None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        torch.onnx.export(copy.deepcopy(model), (example,), path, dynamo=False, input_names=["image"])
        exported = path.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Idle threads that spin would take the cores from whoever is timed next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": image[None]})[0], onnxruntime.__version__


def _openvino(model: nn.Module, image: Floats, threads: int) -> tuple[Callable[[], Any], str]:
    os.environ.setdefault("OPENVINO_TELEMETRY", "0")
    import openvino

    converted = openvino.convert_model(copy.deepcopy(model), example_input=torch.from_numpy(image)[None])
    converted.reshape([1, *image.shape])
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(converted, "CPU", options)
    return lambda: compiled(image[None])[0], openvino.__version__


_RUNTIMES: dict[str, Callable[[nn.Module, Floats, int], tuple[Callable[[], Any], str]]] = {
    "torch": _torch,
    "torch-frozen": _torch_frozen,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}

PEERS = tuple(_RUNTIMES)
"""Runtimes that can run beside the engine; the last two need the extra ``saibench[peers]``."""
