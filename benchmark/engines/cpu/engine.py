"""From a trained backbone to one that runs on the CPU with real sparsity, image by image."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmark.engines.base import EngineRefusal, Floats, Result, Row
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.compiling import CompiledBlock, CompiledStem, PlacedMask, Rows
from benchmark.engines.cpu.layers import array
from benchmark.engines.cpu.masks import checked, place_masks
from benchmark.engines.cpu.memory import Memory
from benchmark.nn.blocks import BasicBlock, Bottleneck, ResidualBlock
from benchmark.nn.context import at_hand
from benchmark.nn.interpolation import Nearest, Reuse
from benchmark.nn.noise import field_key
from benchmark.nn.resnet import ResNet
from benchmark.nn.work import Size

STEM = ("conv1", "bn1", "relu", "maxpool")


@dataclass
class Layout:
    """Where an image of one size has its maps and masks.

    Attributes
    ----------
    compiled
        The same as the plan takes it.
    stages
        Each stage's map, ``(H, W, C)``.
    shapes, begins
        Each mask's height and width, and where it begins in the array of all masks, whose length comes last.
    """

    compiled: object
    stages: dict[str, Floats]
    shapes: list[Size]
    begins: list[int]


class CPUEngine:
    """A backbone of `benchmark.nn`, compiled for the CPU.

    Parameters
    ----------
    model
        The backbone, on any device, in evaluation or training mode; the engine always computes what it computes in
        evaluation mode. Later changes of its weights are not seen.
    threads
        Threads to run on, 1 to 256; by default one for each core, or what ``OMP_NUM_THREADS`` says.

    Raises
    ------
    EngineUnavailable
        If the kernels were not compiled.
    EngineRefusal
        If the model is no backbone of `benchmark.nn`, or has a part that the engine cannot run.
    ValueError
        For a number of threads that cannot be, or weights that are NaN or infinite.

    Attributes
    ----------
    mask_layers
        Names of the masks, in the order in which they run.
    masks_in_pytorch
        Names of those that no kernel decides, or not alone.

    Notes
    -----
    Several Python threads may use one engine: their calls run one after the other, and each thread has buffers of its
    own, so that a result stays valid until the next call of the thread that asked for it.
    """

    def __init__(self, model: nn.Module, *, threads: int | None = None) -> None:
        kernels.require()
        if not isinstance(model, ResNet):
            raise EngineRefusal("backbone", f"the CPU engine runs those of benchmark.nn, not {type(model).__name__}")
        self.threads = kernels.max_threads() if threads is None else kernels.checked_threads(threads)
        self._lock = threading.Lock()
        self._local = threading.local()
        self._memories: WeakSet[Memory] = WeakSet()
        self._rows = Rows()
        self._stem = CompiledStem(model, self._rows)
        self._stages: list[tuple[str, list[CompiledBlock]]] = []
        self._masks: list[PlacedMask] = []
        stages = _stages(model)
        placed = iter(place_masks([block for _, blocks in stages for block in blocks]))
        for name, blocks in stages:
            compiled = []
            for block in blocks:
                compiled.append(CompiledBlock(block, next(placed), self._rows, len(self._masks)))
                self._masks += compiled[-1].masks
            self._stages.append((name, compiled))
        self._blocks = [block for _, compiled in self._stages for block in compiled]
        self.mask_layers = [mask.placed.name for mask in self._masks]
        self.masks_in_pytorch = [mask.placed.name for mask in self._masks if mask.placed.kind != "hard"]
        self._names = frozenset(self.mask_layers)
        self._noise_layers = [mask.placed.module.layer if mask.placed.noisy else None for mask in self._masks]
        observed = any(mask.placed.kind == "forward" for mask in self._masks)
        self._plan = kernels.Plan(self._stem.plan, [block.plan for block in self._blocks], observed=observed)

    @staticmethod
    def max_threads() -> int:
        """Return the cores that this process may run on, or what ``OMP_NUM_THREADS`` says instead."""
        return kernels.max_threads()

    @staticmethod
    def hardware() -> dict[str, str]:
        """Return the instruction set in use."""
        return {"instruction_set": kernels.instruction_set()}

    @property
    def memory_bytes(self) -> int:
        """Bytes of maps, scratch and lists held after the calls so far, for all threads (weights not included)."""
        return sum(memory.bytes for memory in self._memories)

    def __call__(self, image: Floats, *, masks: Mapping[str, Floats] | None = None) -> Result:
        """Compute the stage maps of one image; its identifier and seed are those at hand (`benchmark.nn.context`).

        Parameters
        ----------
        image
            Normalised image, ``(3, H, W)`` float32, C-contiguous.
        masks
            Masks by layer to use instead of the block's own, ``(H, W)`` float32 at the governed map's size. The
            masks are still decided, so that time and tally stay those of a sparse network.

        Raises
        ------
        TypeError, ValueError
            For an image or a mask of the wrong type, shape or layout, or with NaN.
        """
        unknown = set(masks or ()) - self._names
        if unknown:
            raise ValueError(f"no mask layers {sorted(unknown)}; there are {self.mask_layers}")
        image = _checked(image)
        with self._lock:
            return _Call(self, self._own(), image, masks or {}).run()

    def _own(self) -> Memory:
        """Return the calling thread's buffers."""
        if not hasattr(self._local, "memory"):
            self._local.memory = Memory()
            self._memories.add(self._local.memory)
        return cast(Memory, self._local.memory)

    def _layout(self, memory: Memory, size: Size) -> Layout:
        """Return where an image of this size has its maps, in the calling thread's buffers."""
        if memory.layout is not None and memory.layout[0] == size:
            return cast(Layout, memory.layout[1])
        stem = self._stem.out_size(size)
        if min(stem) < 1:
            raise ValueError(f"an image of {size[0]} x {size[1]} is smaller than the stem's kernels")
        at, features, products = stem, 1, math.prod(stem) * self._stem.outputs
        shapes: list[Size] = []
        ends: list[tuple[str, Size, int]] = []
        for name, blocks in self._stages:
            for block in blocks:
                sizes = block.sizes(at)
                shapes += [mask.shape(at, sizes) for mask in block.masks]
                features = max(features, math.prod(sizes[0]) * block.inner)
                products = max(products, math.prod(at) * block.columns)
                at = sizes[-1]
                ends.append((name, at, block.outputs))
        maps = [memory.named(name, math.prod(end) * channels) for name, end, channels in ends]
        wide = memory.named("scattered", math.prod(stem) * self._stem.width) if self._stem.width else None
        begins = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
        # Mask products go into the stem's map: the first block has read it before the first are written.
        first = memory.named("layer0", products)
        compiled = kernels.layout(
            maps, begins[:-1].astype(np.int64), first, wide, memory.named("features", features), first
        )
        stages = {name: map_.reshape(*end, channels) for (name, end, channels), map_ in zip(ends, maps, strict=True)}
        layout = Layout(compiled, stages, shapes, begins.tolist())
        memory.layout = size, layout
        return layout


class Tally(Mapping[str, Row]):
    """A plan's tally by layer; its rows are made when the first is asked for, since most callers ask for none."""

    def __init__(self, kinds: Mapping[str, str], macs: NDArray[np.int64], seconds: NDArray[np.float64]) -> None:
        self._kinds, self._macs, self._seconds = kinds, macs, seconds

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self._kinds)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the layers."""
        return iter(self._kinds)

    def __getitem__(self, layer: str) -> Row:
        """Return a layer's row."""
        return self._rows[layer]

    @cached_property
    def _rows(self) -> dict[str, Row]:
        rows = {}
        executed, beyond = self._macs
        figures = zip((executed - beyond).tolist(), executed.tolist(), self._seconds.tolist(), strict=True)
        for (layer, kind), (macs, ran, seconds) in zip(self._kinds.items(), figures, strict=True):
            # A mask without multiply-accumulates is one whose work nobody counts.
            rows[layer] = Row("uncounted" if kind == "mask" and not macs else kind, macs, ran, seconds)
        return rows


class Masks(Mapping[str, Floats]):
    """An image's masks by layer, ``(H, W)``: parts of one array, made as they are asked for."""

    def __init__(self, layers: list[str], layout: Layout, masks: Floats) -> None:
        self._layers, self._layout, self._masks = layers, layout, masks

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self._layers)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the layers."""
        return iter(self._layers)

    def __getitem__(self, layer: str) -> Floats:
        """Return a layer's mask."""
        try:
            number = self._layers.index(layer)
        except ValueError:
            raise KeyError(layer) from None
        begin, shape = self._layout.begins[number], self._layout.shapes[number]
        return self._masks[begin : begin + math.prod(shape)].reshape(shape)


class _Call:
    """One image: what the plan is given, and what it asks for."""

    def __init__(self, engine: CPUEngine, memory: Memory, image: Floats, given: Mapping[str, Floats]) -> None:
        self._engine, self._memory, self._image = engine, memory, image
        self._layout = engine._layout(memory, (image.shape[1], image.shape[2]))
        layout = self._layout
        self._all = kernels.empty(layout.begins[-1] + 1)
        self._given: list[Floats | None] | None = None
        if given:
            self._given = [
                checked(name, given[name], shape) if name in given else None
                for name, shape in zip(engine.mask_layers, layout.shapes, strict=True)
            ]
        self._macs = np.zeros((2, len(engine._rows.kinds)), dtype=np.int64)
        self._seconds = np.zeros(len(engine._rows.kinds))

    def run(self) -> Result:
        """Run the plan."""
        engine = self._engine
        try:
            engine._plan(
                self._layout.compiled,
                self._image,
                self._all,
                self._given,
                self._keys(),
                (self._macs, self._seconds),
                self._memory.arena,
                self._answer,
                engine.threads,
            )
        except kernels.BadMask as error:
            name, shape = engine._masks[error.index].placed.name, self._layout.shapes[error.index]
            raise ValueError(f"{name}: mask of shape {shape} holds NaN, infinity or negative values") from None
        tally = Tally(engine._rows.kinds, self._macs, self._seconds)
        return Result(dict(self._layout.stages), tally, Masks(engine.mask_layers, self._layout, self._all))

    def _keys(self) -> NDArray[np.uint64]:
        """Return the key of each mask's noise: two words."""
        here = at_hand()
        (image,) = here.identifiers(1)
        keys = [
            bytes(16) if layer is None else field_key(here.seed, image, layer) for layer in self._engine._noise_layers
        ]
        return np.frombuffer(b"".join(keys), dtype=np.uint64)

    def _answer(self, what: str, block: int, number: int, given: NDArray[Any], out: NDArray[Any] | None) -> None:
        """Do what no kernel does (`kernels.plans.QUESTIONS`)."""
        if what == "nearest":
            self._nearest(block, number, given, cast(Floats, out))
            return
        if what == "source":
            self._source(given, cast(Floats, out))
            return
        compiled = self._engine._blocks[block]
        mask = next(mask for mask in compiled.masks if mask.placed.number == number)
        if what == "decided":
            decided = Masks(self._engine.mask_layers, self._layout, self._all)[mask.placed.name]
            mask.placed.module.decided = torch.from_numpy(decided)[None, None]
        elif what == "values":
            self._macs[0, mask.row] += mask.placed.values(given, cast(Floats, out))
        else:
            self._macs[0, mask.row] += mask.placed.forward(given, cast(Floats, out), self._engine.threads)

    def _nearest(self, block: int, number: int, given: NDArray[Any], out: NDArray[Any]) -> None:
        module = cast(Nearest, self._engine._blocks[block].fills[number])
        out[..., 0] = module.index(torch.from_numpy(given[..., 0])).numpy().reshape(out.shape[:2])

    @staticmethod
    def _source(given: NDArray[Any], out: NDArray[Any]) -> None:
        """Bring what a convolution reads to its output's shape, for the reuse fill."""
        tensor = torch.from_numpy(given)[None].permute(0, 3, 1, 2)
        matched = Reuse.match(tensor, torch.empty(1, out.shape[2], *out.shape[:2]))
        out[:] = array(matched[0].permute(1, 2, 0))


def _stages(model: ResNet) -> list[tuple[str, list[ResidualBlock]]]:
    """Return the residual blocks of each stage; what follows the last one is a head, and stays in PyTorch.

    Raises
    ------
    EngineRefusal
        If there is anything between stem and head but stages, or in a stage but its blocks one after the other.
    """
    stages = []
    children = [(name, child) for name, child in model.named_children() if name not in STEM]
    last = max(place for place, (name, _) in enumerate(children) if name.startswith("layer"))
    for name, child in children[: last + 1]:
        if type(child) is not nn.Sequential:
            reason = f"the CPU engine runs a stage's blocks one after the other, not {type(child).__name__}"
            raise EngineRefusal(name, reason)
        for place, block in child.named_children():
            if type(block) not in (Bottleneck, BasicBlock):
                reason = f"the CPU engine does not know blocks of class {type(block).__name__}"
                raise EngineRefusal(f"{name}.{place}", reason)
        stages.append((name, [cast(ResidualBlock, block) for block in child]))
    return stages


def _checked(image: object) -> Floats:
    if not isinstance(image, np.ndarray) or image.dtype != np.float32:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"image must be a float32 array, not {kind}")
    if image.ndim != 3 or image.shape[0] != 3 or image.size == 0:
        raise ValueError(f"image has shape {image.shape}, expected (3, height, width)")
    if not image.flags.c_contiguous:
        raise ValueError(f"image with shape {image.shape} is not C-contiguous (strides {image.strides})")
    return image
