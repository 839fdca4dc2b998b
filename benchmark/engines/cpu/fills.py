"""A block's fill: interpolation from the sampled rows, or the block's input reused."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.engines.base import Floats
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.calls import Call
from benchmark.engines.cpu.kernels import Positions
from benchmark.engines.cpu.layers import array
from benchmark.engines.cpu.memory import all_positions
from benchmark.nn.interpolation import Interpolation, Nearest


class Fill:
    """A block's fill, ready to run."""

    def __init__(self, module: Interpolation) -> None:
        self.module = module
        self.window = module.window or 1
        self.linear = module.linear
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
        layer: str,
        mask: Floats,
        samples: kernels.SampleIndex,
        rows: Floats,
        out: Floats,
        source: Floats | None,
        *,
        follow: bool = False,
        **options: Any,
    ) -> None:
        """Fill the listed positions; `options` are those of `kernels.blend`.

        `source` is the block's input, matched; `follow`: this finishes the block, so the next one's masks may follow.
        """
        with call.timed(layer, "interpolation") as row:
            if source is not None:
                _reuse(mask, samples, rows, out, source, **options)
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
                follow=call.follow() if follow else None,
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
    *,
    wanted: NDArray[np.bool_] | None = None,
    bias: Floats | None = None,
    residual: Floats | None = None,
    relu: bool = False,
) -> None:
    """Fill with the block's input, ``M Y + (1 - M) X``: an ablation of the paper, in NumPy, not a way to be fast."""
    positions = all_positions(mask.size) if wanted is None else np.flatnonzero(wanted)
    inner = samples.window // 2
    index = samples.index[inner : inner + mask.shape[0], inner : inner + mask.shape[1]].reshape(-1)[positions]
    value = np.where(index[:, None] >= 0, rows[index], 0.0) if len(rows) else np.zeros((len(positions), out.shape[1]))
    value = value + (1 - mask.reshape(-1)[positions, None]) * source[positions]
    value = value if bias is None else value + bias
    value = value if residual is None else value + residual[positions]
    out[positions] = np.maximum(value, 0) if relu else value
