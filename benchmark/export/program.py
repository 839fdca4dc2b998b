"""A network as a ``.pt2`` program of PyTorch, which loads without Saibench.

It is the dense, masked form: everything is computed, and what masks leave out is replaced by its fill, as in training
and evaluation here. Its results are those of the sparse network; its speed is the dense one's. Stochastic masks draw
their noise from PyTorch's generator, since Saibench's own is keyed by image and made outside of PyTorch.
"""

from __future__ import annotations

import copy
import io
import logging
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmark.export.masks import ExportRefusal
from benchmark.nn.blocks import Decided, ResidualBlock
from benchmark.nn.masks import CarriedMask, GumbelMask, Mask, RandomMask, logistic_noise
from benchmark.nn.resnet import ResNet, residual_blocks
from benchmark.nn.work import Size

TRACED = (96, 160)
"""Height and width with which a network without masks is recorded, where they are free."""


class _Stages(nn.Module):
    """A backbone whose output is all of its stages' maps."""

    def __init__(self, body: ResNet) -> None:
        super().__init__()
        self.body = body

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map ``(1, 3, H, W)`` to the stages' maps by name."""
        return self.body.stages(image)


def record_program(
    model: nn.Module, find_body: Callable[[nn.Module], nn.Module], whole: bool, size: Size | None = None
) -> Any:
    """Return the program of a network, or of its backbone.

    Parameters
    ----------
    model
        The network.
    find_body
        Returns the backbone of a network.
    whole
        Whether the program is the whole network; else it returns the backbone's stage maps by name.
    size
        Height and width of all images; None for any, where the network has no masks: PyTorch records of a mask's grid
        for which sizes it has a single row, and the program would refuse all others.

    Returns
    -------
    torch.export.ExportedProgram
        Of one argument, ``image`` ``(1, 3, H, W)``.

    Raises
    ------
    ExportRefusal
        Where PyTorch cannot record it; the message has PyTorch's own reason.
    """
    copied = copy.deepcopy(model, _left(model)).cpu().eval()
    body = cast(ResNet, find_body(copied))
    for block in residual_blocks(body):
        _make_recordable(block, size)
    module = copied if whole else _Stages(body)
    free = None if size else ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    try:
        with warnings.catch_warnings(), torch.no_grad(), _quiet():
            warnings.simplefilter("ignore")
            image = torch.zeros(1, 3, *(size or TRACED))
            if size is not None:
                module(image)  # fixed masks draw their patterns, which are constants of the program
            return torch.export.export(module, (image,), dynamic_shapes=free)
    except Exception as error:  # whatever PyTorch raises of what it cannot record
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportRefusal("network" if whole else "backbone", f"PyTorch cannot record it: {lines[0]}") from error


def _left(model: nn.Module) -> dict[int, Any]:
    """Return what the last training forward left on masks: it belongs to a graph, and cannot be copied."""
    masks = [module for module in model.modules() if isinstance(module, Mask)]
    return {id(value): None for mask in masks for value in (mask.confidence, mask.decided)}


def _make_recordable(block: ResidualBlock, size: Size | None) -> None:
    """Let a block decide without leaving tensors on its masks, which a recorded program may not."""
    block._decide_mask = types.MethodType(_decide, block)  # type: ignore[method-assign]
    for number in block.work.masks:
        mask, place = getattr(block, f"mask{number}"), f"{block.name}.mask{number}"
        if isinstance(mask, GumbelMask):
            mask.thresholds = types.MethodType(_thresholds, mask)  # type: ignore[method-assign]
        elif isinstance(mask, RandomMask):
            raise ExportRefusal(place, "it is drawn by numbers that are made outside of PyTorch")
        elif isinstance(mask, CarriedMask):
            raise ExportRefusal(place, "a program of PyTorch cannot carry a mask from block to block")
        if size is None:
            raise ExportRefusal(place, "PyTorch records masks for images of one size: give --size HxW")


def _decide(block: ResidualBlock, index: int, source: Tensor, decided: Decided) -> None:
    decided.masks[index] = getattr(block, f"mask{index}")(source)


def _thresholds(mask: GumbelMask, logits: Tensor) -> Tensor:
    return logistic_noise(logits)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch's exporter from printing the graph of what it cannot record: the caller is told in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
