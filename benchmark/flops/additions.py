"""What a method adds to a network, as it is traced: masks, gates over channels, and fills.

In a structure to be traced, `Added` stands in the place of each. It runs the part's own forward, so that whatever a
method computes to decide a mask is counted, and keeps everything computed there: a tracer drops what the network's
output does not depend on, and a mask does not change the shape of anything. The project's own parts, whose cost is
known to be one convolution or nothing, are not run but stood in for.

Where a part stands, not which module it is, gives the row: a mask that several blocks share has a row in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmark.errors import SaibenchError
from benchmark.nn import interpolation
from benchmark.nn.gates import ChannelGate
from benchmark.nn.interpolation import Interpolation, WindowedInterpolation
from benchmark.nn.masks import CarriedMask, FixedMask, LearnedMask, Mask, RandomMask

Kind = Literal["mask", "gate", "interpolation"]


class Added(nn.Module):
    """Stands for a mask, gate or fill in a structure.

    Parameters
    ----------
    part
        The copy that belongs to the structure. It is no child of this module, so that fvcore takes all that runs in
        it for this module's own.
    kind
        What it is.
    layer
        Its name in the model.

    Attributes
    ----------
    is_own : bool
        Whether its own forward runs; otherwise something stands in that costs the same.
    kept : list of Tensor
        What was computed while it was traced.
    """

    def __init__(self, part: nn.Module, kind: Kind, layer: str) -> None:
        super().__init__()
        self._part = (part,)
        self.kind: Kind = kind
        self.layer = layer
        self._stand_in = stand_in(part)
        self.is_own = self._stand_in is None
        self.kept: list[Tensor] = []

    def forward(self, *inputs: Tensor) -> Any:
        """Run the part, or what stands in for it.

        Raises
        ------
        SaibenchError
            The part's forward does not run by itself; the message names it.
        """
        if self._stand_in is not None:
            output = self._stand_in(*inputs)
            if torch.jit.is_tracing():
                self.kept.append(output)
            return output
        try:
            with _Keeping(self.kept):
                return self._part[0](*inputs)
        except SaibenchError:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines()
            reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
            message = f"{self.layer}: the {self.kind}'s forward cannot be traced to count it ({reason})"
            raise SaibenchError(message) from error

    def __getattr__(self, name: str) -> Any:
        """Answer for the part, whose attributes blocks and other masks read (`window`, `confidence`)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_part"][0], name)

    @property
    def decided(self) -> Tensor | None:
        """What the block decided last; masks that are carried read it from the part."""
        return self._part[0].decided  # type: ignore[return-value]

    @decided.setter
    def decided(self, values: Tensor | None) -> None:
        self._part[0].decided = values  # type: ignore[assignment]


def wrap(structure: nn.Module) -> None:
    """Put an `Added` in the place of every mask, gate and fill of a structure."""
    seen: set[nn.Module] = set()

    def visit(parent: nn.Module, path: str) -> None:
        for name, part in list(parent._modules.items()):
            kind = None if part is None else kind_of(part)
            if part is not None and kind is not None:
                setattr(parent, name, Added(part, kind, path + name))
            elif part is not None and part not in seen:
                seen.add(part)
                visit(part, f"{path}{name}.")

    visit(structure, "")


def additions(structure: nn.Module) -> Iterator[tuple[str, Added]]:
    """Yield what stands for masks, gates and fills in a structure, by name."""
    for name, module in structure.named_modules():
        if isinstance(module, Added):
            yield name, module


def kind_of(part: nn.Module) -> Kind | None:
    """Return which kind of addition a module is; None if it is none."""
    if isinstance(part, Mask):
        return "mask"
    if isinstance(part, ChannelGate):
        return "gate"
    return "interpolation" if isinstance(part, Interpolation) else None


def is_own(module: nn.Module) -> bool:
    """Return whether a module is a mask, gate or fill whose own forward is counted."""
    return kind_of(module) is not None and stand_in(module) is None


def counted_by_pairs(fill: Interpolation) -> bool:
    """Return whether what a fill costs follows from its window: the project's kernels, copies and zeros.

    A subclass with weights of its own (`kernel`, `profile`) is among them; one with a forward of its own is not.
    """
    if isinstance(fill, WindowedInterpolation):
        return _is_inherited(fill, "forward", "weighted_sum", "weight_sum")
    if isinstance(fill, interpolation.Reuse):
        return _is_inherited(fill, "forward", "match")
    return isinstance(fill, interpolation.Nearest | interpolation.Zeros) and _is_inherited(fill, "forward")


def stand_in(part: nn.Module) -> Callable[..., Tensor] | None:
    """Return what costs the same as a part in fewer operators; None for a part that must run itself."""
    if isinstance(part, Interpolation):
        return (lambda features, mask, source: features) if counted_by_pairs(part) else None
    if isinstance(part, FixedMask | RandomMask | CarriedMask) and _is_inherited(part, "forward", "size"):
        return lambda x: x[:, :1, :: part.stride, :: part.stride]  # the size alone matters
    if isinstance(part, LearnedMask) and _is_inherited(part, "forward", "values") and type(part.conv) is nn.Conv2d:
        # Without noise, threshold and grid prior; a function, since an attribute that is a module becomes a child.
        return lambda x: part.conv(x)
    return None


def _is_inherited(part: nn.Module, *methods: str) -> bool:
    """Return whether methods of a part are those that `benchmark.nn` gives it."""
    kind: Any = type(part)
    return _class_inherits(kind, methods) and not any(name in part.__dict__ for name in methods)


@cache
def _class_inherits(kind: Any, methods: tuple[str, ...]) -> bool:
    return all(getattr(kind, name).__module__.startswith("benchmark.nn.") for name in methods)


#: What returns one size, of an axis or a whole tensor.
_LENGTHS = (Tensor.size, Tensor.numel, Tensor.nelement, torch.numel)


class _Keeping(TorchFunctionMode):
    """Keeps whatever PyTorch's functions return, whether a later one reads it or not.

    A tracer makes tensors of sizes. A part gets them as the integers that they are when it runs, or `round` and `range`
    of a size would be errors here alone.
    """

    def __init__(self, kept: list[Tensor]) -> None:
        super().__init__()
        self.kept = kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if torch.jit.is_tracing():
            if isinstance(output, torch.Size):
                return torch.Size(map(int, output))
            if func in _LENGTHS:
                return int(output)
            self.kept.extend(tensors(output))
        return output


def tensors(nest: Any) -> Iterator[Tensor]:
    """Yield the tensors of a nest of dictionaries, lists and tuples."""
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, dict):
        for value in nest.values():
            yield from tensors(value)
    elif isinstance(nest, list | tuple):
        for value in nest:
            yield from tensors(value)
