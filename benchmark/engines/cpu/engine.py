"""From a trained backbone to one that runs on the CPU with real sparsity."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, cast, overload
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmark.engines.base import EngineRefusal, Floats, Result, Row
from benchmark.engines.cpu import descriptions, kernels
from benchmark.engines.cpu.compiling import CompiledBlock, PlacedMask, Rows, compile_stem
from benchmark.engines.cpu.descriptions import QUESTIONS, Network
from benchmark.engines.cpu.kernels import library
from benchmark.engines.cpu.layers import array
from benchmark.engines.cpu.masks import checked, place_masks
from benchmark.engines.cpu.memory import Buffers, Memory, Stage
from benchmark.nn.blocks import BasicBlock, Bottleneck, ResidualBlock
from benchmark.nn.context import at_hand, inference
from benchmark.nn.interpolation import Nearest, Reuse
from benchmark.nn.noise import field_key
from benchmark.nn.resnet import ResNet
from benchmark.nn.work import Size

STEM = ("conv1", "bn1", "relu", "maxpool")

GivenMasks = Mapping[str, Floats]

# What `saibench_run_network` returns, in the order of plan.h.
_DONE, _NO_MEMORY, _BAD_IMAGE, _BAD_MASK = range(4)


class CPUEngine:
    """A backbone of `benchmark.nn`, compiled for the CPU.

    Parameters
    ----------
    model
        The backbone, on any device, in evaluation or training mode; the engine always computes what it computes in
        evaluation mode. Later changes of its weights are not seen.
    threads
        Threads to run on, 1 to 256; by default one for each core, or what ``OMP_NUM_THREADS`` says.
    weights
        How convolutions' weights are kept: bfloat16 takes half of the memory, and of the time to read it where a
        network has more weights than cache. Sums, maps, masks and offsets are float32 either way.

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

    def __init__(
        self, model: nn.Module, *, threads: int | None = None, weights: Literal["float32", "bfloat16"] = "float32"
    ) -> None:
        kernels.require()
        if weights not in ("float32", "bfloat16"):
            raise ValueError(f"weights are float32 or bfloat16, not {weights!r}")
        if not isinstance(model, ResNet):
            raise EngineRefusal("backbone", f"the CPU engine runs those of benchmark.nn, not {type(model).__name__}")
        self.threads = kernels.max_threads() if threads is None else kernels.checked_threads(threads)
        self._lock = threading.Lock()
        self._local = threading.local()
        self._memories: WeakSet[Memory] = WeakSet()
        self._rows = Rows()
        stem = compile_stem(model, self._rows, weights == "bfloat16")
        self._stages: list[Stage] = []
        self._masks: list[PlacedMask] = []
        stages = _stages(model)
        placed = iter(place_masks([block for _, blocks in stages for block in blocks]))
        for name, blocks in stages:
            compiled = []
            for block in blocks:
                compiled.append(CompiledBlock(block, next(placed), self._rows, len(self._masks), weights == "bfloat16"))
                self._masks += compiled[-1].masks
            self._stages.append(Stage(name, compiled))
        self._blocks = [block for stage in self._stages for block in stage.blocks]
        self.mask_layers = [mask.placed.name for mask in self._masks]
        self.masks_in_pytorch = [mask.placed.name for mask in self._masks if mask.placed.kind in ("values", "forward")]
        self._names = frozenset(self.mask_layers)
        self._noise_layers = [mask.placed.module.layer if mask.placed.is_noisy else None for mask in self._masks]
        is_observed = any(mask.placed.kind == "forward" for mask in self._masks)
        rows, instruction_set = len(self._rows.kinds), kernels.instruction_set()
        self._network = Network(stem, [block.plan for block in self._blocks], rows, is_observed, instruction_set)
        kinds = descriptions.REGIONS, descriptions.FILLS, descriptions.MASKS
        self._plan = library.compiled.Network(self._network, *kinds)

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

    @overload
    def __call__(self, image: Floats, *, masks: GivenMasks | None = None) -> Result: ...

    @overload
    def __call__(
        self, image: Sequence[Floats], *, masks: Sequence[GivenMasks | None] | None = None
    ) -> list[Result]: ...

    def __call__(self, image: Any, *, masks: Any = None) -> Any:
        """Compute the stage maps of images; their identifiers and seed are those at hand (`benchmark.nn.context`).

        Parameters
        ----------
        image
            One normalised image, ``(3, H, W)`` float32, C-contiguous; or several, ``(N, 3, H, W)`` or a list of images
            of any sizes. Those of one size run together.
        masks
            Masks by layer to use instead of the block's own, ``(H, W)`` float32 at the governed map's size; for several
            images a list of such mappings. The masks are still decided, so that time and tally stay those of a sparse
            network.

        Returns
        -------
        Result or list of Result
            One for each image. The seconds of a tally are an image's share of the time of those that ran together.

        Raises
        ------
        TypeError, ValueError
            For an image or a mask of the wrong type, shape or layout, or with NaN.
        """
        if isinstance(image, np.ndarray) and image.ndim != 4:
            return self._run([image], [masks or {}])[0]
        images = list(image) if isinstance(image, (np.ndarray, list, tuple)) else [image]
        given = [each or {} for each in masks] if masks is not None else [{} for _ in images]
        if len(given) != len(images):
            raise ValueError(f"{len(images)} images, but masks for {len(given)}")
        return self._run(images, given)

    def _run(self, images: Sequence[object], given: Sequence[GivenMasks]) -> list[Result]:
        unknown = set().union(*given) - self._names
        if unknown:
            raise ValueError(f"no mask layers {sorted(unknown)}; there are {self.mask_layers}")
        by_size: dict[Size, list[int]] = {}
        found = [_checked(image) for image in images]
        for number, image in enumerate(found):
            by_size.setdefault((image.shape[1], image.shape[2]), []).append(number)
        here = at_hand()
        identifiers = here.identifiers(len(images))
        results: dict[int, Result] = {}
        with self._lock:
            for place, (size, numbers) in enumerate(by_size.items()):
                call = _Call(
                    self,
                    self._memory().laid_out(place, len(numbers), size, self._network, self._stages, self.threads),
                    [found[number] for number in numbers],
                    [given[number] for number in numbers],
                    [identifiers[number] for number in numbers],
                )
                results |= zip(numbers, call.run(), strict=True)
        return [results[number] for number in range(len(images))]

    def _memory(self) -> Memory:
        """Return the calling thread's buffers."""
        if not hasattr(self._local, "memory"):
            self._local.memory = Memory()
            self._memories.add(self._local.memory)
        return cast(Memory, self._local.memory)


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

    def __init__(self, layers: list[str], buffers: Buffers, masks: Floats, image: int) -> None:
        self._layers, self._buffers, self._masks, self._image = layers, buffers, masks, image

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
        sizes, images = self._buffers.mask_sizes, self._buffers.images
        begin = images * sum(sizes[:number]) + self._image * sizes[number]
        return self._masks[begin : begin + sizes[number]].reshape(self._buffers.mask_shapes[number])


class _Call:
    """Images of one size: what the plan is given, and what it asks for."""

    def __init__(
        self,
        engine: CPUEngine,
        laid_out: tuple[Buffers, Any],
        images: list[Floats],
        given: Sequence[GivenMasks],
        identifiers: Sequence[str | int],
    ) -> None:
        self._engine, self._images, self._identifiers = engine, images, identifiers
        self._buffers, self._compiled = laid_out
        buffers = self._buffers
        self._all = library.empty(buffers.images * sum(buffers.mask_sizes) + 1)
        self._given: list[Floats | None] | None = None
        if any(given):
            self._given = [
                checked(name, masks[name], shape) if name in masks else None
                for masks in given
                for name, shape in zip(engine.mask_layers, buffers.mask_shapes, strict=True)
            ]
        rows = len(engine._rows.kinds)
        self._macs = np.zeros((2, buffers.images, rows), dtype=np.int64)
        self._seconds = np.zeros((len(buffers.workspaces), rows))

    def run(self) -> list[Result]:
        """Run the plan."""
        engine, buffers = self._engine, self._buffers
        if kernels.instruction_set() != engine._network.instruction_set:
            raise ValueError(
                f"weights were packed for {engine._network.instruction_set}, but {kernels.instruction_set()} is "
                "selected: compile the engine after use_instruction_set"
            )
        error, image, mask = library.compiled.run(
            engine._plan,
            self._compiled,
            self._images,
            engine.threads,
            self._all,
            self._given,
            self._keys(),
            self._macs,
            self._seconds,
            self._answer,
        )
        if error == _BAD_IMAGE:
            raise ValueError(f"image with shape {self._images[image].shape} holds NaN or infinity")
        if error == _BAD_MASK:
            name, shape = engine.mask_layers[mask], buffers.mask_shapes[mask]
            raise ValueError(f"{name}: mask of shape {shape} holds NaN, infinity or negative values")
        if error == _NO_MEMORY:
            raise MemoryError("scratch memory of a plan")
        assert error == _DONE, error
        seconds = self._seconds.sum(0) / buffers.images
        return [
            Result(
                {name: stage[number] for name, stage in buffers.stages.items()},
                Tally(engine._rows.kinds, self._macs[:, number], seconds),
                Masks(engine.mask_layers, buffers, self._all, number),
            )
            for number in range(buffers.images)
        ]

    def _keys(self) -> NDArray[np.uint64]:
        """Return the key of each image's noise for each mask: two words."""
        seed = at_hand().seed
        keys = [
            bytes(16) if layer is None else field_key(seed, image, layer)
            for image in self._identifiers
            for layer in self._engine._noise_layers
        ]
        return np.frombuffer(b"".join(keys), dtype=np.uint64)

    def _answer(
        self, what: int, block: int, number: int, first: int, given: NDArray[Any], out: NDArray[Any] | None
    ) -> None:
        """Do what no kernel does (`descriptions.QUESTIONS`), for a group of images from number ``first`` on."""
        question = QUESTIONS[what]
        if question == "nearest":
            self._nearest(block, number, given, cast(Floats, out))
            return
        if question == "source":
            self._source(given, cast(Floats, out))
            return
        mask = next(mask for mask in self._engine._blocks[block].masks if mask.placed.number == number)
        with inference(self._identifiers[first : first + len(given)], at_hand().seed):
            self._mask(question, mask, slice(first, first + len(given)), given, out)

    def _mask(
        self,
        question: Literal["values", "forward", "decided", "nearest", "source"],
        mask: PlacedMask,
        images: slice,
        given: NDArray[Any],
        out: NDArray[Any] | None,
    ) -> None:
        if question == "decided":
            # A copy of the values: other blocks' masks may read them after the group's memory is another's.
            mask.placed.module.decided = torch.from_numpy(given[..., 0].copy())[:, None]
        elif question == "values":
            self._macs[0, images, mask.plan.row] += mask.placed.values(given, cast(Floats, out))
        else:
            self._macs[0, images, mask.plan.row] += mask.placed.forward(given, cast(Floats, out), self._engine.threads)

    def _nearest(self, block: int, number: int, given: NDArray[Any], out: NDArray[Any]) -> None:
        module = cast(Nearest, self._engine._blocks[block].fills[number])
        positions = math.prod(out.shape[1:3])
        for mask, rows in zip(given, out, strict=True):
            found = module.index(torch.from_numpy(mask[..., 0])).numpy()
            if found.min() < 0 or found.max() >= positions:
                raise ValueError(f"the nearest fill names positions {found.min()} .. {found.max()} of {positions}")
            rows[..., 0] = found.reshape(rows.shape[:2])

    @staticmethod
    def _source(given: NDArray[Any], out: NDArray[Any]) -> None:
        """Bring what a convolution reads to its output's shape, for the reuse fill."""
        tensor = torch.from_numpy(given).permute(0, 3, 1, 2)
        matched = Reuse.match(tensor, torch.empty(len(out), out.shape[3], *out.shape[1:3]))
        out[:] = array(matched.permute(0, 2, 3, 1))


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
