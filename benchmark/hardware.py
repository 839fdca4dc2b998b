"""What a cell runs on: how many devices of which kind, and the precision of training.

Kind and number of devices change no result but by rounding, and are part of no result's identity. The precision of
training is: mixed precision trains another network. Evaluation and counting are always in float32, so that masks and
counts mean the same whatever a network was trained in.

Several devices are as many processes, started for one cell (`launch`). Each computes whole parts of a step
(``micro_batch``); what the parts add up to is summed over the processes (`benchmark.parallel`).
"""

import contextlib
import functools
import json
import logging
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from benchmark.cores import usable_cores
from benchmark.errors import SaibenchError, UsageError

# It says on standard error which processes it has started, and in which precision: the record says so.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

Precision = Literal["32-true", "bf16-mixed"]
FULL: Precision = "32-true"
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Hardware:
    """Where training and evaluation run.

    Attributes
    ----------
    precision : str
        Of training: ``32-true``, or ``bf16-mixed`` for float32 weights with bfloat16 convolutions.
    devices : int
        Devices of one machine, one process each.
    accelerator : str
        As Lightning Fabric names them: ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    UsageError
        For a precision that is not there, or no device.
    """

    precision: str = FULL
    devices: int = 1
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision {self.precision!r}: there are {', '.join(PRECISIONS)}")
        if self.devices < 1:
            raise UsageError(f"--devices {self.devices}: give 1 or more")

    def check(self) -> None:
        """Make sure that this machine has so many devices; another one that will run the cell may have them.

        Raises
        ------
        UsageError
            With how many there are.
        """
        if self.devices > max(1, self.available):
            what = "CUDA devices" if self.on_cuda else "processor cores"
            raise UsageError(f"--devices {self.devices}: this machine has {self.available} {what}")

    @property
    def on_cuda(self) -> bool:
        """Whether it runs on CUDA devices."""
        return self.accelerator == "cuda" or (self.accelerator == "auto" and torch.cuda.is_available())

    @property
    def available(self) -> int:
        """How many devices there are; without CUDA, a process for each core that may be used."""
        return torch.cuda.device_count() if self.on_cuda else usable_cores()

    def fabric(self) -> Fabric:
        """Return the Fabric of one device, or the one that starts a process for each of several."""
        precision: Any = self.precision
        # Its own environment: within a Slurm job, Fabric would look for the processes that srun started.
        environment = LightningEnvironment()
        if self.devices == 1:
            return Fabric(accelerator=self.accelerator, devices=1, precision=precision, plugins=environment)
        strategy = Separate(start_method="spawn", cluster_environment=environment)
        return Fabric(
            accelerator="cuda" if self.on_cuda else "cpu", devices=self.devices, strategy=strategy, precision=precision
        )


class Separate(DDPStrategy):
    """Lightning's processes, devices and group, with the module left as it is.

    Its `DistributedDataParallel` would average gradients, and lose those of parameters that a step's last part does
    not use; here the sum of the parts is formed once, after the last (`benchmark.parallel`).
    """

    def setup_module(self, module: nn.Module) -> Any:
        """Return the module."""
        return module


#: One device of whatever kind there is, in float32.
ONE = Hardware()


def launch(hardware: Hardware, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function(fabric, *arguments)`` in a process for each device, and return what the first process returns.

    On one device it is called here. Otherwise function and arguments are sent to the processes.

    Raises
    ------
    SaibenchError
        What the first process that failed raised, in its class.
    OSError
        Such as of a full disk.
    RuntimeError
        For other exceptions, with their names.
    """
    fabric = hardware.fabric()
    if hardware.devices == 1:
        return function(fabric, *arguments)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        # Fabric leaves the port that it chose in the environment, where the next launch would take it up.
        stack.callback(os.environ.pop, "MASTER_PORT", None)
        try:
            # Bound: Fabric looks into what it passes on by itself, and refuses frozen dataclasses.
            return fabric.launch(functools.partial(_told, Path(folder), function, arguments))
        except ProcessRaisedException as error:
            raise _first_failure(Path(folder)) or SaibenchError(str(error).strip().splitlines()[-1]) from error
        except ProcessExitedException as error:
            raise _first_failure(Path(folder)) or SaibenchError(
                f"process {error.error_index} of {hardware.devices} was killed (out of memory?)"
            ) from error


def _told(folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...], fabric: Fabric) -> Any:
    """Call a function in one of several processes, and leave what it raises for the process that started them."""
    follow_parent()
    try:
        return function(fabric, *arguments)
    except Exception as error:
        known = isinstance(error, SaibenchError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        # A full disk is told from what the cell does wrong by its number.
        told = {"class": type(error).__name__, "message": text, "errno": getattr(error, "errno", None)}
        with contextlib.suppress(FileExistsError), (folder / "failure.json").open("x", encoding="utf-8") as file:
            json.dump(told, file)
        raise


def _first_failure(folder: Path) -> Exception | None:
    path = folder / "failure.json"
    if not path.is_file():
        return None
    told = json.loads(path.read_text(encoding="utf-8"))
    if told["errno"] is not None:
        return OSError(told["errno"], told["message"])
    kinds: dict[str, type[Exception]] = {kind.__name__: kind for kind in _kinds(SaibenchError)}
    return kinds.get(told["class"], RuntimeError)(told["message"])


def _kinds(kind: type[SaibenchError]) -> Iterator[type[SaibenchError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)


def follow_parent() -> None:
    """End this process when the one that started it through ``multiprocessing`` ends, however that ends.

    Nothing goes on unseen. What is watched is a pipe that the parent holds, and not the parent's number: a process that
    takes seconds to start may be an orphan, under another parent's number, before it comes here.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def advising(advice: str) -> Iterator[None]:
    """Turn running out of a device's memory into one line that says which setting to lower.

    Raises
    ------
    SaibenchError
        In place of PyTorch's and Python's own.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise SaibenchError(f"out of memory: {advice}") from error


def true_float32() -> Any:
    """Return a context in which CUDA's convolutions compute in float32 and not in TF32, their default.

    TF32 keeps 10 bits of a factor: enough to train, and enough to move a mask's decision.
    """
    return torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled,
        benchmark=torch.backends.cudnn.benchmark,
        deterministic=torch.backends.cudnn.deterministic,
        allow_tf32=False,
    )
