"""The embedded segmentation set: polygons and label maps say the same, pixel by pixel."""

import numpy as np
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw

from benchmark.data.outlines import signed_area, trace
from benchmark.tasks.cityscapes.embedded import _pixel_polygons
from tests.data.test_outlines import drawn

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


@settings(max_examples=150, deadline=None)
@given(masks)
def test_pixel_polygons_are_drawn_as_the_mask_with_its_holes_filled(mask):
    picture = Image.new("L", mask.shape[::-1])
    for polygon in _pixel_polygons(mask):
        points = [tuple(point) for point in polygon]
        ImageDraw.Draw(picture).polygon(points, fill=1) if len(points) > 1 else picture.putpixel(points[0], 1)
    outer = [loop for loop in trace(mask) if signed_area(loop) > 0]
    filled = np.logical_or.reduce([drawn([loop], mask.shape) for loop in outer] or [mask])
    assert np.array_equal(np.array(picture, bool), filled)


def test_cityscapes_polygons_give_the_label_ids_pixel_by_pixel(embedded):
    paths = sorted((embedded["cityscapes"] / "gtFine").rglob("*_polygons.json"))
    assert len(paths) == 7
    for path in paths:
        annotation = Annotation()
        annotation.fromJsonFile(str(path))
        label_ids = np.array(Image.open(str(path).replace("polygons.json", "labelIds.png")))
        assert np.array_equal(np.array(createLabelImage(annotation, "ids")), label_ids)
