"""What several processes make of one step and of one evaluation: sums of gradients, running statistics, gathered parts.

On one device, everything here gives back what it was given.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn

from benchmark.errors import SaibenchError


def gather(fabric: Fabric, value: Any) -> list[Any]:
    """Return every process's value, in their order, in the first process; nothing in the others."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] | None = [None] * fabric.world_size if fabric.is_global_zero else None
    distributed.gather_object(value, values)
    return values or []


def sum_step(fabric: Fabric, parameters: Iterable[nn.Parameter], sums: Tensor) -> Tensor:
    """Sum the gradients of all processes in place; return the sum of a vector ``(K,)``, such as their losses.

    A parameter without a gradient in any process keeps none, so that the optimizer leaves it alone as on one device.
    """
    if fabric.world_size == 1:
        return sums
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    used = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.float32)
    flat = torch.cat(
        [
            sums.to(fabric.device, torch.float32),
            used.to(fabric.device),
            *(torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained),
        ]
    )
    distributed.all_reduce(flat)
    head = len(sums) + len(trained)
    place = head
    for parameter, users in zip(trained, flat[len(sums) : head].tolist(), strict=True):
        if users:
            # As the weight lies in memory: fused optimizers walk through both alike.
            parameter.grad = torch.empty_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad.copy_(flat[place : place + parameter.numel()].view_as(parameter))
        place += parameter.numel()
    return flat[: len(sums)].to(sums)


class Buffers:
    """What a step's forwards change beside the weights, brought to what one device would have.

    One device runs all parts of a step one after the other. Batch norm normalises each part by itself, and moves its
    running statistics by ``r <- (1 - m) r + m s`` with each part's own ``s``. Over P parts that is
    ``(1 - m)^P r + sum of m (1 - m)^(parts behind k) s_k``, to which each process holds its own terms. All other
    buffers are taken for counts or sums over images: their changes add up.

    Parameters
    ----------
    fabric
        The processes.
    model
        The model, before the step's first forward.
    """

    def __init__(self, fabric: Fabric, model: nn.Module) -> None:
        self.fabric = fabric
        self.owners = [] if fabric.world_size == 1 else list(_changing(model))
        self.before = [owner._buffers[name].clone() for owner, name in self.owners]  # type: ignore[union-attr]

    def merge(self, parts: int) -> None:
        """Merge what the processes changed; each ran so many parts, in the order of their ranks.

        Raises
        ------
        SaibenchError
            For a buffer that has another shape in another process.
        """
        if not self.owners:
            return
        buffers: list[Any] = [owner._buffers[name] for owner, name in self.owners]
        self._check([tuple(buffer.shape) for buffer in buffers])
        behind = self.fabric.world_size - 1 - self.fabric.global_rank
        starts, changes, decays = [], [], []
        for (owner, name), before, now in zip(self.owners, self.before, buffers, strict=True):
            kept = _decay(owner, name, parts)
            start = before.double() if before.shape == now.shape else torch.zeros_like(now, dtype=torch.float64)
            starts.append(start)
            decays.append(kept)
            changes.append(((now - kept * start) * kept**behind).flatten())
        flat = torch.cat(changes)
        distributed.all_reduce(flat)
        sums = flat.split([len(change) for change in changes])
        for now, start, kept, change in zip(buffers, starts, decays, sums, strict=True):
            now.copy_(kept**self.fabric.world_size * start + change.view_as(start))

    def _check(self, shapes: list[tuple[int, ...]]) -> None:
        """Make sure that all processes hold the same shapes, or their sum would be nonsense."""
        everywhere: list[Any] = [None] * self.fabric.world_size
        distributed.all_gather_object(everywhere, shapes)
        for (_, name), *found in zip(self.owners, *everywhere, strict=True):
            if len(set(found)) > 1:
                raise SaibenchError(
                    f"what the method gathers in {name!r} has other shapes on other devices, because its images have "
                    "several sizes: run it on one device"
                )


def _changing(model: nn.Module) -> Iterable[tuple[nn.Module, str]]:
    """Yield the buffers of numbers, by owner and name; those of batch norm in inference stay as they are."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if not module.training:
                continue
            if module.momentum is None:
                raise SaibenchError("batch norm without momentum averages over all steps: run it on one device")
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.dtype != torch.bool:
                yield module, name


def _decay(owner: nn.Module, name: str, parts: int) -> float:
    """Return what is left of a buffer's value after so many parts: 1 where changes add up."""
    if isinstance(owner, nn.modules.batchnorm._BatchNorm) and name in ("running_mean", "running_var"):
        return float((1 - cast(float, owner.momentum)) ** parts)
    return 1.0
