"""Outlines: the boundaries of a mask enclose it, and nothing else."""

import numpy as np
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from benchmark.data.outlines import signed_area, trace

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


def drawn(loops, shape):
    """Fill boundaries between pixels, brute force: a pixel is inside if its centre's ray crosses an odd number."""
    inside = np.zeros(shape, bool)
    for y, x in np.ndindex(shape):
        crossings = 0
        for loop in loops:
            for (x0, y0), (x1, y1) in zip(loop, np.roll(loop, -1, axis=0), strict=True):
                crossings += x0 == x1 and x0 > x and min(y0, y1) <= y < max(y0, y1)
        inside[y, x] = crossings % 2
    return inside


@settings(max_examples=150, deadline=None)
@given(masks)
def test_traced_boundaries_enclose_the_mask(mask):
    loops = trace(mask)
    assert np.array_equal(drawn(loops, mask.shape), mask)
    assert sum(signed_area(loop) for loop in loops) == mask.sum()
