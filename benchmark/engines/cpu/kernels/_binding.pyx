# cython: language_level=3, boundscheck=False, wraparound=False
"""The kernels for Python: a described network copied into C's structs field by field, and run.

Nothing is validated here: what comes in was checked where it was made (``descriptions.py``, ``memory.py``).
"""

import numpy

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

# Raised when what Python calls here changes, so that a checkout notices that its kernels are those of another commit.
INTERFACE = 6

cdef extern from "blend_group.h" nogil:
    int MAX_WINDOW

cdef extern from "kernels.h" nogil:
    ctypedef struct saibench_geometry:
        int channels, kernel_h, kernel_w, stride, padding, dilation, row_taps

    int SAIBENCH_NARROW_LIMIT, MAX_POOL

    int saibench_best_isa()
    int saibench_use_isa(int isa)
    const char *saibench_isa_name()
    size_t saibench_bias_size(int outputs)
    size_t saibench_packed_size(int outputs, int depth)
    void saibench_pack(const float *weights, int outputs, int depth, float *packed)
    void saibench_pack_half(const float *weights, int outputs, int depth, float *packed)
    size_t saibench_narrow_size(int outputs, int depth)
    void saibench_narrow_pack(const float *weights, int outputs, int depth, float *packed)

cdef extern from "plan.h" nogil:
    ctypedef struct saibench_arena:
        size_t size

    void saibench_free_arena(saibench_arena *arena)

    ctypedef struct saibench_extent:
        int images, height, width

    ctypedef struct plan_conv:
        saibench_geometry walk
        int outputs, row, half
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
        int blocks, rows, observed
        plan_block *block

    int ASK_NEAREST, ASK_DECIDED

    ctypedef struct saibench_request:
        int what, block, number, image, channels, out_channels
        saibench_extent size, out_size
        const float *given "in"
        void *out

    ctypedef struct plan_phase:
        int first, last, group

    ctypedef struct plan_workspace:
        float *stem_map
        float *scattered
        float *features
        float *products
        saibench_arena *memory

    ctypedef struct saibench_run_args:
        int images, height, width, threads, phases, workspaces, mask_count
        const float **image
        const plan_phase *phase
        const plan_workspace *workspace
        float **maps
        const int64_t *map_sizes
        const int64_t *mask_sizes
        float **masks
        const float **given
        const uint64_t *keys
        int64_t *macs
        int64_t *beyond
        double *seconds
        int (*ask)(void *caller, const saibench_request *request) noexcept nogil
        void *caller
        int wrong_image, wrong_mask

    void saibench_link_block(saibench_network *network, int which)
    int saibench_run_network(const saibench_network *network, saibench_run_args *args)


def best_isa():
    return saibench_best_isa()


def use_isa(int isa):
    return saibench_use_isa(isa) == 0


def isa_name():
    return saibench_isa_name().decode()


def window_limit():
    """The widest window of a fill."""
    return MAX_WINDOW


def narrow_limit():
    """Outputs of a narrow convolution at most."""
    return SAIBENCH_NARROW_LIMIT


def pool_limit():
    """The largest kernel of a max pooling."""
    return MAX_POOL


def plan_limits():
    """Masks and regions of a block at most."""
    return PLAN_MASKS, PLAN_REGIONS


def bias_size(int outputs):
    return saibench_bias_size(outputs)


def packed_size(int outputs, int depth):
    return saibench_packed_size(outputs, depth)


def pack(const float[:, ::1] weights, float[::1] packed):
    saibench_pack(&weights[0, 0], weights.shape[0], weights.shape[1], &packed[0])


def pack_half(const float[:, ::1] weights, float[::1] packed):
    saibench_pack_half(&weights[0, 0], weights.shape[0], weights.shape[1], &packed[0])


def narrow_size(int outputs, int depth):
    return saibench_narrow_size(outputs, depth)


def narrow_pack(const float[:, ::1] weights, float[::1] packed):
    saibench_narrow_pack(&weights[0, 0], weights.shape[0], weights.shape[1], &packed[0])


cdef float *_f(array) except? NULL:
    cdef float[::1] view
    if array is None:
        return NULL
    view = array
    return &view[0]


cdef const int32_t *_i(array) except? NULL:
    cdef const int32_t[::1] view
    if array is None:
        return NULL
    view = array
    return &view[0]


cdef int _walk(saibench_geometry *g, geometry) except -1:
    """Set how a convolution walks; a run sets the sizes."""
    g.channels, g.stride, g.padding, g.dilation = (
        geometry.channels, geometry.stride, geometry.padding, geometry.dilation
    )
    g.kernel_h = g.kernel_w = geometry.kernel
    g.row_taps = geometry.row_taps
    return 0


cdef int _conv(plan_conv *c, convolution) except -1:
    _walk(&c.walk, convolution.geometry)
    c.outputs, c.row, c.half = convolution.outputs, convolution.row, convolution.is_half
    c.packed, c.bias = _f(convolution.packed), _f(convolution.bias)
    return 0


cdef int _fill(plan_fill *f, fill, list kinds) except -1:
    f.kind, f.row, f.window, f.needed = kinds.index(fill.kind), fill.row, fill.window, fill.needed
    f.squared = fill.is_squared
    f.num, f.den = _f(fill.numerator), _f(fill.denominator)
    return 0


cdef int _mask(plan_mask *m, mask, list kinds) except -1:
    m.kind, m.index, m.number, m.row = kinds.index(mask.kind), mask.index, mask.number, mask.row
    m.late, m.which, m.first, m.grid = mask.is_late, mask.pass_number, mask.first, mask.grid
    m.stochastic, m.bias = mask.is_noisy, mask.bias
    return _walk(&m.walk, mask.geometry)


cdef int _region(plan_region *r, region, list kinds) except -1:
    r.kind, r.mask, r.of = kinds.index(region.kind), region.mask, region.inside
    r.stride_y, r.stride_x = region.stride
    return _walk(&r.walk, region.geometry)


cdef class Network:
    """A described network as C has it; keeps the description, whose arrays it points to.

    Kinds of regions, fills and masks are given in the order of plan.h.
    """

    cdef saibench_network network
    cdef object description

    def __cinit__(self, description, regions, fills, masks):
        cdef plan_stem *stem = &self.network.stem
        self.description = description
        stem.conv = <plan_conv *>calloc(len(description.stem.convolutions), sizeof(plan_conv))
        self.network.block = <plan_block *>calloc(len(description.blocks), sizeof(plan_block))
        if not stem.conv or not self.network.block:
            raise MemoryError
        self.network.blocks, self.network.rows = len(description.blocks), description.rows
        self.network.observed = description.is_observed
        stem.convolutions = len(description.stem.convolutions)
        for i, convolution in enumerate(description.stem.convolutions):
            _conv(stem.conv + <int>i, convolution)
        pool = description.stem.pool
        stem.pool_kernel, stem.pool_stride, stem.pool_padding = pool.kernel, pool.stride, pool.padding
        stem.pool_row, stem.width = description.stem.pool_row, description.stem.width
        stem.places = _i(description.stem.places)
        for which, block in enumerate(description.blocks):
            self._block(self.network.block + <int>which, block, list(regions), list(fills), list(masks))
            saibench_link_block(&self.network, which)

    def __dealloc__(self):
        free(self.network.stem.conv)
        free(self.network.block)

    cdef int _block(self, plan_block *b, block, list regions, list fills, list masks) except -1:
        cdef int i
        b.convolutions, b.commutes, b.places = len(block.convolutions), block.commutes, _i(block.places)
        for i in range(b.convolutions):
            _conv(&b.conv[i], block.convolutions[i])
            b.computes[i] = block.computes[i]
            _fill(&b.fill[i], block.fills[i], fills)
        if block.shortcut is not None:
            b.has_shortcut = 1
            _conv(&b.shortcut, block.shortcut)
        if block.offset is not None:
            b.has_offset, b.bilinear_row = 1, block.bilinear_row
            _conv(&b.offset, block.offset)
        b.masks, b.passes, b.regions = len(block.masks), len(block.passes), len(block.regions)
        for i in range(b.passes):
            _conv(&b.passing[i].products, block.passes[i].products)
            b.passing[i].late = block.passes[i].is_late
        for i in range(b.masks):
            _mask(&b.mask[i], block.masks[i], masks)
        for i in range(b.regions):
            _region(&b.region[i], block.regions[i], regions)
        return 0


cdef class Arena:
    """Scratch memory of a group of images."""

    cdef saibench_arena arena

    def __dealloc__(self):
        saibench_free_arena(&self.arena)

    @property
    def bytes(self):
        return self.arena.size


cdef class Layout:
    """Where images of one size have their maps and masks, and how they are grouped (`memory.Buffers`)."""

    cdef object buffers
    cdef int images, height, width, mask_count
    cdef float **maps
    cdef float **masks
    cdef const float **image
    cdef const float **given
    cdef int64_t *map_sizes
    cdef int64_t *mask_sizes
    cdef int64_t *mask_begins
    cdef plan_phase *phase
    cdef plan_workspace *workspace
    cdef int phases, workspaces

    def __cinit__(self, buffers):
        cdef Arena arena
        self.buffers = buffers
        self.images, (self.height, self.width) = buffers.images, buffers.size
        self.mask_count = len(buffers.mask_sizes)
        self.phases, self.workspaces = len(buffers.phases), len(buffers.workspaces)
        self.maps = <float **>calloc(len(buffers.maps) + 1, sizeof(float *))
        self.map_sizes = <int64_t *>calloc(len(buffers.maps) + 1, sizeof(int64_t))
        self.masks = <float **>calloc(self.mask_count + 1, sizeof(float *))
        self.mask_sizes = <int64_t *>calloc(self.mask_count + 1, sizeof(int64_t))
        self.mask_begins = <int64_t *>calloc(self.mask_count + 1, sizeof(int64_t))
        self.image = <const float **>calloc(self.images, sizeof(float *))
        self.given = <const float **>calloc(self.images * self.mask_count + 1, sizeof(float *))
        self.phase = <plan_phase *>calloc(self.phases, sizeof(plan_phase))
        self.workspace = <plan_workspace *>calloc(self.workspaces, sizeof(plan_workspace))
        if not (self.maps and self.map_sizes and self.masks and self.mask_sizes and self.mask_begins and self.image
                and self.given and self.phase and self.workspace):
            raise MemoryError
        for i, (array, size) in enumerate(zip(buffers.maps, buffers.map_sizes)):
            self.maps[<int>i], self.map_sizes[<int>i] = _f(array), size
        for i, size in enumerate(buffers.mask_sizes):
            self.mask_sizes[<int>i] = size
            self.mask_begins[<int>i + 1] = self.mask_begins[<int>i] + self.images * self.mask_sizes[<int>i]
        for i, phase in enumerate(buffers.phases):
            self.phase[<int>i].first, self.phase[<int>i].last = phase.first, phase.last
            self.phase[<int>i].group = phase.group
        for i, space in enumerate(buffers.workspaces):
            arena = space.arena
            self.workspace[<int>i].stem_map = _f(space.stem_map)
            self.workspace[<int>i].scattered = _f(space.scattered)
            self.workspace[<int>i].features = _f(space.features)
            self.workspace[<int>i].products = _f(space.products)
            self.workspace[<int>i].memory = &arena.arena

    def __dealloc__(self):
        free(self.maps)
        free(self.map_sizes)
        free(self.masks)
        free(self.mask_sizes)
        free(self.mask_begins)
        free(self.image)
        free(self.given)
        free(self.phase)
        free(self.workspace)


cdef int _ask(void *caller, const saibench_request *q) noexcept with gil:
    """Ask the caller's function; an exception is kept in its list, and ends the run."""
    asked = <list>caller
    try:
        given = numpy.asarray(
            <float[:q.size.images, :q.size.height, :q.size.width, :q.channels]>(<float *>q.given)
        )
        if q.what == ASK_NEAREST:
            out = numpy.asarray(
                <int32_t[:q.out_size.images, :q.out_size.height, :q.out_size.width, :1]>(<int32_t *>q.out)
            )
        elif q.what == ASK_DECIDED:
            out = None
        else:
            out = numpy.asarray(
                <float[:q.out_size.images, :q.out_size.height, :q.out_size.width, :q.out_channels]>(<float *>q.out)
            )
        asked[0](q.what, q.block, q.number, q.image, given, out)
    except BaseException as error:
        asked[1] = error
        return 1
    return 0


def run(Network network, Layout layout, list images, int threads, float[::1] masks, list given,
        const uint64_t[::1] keys, int64_t[:, :, ::1] macs, double[:, ::1] seconds, ask):
    """Run images of one size; return an error, and the image and the mask that it is about.

    Parameters are checked by `memory.Buffers.check`: as many images as the layout has, each ``(3, H, W)``; room for all
    masks; ``given`` by image and mask, or None; keys of two words by image and mask; ``macs`` (2, images, rows) and
    ``seconds`` (workspaces, rows).
    """
    cdef saibench_run_args a
    cdef const float[:, :, ::1] image
    cdef const float[:, ::1] mask
    cdef int i, error
    asked = [ask, None]
    memset(&a, 0, sizeof(a))
    for i in range(layout.images):
        image = images[i]
        layout.image[i] = &image[0, 0, 0]
    for i in range(layout.mask_count):
        layout.masks[i] = &masks[layout.mask_begins[i]]
    if given is not None:
        for i in range(layout.images * layout.mask_count):
            layout.given[i] = NULL
            if given[i] is not None:
                mask = given[i]
                layout.given[i] = &mask[0, 0]
        a.given = layout.given
    a.images, a.height, a.width, a.threads = layout.images, layout.height, layout.width, threads
    a.phases, a.workspaces, a.mask_count = layout.phases, layout.workspaces, layout.mask_count
    a.image, a.phase, a.workspace = layout.image, layout.phase, layout.workspace
    a.maps, a.map_sizes = layout.maps, layout.map_sizes
    a.masks, a.mask_sizes = layout.masks, layout.mask_sizes
    a.keys = NULL if keys.shape[0] == 0 else &keys[0]
    a.macs, a.beyond, a.seconds = &macs[0, 0, 0], &macs[1, 0, 0], &seconds[0, 0]
    a.ask, a.caller = _ask, <void *>asked
    with nogil:
        error = saibench_run_network(&network.network, &a)
    if asked[1] is not None:
        raise asked[1]
    return error, a.wrong_image, a.wrong_mask
