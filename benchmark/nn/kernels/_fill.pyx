# cython: language_level=3, boundscheck=False, wraparound=False
"""The fill in C for `benchmark.nn.fused`. Every size is checked here, in the call that reads the memory."""

cdef extern from "fill.h" nogil:
    int SAIBENCH_FILL_WINDOW

    ctypedef struct saibench_fill:
        int images, height, width, channels, window, squared
        float epsilon
        const float *features
        const float *mask
        const float *profile

    int saibench_fill_forward(const saibench_fill *fill, float *out, float *filling, float *scale, int threads)
    int saibench_fill_backward(const saibench_fill *fill, const float *filling, const float *scale,
                               const float *gradient, float *to_features, float *to_mask, double *to_profile,
                               int threads)

LARGEST = 2**31 - 1


cdef saibench_fill _checked(const float[:, :, :, ::1] features, const float[:, :, ::1] mask, const float[::1] profile,
                            bint squared, float epsilon) except *:
    cdef saibench_fill fill
    if max(features.shape[0], features.shape[1], features.shape[2], features.shape[3]) > LARGEST:
        raise ValueError("a map's side is larger than a C int")
    if (mask.shape[0], mask.shape[1], mask.shape[2]) != (features.shape[0], features.shape[1], features.shape[2]):
        raise ValueError("mask and features have other images, height or width")
    if profile.shape[0] % 2 == 0 or profile.shape[0] > SAIBENCH_FILL_WINDOW:
        raise ValueError(f"window {profile.shape[0]}: it is odd, and at most {SAIBENCH_FILL_WINDOW}")
    fill.images, fill.height, fill.width, fill.channels = (
        <int>features.shape[0], <int>features.shape[1], <int>features.shape[2], <int>features.shape[3]
    )
    fill.window, fill.squared, fill.epsilon = <int>profile.shape[0], squared, epsilon
    # Nothing is read of an empty map, and there is no first number to point to.
    fill.features = &features[0, 0, 0, 0] if _numbers(features) else NULL
    fill.mask = &mask[0, 0, 0] if _numbers(features) else NULL
    fill.profile = &profile[0]
    return fill


cdef bint _numbers(const float[:, :, :, ::1] maps) noexcept:
    return maps.shape[0] > 0 and maps.shape[1] > 0 and maps.shape[2] > 0 and maps.shape[3] > 0


cdef int _same(const float[:, :, :, ::1] given, const float[:, :, :, ::1] features, name) except -1:
    for axis in range(4):
        if given.shape[axis] != features.shape[axis]:
            raise ValueError(f"{name} is not of the shape of features along axis {axis}")
    return 0


cdef int _like_mask(const float[:, :, ::1] given, const float[:, :, ::1] mask, name) except -1:
    for axis in range(3):
        if given.shape[axis] != mask.shape[axis]:
            raise ValueError(f"{name} is not of the shape of mask along axis {axis}")
    return 0


def forward(const float[:, :, :, ::1] features, const float[:, :, ::1] mask, const float[::1] profile, bint squared,
            float epsilon, int threads, float[:, :, :, ::1] out, float[:, :, :, ::1] filling, float[:, :, ::1] scale):
    """Write the filled map, the filling and the inverse of the mask's windowed sum, all (images, height, width, …)."""
    cdef saibench_fill fill = _checked(features, mask, profile, squared, epsilon)
    cdef int failed
    _same(out, features, "out")
    _same(filling, features, "filling")
    _like_mask(scale, mask, "scale")
    if not _numbers(features):
        return
    with nogil:
        failed = saibench_fill_forward(&fill, &out[0, 0, 0, 0], &filling[0, 0, 0, 0], &scale[0, 0, 0], threads)
    if failed:
        raise MemoryError("no memory for filling a map")


def backward(const float[:, :, :, ::1] features, const float[:, :, ::1] mask, const float[::1] profile, bint squared,
             float epsilon, int threads, const float[:, :, :, ::1] filling, const float[:, :, ::1] scale,
             const float[:, :, :, ::1] gradient, float[:, :, :, ::1] to_features, float[:, :, ::1] to_mask,
             double[:, ::1] to_profile):
    """Write the gradients; ``to_mask`` (images, height, width) and ``to_profile`` (images, window) may be None."""
    cdef saibench_fill fill = _checked(features, mask, profile, squared, epsilon)
    cdef float *mask_to = NULL
    cdef double *profile_to = NULL
    cdef int failed
    _same(filling, features, "filling")
    _like_mask(scale, mask, "scale")
    _same(gradient, features, "gradient")
    _same(to_features, features, "to_features")
    if to_mask is not None:
        _like_mask(to_mask, mask, "to_mask")
    if to_profile is not None and (to_profile.shape[0], to_profile.shape[1]) != (mask.shape[0], profile.shape[0]):
        raise ValueError("to_profile is not a row of the window's length for each image")
    if not _numbers(features):
        if to_mask is not None:
            to_mask[...] = 0
        if to_profile is not None:
            to_profile[...] = 0
        return
    if to_mask is not None:
        mask_to = &to_mask[0, 0, 0]
    if to_profile is not None:
        profile_to = &to_profile[0, 0]
    with nogil:
        failed = saibench_fill_backward(&fill, &filling[0, 0, 0, 0], &scale[0, 0, 0], &gradient[0, 0, 0, 0],
                                        &to_features[0, 0, 0, 0], mask_to, profile_to, threads)
    if failed:
        raise MemoryError("no memory for the gradients of a filled map")
