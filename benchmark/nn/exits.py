"""Exits: predictions from the maps of early stages, which later ones need not compute again (Liu et al. 2022, ADP-C).

An exit stands behind the blocks of a stage, passes its map on, and keeps what its head says of it. What a head predicts
is the task's business (`Task.exit_head`), and so is the loss; which stages have one says the method (`Method.exits`).
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn


class Exit(nn.Module):
    """A head behind a stage's blocks; where the exit before it is confident, that one's prediction stays.

    Parameters
    ----------
    head
        Maps a stage's map ``(N, C, H, W)`` to logits ``(N, classes, H, W)``.
    resolution
        Pixels of the image to a position of the map, along an axis.
    before
        The exit of an earlier stage, if there is one.

    Attributes
    ----------
    threshold : float
        A position is confident where its largest probability is above. At 1 none is.
    logits : Tensor or None
        Of the last forward, merged with the exit before, ``(N, classes, H, W)``.
    confidence : Tensor or None
        Their largest probability, ``(N, 1, H, W)``, without a graph: a mask that it decides passes no gradient.
    """

    def __init__(self, head: nn.Module, resolution: int, before: "Exit | None") -> None:
        super().__init__()
        self.head = head
        self.resolution = resolution
        self.threshold = 1.0
        # In a tuple, so that PyTorch does not take it for a part of this module; copies stay together.
        self._before = (before,)
        self.logits: Tensor | None = None
        self.confidence: Tensor | None = None

    def train(self, mode: bool = True) -> "Exit":
        """Switch the mode; what the last forward left would keep the autograd graph alive, and is forgotten."""
        self.logits = self.confidence = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """Pass the stage's map ``(N, C, H, W)`` on, and keep what the head predicts from it."""
        logits = cast(Tensor, self.head(x))
        before = self._before[0]
        self.logits = logits if before is None else before.merge(logits)
        self.confidence = self.logits.detach().softmax(1).amax(1, keepdim=True)
        return x

    def confident(self, size: Sequence[int]) -> Tensor:
        """Return where the last forward's prediction is confident, boolean ``(N, 1, H, W)``, on a map of this size."""
        return _resized(cast(Tensor, self.confidence), size) > self.threshold

    def merge(self, logits: Tensor) -> Tensor:
        """Return later logits ``(N, classes, H, W)``, with this exit's own where it is confident."""
        size = logits.shape[-2:]
        return torch.where(self.confident(size), _resized(cast(Tensor, self.logits), size), logits)


def exits(model: nn.Module) -> list[Exit]:
    """Return a model's exits in the order in which they run."""
    return [module for module in model.modules() if isinstance(module, Exit)]


def _resized(values: Tensor, size: Any) -> Tensor:
    """Return a map at the size of a later one: position i of that lies on position ``stride * i`` of this."""
    rows, columns = (-(-have // want) for have, want in zip(values.shape[-2:], size, strict=True))
    return values[..., ::rows, ::columns]
