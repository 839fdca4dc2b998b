"""A block's fill: interpolation from the sampled rows, or the block's input reused."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.engines.base import EngineRefusal, Floats
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.calls import Call
from benchmark.engines.cpu.kernels import Positions
from benchmark.engines.cpu.layers import array
from benchmark.nn import work
from benchmark.nn.interpolation import (
    RBF,
    AveragePooling,
    Interpolation,
    LearnedKernel,
    Nearest,
    PaperRBF,
    Reuse,
    Zeros,
)

KNOWN = (RBF, PaperRBF, AveragePooling, LearnedKernel, Nearest, Reuse, Zeros)
"""Fills that the engine runs; of others it cannot know what they compute."""


class Fill:
    """A block's fill, ready to run.

    Attributes
    ----------
    layer
        Its name within the backbone, such as ``layer1.0.interpolation1``.
    module
        What it fills with.
    needed
        The region that something reads, of which only the missing positions are filled.
    window
        Side of the window that is read; 1 where none is.
    """

    def __init__(self, layer: str, module: Interpolation, described: work.Fill) -> None:
        if type(module) not in KNOWN:
            raise EngineRefusal(layer, f"the CPU engine does not know fills of class {type(module).__name__}")
        self.layer = layer
        self.module = module
        self.needed = described.needed
        self.window = described.window or 1
        self.numerator: Floats | None = None
        self.denominator: Floats | None = None
        if module.window:
            self.numerator = array(cast(Any, module).kernel())
            self.denominator = np.abs(self.numerator)

    def nearest(self, mask: Floats, samples: kernels.SampleIndex) -> Positions | None:
        """Return the row that fills each position, for the nearest fill."""
        if not isinstance(self.module, Nearest):
            return None
        index = self.module.index(torch.from_numpy(mask)).numpy()
        inner = samples.window // 2
        rows = samples.index[inner : inner + mask.shape[0], inner : inner + mask.shape[1]].reshape(-1)
        return np.ascontiguousarray(rows[index].reshape(mask.shape))

    def __call__(
        self,
        call: Call,
        mask: Floats,
        samples: kernels.SampleIndex,
        rows: Floats,
        out: Floats,
        source: Floats | None,
        *,
        wanted: NDArray[np.bool_] | None = None,
        ends: bool = False,
        **options: Any,
    ) -> None:
        """Fill the listed positions; `options` are those of `kernels.blend`.

        `source` is what the reuse fill copies, matched. Where this ends the block, and so writes the whole of its map,
        the next one's mask products follow.
        """
        with call.timed(self.layer, "interpolation") as row:
            if source is not None:
                _reuse(mask, samples, rows, out, source, wanted, **options)
                return
            squared = bool(getattr(self.module, "squared_mask", False))
            pairs = kernels.blend(
                samples,
                rows,
                out,
                numerator=self.numerator,
                denominator=self.denominator,
                nearest=self.nearest(mask, samples),
                squared=squared,
                wanted=wanted,
                follow=call.follow() if ends and wanted is None else None,
                threads=call.threads,
                **options,
            )
            row.macs += pairs * rows.shape[1]


def _reuse(
    mask: Floats,
    samples: kernels.SampleIndex,
    rows: Floats,
    out: Floats,
    source: Floats,
    wanted: NDArray[np.bool_] | None,
    *,
    map_rows: tuple[int, int] | None = None,
    bias: Floats | None = None,
    residual: Floats | None = None,
    relu: bool = False,
) -> None:
    """Fill with the block's input, ``M Y + (1 - M) X``: an ablation of the paper, in NumPy, not a way to be fast.

    Whole maps only: `map_rows`, where given, are all of them.
    """
    positions = np.arange(mask.size) if wanted is None else np.flatnonzero(wanted)
    inner = samples.window // 2
    index = samples.index[inner : inner + mask.shape[0], inner : inner + mask.shape[1]].reshape(-1)[positions]
    value = np.where(index[:, None] >= 0, rows[index], 0.0) if len(rows) else np.zeros((len(positions), out.shape[1]))
    value = value + (1 - mask.reshape(-1)[positions, None]) * source[positions]
    value = value if bias is None else value + bias
    value = value if residual is None else value + residual[positions]
    out[positions] = np.maximum(value, 0) if relu else value
