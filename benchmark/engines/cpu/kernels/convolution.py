"""Convolutions with many outputs at listed positions, deformable ones too."""

from __future__ import annotations

from benchmark.engines.base import Floats
from benchmark.engines.cpu.kernels import checks, library
from benchmark.engines.cpu.kernels.checks import Positions
from benchmark.engines.cpu.kernels.geometry import Geometry, bound, listed, tap_order
from benchmark.engines.cpu.kernels.narrow import Follow


class Convolution:
    """A convolution with its weights packed once for the selected instruction set.

    Parameters
    ----------
    weight
        ``(C_out, C_in, K, K)``, PyTorch's layout.
    bias
        ``(C_out,)`` or None.
    geometry
        Kernel, stride, padding and dilation; ``geometry.channels`` is C_in.
    """

    def __init__(self, weight: Floats, bias: Floats | None, geometry: Geometry) -> None:
        library.require()
        rows = tap_order(weight, geometry)
        self.geometry = geometry
        self.outputs = rows.shape[0]
        self.macs_per_position = rows.size
        self._packed = library.Packed(library.compiled.packed_size(*rows.shape))
        library.compiled.pack(rows, self._packed.weights)
        self._bias: Floats | None = None
        if bias is not None:
            self._bias = library.empty(library.compiled.bias_size(self.outputs))
            self._bias[:] = 0.0
            self._bias[: self.outputs] = checks.finite("bias", checks.floats("bias", bias, (self.outputs,)))

    def planned(self, row: int) -> tuple[object, ...]:
        """Return what a plan takes of it; ``row`` is its row in the tally."""
        return self.geometry.walk, self.outputs, self._packed.weights, self._bias, row

    def __call__(
        self,
        x: Floats,
        size: tuple[int, int],
        out: Floats,
        *,
        positions: Positions | None = None,
        scatter: bool = False,
        residual: Floats | None = None,
        scale: Floats | None = None,
        relu: bool = False,
        with_bias: bool = True,
        follow: Follow | None = None,
        threads: int = 1,
    ) -> int:
        """Compute ``scale * relu(conv(x) + bias + residual)`` at the listed positions.

        Parameters
        ----------
        x
            The input map, ``(H * W, C_in)``, bordered if the geometry has ``row_taps``.
        size
            (H, W) of the input map, without border.
        out
            ``(n, C_out)``: row i is position ``positions[i]``; with ``scatter``, the whole output map, of which only
            the listed rows are written. Rows are contiguous, but may lie further apart than they are long.
        positions
            Output positions, ``(n,)`` int32; None for all of them, in order.
        residual
            Added before the ReLU; same rows as ``out``, may be ``out`` itself.
        scale
            ``(n,)``, one factor per listed position.
        with_bias
            False leaves the bias out (the caller adds it after the interpolation).
        follow
            Mask products of ``out``, computed row by row as its rows are finished.

        Returns
        -------
        int
            Multiply-accumulates executed.
        """
        n, rows = listed(self.geometry, size, positions, scatter)
        x = checks.floats("x", x, (self.geometry.in_rows(*size), self.geometry.channels))
        out = checks.rows("out", out, (rows, self.outputs))
        if residual is not None:
            residual = checks.floats("residual", residual, (rows, self.outputs)).reshape(-1)
        if scale is not None:
            scale = checks.floats("scale", scale, (n,))
        library.compiled.conv(
            bound(self.geometry, *size),
            x.reshape(-1),
            self._packed.weights,
            self._bias if with_bias else None,
            self.outputs,
            positions,
            n,
            out,
            scatter,
            residual,
            scale,
            relu,
            None if follow is None else follow.bound(out),
            checks.threads(threads),
        )
        return n * self.macs_per_position

    def deform(
        self,
        x: Floats,
        size: tuple[int, int],
        offsets: Floats,
        out: Floats,
        *,
        positions: Positions | None = None,
        scatter: bool = False,
        scale: Floats | None = None,
        relu: bool = False,
        threads: int = 1,
    ) -> int:
        """Compute the unmodulated deformable convolution at the listed positions.

        ``offsets`` is ``(n, 2 * K * K)``, pairs (dy, dx) per tap as in ``torchvision.ops.deform_conv2d``; the rest as
        in a call. The bilinear samples (4 MACs per tap and channel) are not in the returned count.
        """
        if self.geometry.row_taps:
            raise ValueError("a deformable convolution cannot use row_taps")
        n, rows = listed(self.geometry, size, positions, scatter)
        x = checks.floats("x", x, (self.geometry.in_rows(*size), self.geometry.channels))
        out = checks.floats("out", out, (rows, self.outputs))
        offsets = checks.floats("offsets", offsets, (n, 2 * self.geometry.kernel**2))
        if scale is not None:
            scale = checks.floats("scale", scale, (n,))
        library.compiled.deform(
            bound(self.geometry, *size),
            x.reshape(-1),
            self._packed.weights,
            self._bias,
            self.outputs,
            positions,
            n,
            offsets.reshape(-1),
            out.reshape(-1),
            scatter,
            scale,
            relu,
            checks.threads(threads),
        )
        return n * self.macs_per_position
