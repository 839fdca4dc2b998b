"""From a trained backbone to one that runs on the CPU with real sparsity, image by image."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import cast
from weakref import WeakSet

import numpy as np
from torch import nn

from benchmark.engines.base import EngineRefusal, Floats, Result
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.basic import CompiledBasicBlock
from benchmark.engines.cpu.blocks import Block
from benchmark.engines.cpu.bottleneck import CompiledBottleneck
from benchmark.engines.cpu.calls import Call
from benchmark.engines.cpu.masks import Placed, place_masks
from benchmark.engines.cpu.memory import Memory, Size
from benchmark.engines.cpu.stem import Stem
from benchmark.nn.blocks import BasicBlock, Bottleneck, ResidualBlock
from benchmark.nn.context import at_hand
from benchmark.nn.noise import logistic_threshold
from benchmark.nn.resnet import ResNet

STEM = ("conv1", "bn1", "relu", "maxpool")


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
        self._stem = Stem(model)
        self._stages: list[tuple[str, list[Block]]] = []
        stages = _stages(model)
        masks = iter(place_masks([block for _, blocks in stages for block in blocks]))
        for name, blocks in stages:
            self._stages.append((name, [_compile_block(block, next(masks)) for block in blocks]))
        self._blocks = [block for _, compiled in self._stages for block in compiled]

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

    @property
    def mask_layers(self) -> list[str]:
        """Names of the masks, in the order in which they run."""
        return [mask.name for block in self._blocks for mask in block.placed]

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
        call = Call(masks or {}, self.threads)
        unknown = set(call.given) - set(self.mask_layers)
        if unknown:
            raise ValueError(f"no mask layers {sorted(unknown)}; there are {self.mask_layers}")
        image = _checked(image)
        with self._lock, self._drawing(call, (image.shape[1], image.shape[2])):
            return self._run(call, self._own(), image)

    def _own(self) -> Memory:
        """Return the calling thread's buffers."""
        if not hasattr(self._local, "memory"):
            self._local.memory = Memory()
            self._memories.add(self._local.memory)
        return cast(Memory, self._local.memory)

    @contextmanager
    def _drawing(self, call: Call, size: Size) -> Iterator[None]:
        """Draw all masks' noise beside the first kernels: NumPy draws on one thread and lets others go on."""
        fields = []
        size = self._stem.out_size(size)
        for block in self._blocks:
            fields += block.noisy(size)
            size = block.sizes(size)[-1]
        here = at_hand()
        (image,) = here.identifiers(1)
        with ThreadPoolExecutor(1) as pool:
            call.noise = {
                mask.name: pool.submit(logistic_threshold, here.seed, image, mask.module.layer, shape)
                for mask, shape in fields
            }
            yield

    def _run(self, call: Call, memory: Memory, image: Floats) -> Result:
        memory.release()  # what a call that failed has left
        x, size = self._stem(call, memory, image)
        memory.release()
        stages = {}
        followers = iter([block.masks for block in self._blocks[1:]])
        for name, blocks in self._stages:
            for index, block in enumerate(blocks):
                if index == 0 and block.downsample is None:
                    x = _copied(x, memory, name)
                x, size = block(call, memory, x, size, name, next(followers, None))
                memory.release()
            stages[name] = x.reshape(*size, -1)
        return Result(stages, call.tally, call.masks)


def _copied(x: Floats, memory: Memory, stage: str) -> Floats:
    """Copy a stage's input: its blocks write into it, and it is the result of the stage before."""
    copied = memory.named(stage, *x.shape)
    copied[:] = x
    return copied


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


def _compile_block(block: ResidualBlock, masks: list[Placed]) -> Block:
    if isinstance(block, Bottleneck):
        return CompiledBottleneck(block, masks)
    return CompiledBasicBlock(cast(BasicBlock, block), masks)


def _checked(image: object) -> Floats:
    if not isinstance(image, np.ndarray) or image.dtype != np.float32:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"image must be a float32 array, not {kind}")
    if image.ndim != 3 or image.shape[0] != 3 or image.size == 0:
        raise ValueError(f"image has shape {image.shape}, expected (3, height, width)")
    if not image.flags.c_contiguous:
        raise ValueError(f"image with shape {image.shape} is not C-contiguous (strides {image.strides})")
    return image
