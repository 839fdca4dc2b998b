"""Single operators for tests and benchmarks, straight out of the compiled module that ships: nothing is checked here.

The engine has no such way in. Structs are read from the headers, so that their fields have one home.
"""

import ctypes
import re
from pathlib import Path

import numpy as np

from benchmark.engines.cpu.descriptions import Geometry
from benchmark.engines.cpu.kernels import library
from benchmark.engines.cpu.layers import pack

SOURCES = Path(library.__file__).parent / "c"
SIMPLE = {"int": ctypes.c_int}
STRUCTS: dict[str, type[ctypes.Structure]] = {}

library.require()
C = ctypes.CDLL(library.compiled.__file__)


def read_structs(header):
    """Add the structs of a header: each field is an int, a pointer, or a struct that was read before."""
    text = re.sub(r"/\*.*?\*/", "", (SOURCES / header).read_text(), flags=re.DOTALL)
    for body, name in re.findall(r"typedef struct \{(.*?)\} (\w+);", text, flags=re.DOTALL):
        fields = []
        for declaration in filter(None, (line.strip() for line in body.split(";"))):
            kind, names = re.fullmatch(r"(?:const )?(\w+) (.*)", declaration, flags=re.DOTALL).groups()
            for field in names.split(","):
                pointer = "*" in field
                kind_of = ctypes.c_void_p if pointer else SIMPLE.get(kind) or STRUCTS[kind]
                fields.append((field.strip(" *\n"), kind_of))
        STRUCTS[name] = type(name, (ctypes.Structure,), {"_fields_": fields})


read_structs("kernels.h")
read_structs("operators.h")


def struct(name, **fields):
    """A struct with some fields set, arrays by their address, and the rest 0; it keeps the arrays."""
    made = STRUCTS[name]()
    made.kept = fields
    for field, value in fields.items():
        if isinstance(value, ctypes.c_void_p):
            value = value.value
        elif isinstance(value, np.ndarray):
            value = value.ctypes.data
        elif isinstance(value, ctypes.Structure) and dict(made._fields_)[field] is ctypes.c_void_p:
            value = ctypes.addressof(value)
        setattr(made, field, value)
    return made


def pointer(array):
    return None if array is None else array.ctypes.data_as(ctypes.c_void_p)


def walk(geometry, size, images=1):
    """A geometry on maps of a size, as the kernels take it."""
    g, border = geometry, 2 * geometry.padding if geometry.row_taps else 0
    return struct(
        "saibench_geometry",
        images=images,
        height=size[0] + border,
        width=size[1] + border,
        out_width=g.out_size(size)[1],
        channels=g.channels,
        kernel_h=g.kernel,
        kernel_w=g.kernel,
        stride=g.stride,
        padding=g.padding,
        dilation=g.dilation,
        row_taps=g.row_taps,
    )


class Convolution:
    """A convolution at listed positions: ``scale * relu(conv + bias + residual)``."""

    is_narrow = False

    def __init__(self, weight, bias, geometry, is_half=False):
        self.geometry, self.weight, self.is_half = geometry, weight, is_half
        self.packed = pack("layer", weight, bias, geometry, 0, is_narrow=self.is_narrow, is_half=is_half)

    def __call__(self, x, size, out, *, images=1, positions=None, follow=None, threads=1, **parts):
        """Write rows of ``out``; ``parts`` are fields of `conv_call` such as ``residual``, ``scatter``, ``offsets``."""
        on = walk(self.geometry, size, images)
        n = images * np.prod(self.geometry.out_size(size)) if positions is None else len(positions)
        call = struct(
            "conv_call",
            g=on,
            input=x,
            packed=self.packed.packed,
            **({} if self.packed.bias is None else {"bias": self.packed.bias}),
            outputs=len(self.weight),
            **({} if positions is None else {"positions": positions}),
            n=int(n),
            out=out,
            out_stride=out.strides[0] // 4 if out.size else len(self.weight),
            narrow=self.is_narrow,
            half=self.is_half,
            **({} if follow is None else {"follow": follow}),
            **parts,
        )
        return C.saibench_run_conv(ctypes.byref(call), threads) if n else 0


class NarrowConvolution(Convolution):
    """A convolution with few outputs."""

    is_narrow = True


class MaskConvolution:
    """Masks of one pass: the products of a map with every tap, then sums, then decisions."""

    def __init__(self, weights, biases, geometries):
        rows = [w.transpose(0, 2, 3, 1).reshape(g.kernel**2, -1) for w, g in zip(weights, geometries, strict=True)]
        stacked = np.ascontiguousarray(np.concatenate(rows))[:, :, None, None]
        self.products = NarrowConvolution(stacked, None, Geometry(geometries[0].channels))
        self.columns, self.geometries, self.biases = len(stacked), geometries, biases
        self.firsts = np.cumsum([0, *(len(r) for r in rows)]).tolist()

    def follow(self, out):
        packed = self.products.packed.packed
        return struct("saibench_follow", packed=packed, outputs=self.columns, out=out)

    def logits(self, which, products, size, *, images=1, threads=1):
        return self._mask(which, products, size, images, 0, None, 0, threads)

    def decide(self, which, products, size, threshold=None, *, key=None, grid=None, images=1, threads=1):
        if key is None:
            return self._mask(which, products, size, images, 1, threshold, grid or 0, threads)
        out = self.logits(which, products, size, threads=threads)
        words = np.frombuffer(key, np.uint64)
        C.saibench_decide(pointer(words), *out.shape, pointer(out), grid or 0, pointer(out), threads)
        return out

    def rectified(self, which, products, size, *, grid=None, threads=1):
        return self._mask(which, products, size, 1, 2, None, grid or 0, threads)

    def _mask(self, which, products, size, images, decide, threshold, grid, threads):
        geometry = self.geometries[which]
        height, width = geometry.out_size(size)
        out = np.empty((height, width) if images == 1 else (images, height, width), np.float32)
        on, bias = walk(geometry, size, images), ctypes.c_float(self.biases[which])
        C.saibench_mask(
            ctypes.byref(on),
            pointer(products),
            self.columns,
            self.firsts[which],
            bias,
            decide,
            pointer(threshold),
            grid,
            pointer(out),
            threads,
        )
        return out


class Samples:
    """The sampled positions of masks ``(H, W)`` or ``(N, H, W)``, listed; ``kind`` is what counting them returned."""

    def __init__(self, mask, *, threads=1):
        self.mask, self.images = mask, len(mask) if mask.ndim == 3 else 1
        self.size = mask.shape[-2:]
        rows = self.images * self.size[0]
        self.starts = np.empty(rows + 1, np.int32)
        self.kind = C.saibench_count_samples(pointer(mask), rows, self.size[1], pointer(self.starts), threads)
        self.positions = np.empty(self.starts[-1], np.int32)
        listed = pointer(mask), rows, self.size[1], pointer(self.starts), pointer(self.positions), threads
        C.saibench_list_samples(*listed)

    def __len__(self):
        return len(self.positions)


def positions_read(reader, geometry, size, *, missing_of=None, threads=1):
    wanted = np.empty((reader.images, *size), np.uint8)
    mask = None if missing_of is None else missing_of.mask
    on = walk(geometry, size, reader.images)
    lists = pointer(reader.positions), pointer(reader.starts)
    C.saibench_positions_read(ctypes.byref(on), *lists, pointer(mask), pointer(wanted), threads)
    return wanted.reshape(*reader.mask.shape[:-2], *size).view(bool)


class SampleIndex:
    """Where the rows of masks' samples are, with the border that a window needs."""

    def __init__(self, samples, window, *, compact, ring=None, threads=1):
        self.samples, self.window, radius = samples, window, window // 2
        height, width = samples.size
        padded = (samples.images, height + 2 * radius, width + 2 * radius)
        self.index = np.empty(padded, np.int32)
        number = max(len(samples) if ring is None else ring, 1) if compact else 0
        lists = pointer(samples.positions), pointer(samples.starts)
        sizes = samples.images, height, width, radius, number
        C.saibench_index_samples(*lists, *sizes, pointer(self.index), threads)
        self.gate = None
        if samples.kind == 0:
            self.gate = np.zeros(padded, np.float32)
            inner = slice(radius, radius + height), slice(radius, radius + width)
            self.gate[:, *inner] = samples.mask


def blend(samples, rows, out, *, wanted=None, map_rows=None, follow=None, numerator=None, denominator=None, **parts):
    """Fill positions from the sampled rows around them; returns the pairs summed, by image.

    ``parts`` are ``nearest``, ``bias``, ``residual``, ``relu``, ``squared``, ``out_row`` and ``threads``.
    """
    mask, threads = samples.samples, parts.pop("threads", 1)
    pairs = np.zeros(mask.images, np.int64)
    arrays = {"gate": samples.gate, "num": numerator, "den": denominator, **parts}
    args = struct(
        "saibench_blend_args",
        height=mask.size[0],
        width=mask.size[1],
        window=samples.window,
        channels=rows.shape[1],
        row_stride=rows.strides[0] // 4,
        index=samples.index,
        rows=rows,
        out=out,
        pairs=pairs,
        **{name: value for name, value in arrays.items() if value is not None},
    )
    begin, end = map_rows or (0, mask.images * mask.size[0])
    after = None if follow is None else ctypes.byref(follow)
    C.saibench_blend(ctypes.byref(args), pointer(wanted), begin, end, after, threads)
    return pairs if mask.images > 1 else int(pairs[0])


def max_pool(x, size, out, *, kernel, stride, padding, first_row=0, rows=None, threads=1):
    out_height, out_width = Geometry(1, kernel, stride, padding).out_size(size)
    begin, end = rows or (0, out_height)
    walks = first_row, *size, x.shape[1], kernel, stride, padding, begin, end, out_width
    C.saibench_max_pool(pointer(x), *walks, pointer(out), threads)


def channels_last(image, *, border=0, threads=1):
    """Rows ``((H + 2 border) * (W + 2 border), C)`` of an image, and whether all values are finite."""
    channels, height, width = image.shape
    out = np.empty(((height + 2 * border) * (width + 2 * border), channels), np.float32)
    finite = C.saibench_channels_last(pointer(image), channels, height, width, border, pointer(out), threads)
    return out, bool(finite)


def row_distance(channels):
    return C.saibench_row_distance(channels)
