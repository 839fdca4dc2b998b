"""What every engine is: it runs a backbone for images, with real sparsity, and says what it executed.

Timing and checks use an engine through `Engine` alone. Not here: how any engine computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray
from torch import nn

from benchmark.errors import SaibenchError

Floats = NDArray[np.float32]


class EngineUnavailable(SaibenchError):
    """The engine cannot run on this machine; the message says what to install."""


class EngineRefusal(SaibenchError):
    """The engine has no way to run a part of the network: nothing is broken, and PyTorch still runs it.

    Attributes
    ----------
    layer
        The part's qualified name within the backbone, such as ``layer1.0.mask1``.
    reason
        What the engine cannot do.
    """

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(f"{layer}: {reason}")
        self.layer = layer
        self.reason = reason


@dataclass
class Row:
    """What one layer did for an image.

    Attributes
    ----------
    kind
        In the counter's words.
    macs
        Multiply-accumulates that were needed: those that the counter counts.
    executed
        Those that ran. An engine may take a way with more of them and less time.
    seconds
        What it took.
    """

    kind: str
    macs: int = 0
    executed: int = 0
    seconds: float = 0.0


@dataclass
class Result:
    """What an engine computed for one image.

    Attributes
    ----------
    stages
        Stage maps by name, ``(H, W, C)`` float32: views of the engine's buffers, valid until the next call of the
        same thread.
    tally
        By layer, in the counter's names: kind, multiply-accumulates needed and executed, seconds.
    masks
        By place (``layer1.0.mask1``): M, ``(H, W)`` float32.
    """

    stages: dict[str, Floats]
    tally: Mapping[str, Row]
    masks: Mapping[str, Floats]

    @property
    def macs(self) -> int:
        """Multiply-accumulates needed."""
        return sum(row.macs for row in self.tally.values())

    @property
    def executed(self) -> int:
        """Multiply-accumulates executed."""
        return sum(row.executed for row in self.tally.values())


class Engine(Protocol):
    """A backbone, compiled for one kind of processor.

    Parameters
    ----------
    model
        The backbone, on any device, in evaluation or training mode; the engine computes what it computes in evaluation
        mode. Later changes of its weights are not seen.
    threads
        Threads to run on; by default all that there are. Several Python threads may call one engine.

    Raises
    ------
    EngineUnavailable
        If the engine cannot run on this machine.
    EngineRefusal
        If it cannot run a part of this backbone.

    Attributes
    ----------
    threads
        Threads that it runs on.
    masks_in_pytorch
        Masks by place (``layer1.0.mask1``) that PyTorch decides while the engine waits, wholly or in part: what they
        take says little about the method, and a record of times tells of them.
    """

    threads: int
    masks_in_pytorch: Sequence[str]

    def __init__(self, model: nn.Module, *, threads: int | None = None) -> None: ...

    @staticmethod
    def max_threads() -> int:
        """Return the threads that there are; raise `EngineUnavailable` where the engine cannot run."""
        ...

    @staticmethod
    def hardware() -> dict[str, str]:
        """Return what a record of times says about the processor, by name."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes of maps, scratch and lists held after the calls so far, for all threads (weights not included)."""
        ...

    @overload
    def __call__(self, image: Floats, *, masks: Mapping[str, Floats] | None = None) -> Result: ...

    @overload
    def __call__(
        self, image: Sequence[Floats], *, masks: Sequence[Mapping[str, Floats] | None] | None = None
    ) -> list[Result]: ...

    def __call__(self, image: Any, *, masks: Any = None) -> Any:
        """Compute the stage maps of images; their identifiers and seed are those at hand (`benchmark.nn.context`).

        Parameters
        ----------
        image
            One normalised image, ``(3, H, W)`` float32, C-contiguous; or several, ``(N, 3, H, W)`` or a list of images
            of any sizes.
        masks
            Masks by place (``layer1.0.mask1``) to use instead of the block's own, ``(H, W)`` float32 at the governed
            map's size; for several images a list of such mappings. The masks are still decided, so that time and tally
            stay those of a sparse network.

        Returns
        -------
        Result or list of Result
            One for each image.

        Raises
        ------
        TypeError, ValueError
            For an image or a mask of the wrong type, shape or layout, or with NaN.
        """
        ...
