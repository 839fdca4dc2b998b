"""What a module is made of, as a key: two modules with equal keys cost the same, so that one trace serves both.

The project's, PyTorch's and torchvision's classes say by their options what they compute. A class from elsewhere may
compute by any of its attributes, so all of them are in the key: a mask's tile size, a list of modules, a function with
what it closes over. An attribute that cannot be compared makes a key of its own: counted anew, and never wrongly.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.nn.masks import Mask

Structure = tuple[Any, ...]

#: Packages whose modules compute what their options say.
KNOWN_PACKAGES = frozenset({"torch", "torchvision", "benchmark"})

#: Attributes of a module that hold no option: PyTorch's own, what a forward left, and a block's cached description.
_MACHINERY = frozenset(vars(nn.Module())) | {"decided", "confidence", "_work"}

#: Options of the most frequent layers, which need not be written as text; a container has none of its own.
_OPTIONS: dict[type, Callable[[Any], Any]] = {
    nn.Conv2d: attrgetter("weight.shape", "stride", "padding", "dilation", "groups", "padding_mode"),
    nn.BatchNorm2d: attrgetter("num_features"),
    nn.ReLU: type,
    nn.Sequential: type,
}


def structure(module: nn.Module) -> Structure:
    """Return what a module is made of: its parts' types, options and shapes, equal for equal structures.

    As much as ``repr`` says, in a fraction of its time, which is longer than a small network takes for an image.
    """
    return _Description().of(module)


class _Same:
    """An object that equals itself alone; holding it keeps its identity from being given to another."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class _Description:
    """Describes one module; an object that comes again is named by its number."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.seen: dict[int, int] = {}
        self.held: list[Any] = []  # a number is an object's address: no object may go while the numbers are in use

    def of(self, module: nn.Module) -> Structure:
        self._visit("", module)
        return tuple(self.parts)

    def _visit(self, name: str, part: nn.Module) -> None:
        if id(part) in self.seen:
            self.parts.append((name, self.seen[id(part)]))
            return
        self.seen[id(part)] = len(self.seen)
        self.parts.append((name, type(part), len(part._modules), *self._options(part)))
        for child, module in part._modules.items():
            if module is not None:
                self._visit(child, module)

    def _options(self, part: nn.Module) -> tuple[Any, ...]:
        known = _OPTIONS.get(type(part))
        if "forward" in part.__dict__ or not _is_known(type(part)):
            text = part.extra_repr()
            own = {name: value for name, value in vars(part).items() if name not in _MACHINERY}
            return (text, self._value(own), *_shapes(part))
        if known is not None:
            return (known(part),)
        text = part.extra_repr() if type(part).__repr__ is nn.Module.__repr__ else repr(part)
        return (text, part.stride if isinstance(part, Mask) else None, *_shapes(part))

    def _value(self, value: Any) -> Any:
        """Return something hashable that is equal for values that make modules compute the same."""
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | type | torch.dtype):
            return type(value), value
        if isinstance(value, Tensor):
            return Tensor, value.shape, value.dtype  # traced with zeros in its place
        if isinstance(value, np.ndarray):
            return np.ndarray, value.shape, value.tobytes()
        if isinstance(value, tuple):
            return type(value), *map(self._value, value)
        if id(value) in self.seen:
            return self.seen[id(value)]
        if isinstance(value, nn.Module):
            self._visit("", value)
            return self.seen[id(value)]
        self.seen[id(value)] = len(self.seen)
        self.held.append(value)
        return self._compound(value)

    def _compound(self, value: Any) -> Any:
        if isinstance(value, list):
            return type(value), *map(self._value, value)
        if isinstance(value, Mapping):
            return type(value), *((self._value(key), self._value(item)) for key, item in value.items())
        if isinstance(value, types.FunctionType):
            closure = [cell.cell_contents for cell in value.__closure__ or ()]
            return value.__code__, self._value(closure), self._value(value.__defaults__)
        if isinstance(value, types.MethodType):
            return self._value(value.__func__), self._value(value.__self__)
        if isinstance(value, partial):
            return partial, self._value(value.func), self._value(value.args), self._value(value.keywords)
        return (type(value), self._value(vars(value))) if hasattr(value, "__dict__") else _Same(value)


def _is_known(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in KNOWN_PACKAGES


def _shapes(part: nn.Module) -> tuple[Any, ...]:
    tensors = (*part._parameters.values(), *(part._buffers.values() if not _is_known(type(part)) else ()))
    return tuple(None if value is None else value.shape for value in tensors)
