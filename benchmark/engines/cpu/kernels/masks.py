"""Mask convolutions: products with every tap in one pass over a map, then sums, then decisions."""

from __future__ import annotations

import numpy as np

from benchmark.engines.base import Floats
from benchmark.engines.cpu.kernels import checks, library
from benchmark.engines.cpu.kernels.geometry import Geometry, bound, tap_order
from benchmark.engines.cpu.kernels.narrow import Follow, NarrowConvolution


class MaskConvolution:
    """One or two convolutions to one channel over the same map, read once.

    The products of each input position with every tap of every mask come from one pass over the map (a narrow
    1 x 1 convolution with 9 or 18 outputs); a mask's logits are then sums of shifted products. The two masks of a
    block may have different strides.

    Parameters
    ----------
    weights
        One ``(1, C, K, K)`` array per mask, all with the same C.
    biases
        One number per mask.
    geometries
        One per mask.
    """

    def __init__(self, weights: list[Floats], biases: list[float], geometries: list[Geometry]) -> None:
        if not len(weights) == len(biases) == len(geometries) >= 1:
            raise ValueError(f"{len(weights)} weights, {len(biases)} biases, {len(geometries)} geometries")
        if len({g.channels for g in geometries}) != 1 or any(g.row_taps for g in geometries):
            raise ValueError(f"masks of one pass read the same channels, without row_taps: {geometries}")
        if any(len(checks.floats("weight", w, (None,) * 4)) != 1 for w in weights):
            raise ValueError(f"a mask has one output, not {[len(w) for w in weights]}")
        rows = [tap_order(w, g).reshape(g.kernel**2, g.channels) for w, g in zip(weights, geometries, strict=True)]
        stacked = np.ascontiguousarray(np.concatenate(rows))[:, :, None, None]
        self.geometries = geometries
        self.biases = checks.finite("bias", np.array(biases, dtype=float)).tolist()
        self._firsts = np.cumsum([0] + [len(r) for r in rows])
        self._products = NarrowConvolution(stacked, None, Geometry(geometries[0].channels))

    def planned(self, row: int) -> tuple[object, ...]:
        """Return what a plan takes of the products; ``row`` is their row in the tally."""
        return self._products.planned(row)

    @property
    def firsts(self) -> list[int]:
        """Each mask's first column in the products."""
        return [int(first) for first in self._firsts[:-1]]

    @property
    def columns(self) -> int:
        """Products per input position."""
        return self._products.outputs

    def products(self, x: Floats, size: tuple[int, int], out: Floats, *, threads: int = 1) -> None:
        """Compute the products of a map ``x`` (H * W, C) into ``out`` (H * W, columns)."""
        self._products(x, size, out, threads=threads)

    def follow(self, out: Floats) -> Follow:
        """Return what computes the products into ``out`` as another kernel finishes the rows of the map."""
        return Follow(self._products, out)

    def logits(
        self, which: int, products: Floats, size: tuple[int, int], out: Floats | None = None, *, threads: int = 1
    ) -> Floats:
        """Sum one mask's products into its logits, (H_out, W_out)."""
        return self._mask(which, products, size, out, None, 0, False, threads)

    def decide(
        self,
        which: int,
        products: Floats,
        size: tuple[int, int],
        threshold: Floats | None = None,
        *,
        key: bytes | None = None,
        grid: int | None = None,
        threads: int = 1,
    ) -> Floats:
        """Return the hard mask, (H_out, W_out): 1 where the logit exceeds ``threshold`` (None: 0), else 0.

        With ``key`` instead, 16 bytes, the threshold is ``log u - log(1 - u)`` of the uniform field that NumPy's Philox
        draws for it. With ``grid``, every ``grid``-th row and column is sampled whatever its logit.
        """
        if key is not None and (threshold is not None or len(key) != 16):
            raise ValueError("give a threshold or a key of 16 bytes")
        if grid is not None and not 1 <= grid <= checks.POSITION_LIMIT // 2:
            raise ValueError(f"grid must be at least 1, not {grid}")
        if key is None:
            return self._mask(which, products, size, None, threshold, grid or 0, True, threads)
        logits = self.logits(which, products, size, threads=threads)
        library.compiled.decide(np.frombuffer(key, dtype=np.uint64), logits, grid or 0, checks.threads(threads))
        return logits

    def macs(self, which: int, size: tuple[int, int]) -> int:
        """Return one mask's multiply-accumulates on a map of this size."""
        geometry = self.geometries[which]
        height, width = geometry.out_size(*size)
        return height * width * geometry.kernel**2 * geometry.channels

    def _mask(
        self,
        which: int,
        products: Floats,
        size: tuple[int, int],
        out: Floats | None,
        threshold: Floats | None,
        grid: int,
        decide: bool,
        threads: int,
    ) -> Floats:
        if not 0 <= which < len(self.geometries):
            raise ValueError(f"there are masks 0 to {len(self.geometries) - 1}, not {which}")
        walk = bound(self.geometries[which], *size)
        out_size = self.geometries[which].out_size(*size)
        products = checks.floats("products", products, (size[0] * size[1], self.columns))
        out = library.empty(*out_size) if out is None else checks.floats("out", out, out_size)
        if threshold is not None:
            threshold = checks.floats("threshold", threshold, out_size).reshape(-1)
        library.compiled.mask(
            walk,
            products.reshape(-1),
            self.columns,
            int(self._firsts[which]),
            self.biases[which],
            out_size[0],
            decide,
            threshold,
            grid,
            out.reshape(-1),
            checks.threads(threads),
        )
        return out
