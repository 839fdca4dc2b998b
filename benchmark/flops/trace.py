"""Dense multiply-accumulates of every layer, from fvcore.

`dense_counts` gives what each layer of a model costs without masks, for one image of a given size. The graph is
traced by fvcore once for each structure, at a small size; layers whose cost is proportional to their output
(convolutions, linear layers, resizing) are then scaled by the exact size of that output at the asked size, which
takes milliseconds. A model with any other counted operator is traced at the asked size itself. Both give the same
integers (tests/flops/test_trace.py).

Masks and interpolations are taken out before tracing, except for the masks' convolutions: what they save and cost
depends on the image and is counted by `benchmark.flops.measured`.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmark.errors import SaibenchError
from benchmark.flops.handles import handles
from benchmark.nn.interpolation import Interpolation
from benchmark.nn.masks import FixedMask, LearnedMask

#: Longest side at which a structure is traced; larger images are scaled from there where that is exact.
TRACED_SIDE = 64

#: Layers that cost a fixed number of MACs for each number that they put out.
PROPORTIONAL_OPERATORS = frozenset({"conv", "bilinear", "linear", "addmm"})

Size = tuple[int, int]
Key = tuple[str, str]
Structure = tuple[Any, ...]


@dataclass(frozen=True)
class DenseCounts:
    """What a model costs without masks.

    Attributes
    ----------
    macs : dict
        Multiply-accumulates for one image (or one RoI), by layer (module name) and fvcore's operator name.
    uncounted : Counter
        Calls of operators that are not counted, by name.
    """

    macs: dict[Key, int]
    uncounted: Counter[str] = field(default_factory=Counter)


class Skeleton:
    """A model's structure without its weights, masks and fills, ready to be traced at any size.

    Parameters
    ----------
    module
        Called with the inputs; its submodules give the names of the layers. It is copied without its parameters.

    Attributes
    ----------
    regions : dict
        What runs once for each RoI behind this module, by the structure of its parts; the adapter's.
    """

    def __init__(self, module: nn.Module) -> None:
        self._cpu = structure_of(module, "cpu")
        self._meta = structure_of(module, "meta")
        for name, part in list(self._meta.named_modules()):
            # They keep shapes, and PyTorch decomposes them on the meta device, which would take most of the time.
            if type(part) in (nn.BatchNorm2d, nn.ReLU):
                self._meta.set_submodule(name, nn.Identity())
        self._reference: tuple[DenseCounts, dict[str, int], bool] | None = None
        self._counts: dict[Size, DenseCounts] = {}
        self.regions: dict[Structure, DenseCounts] = {}

    def outputs(self, size: Size) -> Any:
        """Return the outputs for one image of a size, on the meta device: shapes without values."""
        with torch.no_grad(), _ShapesAlone():
            return self._meta(torch.empty(1, 3, *size, device="meta"))

    def counts(self, size: Size) -> DenseCounts:
        """Return the dense counts of one image ``(1, 3, H, W)``.

        Raises
        ------
        SaibenchError
            The model cannot be traced at this size.
        """
        if size not in self._counts:
            self._counts[size] = self._count(size)
        return self._counts[size]

    def _count(self, size: Size) -> DenseCounts:
        if self._reference is None:
            self._reference = self._trace((TRACED_SIDE, TRACED_SIDE))
        reference, before, proportional = self._reference
        if not proportional:
            return self._trace(size)[0]
        after = self._numbers({layer for layer, _ in reference.macs}, size)
        macs = {key: count * after[key[0]] // before[key[0]] for key, count in reference.macs.items()}
        return DenseCounts(macs, reference.uncounted)

    def _trace(self, size: Size) -> tuple[DenseCounts, dict[str, int], bool]:
        """Trace at a size; return counts, the numbers each layer puts out, and whether they are proportional."""
        try:
            counts = trace(self._cpu, (torch.zeros(1, 3, *size),))
            numbers = self._numbers({layer for layer, _ in counts.macs}, size)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise SaibenchError(f"cannot count images of {size[0]}x{size[1]}: {reason}") from error
        proportional = all(
            self._proportional(layer, operator, macs, numbers[layer]) for (layer, operator), macs in counts.macs.items()
        )
        return counts, numbers, proportional

    def _proportional(self, layer: str, operator: str, macs: int, numbers: int) -> bool:
        module = self._meta.get_submodule(layer)
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            return False
        if operator == "upsample_bilinear2d":
            return macs == 4 * numbers  # it makes the module's output, so it grows with it
        return operator in PROPORTIONAL_OPERATORS and not list(module.children()) and macs % numbers == 0

    def _numbers(self, layers: Iterable[str], size: Size) -> dict[str, int]:
        """Count the numbers that layers put out for one image, over all of their calls."""
        numbers: Counter[str] = Counter()

        def hook(layer: str) -> Callable[..., None]:
            def count(module: nn.Module, inputs: Any, output: Any) -> None:
                numbers[layer] += next(_tensors(output)).numel()

            return count

        with _hooks((self._meta.get_submodule(layer), hook(layer)) for layer in layers):
            self.outputs(size)
        return dict(numbers)


def trace(module: nn.Module, inputs: tuple[Tensor, ...]) -> DenseCounts:
    """Count one call of a module with fvcore, layer by layer.

    Parameters
    ----------
    module
        In evaluation mode; may return any nest of tensors.
    inputs
        Tensors of a batch of one.

    Returns
    -------
    DenseCounts
        Each operator belongs to the module that called it, and to no other.
    """
    seen: Counter[str] = Counter()
    analysis = FlopCountAnalysis(_Flat(module), inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    analysis.set_op_handle(**handles(seen))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = analysis.by_module_and_operator()
        seen.update(analysis.unsupported_ops())
    # fvcore adds an operator to all ancestors of its module: what the children have is not the module's own.
    own = {name: Counter(by_operator) for name, by_operator in counts.items()}
    for name, by_operator in counts.items():
        if name:
            own[name.rpartition(".")[0]].subtract(by_operator)
    macs = {
        (name.removeprefix("module").removeprefix("."), operator): int(count)
        for name, by_operator in own.items()
        for operator, count in by_operator.items()
        if count
    }
    return DenseCounts(macs, seen)


_skeletons: dict[Structure, Skeleton] = {}
_SKELETONS_KEPT = 16


def skeleton(module: nn.Module) -> Skeleton:
    """Return the skeleton of a module's structure; modules of one structure share one, and so its traces."""
    key = structure(module)
    if key not in _skeletons:
        while len(_skeletons) >= _SKELETONS_KEPT:
            _skeletons.pop(next(iter(_skeletons)))
        _skeletons[key] = Skeleton(module)
    return _skeletons[key]


def structure(module: nn.Module) -> Structure:
    """Return what a module is made of: its parts' types, options and shapes, equal for equal structures.

    As much as ``repr`` says, in a fraction of its time, which is longer than a small network takes for an image.
    """
    parts: list[Any] = []
    seen: dict[nn.Module, int] = {}

    def visit(name: str, part: nn.Module) -> None:
        if part in seen:
            parts.append((name, seen[part]))
            return
        seen[part] = len(seen)
        parts.append((name, type(part), len(part._modules), *_options(part)))
        for child, module in part._modules.items():
            if module is not None:
                visit(child, module)

    visit("", module)
    return tuple(parts)


#: Options of the most frequent layers, which need not be written as text; a container has none of its own.
_OPTIONS: dict[type, Callable[[Any], Any]] = {
    nn.Conv2d: attrgetter("weight.shape", "stride", "padding", "dilation", "groups", "padding_mode"),
    nn.BatchNorm2d: attrgetter("num_features"),
    nn.ReLU: type,
    nn.Sequential: type,
}


def _options(part: nn.Module) -> tuple[Any, ...]:
    known = _OPTIONS.get(type(part))
    if known is not None:
        return (known(part),)
    text = part.extra_repr() if type(part).__repr__ is nn.Module.__repr__ else repr(part)
    return (text, *(None if value is None else value.shape for value in part._parameters.values()))


def structure_of(module: nn.Module, device: str) -> nn.Module:
    """Copy a module without its weights (zeros instead), hooks, masks and fills, in evaluation mode."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        zeros = torch.zeros(parameter.shape, dtype=parameter.dtype, device=device)
        memo[id(parameter)] = nn.Parameter(zeros, requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.zeros(buffer.shape, dtype=buffer.dtype, device=device)
    structure = copy.deepcopy(module, memo)
    for name, part in list(structure.named_modules()):
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
        if isinstance(part, Interpolation):
            structure.set_submodule(name, _Unfilled())
        elif isinstance(part, FixedMask):
            structure.set_submodule(name, _AnyMask())
        elif isinstance(part, LearnedMask):
            structure.set_submodule(name, _MaskConvolution(part.conv))
    return structure.eval()


class _ShapesAlone(TorchFunctionMode):
    """Skips the ReLUs that are called as functions: they keep shapes, and take most of the time on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in (torch.relu, F.relu) else func(*args, **(kwargs or {}))


class _Unfilled(nn.Module):
    """Stands for an interpolation: returns the map as it is."""

    window, linear = 0, True

    def forward(self, features: Tensor, mask: Tensor, source: Tensor) -> Tensor:
        return features


class _AnyMask(nn.Module):
    """Stands for a mask without convolution; its size and values are not looked at."""

    confidence = None

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1]


class _MaskConvolution(nn.Module):
    """Stands for a learned mask: its convolution, without noise, threshold and grid prior.

    The last output is kept: nothing else reads it, and the tracer drops what is not part of the result.
    """

    confidence = None

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.conv(x)
        return self.last


class _Flat(nn.Module):
    """Returns all tensors of a module's output and its masks as a tuple: the tracer takes no dictionaries."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = list(_tensors(self.module(*inputs)))
        for part in self.module.modules():
            if isinstance(part, _MaskConvolution) and part.last is not None:
                outputs.append(part.last)
                part.last = None
        return tuple(outputs)


def _tensors(nest: Any) -> Iterator[Tensor]:
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, dict):
        for value in nest.values():
            yield from _tensors(value)
    elif isinstance(nest, list | tuple):
        for value in nest:
            yield from _tensors(value)


@contextmanager
def _hooks(pairs: Iterable[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    """Register forward hooks for the duration of a block."""
    registered = [module.register_forward_hook(hook) for module, hook in pairs]
    try:
        yield
    finally:
        for hook in registered:
            hook.remove()
