# cython: language_level=3, boundscheck=False, wraparound=False
"""The C kernels for Python. Nothing is validated here: call ``benchmark.engines.cpu.kernels``, which does."""

import numpy

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

# Raised when what Python calls here changes, so that a checkout notices that its kernels are those of another commit.
INTERFACE = 3

cdef extern from "kernels.h" nogil:
    ctypedef struct saibench_geometry:
        int height, width, out_width, channels, kernel_h, kernel_w, stride, padding, dilation, row_taps

    ctypedef struct saibench_follow:
        const float *packed
        int outputs
        float *out

    ctypedef struct saibench_blend_args:
        int width, window, channels, row_stride
        const int32_t *index
        const float *gate
        const float *num
        const float *den
        const int32_t *nearest
        float eps
        const float *rows
        const float *bias
        const float *residual
        float *out
        int relu, squared

    int SAIBENCH_OUTSIDE

    int saibench_best_isa()
    int saibench_use_isa(int isa)
    const char *saibench_isa_name()
    size_t saibench_bias_size(int outputs)
    size_t saibench_packed_size(int outputs, int depth)
    void saibench_pack(const float *weights, int outputs, int depth, float *packed)
    size_t saibench_narrow_size(int outputs, int depth)
    void saibench_narrow_pack(const float *weights, int outputs, int depth, float *packed)
    int saibench_conv(const saibench_geometry *g, const float *input, const float *packed, const float *bias,
                      int outputs, const int32_t *positions, int n, float *out, int out_stride, int scatter,
                      const float *residual, const float *scale, int relu, const saibench_follow *follow, int threads)
    int saibench_narrow(const saibench_geometry *g, const float *input, const float *packed, const float *bias,
                        int outputs, const int32_t *positions, int n, float *out, int scatter, int threads)
    int saibench_deform(const saibench_geometry *g, const float *input, const float *packed, const float *bias,
                        int outputs, const int32_t *positions, int n, const float *offsets, float *out, int scatter,
                        const float *scale, int relu, int threads)
    void saibench_mask(const saibench_geometry *g, const float *products, int columns, int first, float bias,
                       int out_height, int decide, const float *threshold, int grid, float *out, int threads)
    void saibench_decide(const uint64_t *key, int height, int width, const float *logits, int grid, float *out,
                         int threads)
    int saibench_count_samples(const float *mask, int height, int width, int32_t *starts, int threads)
    void saibench_list_samples(const float *mask, int height, int width, const int32_t *starts, int32_t *positions,
                               int threads)
    void saibench_index_samples(const int32_t *positions, const int32_t *starts, int height, int width, int radius,
                                int ring, int32_t *index, int threads)
    void saibench_positions_read(const saibench_geometry *g, const int32_t *positions, const int32_t *starts,
                               int out_height, const float *mask, uint8_t *wanted, int threads)
    int64_t saibench_blend(const saibench_blend_args *a, const uint8_t *wanted, int row0, int row1,
                           const saibench_follow *follow, int threads)
    void saibench_max_pool(const float *input, int input_row0, int height, int width, int channels, int kernel,
                           int stride, int padding, int row0, int row1, int out_width, float *out, int threads)
    int saibench_channels_last(const float *input, int channels, int height, int width, int border, float *out,
                               int threads)


cdef inline const float *_f(const float[::1] a) noexcept nogil:
    return NULL if a is None or a.shape[0] == 0 else &a[0]


cdef inline const int32_t *_i(const int32_t[::1] a) noexcept nogil:
    return NULL if a is None or a.shape[0] == 0 else &a[0]


cdef class Geometry:
    """Where a convolution's output positions read their input (`saibench_geometry`)."""

    cdef saibench_geometry g

    def __init__(self, int height, int width, int out_width, int channels, int kernel_h, int kernel_w, int stride,
                 int padding, int dilation, bint row_taps):
        self.g.height, self.g.width, self.g.out_width, self.g.channels = height, width, out_width, channels
        self.g.kernel_h, self.g.kernel_w, self.g.stride = kernel_h, kernel_w, stride
        self.g.padding, self.g.dilation, self.g.row_taps = padding, dilation, row_taps


cdef class Follow:
    """A narrow 1x1 convolution on rows that another kernel finishes (`saibench_follow`)."""

    cdef saibench_follow f
    cdef const float[::1] packed
    cdef float[::1] out

    def __init__(self, const float[::1] packed, int outputs, float[::1] out):
        self.packed, self.out = packed, out
        self.f.packed = &packed[0]
        self.f.outputs = outputs
        self.f.out = &out[0]


cdef inline saibench_follow *_after(Follow follow) noexcept:
    if follow is None:
        return NULL
    return &follow.f


def best_isa():
    return saibench_best_isa()


def use_isa(int isa):
    return saibench_use_isa(isa) == 0


def isa_name():
    return saibench_isa_name().decode()


def bias_size(int outputs):
    return saibench_bias_size(outputs)


def packed_size(int outputs, int depth):
    return saibench_packed_size(outputs, depth)


def pack(const float[:, ::1] weights, float[::1] packed):
    saibench_pack(&weights[0, 0], weights.shape[0], weights.shape[1], &packed[0])


def narrow_size(int outputs, int depth):
    return saibench_narrow_size(outputs, depth)


def narrow_pack(const float[:, ::1] weights, float[::1] packed):
    saibench_narrow_pack(&weights[0, 0], weights.shape[0], weights.shape[1], &packed[0])


cdef int _raise(int failed, const int32_t[::1] positions) except -1:
    if failed & SAIBENCH_OUTSIDE:
        raise ValueError(f"positions holds {min(positions)} .. {max(positions)}, outside of the output map")
    if failed:
        raise MemoryError("convolution scratch memory")
    return 0


def conv(Geometry geometry, const float[::1] x, const float[::1] packed, const float[::1] bias, int outputs,
         const int32_t[::1] positions, int n, float[:, :] out, bint scatter, const float[::1] residual,
         const float[::1] scale, bint relu, Follow follow, int threads):
    cdef int failed
    cdef int out_stride = out.strides[0] // sizeof(float)
    cdef saibench_follow *after = _after(follow)
    if n == 0:
        return
    with nogil:
        failed = saibench_conv(&geometry.g, &x[0], &packed[0], _f(bias), outputs, _i(positions), n, &out[0, 0],
                               out_stride, scatter, _f(residual), _f(scale), relu, after, threads)
    _raise(failed, positions)


def narrow(Geometry geometry, const float[::1] x, const float[::1] packed, const float[::1] bias, int outputs,
           const int32_t[::1] positions, int n, float[::1] out, bint scatter, int threads):
    cdef int failed
    if n == 0:
        return
    with nogil:
        failed = saibench_narrow(&geometry.g, &x[0], &packed[0], _f(bias), outputs, _i(positions), n, &out[0],
                                 scatter, threads)
    _raise(failed, positions)


def deform(Geometry geometry, const float[::1] x, const float[::1] packed, const float[::1] bias, int outputs,
           const int32_t[::1] positions, int n, const float[::1] offsets, float[::1] out, bint scatter,
           const float[::1] scale, bint relu, int threads):
    cdef int failed
    if n == 0:
        return
    with nogil:
        failed = saibench_deform(&geometry.g, &x[0], &packed[0], _f(bias), outputs, _i(positions), n, &offsets[0],
                                 &out[0], scatter, _f(scale), relu, threads)
    _raise(failed, positions)


def mask(Geometry geometry, const float[::1] products, int columns, int first, float bias, int out_height, bint decide,
         const float[::1] threshold, int grid, float[::1] out, int threads):
    with nogil:
        saibench_mask(&geometry.g, &products[0], columns, first, bias, out_height, decide, _f(threshold), grid, &out[0],
                      threads)


def count_samples(const float[:, ::1] mask, int32_t[::1] starts, int threads):
    cdef int kind
    with nogil:
        kind = saibench_count_samples(&mask[0, 0], mask.shape[0], mask.shape[1], &starts[0], threads)
    return kind


def list_samples(const float[:, ::1] mask, const int32_t[::1] starts, int32_t[::1] positions, int threads):
    if positions.shape[0] == 0:
        return
    with nogil:
        saibench_list_samples(&mask[0, 0], mask.shape[0], mask.shape[1], &starts[0], &positions[0], threads)


def index_samples(const int32_t[::1] positions, const int32_t[::1] starts, int width, int radius, int ring,
                  int32_t[:, ::1] index, int threads):
    with nogil:
        saibench_index_samples(_i(positions), &starts[0], starts.shape[0] - 1, width, radius, ring, &index[0, 0],
                               threads)


def positions_read(Geometry geometry, const int32_t[::1] positions, const int32_t[::1] starts,
                   const float[:, ::1] mask, uint8_t[:, ::1] wanted, int threads):
    cdef const float *missing = NULL if mask is None else &mask[0, 0]
    with nogil:
        saibench_positions_read(&geometry.g, _i(positions), &starts[0], starts.shape[0] - 1, missing, &wanted[0, 0],
                              threads)


def blend(int width, int window, int channels, const int32_t[::1] index, const float[::1] gate,
          const float[::1] num, const float[::1] den, const int32_t[::1] nearest, float eps, const float[:, :] rows,
          const float[::1] bias, const float[::1] residual, float[::1] out, bint relu, bint squared,
          const uint8_t[::1] wanted, int row0, int row1, Follow follow, int threads):
    cdef saibench_blend_args a
    cdef saibench_follow *after = _after(follow)
    cdef int64_t pairs
    if row0 == row1:
        return 0
    a.width, a.window, a.channels = width, window, channels
    a.index = _i(index)
    a.gate = _f(gate)
    a.num = _f(num)
    a.den = _f(den)
    a.nearest = _i(nearest)
    a.eps = eps
    a.rows = NULL if rows.shape[0] == 0 else &rows[0, 0]
    a.row_stride = rows.strides[0] // sizeof(float)
    a.bias = _f(bias)
    a.residual = _f(residual)
    a.out = &out[0]
    a.relu = relu
    a.squared = squared
    with nogil:
        pairs = saibench_blend(&a, NULL if wanted is None else &wanted[0], row0, row1, after, threads)
    return pairs


def max_pool(const float[::1] x, int row_offset, int height, int width, int channels, int kernel, int stride,
             int padding, int row0, int row1, int out_width, float[::1] out, int threads):
    with nogil:
        saibench_max_pool(&x[0], row_offset, height, width, channels, kernel, stride, padding, row0, row1, out_width,
                          &out[0], threads)


def channels_last(const float[:, :, ::1] image, int border, float[::1] out, int threads):
    cdef int finite
    with nogil:
        finite = saibench_channels_last(&image[0, 0, 0], image.shape[0], image.shape[1], image.shape[2], border,
                                        &out[0], threads)
    return bool(finite)


def decide(const uint64_t[::1] key, float[:, ::1] logits, int grid, int threads):
    """Decide a stochastic mask in place of its logits."""
    with nogil:
        saibench_decide(&key[0], logits.shape[0], logits.shape[1], &logits[0, 0], grid, &logits[0, 0], threads)


cdef extern from "plan.h" nogil:
    ctypedef struct saibench_arena:
        size_t size

    void saibench_free_arena(saibench_arena *arena)

    ctypedef struct saibench_extent:
        int height, width

    ctypedef struct plan_conv:
        saibench_geometry walk
        int outputs, row
        const float *packed
        const float *bias

    ctypedef struct plan_region:
        int kind, mask, of, stride_y, stride_x
        saibench_geometry walk

    ctypedef struct plan_fill:
        int kind, row, window, needed, squared
        const float *num
        const float *den

    ctypedef struct plan_mask:
        int kind, index, number, late, which "pass", first, grid, stochastic, row
        float bias
        saibench_geometry walk

    ctypedef struct plan_pass:
        plan_conv products
        int late

    int PLAN_REGIONS, PLAN_MASKS

    ctypedef struct plan_block:
        int convolutions, has_shortcut, has_offset, bilinear_row, commutes, masks, passes, regions
        plan_conv conv[3]
        plan_conv shortcut
        plan_conv offset
        int computes[3]
        plan_fill fill[3]
        const int32_t *places
        plan_mask mask[3]
        plan_pass passing "pass"[3]
        plan_region region[16]

    ctypedef struct plan_stem:
        int convolutions, pool_kernel, pool_stride, pool_padding, pool_row, width
        plan_conv *conv
        const int32_t *places

    ctypedef struct saibench_network:
        plan_stem stem
        int blocks, observed
        plan_block *block

    int ASK_NEAREST, ASK_DECIDED

    ctypedef struct saibench_request:
        int what, block, number, channels, out_channels
        saibench_extent size, out_size
        const float *given "in"
        void *out

    ctypedef struct saibench_run_args:
        const float *image
        int height, width, threads
        float *stem_map
        float *scattered
        float *features
        float *products
        float **maps
        float **masks
        const float **given
        const uint64_t *keys
        int64_t *macs
        int64_t *beyond
        double *seconds
        saibench_arena *memory
        int (*ask)(void *caller, const saibench_request *request) noexcept nogil
        void *caller
        int wrong_mask

    void saibench_link_block(saibench_network *network, int which)
    int saibench_run_network(const saibench_network *network, saibench_run_args *args)


cdef void _walk(saibench_geometry *g, tuple walk):
    """Set a geometry from (channels, kernel, stride, padding, dilation, row_taps); a run sets the sizes."""
    memset(g, 0, sizeof(saibench_geometry))
    g.channels, g.kernel_h, g.stride, g.padding, g.dilation, g.row_taps = walk
    g.kernel_w = g.kernel_h


cdef class Network:
    """A network compiled into one thing to run (`saibench_network`); keeps the arrays that it points to."""

    cdef saibench_network network
    cdef list kept

    def __cinit__(self, int convolutions, int blocks, bint observed):
        self.kept = []
        self.network.stem.conv = <plan_conv *>calloc(convolutions, sizeof(plan_conv))
        self.network.block = <plan_block *>calloc(blocks, sizeof(plan_block))
        if not self.network.stem.conv or not self.network.block:
            raise MemoryError
        self.network.stem.convolutions, self.network.blocks, self.network.observed = convolutions, blocks, observed

    def __dealloc__(self):
        free(self.network.stem.conv)
        free(self.network.block)

    cdef const float *_floats(self, array) except? NULL:
        cdef const float[::1] view
        if array is None:
            return NULL
        view = array
        self.kept.append(array)
        return &view[0]

    cdef const int32_t *_ints(self, array) except? NULL:
        cdef const int32_t[::1] view
        if array is None:
            return NULL
        view = array
        self.kept.append(array)
        return &view[0]

    cdef int _conv(self, plan_conv *c, tuple spec) except -1:
        walk, c.outputs, packed, bias, c.row = spec
        _walk(&c.walk, walk)
        c.packed = self._floats(packed)
        c.bias = self._floats(bias)
        return 0

    def stem(self, list convolutions, tuple pool, int pool_row, places, int width):
        for i, spec in enumerate(convolutions):
            self._conv(self.network.stem.conv + <int>i, spec)
        self.network.stem.pool_kernel, self.network.stem.pool_stride, self.network.stem.pool_padding = pool
        self.network.stem.pool_row, self.network.stem.width = pool_row, width
        self.network.stem.places = self._ints(places)

    def block(self, int which, dict spec):
        """Set a block from its parts, which `engines/cpu/compiling.py` makes."""
        cdef plan_block *b = self.network.block + which
        cdef int i
        b.convolutions = len(spec["convolutions"])
        for i in range(b.convolutions):
            self._conv(&b.conv[i], spec["convolutions"][i])
            b.computes[i] = spec["computes"][i]
            b.fill[i].kind, b.fill[i].row, b.fill[i].window, b.fill[i].needed, b.fill[i].squared, num, den = (
                spec["fills"][i]
            )
            b.fill[i].num, b.fill[i].den = self._floats(num), self._floats(den)
        if spec["shortcut"] is not None:
            b.has_shortcut = 1
            self._conv(&b.shortcut, spec["shortcut"])
        if spec["offset"] is not None:
            b.has_offset, b.bilinear_row = 1, spec["bilinear_row"]
            self._conv(&b.offset, spec["offset"])
        b.commutes = spec["commutes"]
        b.places = self._ints(spec["places"])
        b.masks, b.passes, b.regions = len(spec["masks"]), len(spec["passes"]), len(spec["regions"])
        if b.masks > PLAN_MASKS or b.passes > PLAN_MASKS or b.regions > PLAN_REGIONS:
            raise ValueError(f"{b.masks} masks, {b.passes} passes, {b.regions} regions: more than a plan has")
        for i in range(b.passes):
            self._conv(&b.passing[i].products, spec["passes"][i][0])
            b.passing[i].late = spec["passes"][i][1]
        for i in range(b.masks):
            (b.mask[i].kind, b.mask[i].index, b.mask[i].number, b.mask[i].late, b.mask[i].which, b.mask[i].first,
             b.mask[i].grid, b.mask[i].stochastic, b.mask[i].row, b.mask[i].bias, walk) = spec["masks"][i]
            _walk(&b.mask[i].walk, walk)
        for i in range(b.regions):
            (b.region[i].kind, b.region[i].mask, b.region[i].of, b.region[i].stride_y, b.region[i].stride_x,
             walk) = spec["regions"][i]
            _walk(&b.region[i].walk, walk)
        saibench_link_block(&self.network, which)


cdef class Layout:
    """Where an image of one size has its maps and masks (of the latter: where in one array)."""

    cdef float **maps
    cdef float **masks
    cdef const float **given
    cdef int64_t[::1] offsets
    cdef list kept
    cdef float *stem_map
    cdef float *scattered
    cdef float *features
    cdef float *products

    def __cinit__(self, list maps, int64_t[::1] offsets, float[::1] stem_map, float[::1] scattered,
                  float[::1] features, float[::1] products):
        cdef float[::1] view
        self.kept = [*maps, stem_map, scattered, features, products]
        self.offsets = offsets
        self.maps = <float **>calloc(len(maps) + 1, sizeof(float *))
        self.masks = <float **>calloc(len(offsets) + 1, sizeof(float *))
        self.given = <const float **>calloc(len(offsets) + 1, sizeof(float *))
        if not self.maps or not self.masks or not self.given:
            raise MemoryError
        for i, array in enumerate(maps):
            view = array
            self.maps[<int>i] = &view[0]
        self.stem_map, self.features, self.products = &stem_map[0], &features[0], &products[0]
        self.scattered = NULL if scattered is None else &scattered[0]

    def __dealloc__(self):
        free(self.maps)
        free(self.masks)
        free(self.given)


cdef class Arena:
    """Scratch memory of a plan."""

    cdef saibench_arena arena

    def __dealloc__(self):
        saibench_free_arena(&self.arena)

    @property
    def bytes(self):
        return self.arena.size


cdef int _ask(void *caller, const saibench_request *q) noexcept with gil:
    """Ask the caller's function; an exception is kept in its list, and ends the run."""
    asked = <list>caller
    try:
        given = numpy.asarray(<float[:q.size.height, :q.size.width, :q.channels]>(<float *>q.given))
        if q.what == ASK_NEAREST:
            out = numpy.asarray(<int32_t[:q.out_size.height, :q.out_size.width, :1]>(<int32_t *>q.out))
        elif q.what == ASK_DECIDED:
            out = None
        else:
            out = numpy.asarray(<float[:q.out_size.height, :q.out_size.width, :q.out_channels]>(<float *>q.out))
        asked[0](q.what, q.block, q.number, given, out)
    except BaseException as error:
        asked[1] = error
        return 1
    return 0


def run(Network network, Layout layout, const float[:, :, ::1] image, int threads, float[::1] masks, list given,
        const uint64_t[::1] keys, int64_t[:, ::1] macs, double[::1] seconds, Arena arena, ask):
    """Run a plan on an image; return its error and the mask that it is about."""
    cdef saibench_run_args a
    cdef const float[:, ::1] mask
    cdef int i, error
    asked = [ask, None]
    memset(&a, 0, sizeof(a))
    for i in range(layout.offsets.shape[0]):
        layout.masks[i] = &masks[layout.offsets[i]]
        layout.given[i] = NULL
        if given is not None and given[i] is not None:
            mask = given[i]
            layout.given[i] = &mask[0, 0]
    a.image = &image[0, 0, 0]
    a.height, a.width, a.threads = image.shape[1], image.shape[2], threads
    a.stem_map, a.scattered, a.features, a.products = layout.stem_map, layout.scattered, layout.features, layout.products
    a.maps, a.masks = layout.maps, layout.masks
    a.given = NULL if given is None else layout.given
    a.keys = NULL if keys.shape[0] == 0 else &keys[0]
    a.macs, a.beyond, a.seconds = &macs[0, 0], &macs[1, 0], &seconds[0]
    a.memory = &arena.arena
    a.ask, a.caller = _ask, <void *>asked
    with nogil:
        error = saibench_run_network(&network.network, &a)
    if asked[1] is not None:
        raise asked[1]
    return error, a.wrong_mask
