"""The engine's kernels as NumPy functions: convolution, deformable convolution, masks and interpolation at positions.

Maps are float32, channels last, one row per position: ``(H * W, C)``. A position is ``y * W + x``. Every function
checks what it is given and raises ``TypeError`` (dtype) or ``ValueError`` (shape, contiguity, range) with the shapes
in the message; the compiled kernels below them check nothing. Not here: networks (``compiler``) and clocks (``timer``).
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import SaibenchError

try:
    _kernels: Any = importlib.import_module("benchmark.engine._kernels")
except ImportError:  # installed without a C compiler
    _kernels = None

Floats = NDArray[np.float32]
Positions = NDArray[np.int32]

INSTRUCTION_SETS = ("portable", "avx2", "avx512")
NARROW_LIMIT = 20
WINDOW_LIMIT = 15
EPSILON = 1e-5
"""Added to the denominator of every interpolation (paper, text below eq. 3)."""


class EngineUnavailable(SaibenchError):
    """The compiled kernels are not there."""


def require() -> None:
    """Raise `EngineUnavailable`, which says what to install, if the kernels were not compiled."""
    if _kernels is None:
        raise EngineUnavailable(
            "the CPU engine was not compiled: install a C compiler (Debian: `apt install gcc python3-dev`), then run "
            "`pip install --force-reinstall --no-deps saibench`, or `pip install -e .` in a checkout"
        )


def instruction_set() -> str:
    """Return the instruction set in use: ``avx512``, ``avx2`` or ``portable``."""
    require()
    return str(_kernels.isa_name())


def max_threads() -> int:
    """Return the threads that OpenMP offers; 1 where the kernels were built without it."""
    require()
    return int(_kernels.max_threads())


def available_instruction_sets() -> list[str]:
    """Return the instruction sets that this CPU and this build can run, slowest first."""
    require()
    return list(INSTRUCTION_SETS[: _kernels.best_isa() + 1])


def use_instruction_set(name: str) -> None:
    """Select the instruction set; weights packed before are not valid after.

    Raises
    ------
    ValueError
        If the name is unknown or this CPU does not have it.
    """
    require()
    if name not in INSTRUCTION_SETS or not _kernels.use_isa(INSTRUCTION_SETS.index(name)):
        raise ValueError(f"instruction set {name!r} is not available here: {available_instruction_sets()}")


def empty(*shape: int) -> Floats:
    """Return an uninitialised float32 array whose data begins on a cache line."""
    size = math.prod(shape)
    raw = np.empty(size * 4 + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * 4].view(np.float32).reshape(shape)


_FLOAT32, _INT32 = np.dtype(np.float32), np.dtype(np.int32)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))


def row_distance(channels: int) -> int:
    """Return how many floats apart rows of that many channels should lie that an interpolation reads.

    Rows whose distance is a multiple of 4096 bytes (or half of it) put the same channel of each into one or two sets
    of a first-level cache, which hold 8 to 12 lines each; an interpolation reads more rows than that at once.
    """
    return channels if channels % 512 else channels + 16


def _typed(name: str, array: object, shape: tuple[int | None, ...]) -> Floats:
    if not isinstance(array, np.ndarray) or (array.dtype is not _FLOAT32 and array.dtype != _FLOAT32):
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be a float32 array, not {kind}")
    # The usual case first: this runs thousands of times for an image.
    if array.shape != shape and not _fits(array.shape, shape):
        wanted = tuple("any" if w is None else w for w in shape)
        raise ValueError(f"{name} has shape {array.shape}, expected {wanted}")
    return array


def _floats(name: str, array: object, shape: tuple[int | None, ...]) -> Floats:
    checked = _typed(name, array, shape)
    if not checked.flags.c_contiguous:
        raise ValueError(f"{name} with shape {checked.shape} is not C-contiguous (strides {checked.strides})")
    return checked


def _rows(name: str, array: object, shape: tuple[int | None, int | None]) -> Floats:
    """Check rows of which each is contiguous; they may lie further apart than they are long."""
    checked = _typed(name, array, shape)
    apart, step = checked.strides
    if not checked.flags.c_contiguous and (step != 4 or apart % 4 or apart < 4 * checked.shape[1]):
        raise ValueError(
            f"{name} with shape {checked.shape} has rows that are not contiguous (strides {(apart, step)})"
        )
    return checked


def _ints(name: str, array: object, shape: tuple[int | None, ...]) -> Positions:
    if not isinstance(array, np.ndarray) or (array.dtype is not _INT32 and array.dtype != _INT32):
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be an int32 array, not {kind}")
    if not _fits(array.shape, shape):
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} with shape {array.shape} is not C-contiguous (strides {array.strides})")
    return array


def _threads(threads: int) -> int:
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    return int(threads)


@dataclass(frozen=True)
class Geometry:
    """A convolution's kernel and how it walks a map.

    ``row_taps`` is for few input channels (a network's stem): the input then carries its own zero border of
    ``padding`` and a whole kernel row is one run of ``kernel * channels`` floats. Needs dilation 1.
    """

    channels: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    row_taps: bool = False

    def __post_init__(self) -> None:
        """Refuse values that make no convolution."""
        if min(self.channels, self.kernel, self.stride, self.dilation) < 1 or self.padding < 0:
            raise ValueError(f"no convolution has {self}")
        if self.row_taps and self.dilation != 1:
            raise ValueError(f"row_taps needs dilation 1: {self}")

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the output map's (height, width) for an input map without its border."""
        reach = self.dilation * (self.kernel - 1) - 2 * self.padding
        return (height - reach - 1) // self.stride + 1, (width - reach - 1) // self.stride + 1

    def in_rows(self, height: int, width: int) -> int:
        """Return the rows of the input array for a map of this height and width."""
        border = 2 * self.padding if self.row_taps else 0
        return (height + border) * (width + border)


@lru_cache(maxsize=4096)
def _bound(geometry: Geometry, height: int, width: int) -> object:
    g = geometry
    out_height, out_width = g.out_size(height, width)
    if out_height < 1 or out_width < 1:
        raise ValueError(f"a {height} x {width} map is smaller than the kernel of {g}")
    border = 2 * g.padding if g.row_taps else 0
    return _kernels.Geometry(
        height + border,
        width + border,
        out_width,
        g.channels,
        g.kernel,
        g.kernel,
        g.stride,
        g.padding,
        g.dilation,
        g.row_taps,
    )


def _weights(weight: object, geometry: Geometry) -> Floats:
    weight = _floats("weight", weight, (None, geometry.channels, geometry.kernel, geometry.kernel))
    if weight.size == 0 or not np.isfinite(weight).all():
        raise ValueError(f"weight of shape {weight.shape} is empty or holds NaN or infinity")
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1).reshape(weight.shape[0], -1))


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
        require()
        rows = _weights(weight, geometry)
        self.geometry = geometry
        self.outputs = rows.shape[0]
        self.macs_per_position = rows.size
        self._packed = empty(_kernels.packed_size(*rows.shape))
        _kernels.pack(rows, self._packed)
        self._bias: Floats | None = None
        if bias is not None:
            self._bias = empty(_kernels.bias_size(self.outputs))
            self._bias[:] = 0.0
            self._bias[: self.outputs] = _floats("bias", bias, (self.outputs,))

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
        n, rows = _listed(self.geometry, size, positions, scatter)
        x = _floats("x", x, (self.geometry.in_rows(*size), self.geometry.channels))
        out = _rows("out", out, (rows, self.outputs))
        if residual is not None:
            residual = _floats("residual", residual, (rows, self.outputs)).reshape(-1)
        if scale is not None:
            scale = _floats("scale", scale, (n,))
        _kernels.conv(
            _bound(self.geometry, *size),
            x.reshape(-1),
            self._packed,
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
            _threads(threads),
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
        n, rows = _listed(self.geometry, size, positions, scatter)
        x = _floats("x", x, (self.geometry.in_rows(*size), self.geometry.channels))
        out = _floats("out", out, (rows, self.outputs))
        offsets = _floats("offsets", offsets, (n, 2 * self.geometry.kernel**2))
        if scale is not None:
            scale = _floats("scale", scale, (n,))
        _kernels.deform(
            _bound(self.geometry, *size),
            x.reshape(-1),
            self._packed,
            self._bias,
            self.outputs,
            positions,
            n,
            offsets.reshape(-1),
            out.reshape(-1),
            scatter,
            scale,
            relu,
            _threads(threads),
        )
        return n * self.macs_per_position


class NarrowConvolution:
    """A convolution with few outputs (offsets): at most `NARROW_LIMIT`, no epilogue, nothing padded to a wide tile."""

    def __init__(self, weight: Floats, bias: Floats | None, geometry: Geometry) -> None:
        require()
        rows = _weights(weight, geometry)
        if rows.shape[0] > NARROW_LIMIT:
            raise ValueError(f"a narrow convolution has at most {NARROW_LIMIT} outputs, not {rows.shape[0]}")
        self.geometry = geometry
        self.outputs = rows.shape[0]
        self.macs_per_position = rows.size
        self.packed = empty(_kernels.narrow_size(*rows.shape))
        _kernels.narrow_pack(rows, self.packed)
        self._bias = None if bias is None else _floats("bias", bias, (self.outputs,)).copy()

    def __call__(
        self,
        x: Floats,
        size: tuple[int, int],
        out: Floats,
        *,
        positions: Positions | None = None,
        scatter: bool = False,
        threads: int = 1,
    ) -> int:
        """Compute ``conv(x) + bias`` at the listed positions; arguments as for `Convolution`."""
        n, rows = _listed(self.geometry, size, positions, scatter)
        x = _floats("x", x, (self.geometry.in_rows(*size), self.geometry.channels))
        out = _floats("out", out, (rows, self.outputs))
        _kernels.narrow(
            _bound(self.geometry, *size),
            x.reshape(-1),
            self.packed,
            self._bias,
            self.outputs,
            positions,
            n,
            out.reshape(-1),
            scatter,
            _threads(threads),
        )
        return n * self.macs_per_position


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
        rows = [_weights(w, g).reshape(g.kernel**2, g.channels) for w, g in zip(weights, geometries, strict=True)]
        stacked = np.ascontiguousarray(np.concatenate(rows))[:, :, None, None]
        self.geometries = geometries
        self.biases = [float(b) for b in biases]
        self._firsts = np.cumsum([0] + [len(r) for r in rows])
        self._products = NarrowConvolution(stacked, None, Geometry(geometries[0].channels))

    @property
    def columns(self) -> int:
        """Products per input position."""
        return self._products.outputs

    def products(self, x: Floats, size: tuple[int, int], out: Floats, *, threads: int = 1) -> None:
        """Compute the products of a map ``x`` (H * W, C) into ``out`` (H * W, columns)."""
        self._products(x, size, out, threads=threads)

    def follow(self, out: Floats) -> Follow:
        """Return what computes the products into ``out`` as another kernel finishes the rows of the map."""
        return Follow(self._products, _floats("products", out, (None, self.columns)))

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
        grid: int | None = None,
        threads: int = 1,
    ) -> Floats:
        """Return the hard mask, (H_out, W_out): 1 where the logit exceeds ``threshold`` (None: 0), else 0.

        With ``grid``, every ``grid``-th row and column is sampled whatever its logit.
        """
        if grid is not None and grid < 1:
            raise ValueError(f"grid must be at least 1, not {grid}")
        return self._mask(which, products, size, None, threshold, grid or 0, True, threads)

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
        out_size = self.geometries[which].out_size(*size)
        products = _floats("products", products, (size[0] * size[1], self.columns))
        out = empty(*out_size) if out is None else _floats("out", out, out_size)
        if threshold is not None:
            threshold = _floats("threshold", threshold, out_size).reshape(-1)
        _kernels.mask(
            _bound(self.geometries[which], *size),
            products.reshape(-1),
            self.columns,
            int(self._firsts[which]),
            self.biases[which],
            out_size[0],
            decide,
            threshold,
            grid,
            out.reshape(-1),
            _threads(threads),
        )
        return out


class Follow:
    """Mask products that another kernel computes of the rows that it has just finished, while they are in cache."""

    def __init__(self, convolution: NarrowConvolution, out: Floats) -> None:
        self._convolution = convolution
        self.out = out

    def rows(self, which: slice) -> Follow:
        """Return the same for a part of the map's rows."""
        return Follow(self._convolution, self.out[which])

    def bound(self, finished: Floats) -> object:
        """Check against the map that is finished, ``(rows, C)``, and return what the compiled kernels take."""
        _floats("the map that mask products follow", finished, (len(self.out), self._convolution.geometry.channels))
        return _kernels.Follow(self._convolution.packed, self._convolution.outputs, self.out.reshape(-1))


def _listed(geometry: Geometry, size: tuple[int, int], positions: Positions | None, scatter: bool) -> tuple[int, int]:
    """Return the number of positions and the rows of the output array."""
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be (height, width), not {size}")
    out_height, out_width = geometry.out_size(*size)
    whole = out_height * out_width
    if positions is None:
        return whole, whole
    n = len(_ints("positions", positions, (None,)))
    return n, whole if scatter else n


class Samples:
    """The sampled positions of a mask, listed.

    Parameters
    ----------
    mask
        ``(H, W)`` float32: 0 where nothing is computed, else M (1, or a gate's value).

    Attributes
    ----------
    mask
        The mask.
    positions
        Its sampled positions in order, int32.
    starts
        ``(H + 1,)`` int32: how many are sampled before each row.
    binary
        Whether all values are 0 or 1.
    """

    def __init__(self, mask: Floats, *, threads: int = 1) -> None:
        require()
        mask = _floats("mask", mask, (None, None))
        if mask.size == 0:
            raise ValueError(f"mask of shape {mask.shape} is empty")
        self.mask = mask
        self.starts = np.empty(mask.shape[0] + 1, dtype=np.int32)
        kind = _kernels.count_samples(mask, self.starts, _threads(threads))
        if kind < 0:
            raise ValueError(f"mask of shape {mask.shape} holds NaN, infinity or negative values")
        self.binary = kind == 1
        self.positions = np.empty(self.starts[-1], dtype=np.int32)
        _kernels.list_samples(mask, self.starts, self.positions, threads)

    def __len__(self) -> int:
        """Return the number of sampled positions."""
        return len(self.positions)

    @property
    def scale(self) -> Floats | None:
        """M at the sampled positions; None if it is 1 at all of them."""
        return None if self.binary else self.mask.reshape(-1)[self.positions]


def missing_read(of: Samples, read_by: Samples, geometry: Geometry, *, threads: int = 1) -> NDArray[np.bool_]:
    """Return the missing positions of a map (M != 1), (H, W), that a convolution reads at its sampled positions.

    What `benchmark.nn.sparsity.positions_read` and ``missing`` say together, from the lists.
    """
    size = (of.mask.shape[0], of.mask.shape[1])
    if geometry.out_size(*size) != read_by.mask.shape:
        raise ValueError(f"{geometry} on {size} gives {geometry.out_size(*size)}, but the mask is {read_by.mask.shape}")
    wanted = np.empty(size, dtype=np.uint8)
    _kernels.missing_read(
        _bound(geometry, *size), read_by.positions, read_by.starts, of.mask, wanted, _threads(threads)
    )
    return wanted.view(np.bool_)


class SampleIndex:
    """Where the rows of a mask's sampled positions are, with the border that a window needs.

    Parameters
    ----------
    samples
        The sampled positions.
    window
        Odd window of the interpolation.
    compact
        Rows are numbered in order of position (True), or by the position itself (False).
    ring
        Compact rows are numbered modulo this many: the caller keeps only the rows around what it fills.
    """

    def __init__(
        self, samples: Samples, window: int, *, compact: bool, ring: int | None = None, threads: int = 1
    ) -> None:
        if window % 2 != 1 or not 1 <= window <= WINDOW_LIMIT:
            raise ValueError(f"window must be odd and at most {WINDOW_LIMIT}, not {window}")
        radius = window // 2
        mask = samples.mask
        self.window = window
        self.size = mask.shape
        self.rows = mask.size
        if compact:
            self.rows = len(samples) if ring is None else ring
        padded = (mask.shape[0] + 2 * radius, mask.shape[1] + 2 * radius)
        self.index = np.empty(padded, dtype=np.int32)
        number_modulo = max(self.rows, 1) if compact else 0
        _kernels.index_samples(
            samples.positions, samples.starts, mask.shape[1], radius, number_modulo, self.index, _threads(threads)
        )
        self.gate: Floats | None = None
        if not samples.binary:
            self.gate = np.zeros(padded, dtype=np.float32)
            self.gate[radius : radius + mask.shape[0], radius : radius + mask.shape[1]] = mask


def blend(
    samples: SampleIndex,
    rows: Floats,
    out: Floats,
    *,
    numerator: Floats | None = None,
    denominator: Floats | None = None,
    nearest: Positions | None = None,
    wanted: NDArray[np.bool_] | None = None,
    map_rows: tuple[int, int] | None = None,
    bias: Floats | None = None,
    residual: Floats | None = None,
    relu: bool = False,
    squared: bool = False,
    epsilon: float = EPSILON,
    follow: Follow | None = None,
    threads: int = 1,
) -> int:
    """Fill positions from the sampled rows around them, and end the block there.

    For each wanted position: ``out = relu(own + (1 - M) * C + bias + residual)`` with
    ``C = sum(numerator * rows) / (sum(denominator * M) + epsilon)`` over the sampled positions of the window; ``own``
    is the position's own row where it was sampled.

    Parameters
    ----------
    samples
        Index of the sampled positions.
    rows
        Their rows, already multiplied by M: ``(samples.rows, C)``, perhaps further apart than they are long.
    out
        ``(H * W, C)``; only the wanted rows are written. May be ``rows`` itself for a 0/1 mask with rows by position.
    numerator, denominator
        Kernels, ``(window, window)``; None fills with zeros.
    nearest
        ``(H, W)`` int32 instead of the kernels: the row that fills each position (-1: zeros).
    wanted
        Which positions, ``(H, W)``; None for all.
    map_rows
        Rows of the map, from and to; None for all.
    residual
        ``(H * W, C)``, may be ``out``.
    squared
        Multiply a sampled position's own row by M once more, as the paper's eqs. 4 and 5 do to the letter.
    follow
        Mask products of ``out``, computed as its positions are finished; all must then be wanted.

    Returns
    -------
    int
        (Position, sampled neighbour) pairs summed; times C these are the multiply-accumulates. A nearest fill counts
        none.
    """
    require()
    height, width = samples.size
    rows = _rows("rows", rows, (samples.rows, None))
    channels = rows.shape[1]
    out = _floats("out", out, (height * width, channels))
    shape = (samples.window, samples.window)
    if (numerator is None) != (denominator is None) or (numerator is not None and nearest is not None):
        raise ValueError("give numerator and denominator, or nearest, or none of them")
    if numerator is not None and denominator is not None:
        numerator = _floats("numerator", numerator, shape).reshape(-1)
        denominator = _floats("denominator", denominator, shape).reshape(-1)
    if nearest is not None:
        nearest = _ints("nearest", nearest, samples.size).reshape(-1)
        if int(nearest.min()) < -1 or int(nearest.max()) >= samples.rows:
            raise ValueError(f"nearest holds {nearest.min()} .. {nearest.max()}, allowed are -1 .. {samples.rows - 1}")
    if bias is not None:
        bias = _floats("bias", bias, (channels,))
    if residual is not None:
        residual = _floats("residual", residual, (height * width, channels)).reshape(-1)
    if wanted is not None:
        if not isinstance(wanted, np.ndarray) or wanted.dtype != np.bool_:
            raise TypeError(f"wanted must be a boolean array, not {getattr(wanted, 'dtype', type(wanted).__name__)}")
        if wanted.shape != samples.size or not wanted.flags.c_contiguous:
            raise ValueError(f"wanted has shape {wanted.shape}, expected {samples.size}, C-contiguous")
        if follow is not None:
            raise ValueError("mask products follow where every position is wanted, not some")
    begin, end = map_rows or (0, height)
    if not 0 <= begin <= end <= height:
        raise ValueError(f"map_rows {map_rows} of a map of height {height}")
    return int(
        _kernels.blend(
            width,
            samples.window,
            channels,
            samples.index.reshape(-1),
            None if samples.gate is None else samples.gate.reshape(-1),
            numerator,
            denominator,
            nearest,
            epsilon,
            rows,
            bias,
            residual,
            out.reshape(-1),
            relu,
            squared,
            None if wanted is None else wanted.reshape(-1).view(np.uint8),
            begin,
            end,
            None if follow is None else follow.bound(out),
            _threads(threads),
        )
    )


def max_pool(
    x: Floats,
    size: tuple[int, int],
    out: Floats,
    *,
    kernel: int,
    stride: int,
    padding: int,
    first_row: int = 0,
    rows: tuple[int, int] | None = None,
    threads: int = 1,
) -> None:
    """Max pooling of ``x``, which holds rows ``first_row`` on of a map of ``size``, into rows ``rows`` of ``out``."""
    require()
    geometry = Geometry(1, kernel, stride, padding)
    out_height, out_width = geometry.out_size(*size)
    begin, end = rows or (0, out_height)
    if kernel > WINDOW_LIMIT or padding > kernel // 2 or out_height < 1 or out_width < 1:
        raise ValueError(f"no pooling of {size} with kernel {kernel}, padding {padding}")
    x = _floats("x", x, (None, None))
    out = _floats("out", out, (out_height * out_width, x.shape[1]))
    needed = range(max(0, begin * stride - padding), min(size[0], (end - 1) * stride - padding + kernel))
    held = range(first_row, first_row + x.shape[0] // size[1])
    if x.shape[0] % size[1] or not 0 <= begin <= end <= out_height:
        raise ValueError(f"x has shape {x.shape} for a map of {size}, rows {rows}")
    if begin == end:
        return
    if needed.start < held.start or needed.stop > held.stop:
        raise ValueError(f"x holds map rows {held}, but output rows {rows} need {needed}")
    _kernels.max_pool(
        x.reshape(-1),
        first_row,
        size[0],
        size[1],
        x.shape[1],
        kernel,
        stride,
        padding,
        begin,
        end,
        out_width,
        out.reshape(-1),
        _threads(threads),
    )


def channels_last(image: Floats, *, border: int = 0, out: Floats | None = None, threads: int = 1) -> Floats:
    """Return ``(C, H, W)`` as rows ``((H + 2 border) * (W + 2 border), C)`` with a zero border."""
    require()
    image = _floats("image", image, (None, None, None))
    if image.size == 0 or border < 0:
        raise ValueError(f"image of shape {image.shape}, border {border}")
    channels, height, width = image.shape
    shape = ((height + 2 * border) * (width + 2 * border), channels)
    out = empty(*shape) if out is None else _floats("out", out, shape)
    if not _kernels.channels_last(image, border, out.reshape(-1), _threads(threads)):
        raise ValueError(f"image with shape {image.shape} holds NaN or infinity")
    return out
