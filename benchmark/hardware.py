"""What a cell runs on: the kind of device and the precision of training.

The kind of device is PyTorch's choice and part of no result's identity. The precision of training is: mixed precision
trains another network. Evaluation and counting are always in float32, so that masks and counts mean the same whatever a
network was trained in.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from lightning_fabric import Fabric

from benchmark.errors import UsageError

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
    accelerator : str
        As Lightning Fabric names them: ``auto``, ``cpu`` or ``cuda``.
    """

    precision: Precision = FULL
    accelerator: str = "auto"

    def training(self) -> Fabric:
        """Return the Fabric that trains."""
        return Fabric(accelerator=self.accelerator, devices=1, precision=self.precision)

    def evaluating(self) -> Fabric:
        """Return the Fabric that evaluates, in float32."""
        return Fabric(accelerator=self.accelerator, devices=1)


#: One device of whatever kind there is, in float32.
ONE = Hardware()


def check_precision(precision: str) -> Precision:
    """Return a precision.

    Raises
    ------
    UsageError
        For one that is not there.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r}: there are {', '.join(PRECISIONS)}")
    return precision


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
