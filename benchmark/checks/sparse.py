"""Making a network sparse without training it: what a nearly dense one hides shows there.

Masks start nearly dense, and two steps of training leave them so. A rule that matters only where positions are left out
is then never tested. `make_sparse` is deterministic:

1. weights of more than one dimension in a mask or gate are drawn anew, normal, with a variance of 1 / fan-in;
2. the first number of each of its biases is set to the value of `SHIFTS` at which nearest to half of its own output is
   above 0, for the input that it gets first;
3. where more than three quarters are still computed, as in a mask without parameters, squares of 2 x 2 positions are
   cut out of its output like the fields of a chess board, or every other channel of a gate's.

The cut depends on positions alone, so that what is sampled for an image depends on its batch only if the mask itself
does.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.nn import ChannelGate, Mask

SHIFTS = (0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0, 8.0, -8.0)
DENSEST = 0.75


def make_sparse(model: nn.Module, run: Callable[[], Any]) -> None:
    """Let every mask and gate leave about half of its map out.

    Parameters
    ----------
    model
        In evaluation mode; masks and gates get other weights, and keep a forward hook where these do not help.
    run
        Runs it on some images.
    """
    generator = torch.Generator().manual_seed(0)
    deciding = [module for module in model.modules() if isinstance(module, Mask | ChannelGate)]
    waiting = [module.register_forward_pre_hook(_Settling(generator)) for module in deciding]
    try:
        run()
    finally:
        for hook in waiting:
            hook.remove()


class _Settling:
    """Sets a module's weights before its first forward, from the input that it gets."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.done = False

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.done:
            return
        self.done = True
        biases = []
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                drawn = torch.empty(parameter.shape).normal_(generator=self.generator)
                parameter.data = drawn.to(parameter) / prod(parameter.shape[1:]) ** 0.5
            elif name.endswith("bias"):
                biases.append(parameter)
        shift = min(SHIFTS, key=lambda value: abs(_share(module, inputs, biases, value) - 0.5)) if biases else 0.0
        if _share(module, inputs, biases, shift) > DENSEST:
            module.register_forward_hook(_cut)


def _share(module: nn.Module, inputs: tuple[Tensor, ...], biases: list[nn.Parameter], shift: float) -> float:
    """Return the share that a module computes with a shift of its biases."""
    for bias in biases:
        numbers = torch.zeros_like(bias.data)
        numbers.view(-1)[:1] = shift  # a bias of a mask of one's own may be a single number
        bias.data = numbers
    return float((module.forward(*inputs) > 0).float().mean())


def _cut(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """Set about half of a mask's or gate's output to 0, by place."""
    if isinstance(module, ChannelGate):
        return output * (torch.arange(output.shape[-1], device=output.device) % 2)
    rows, columns = (torch.arange(side, device=output.device) // 2 for side in output.shape[-2:])
    return output * ((rows[:, None] + columns) % 2)
