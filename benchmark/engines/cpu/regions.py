"""The regions of a block's work for one image, as lists of positions.

Which region a convolution computes, reads or fills, `benchmark.nn.work` says; here a region becomes what the kernels
take. Nothing here decides what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from benchmark.engines.base import Floats
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.kernels import Geometry, Samples
from benchmark.engines.cpu.memory import Size
from benchmark.nn import sparsity, work
from benchmark.nn.work import ReadBy, Region, Sampled, Subsampled, Walk


class Regions:
    """The regions of one block's work, once its masks are decided.

    Parameters
    ----------
    decided
        Each mask's samples, by its number.
    threads
        Threads that list positions.
    """

    def __init__(self, decided: Mapping[int, Samples], threads: int) -> None:
        self._values: dict[int, Floats] = {}
        self._samples: dict[Region, Samples] = {}
        self._threads = threads
        self.add(decided)

    def add(self, decided: Mapping[int, Samples]) -> None:
        """Take masks that are decided while the block runs."""
        self._values |= {number: samples.mask for number, samples in decided.items()}
        self._samples |= {Sampled(number): samples for number, samples in decided.items()}

    def samples(self, region: Region, size: Size) -> Samples | None:
        """Return a region of a map of this size as samples; None for all positions.

        For a mask, the samples carry its values; for what a convolution reads, 0 and 1.
        """
        if region not in self._samples:
            if isinstance(region, Subsampled):
                mask = np.ascontiguousarray(work.values(region, self._values))
            else:
                positions = self.positions(region, size)
                if positions is None:
                    return None
                mask = positions.astype(np.float32)
            self._samples[region] = Samples(mask, threads=self._threads)
        return self._samples[region]

    def positions(self, region: Region, size: Size) -> NDArray[np.bool_] | None:
        """Return the positions of a region of a map of this size, boolean (H, W); None for all."""
        listed = self._reader(region, size)
        if listed is None:
            found = work.positions(region, self._values, size)
            return None if found is None else np.ascontiguousarray(found)
        reader, geometry = listed
        return kernels.positions_read(reader, geometry, size, threads=self._threads)

    def missing(self, region: Region, samples: Samples) -> NDArray[np.bool_]:
        """Return the positions of a region that a map's own mask leaves to interpolation (M != 1), boolean (H, W)."""
        size = (samples.mask.shape[0], samples.mask.shape[1])
        listed = self._reader(region, size)
        if listed is None:
            positions, missing = self.positions(region, size), sparsity.missing(samples.mask)
            return missing if positions is None else positions & missing
        reader, geometry = listed
        return kernels.positions_read(reader, geometry, size, missing_of=samples, threads=self._threads)

    def _reader(self, region: Region, size: Size) -> tuple[Samples, Geometry] | None:
        """Return a convolution's sampled positions and how it walks, for a region of what it reads at those.

        The kernel walks the list: a fraction of the time that array operations over the whole map take.
        """
        if not isinstance(region, ReadBy):
            return None
        samples = self._samples.get(region.region)
        if samples is None:
            samples = self.samples(region.region, region.walk.out_size(size))
        return None if samples is None else (samples, walk_geometry(region.walk))


@lru_cache(maxsize=64)
def walk_geometry(walk: Walk) -> Geometry:
    """Return the kernels' geometry of a walk: square, as all convolutions are that the engine has compiled."""
    return Geometry(1, walk.kernel[0], walk.stride[0], walk.padding[0], walk.dilation[0])
