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

from benchmark.checks.masks import FLIPS
from benchmark.checks.subject import Subject
from benchmark.flops.additions import counted_by_pairs, kind_of
from benchmark.flops.measured import MeasuredCounter
from benchmark.flops.trace import unfused_attention
from benchmark.nn import ResidualBlock
from benchmark.nn.interpolation import Interpolation


def counts(subject: Subject) -> str:
    """An image's count is the same in any batch, and no layer of a sparse network costs more than of a dense one."""
    model, task = subject.sparse, subject.plan.task
    (one, other), small = subject.large[:2], subject.small[1]
    counter = MeasuredCounter(model, task.adapter(model))
    mixed = [[one, small]] if subject.mixes_sizes else []
    macs = []
    for batch in ([one], [one, other], [small], *mixed):
        with counter.recording():
            subject.predict(model, batch)
        images = counter.images()
        assert len(images) == len(batch), f"{len(images)} images counted instead of {len(batch)}"
        assert (images["macs"] > 0).all(), "an image has no computation"
        _bounded_by_dense(counter)
        macs.append(images["macs_backbone"].tolist())
    alone, together = macs[0][0], macs[1][0]
    assert abs(alone - together) <= FLIPS * alone, f"an image has {alone:,} MACs alone and {together:,} in a batch"
    return f"{alone / 1e9:.4f} GMACs an image in a backbone whose masks leave half out"


def _bounded_by_dense(counter: MeasuredCounter) -> None:
    """Make sure that no layer of the recorded images costs more than if it ran everywhere; fills run only if sparse."""
    dense = counter.dense_macs()
    table = counter.image_layers().query("kind not in ('interpolation', 'bilinear')")
    for layer, macs in table.groupby("layer", sort=False)["macs"].sum().items():
        assert 0 <= macs <= dense.get(str(layer), 0), f"{layer}: {macs:,} MACs, {dense.get(str(layer), 0):,} if dense"


def counts_everything(subject: Subject) -> str:
    """Each multiply-accumulate that runs for an image belongs to a row of the counter."""
    model = subject.sparse
    total, layers = 0, 0
    for image in (subject.large[0], subject.small[0]):
        counter = MeasuredCounter(model, subject.plan.task.adapter(model))
        with counter.recording(), unfused_attention(), Watcher(model) as watcher:
            subject.predict(model, [image])
        counted = counter.dense_macs()
        for layer, ran in watcher.macs.items():
            where, operator = watcher.callers[layer].most_common(1)[0][0]
            assert ran <= counted.get(layer, 0), (
                f"{where}: {operator} runs, but {ran - counted.get(layer, 0):,} of its multiply-accumulates have no row"
            )
        total, layers = total + sum(watcher.macs.values()), len(watcher.macs)
    return f"{total:,} multiply-accumulates in {layers} layers, for images of two sizes"


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
