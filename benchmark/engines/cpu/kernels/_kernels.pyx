# cython: language_level=3, boundscheck=False, wraparound=False
"""The C kernels for Python. Nothing is validated here: call ``benchmark.engines.cpu.kernels``, which does."""

from libc.stdint cimport int32_t, int64_t, uint8_t

# Raised when what Python calls here changes, so that a checkout notices that its kernels are those of another commit.
INTERFACE = 2

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
