"""Dense multiply-accumulates of every layer, from fvcore.

A `Skeleton` gives what each layer of a model costs without masks, for one image of a given size. The graph is
traced by fvcore once for each structure, at a small size; layers whose cost is proportional to their output
(convolutions, linear layers, resizing) are then scaled by the exact size of that output at the asked size, which
takes milliseconds. A model with any other counted operator is traced at the asked size itself, and so is one with
masks, gates or fills that have a forward of their own (`benchmark.flops.additions`). All give the same integers
(tests/flops/test_trace.py).

What masks save, and what the project's fills cost, depends on the image and is counted by `benchmark.flops.measured`.
"""

from __future__ import annotations

import contextvars
import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmark.errors import SaibenchError
from benchmark.flops.additions import Added, additions, tensors, wrap
from benchmark.flops.handles import NOT_COUNTED, REFUSED, handles
from benchmark.flops.structure import Structure, structure

#: Longest side at which a structure is traced; larger images are scaled from there where that is exact.
TRACED_SIDE = 64

#: Layers that cost a fixed number of MACs for each number that they put out.
PROPORTIONAL_OPERATORS = frozenset({"conv", "bilinear", "linear", "addmm"})

Size = tuple[int, int]
Key = tuple[str, str]


@dataclass(frozen=True)
class DenseCounts:
    """What a model costs without masks.

    Attributes
    ----------
    macs : dict
        Multiply-accumulates for one image (or one RoI), by layer (module name) and fvcore's operator name.
    uncounted : Counter
        Calls of operators that are not counted, by name; what masks, gates and fills call has their kind before it.
    added : dict
        Kind of the layers that are masks, gates and fills: ``mask``, ``gate`` or ``interpolation``.
    """

    macs: dict[Key, int]
    uncounted: Counter[str] = field(default_factory=Counter)
    added: dict[str, str] = field(default_factory=dict)


class Skeleton:
    """A model's structure without its weights, ready to be traced at any size.

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
        self._scales = not any(part.is_own for _, part in additions(self._cpu))
        for name, part in list(self._meta.named_modules()):
            # They keep shapes, and PyTorch decomposes them on the meta device, which would take most of the time.
            if type(part) in (nn.BatchNorm2d, nn.ReLU):
                self._meta.set_submodule(name, nn.Identity())
        self._reference: tuple[DenseCounts, dict[str, int]] | None = None
        self._counts: dict[Size, DenseCounts] = {}
        self.regions: dict[Structure, DenseCounts] = {}

    def outputs(self, size: Size) -> Any:
        """Return the outputs for one image of a size: shapes whose values mean nothing."""
        try:
            return self._run(size)
        except Exception:  # a part of it needs values, and so fails on the meta device
            return _isolated(lambda: self._cpu(torch.zeros(1, 3, *size)))

    def counts(self, size: Size) -> DenseCounts:
        """Return the dense counts of one image ``(1, 3, H, W)``.

        Raises
        ------
        SaibenchError
            The model cannot be traced at this size.
        """
        if size not in self._counts:
            self._counts[size] = self._scaled(size) if self._scales else self._trace(size)
        return self._counts[size]

    def _scaled(self, size: Size) -> DenseCounts:
        """Scale what was traced at a small size, where everything that is counted is proportional to its output."""
        if self._reference is None:
            counts = self._trace((TRACED_SIDE, TRACED_SIDE))
            self._reference = counts, self._outputs_of(counts, (TRACED_SIDE, TRACED_SIDE))
            self._scales = all(
                self._proportional(layer, operator, macs, self._reference[1].get(layer, 0))
                for (layer, operator), macs in counts.macs.items()
            )
        if not self._scales:
            return self._trace(size)
        reference, before = self._reference
        after = self._numbers({layer for layer, _ in reference.macs}, size)
        macs = {key: count * after[key[0]] // before[key[0]] for key, count in reference.macs.items()}
        return DenseCounts(macs, reference.uncounted, reference.added)

    def _trace(self, size: Size) -> DenseCounts:
        try:
            return trace(self._cpu, (torch.zeros(1, 3, *size),))
        except (RuntimeError, ValueError) as error:
            where, reason = _innermost(error, self._cpu), str(error).strip().splitlines()[0]
            if "requires grad as a constant" in reason:
                reason = "weights run that no module registers; hold their module in a module or an nn.ModuleList"
            raise SaibenchError(f"cannot count images of {size[0]}x{size[1]}: {where}{reason}") from error

    def _outputs_of(self, counts: DenseCounts, size: Size) -> dict[str, int]:
        """Return the numbers that the counted layers put out; none where the meta device cannot say."""
        try:
            return self._numbers({layer for layer, _ in counts.macs}, size)
        except Exception:
            return {}

    def _proportional(self, layer: str, operator: str, macs: int, numbers: int) -> bool:
        module = self._meta.get_submodule(layer)
        if not numbers or isinstance(module, nn.modules.conv._ConvTransposeNd):
            return False
        if operator == "upsample_bilinear2d":
            return macs == 4 * numbers  # it makes the module's output, so it grows with it
        # What a module from elsewhere does between its operator and its output is not known.
        standard = isinstance(module, Added) or type(module).__module__.startswith(("torch.nn.", "torchvision.ops."))
        return standard and operator in PROPORTIONAL_OPERATORS and not list(module.children()) and macs % numbers == 0

    def _run(self, size: Size) -> Any:
        def run() -> Any:
            with _ShapesAlone():
                return self._meta(torch.empty(1, 3, *size, device="meta"))

        return _isolated(run)

    def _numbers(self, layers: Iterable[str], size: Size) -> dict[str, int]:
        """Count the numbers that layers put out for one image, over all of their calls."""
        numbers: Counter[str] = Counter()

        def hook(layer: str) -> Callable[..., None]:
            def count(module: nn.Module, inputs: Any, output: Any) -> None:
                numbers[layer] += next(tensors(output)).numel()

            return count

        with _hooks((self._meta.get_submodule(layer), hook(layer)) for layer in layers):
            self._run(size)
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

    Raises
    ------
    SaibenchError
        Naming the layer that multiplies in a way that no handle knows.
    """
    analysis = FlopCountAnalysis(_Flat(module), inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    analysis.set_op_handle(**handles())
    counts = _isolated(analysis.by_module_and_operator)
    added = {f"module.{name}": part.kind for name, part in additions(module)}
    # fvcore adds an operator to all ancestors of its module: what the children have is not the module's own.
    own = {name: Counter(by_operator) for name, by_operator in counts.items()}
    for name, by_operator in counts.items():
        if name:
            own[name.rpartition(".")[0]].subtract(by_operator)
    unknown = {name: Counter(analysis.unsupported_ops(name)) for name in ("", *added)}
    for name in added:
        unknown[""].subtract(unknown[name])
    macs: dict[Key, int] = {}
    seen: Counter[str] = Counter()
    for name, by_operator in own.items():
        place = f"{added[name]}: " if name in added else ""
        for operator, count in by_operator.items():
            if count and operator.startswith(REFUSED):
                where, what = _layer(name) or "the network", operator.removeprefix(REFUSED)
                raise SaibenchError(
                    f"{where}: {what} multiplies in a way that cannot be counted; write it with "
                    "matrix products, convolutions or scaled_dot_product_attention"
                )
            if count and operator.startswith(NOT_COUNTED):
                seen[place + operator.removeprefix(NOT_COUNTED)] += int(count)
            elif count:
                macs[_layer(name), operator] = int(count)
        for operator, count in unknown.get(name, {}).items():
            seen[place + operator] += count
    return DenseCounts(macs, +seen, {_layer(name): kind for name, kind in added.items()})


def _innermost(error: BaseException, structure: nn.Module) -> str:
    """Return the name of the innermost layer that was running, with a colon; nothing where that is not known."""
    names = {module: name for name, module in structure.named_modules()}
    found, step = "", error.__traceback__
    while step is not None:
        owner = step.tb_frame.f_locals.get("self")
        found = names.get(owner, found) if isinstance(owner, nn.Module) else found
        step = step.tb_next
    return f"{found}: " if found else ""


def _layer(name: str) -> str:
    """Return the name within the traced module of a part that `_Flat` calls."""
    return name.removeprefix("module").removeprefix(".")


def _isolated(function: Callable[[], Any]) -> Any:
    """Call a function that runs a structure, so that nobody notices.

    In a context of its own, since the images at hand are not the structure's and observers wait for the model's masks;
    without moving PyTorch's generator, from which masks may draw; and without the fused attention of inference, which
    is one operator that says nothing of its parts.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]), unfused_attention(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return contextvars.Context().run(function)


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Let `nn.MultiheadAttention` and transformer layers run by the operators that they are made of."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


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


def structure_of(module: nn.Module, device: str) -> nn.Module:
    """Copy a module without its weights (zeros instead) and hooks, in evaluation mode, its additions wrapped."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        zeros = torch.zeros(parameter.shape, dtype=parameter.dtype, device=device)
        memo[id(parameter)] = nn.Parameter(zeros, requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.zeros(buffer.shape, dtype=buffer.dtype, device=device)
    with _TensorsAsZeros(device):
        structure = copy.deepcopy(module, memo)
    for part in structure.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    wrap(structure.eval())
    return structure.eval()


class _TensorsAsZeros(TorchFunctionMode):
    """Makes copies of tensors zeros: those that modules hold without registering them, graphs of gradients or not."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__ or not args[0].is_floating_point():
            return func(*args, **(kwargs or {}))  # indices, and the state of a generator, are copied
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = torch.zeros(tensor.shape, dtype=tensor.dtype, device=self.device)
        return memo[id(tensor)]


class _ShapesAlone(TorchFunctionMode):
    """Skips the ReLUs that are called as functions: they keep shapes, and take most of the time on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in (torch.relu, F.relu) else func(*args, **(kwargs or {}))


class _Flat(nn.Module):
    """Returns all tensors of a module's output, and what its additions kept, as a tuple.

    The tracer takes no dictionaries, and drops what is not part of the result.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        parts = [part for _, part in additions(self.module)]
        for part in parts:
            part.kept.clear()
        outputs = list(tensors(self.module(*inputs)))
        for part in parts:
            outputs.extend(part.kept)
            part.kept.clear()
        return tuple(outputs)


@contextmanager
def _hooks(pairs: Iterable[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    """Register forward hooks for the duration of a block."""
    registered = [module.register_forward_hook(hook) for module, hook in pairs]
    try:
        yield
    finally:
        for hook in registered:
            hook.remove()
