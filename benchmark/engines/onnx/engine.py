"""An exported backbone in ONNX Runtime, behind the engine protocol.

The graph is that of `saibench export` with noise as an input, so that masks are those of PyTorch. What was needed is
counted from the masks by the counter itself; what ran beside it follows from how `benchmark.export` writes a block.
"""

from __future__ import annotations

import copy
import os
import resource
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any, cast, overload

import numpy as np
import onnxruntime
import torch
from torch import nn

from benchmark.cores import usable_cores
from benchmark.engines.base import EngineRefusal, Floats, Result, Row
from benchmark.export import ExportRefusal, Options, block_inputs, is_plain, write_network
from benchmark.flops.measured import MeasuredCounter
from benchmark.nn.blocks import Decided, ResidualBlock
from benchmark.nn.context import at_hand
from benchmark.nn.interpolation import SeparableInterpolation
from benchmark.nn.masks import Mask
from benchmark.nn.noise import uniform_field
from benchmark.nn.resnet import ResNet, residual_blocks
from benchmark.nn.work import Size

NOISE, GIVEN, DECIDED = "noise.", "mask.", "decided."  # what names of inputs and outputs begin with


class ONNXEngine:
    """A backbone of `benchmark.nn` as a graph of standard operators, run by ONNX Runtime on the CPU.

    Parameters
    ----------
    model
        The backbone, on any device, in evaluation or training mode; the engine computes what it computes in evaluation
        mode. Later changes of its weights are not seen.
    threads
        Threads to run on; by default one for each core, or what ``OMP_NUM_THREADS`` says.

    Raises
    ------
    EngineRefusal
        If the model has a part that cannot be exported.
    ValueError
        For a number of threads that cannot be.

    Attributes
    ----------
    masks_in_pytorch
        None: all masks are decided in the graph.

    Notes
    -----
    Several Python threads may call one engine: their calls run one after the other. Results are arrays of their own.
    """

    masks_in_pytorch: tuple[str, ...] = ()

    def __init__(self, model: nn.Module, *, threads: int | None = None) -> None:
        most = self.max_threads()
        if threads is not None and not 1 <= threads <= 256:
            raise ValueError(f"{threads} threads: give 1 to 256")
        if not isinstance(model, ResNet):
            raise EngineRefusal("backbone", f"the engine runs those of benchmark.nn, not {type(model).__name__}")
        self.threads = most if threads is None else threads
        self._lock = threading.Lock()
        # What the last training forward left on a mask belongs to its graph, and cannot be copied.
        left: dict[int, Any] = {
            id(value): None
            for mask in model.modules()
            if isinstance(mask, Mask)
            for value in (mask.confidence, mask.decided)
        }
        self._model = copy.deepcopy(model, left).cpu().eval()
        self._blocks = list(residual_blocks(self._model))
        self._before = _resident()
        self._sessions: dict[tuple[Size | None, bool], Any] = {}
        self._fixed = False
        try:
            self._session(None, given=False)
        except EngineRefusal:
            # A pattern that is made for one size of map: a graph for each size of image.
            self._fixed = True
            self._session((64, 64), given=False)
            self._sessions.clear()

    @staticmethod
    def max_threads() -> int:
        """Return the cores that this process may run on, or what ``OMP_NUM_THREADS`` says instead."""
        said = os.environ.get("OMP_NUM_THREADS", "")
        return int(said) if said.isdigit() and int(said) else usable_cores()

    @staticmethod
    def hardware() -> dict[str, str]:
        """Return the runtime's name and version; which instructions it chooses it does not say."""
        return {"instruction_set": f"onnxruntime {onnxruntime.__version__}"}

    @property
    def memory_bytes(self) -> int:
        """Bytes by which the process's largest extent grew since the engine was made: the runtime says nothing else."""
        return max(0, _resident() - self._before)

    @overload
    def __call__(self, image: Floats, *, masks: Mapping[str, Floats] | None = None) -> Result: ...

    @overload
    def __call__(
        self, image: Sequence[Floats], *, masks: Sequence[Mapping[str, Floats] | None] | None = None
    ) -> list[Result]: ...

    def __call__(self, image: Any, *, masks: Any = None) -> Any:
        """Compute the stage maps of images; their identifiers and seed are those at hand (`benchmark.nn.context`).

        Parameters
        ----------
        image
            One normalised image, ``(3, H, W)`` float32, C-contiguous; or several, ``(N, 3, H, W)`` or a list of images
            of any sizes, which run one after the other.
        masks
            Masks by place to use instead of the block's own, ``(H, W)`` float32 at the governed map's size; for several
            images a list of such mappings. Places that are not named take what the network decides in a first run. All
            are decided again, so that time and tally stay those of a sparse network.

        Returns
        -------
        Result or list of Result
            One for each image.

        Raises
        ------
        TypeError, ValueError
            For an image or a mask of the wrong type, shape or layout, or with NaN; or another number of masks or
            identifiers than of images.
        """
        if isinstance(image, np.ndarray) and image.ndim != 4:
            (name,) = at_hand().identifiers(1)
            return self._one(image, masks or {}, name)
        given = [None] * len(image) if masks is None else list(masks)
        if len(given) != len(image):
            raise ValueError(f"{len(image)} images but {len(given)} mappings of masks")
        names = at_hand().identifiers(len(image))
        return [self._one(*each) for each in zip(image, given, names, strict=True)]

    def _one(self, image: Any, masks: Mapping[str, Floats] | None, name: str | int) -> Result:
        image = _checked("image", image, 3)
        if image.shape[0] != 3 or not image.flags.c_contiguous:
            raise ValueError(f"image has shape {image.shape}, expected (3, height, width), C-contiguous")
        size = image.shape[1], image.shape[2]
        shapes = self._shapes(size)
        unknown = set(masks or ()) - shapes.keys()
        if unknown:
            raise ValueError(f"no mask layers {sorted(unknown)}; there are {list(shapes)}")
        with self._lock:
            given: Mapping[str, Floats] = {}
            if masks:
                own = {} if masks.keys() == shapes.keys() else self._run(image, shapes, {}, name).masks
                given = {place: masks.get(place, own.get(place, image)) for place in shapes}
                for place, mask in given.items():
                    _check_mask(place, mask, shapes[place])
            return self._run(image, shapes, given, name)

    def _run(self, image: Floats, shapes: Mapping[str, Size], given: Mapping[str, Floats], name: str | int) -> Result:
        size = image.shape[1], image.shape[2]
        session = self._session(size if self._fixed else None, given=bool(given))
        seed, feed = at_hand().seed, {"image": image[None]}
        for each in session.get_inputs():
            if each.name.startswith(NOISE):
                place = each.name.removeprefix(NOISE)
                feed[each.name] = uniform_field(seed, name, self._layer(place), shapes[place])[None, None]
            elif each.name.startswith(GIVEN):
                feed[each.name] = given[each.name.removeprefix(GIVEN)][None, None]
        names = [output.name for output in session.get_outputs()]
        began = time.perf_counter()
        found = dict(zip(names, session.run(None, feed), strict=True))
        seconds = time.perf_counter() - began
        used = given or {place: found[DECIDED + place][0, 0] for place in shapes}
        stages = {
            layer: values[0].transpose(1, 2, 0) for layer, values in found.items() if not layer.startswith(DECIDED)
        }
        return Result(stages, Tally(self._model, size, used, seconds), dict(used))

    def _session(self, size: Size | None, *, given: bool) -> Any:
        """Return a session of the graph for a size, or for all: made when it is first asked for."""
        if (size, given) not in self._sessions:
            try:
                model = write_network(self._model, Options(size, "input", masks=True, given=given))
            except ExportRefusal as error:
                raise EngineRefusal(error.layer, error.reason) from error
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self.threads
            # Idle threads that spin would take the cores from whoever is timed next.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            if size is not None:  # of graphs for one size, only the last
                self._sessions.clear()
            self._sessions[size, given] = session
        return self._sessions[size, given]

    def _shapes(self, size: Size) -> dict[str, Size]:
        """Return height and width of each mask, by place."""
        inputs = block_inputs(self._model, size)
        return {
            f"{block.name}.mask{number}": shape
            for block in self._blocks
            for number, shape in block.work.mask_sizes(inputs[block.name]).items()
        }

    def _layer(self, place: str) -> str:
        """Return the name that keys a mask's noise: its own, wherever it stands."""
        name, _, mask = place.rpartition(".")
        block = next(block for block in self._blocks if block.name == name)
        return str(getattr(block, mask).layer)


class Tally(Mapping[str, Row]):
    """What one image took, by layer; counted when the first row is asked for.

    ONNX Runtime fuses layers and tells the time of none: all seconds are in the row ``session``, which counts nothing.
    """

    def __init__(self, model: ResNet, size: Size, masks: Mapping[str, Floats], seconds: float) -> None:
        self._model, self._size, self._masks, self._seconds = model, size, masks, seconds

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the layers."""
        return iter(self._rows)

    def __getitem__(self, layer: str) -> Row:
        """Return a layer's row."""
        return self._rows[layer]

    @cached_property
    def _rows(self) -> dict[str, Row]:
        inputs, decided = block_inputs(self._model, self._size), {}
        for block in residual_blocks(self._model):
            own = {number: self._masks[f"{block.name}.mask{number}"] for number in block.work.masks}
            values = {number: torch.from_numpy(np.ascontiguousarray(mask))[None, None] for number, mask in own.items()}
            decided[block.name] = Decided(inputs[block.name], values)
        counter = MeasuredCounter(self._model)
        counter.record(self._size, decided)
        table = counter.image_layers().query("scope == 'backbone'")
        rows = {
            str(layer): Row(str(kind), int(macs), int(macs))
            for layer, kind, macs in zip(table["layer"], table["kind"], table["macs"], strict=True)
        }
        for block in residual_blocks(self._model):
            for layer, executed in _executed(block, inputs[block.name], rows).items():
                rows[layer].executed = executed
        rows["session"] = Row("uncounted", seconds=self._seconds)
        return rows


def _executed(block: ResidualBlock, size: Size, rows: Mapping[str, Row]) -> dict[str, int]:
    """Return what runs of a block's layers where that is more, or other, than what is needed.

    A window is summed over the whole map, in two thin passes where its weights are a product. A last convolution that
    could trade places with the fill before it runs everywhere. A mask's products are made everywhere.
    """
    found, sizes = {}, block.work.sizes(size)
    steps = block.work.convolutions
    for place, step in enumerate(steps):
        convolution: Any = getattr(block, step.layer)
        layer = f"{block.name}.{step.layer}"
        if step.commutes and layer in rows:
            found[layer] = prod(sizes[place]) * convolution.weight.numel()
        if step.fill is not None and step.fill.window and f"{block.name}.{step.fill.layer}" in rows:
            fill = getattr(block, step.fill.layer)
            taps = 2 * fill.window if isinstance(fill, SeparableInterpolation) else fill.window**2
            found[f"{block.name}.{step.fill.layer}"] = taps * prod(sizes[place]) * convolution.out_channels
    for number in block.work.masks:
        mask, layer = cast(Any, getattr(block, f"mask{number}")), f"{block.name}.mask{number}"
        if layer in rows and number not in block.work.late and is_plain(mask):
            found[layer] = prod(size) * mask.conv.weight.numel()
    return found


def _resident() -> int:
    """Return the largest resident extent of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _checked(name: str, given: object, axes: int) -> Floats:
    if not isinstance(given, np.ndarray) or given.dtype != np.float32:
        kind = given.dtype if isinstance(given, np.ndarray) else type(given).__name__
        raise TypeError(f"{name} must be a float32 array, not {kind}")
    if given.ndim != axes or given.size == 0:
        raise ValueError(f"{name} has shape {given.shape}, expected {axes} axes, none of them empty")
    return given


def _check_mask(place: str, given: object, shape: Size) -> None:
    mask = _checked(f"mask {place}", given, 2)
    if mask.shape != shape:
        raise ValueError(f"mask {place} has shape {mask.shape}, the map is {shape}")
    if not (np.isfinite(mask).all() and (mask >= 0).all()):
        raise ValueError(f"{place}: mask of shape {shape} holds NaN, infinity or negative values")
