"""The promises about the counter: it counts a method's images, and all that runs for them.

The second is kept by a watcher that knows nothing of the counter: it sees every operator that PyTorch dispatches and
asks Python which modules are running.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmark.checks.subject import Subject
from benchmark.flops.additions import counted_by_pairs, kind_of
from benchmark.flops.measured import MeasuredCounter
from benchmark.flops.trace import unfused_attention
from benchmark.nn import ResidualBlock
from benchmark.nn.interpolation import Interpolation


def counts(subject: Subject) -> str:
    """The count is positive, finite and no more than dense, the masks' own cost and interpolation aside."""
    model = subject.trained()
    counter = MeasuredCounter(model.eval(), subject.plan.task.adapter(model))
    with counter.recording():
        subject.predictions(model, [0])
        subject.predictions(model, [1])
    images = counter.images()
    assert len(images) == 2, f"{len(images)} images counted instead of 2"
    assert (images["macs"] > 0).all(), "an image has no computation"
    return f"{images['macs'].mean() / 1e9:.4f} GMACs an image"


def counts_everything(subject: Subject) -> str:
    """Each multiply-accumulate that runs for an image belongs to a row of the counter."""
    model = subject.trained().eval()
    counter = MeasuredCounter(model, subject.plan.task.adapter(model))
    with counter.recording(), unfused_attention(), Watcher(model) as watcher:
        subject.predictions(model, [0])
    counted = counter.dense_macs()
    for layer, ran in watcher.macs.items():
        where, operator = watcher.callers[layer].most_common(1)[0][0]
        assert ran <= counted.get(layer, 0), (
            f"{where}: {operator} runs, but {ran - counted.get(layer, 0):,} of its multiply-accumulates have no row"
        )
    return f"{sum(watcher.macs.values()):,} multiply-accumulates in {len(watcher.macs)} layers"


class Watcher(TorchDispatchMode):
    """Sees the multiply-accumulates of all that PyTorch runs inside of the context.

    Parameters
    ----------
    model
        Names the layers.

    Attributes
    ----------
    macs : Counter
        By layer, as the counter names it: a mask, gate or fill with all its parts is one, where it stands.
    callers : dict
        By layer: which module called which operator, in words.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {module: name for name, module in model.named_modules()}
        self.macs: Counter[str] = Counter()
        self.callers: dict[str, Counter[tuple[str, str]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket not in flop_registry and func._overloadpacket not in _MORE_OPERATORS:
            with self:  # in inference mode, linear layers and products arrive here whole
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = func(*args, **kwargs)
        macs = _macs(func._overloadpacket, args, kwargs, output)
        if macs:
            self._note(str(func._overloadpacket), macs)
        return output

    def _note(self, operator: str, macs: int) -> None:
        stack = list(_running())
        layer = self._layer(stack)
        if layer is not None:
            self.macs[layer] += macs
            self.callers.setdefault(layer, Counter())[self._described(stack), operator] += macs

    def _layer(self, stack: list[nn.Module]) -> str | None:
        """Return the layer that a call belongs to, given the modules that run, innermost first; None for no layer.

        A fill of the project's is counted by the pairs that it reads, not by the form that it has in PyTorch.
        """
        for place, module in enumerate(stack):
            if isinstance(module, Interpolation) and counted_by_pairs(module):
                return None
            if kind_of(module) is not None:
                block = next((each for each in stack[place:] if isinstance(each, ResidualBlock)), None)
                own = block.named_children() if block is not None else ()
                name = next((name for name, child in own if child is module), None)
                return self.names.get(module, "") if name is None else f"{self.names.get(block, '')}.{name}".lstrip(".")
        return next((self.names[module] for module in stack if module in self.names), "")

    def _described(self, stack: list[nn.Module]) -> str:
        """Say which module runs: its name, or its class and the named one that it runs in."""
        named = next((self.names[module] or "the model" for module in stack if module in self.names), "no module")
        return (
            named if stack and stack[0] in self.names else f"{type(stack[0]).__name__ if stack else 'code'} in {named}"
        )


def _running() -> Iterator[nn.Module]:
    """Yield the modules whose methods or hooks are running, innermost first, from Python's own stack.

    PyTorch's module hooks would not do: a module's own hooks run when those that watch it have already left.
    """
    frame, last = sys._getframe(1), None
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner is not last:
            yield owner
            last = owner
        frame = frame.f_back  # type: ignore[assignment]


def _macs(operator: Any, args: Any, kwargs: Any, output: Any) -> int:
    """Return the multiply-accumulates of one call, by PyTorch's formulas and by ours for what it has none."""
    if operator in _MORE_OPERATORS:
        return _MORE_OPERATORS[operator](output, *args)
    formula = flop_registry.get(operator)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=output)) // 2


def _deformable(output: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    return output.numel() * weight[0].numel()


def _attention(output: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> int:
    return query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _recurrent(output: Any, x: Tensor, inputs: Tensor, states: Tensor, *rest: Any) -> int:
    return x[..., 0].numel() * (inputs.numel() + states.numel())


#: Operators with multiply-accumulates that PyTorch has no formula for: from output and inputs to their number.
_MORE_OPERATORS: dict[Any, Any] = {
    torch.ops.torchvision.deform_conv2d: _deformable,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.mkldnn_rnn_layer: _recurrent,
    torch.ops.aten.mv: lambda output, matrix, vector: matrix.numel(),
    torch.ops.aten.addmv: lambda output, start, matrix, vector: matrix.numel(),
    torch.ops.aten.dot: lambda output, one, other: one.numel(),
    torch.ops.aten.vdot: lambda output, one, other: one.numel(),
    torch.ops.aten.addbmm: lambda output, start, one, other: one.numel() * other.shape[-1],
    torch.ops.aten.addr: lambda output, start, one, other: output.numel(),
}
