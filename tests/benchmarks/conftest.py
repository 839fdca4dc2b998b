"""What a benchmark record says of the machine besides: the engine's build, and the runtimes beside it."""

from importlib.metadata import PackageNotFoundError, version

import torch

from benchmark import __version__
from benchmark.engines import EngineUnavailable
from benchmark.engines.cpu import kernels

RUNTIMES = ("torch", "onnxruntime", "openvino")


def pytest_benchmark_update_machine_info(config, machine_info):
    """Add versions, instruction set and threads to the record's machine."""
    try:
        instruction_set = kernels.instruction_set()
    except EngineUnavailable as reason:
        instruction_set = str(reason)
    runtimes = {}
    for name in RUNTIMES:
        try:
            runtimes[name] = version(name)
        except PackageNotFoundError:
            runtimes[name] = None
    machine_info["saibench"] = {
        "version": __version__,
        "instruction_set": instruction_set,
        "threads": torch.get_num_threads(),
        "runtimes": runtimes,
    }
