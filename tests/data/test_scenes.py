"""Scenes: what is drawn, what is annotated, and that a key decides both."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from benchmark.data import scenes
from benchmark.errors import UsageError


def render(index, height=128, width=128, **options):
    return scenes.render_scene(scenes.generator(7, index), height, width, **options)


@pytest.fixture(scope="module")
def many():
    return [render(index) for index in range(150)]


def test_same_key_gives_same_bytes_and_another_key_does_not():
    assert render(3).image.tobytes() == render(3).image.tobytes()
    assert render(3).image.tobytes() != render(4).image.tobytes()


#: Of what the renderer drew when the records of these scales were made: their sets stay the same, byte for byte.
DIGESTS = {
    "coco-mini": "6966e9e3d203e4389dc84e29a059067a",
    "cityscapes-mini": "daa1a552640bab479a2f82cebd73048b",
    "imagenet-mini": "2ecd44618a2996e80af56b12d6731cc4",
    "coco-small": "67fbabc61dbf1541092ba34bd96cb807",
    "cityscapes-small": "6524ee9ceb25268f8a8d3703e3bdefbd",
    "imagenet-small": "096534b141faaa60dc45b45ec25be74d",
}
SIZES = {"mini": (128, 80, 12), "small": (256, 160, 3)}  # of a scene's and a picture's side, and how many are compared


def drawn(task, side, index):
    """Return all that a set takes from the renderer for a validation image."""
    if task == "imagenet":
        return [scenes.render_object(scenes.generator(0, task, "val", index % 10, index), side, index % 10)]
    rng = scenes.generator(0, task, "val", index)
    if task == "cityscapes":
        scene = scenes.render_scene(rng, side, 2 * side, crowds=False, hood=True)
    else:
        scene = scenes.render_scene(rng, side, side, style=scenes.Style(smallest=11, faint=(0.3, 0.95)))
    arrays = [scene.image, scene.background]
    for kind, mask in scene.layers:
        arrays += [np.array([kind]), mask]
    for instance in scene.instances:
        arrays += [np.array([instance.label, instance.crowd]), instance.mask, instance.outline]
    return arrays


@pytest.mark.parametrize("name", DIGESTS)
def test_the_sets_behind_kept_records_are_rendered_byte_for_byte(name):
    task, scale = name.split("-")
    side, single, count = SIZES[scale]
    digest = hashlib.blake2b(digest_size=16)
    for index in range(4 * count):
        for array in drawn(task, single if task == "imagenet" else side, index):
            digest.update(np.ascontiguousarray(array).tobytes())
    assert digest.hexdigest() == DIGESTS[name]


def test_random_numbers_do_not_depend_on_the_global_state():
    first = render(5)
    np.random.seed(0)
    np.random.random(100)
    assert np.array_equal(first.image, render(5).image)


def test_bytes_do_not_depend_on_the_processors_vector_units():
    program = (  # the module's file alone, because importing the whole package takes seconds
        "import hashlib, runpy, sys; scenes = runpy.run_path(sys.argv[1]);"
        "images = [scenes['render_scene'](scenes['generator'](i), 96, 128).image for i in range(12)];"
        "print(hashlib.md5(b''.join(image.tobytes() for image in images)).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program, scenes.__file__],
            env={**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(features)},
            check=True,
            capture_output=True,
        ).stdout
        for features in ([], [name for name in __cpu_dispatch__ if __cpu_features__.get(name)])
    }
    assert len(found) == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(64, 64), (96, 128), (128, 256), (160, 120)]), st.booleans())
def test_masks_are_disjoint_non_empty_and_parts_of_their_outlines(index, size, hood):
    scene = render(index, *size, hood=hood)
    assert scene.image.shape == (*size, 3)
    covered = sum(instance.mask.astype(int) for instance in scene.instances)
    assert np.max(covered) <= 1
    for instance in scene.instances:
        assert instance.mask.sum() >= 40
        assert not (instance.mask & ~instance.outline).any()
    assert scene.background.max() < len(scenes.BACKGROUNDS)


def test_one_to_six_objects_of_all_classes_and_sizes(many):
    objects = [[i for i in scene.instances if not i.crowd] for scene in many]
    assert {len(found) for found in objects} == set(range(1, 7))
    flat = [instance for found in objects for instance in found]
    assert {instance.label for instance in flat} == set(range(len(scenes.SCENE_CLASSES)))
    areas = np.array([instance.mask.sum() for instance in flat])
    assert np.mean(areas < scenes.SMALL) > 0.3
    assert np.mean((areas >= scenes.SMALL) & (areas < scenes.LARGE)) > 0.3
    assert np.mean(areas > scenes.LARGE) > 0.01


def test_some_objects_overlap_and_some_stand_in_a_crowd(many):
    hidden = [np.sum(i.outline & ~i.mask) for scene in many for i in scene.instances if not i.crowd]
    assert np.mean(np.array(hidden) > 0) > 0.1
    assert any(instance.crowd for scene in many for instance in scene.instances)


def test_most_of_a_scene_is_background_and_it_is_smooth(many):
    shares, ratios = [], []
    for scene in many:
        objects = np.logical_or.reduce([instance.mask for instance in scene.instances])
        grey = scene.image.astype(float).mean(axis=2)
        steps = np.abs(np.diff(grey, axis=1))
        shares.append(1 - objects.mean())
        inside = objects[:, 1:] & objects[:, :-1]
        ratios.append(np.median(steps[~objects[:, 1:]]) / max(steps[inside].mean(), 1e-9))
    assert np.median(shares) > 0.6
    assert np.median(ratios) < 0.5


def test_patterns_tell_classes_apart_with_outline_and_colours_equal():
    pictures = {}
    for label in range(len(scenes.OBJECT_CLASSES)):
        pictures[label] = scenes.render_object(scenes.generator("same"), 80, label).astype(float)
    for first in pictures:
        for second in range(first):
            assert np.abs(pictures[first] - pictures[second]).max() > 40


@pytest.mark.parametrize("pattern, axis", [("bands", 0), ("bars", 1)])
def test_bands_lie_and_bars_stand(pattern, axis):
    label = scenes.OBJECT_CLASSES.index(f"tile-{pattern}")
    across = along = 0.0
    for index in range(10):
        rng = scenes.generator(index)
        picture = np.zeros((3, 80, 80), np.float32)
        scenes._paint(picture, scenes._draw_shape(rng, scenes.OBJECT_CLASSES[label], 50, (40, 40)))
        middle = picture[:, 25:55, 25:55].mean(axis=0)
        along += np.abs(np.diff(middle, axis=1 - axis)).mean()
        across += np.abs(np.diff(middle, axis=axis)).mean()
    assert across > 2 * along


@pytest.mark.parametrize("side", [128, 384])
def test_sides_are_spread_like_cocos_over_their_range_of_shares(side):
    style = scenes.Style(shares=(0.02, 0.7), smallest=0)
    rng = scenes.generator("sides")
    shares = np.array([style.draw_side(rng, side) for _ in range(4000)]) / side
    assert 0.02 <= shares.min() < 0.021 and 0.68 < shares.max() <= 0.7
    small, large = np.mean(shares < 32 / 480), np.mean(shares > 96 / 480)  # COCO's classes in an image of 640 x 480
    assert 0.38 < small < 0.5 and 0.22 < large < 0.32  # COCO: 0.41 and 0.24


def test_no_share_makes_an_object_smaller_than_the_smallest():
    style = scenes.Style(shares=(0.02, 0.3), smallest=11)
    rng = scenes.generator("smallest")
    assert min(style.draw_side(rng, 128) for _ in range(500)) >= 11


@pytest.mark.parametrize("period", [4.0, 9.0])
@pytest.mark.parametrize("side", [50, 150])
def test_detail_has_the_period_that_was_asked_for_on_objects_of_every_size(period, side):
    style = scenes.Style(shares=(0.1, 0.9), period=period, faint=(0.0, 0.0))
    found = []
    for index in range(12):
        picture = np.zeros((3, 200, 200), np.float32)
        scenes._paint(picture, scenes._draw_shape(scenes.generator(index), "tile-bars", side, (100, 100), style))
        row = picture[:, 100, 100 - side // 3 : 100 + side // 3].mean(axis=0)
        spectrum = np.abs(np.fft.rfft(row - row.mean(), 4096))
        found.append(4096 / spectrum.argmax())
    assert np.mean(found) == pytest.approx(period, rel=0.08)


def test_pixels_and_shares_are_independent():
    areas = {}
    for side in (128, 512):
        style = scenes.Style(shares=(0.1, 0.7), period=5, smallest=0)
        found = [render(index, side, side, style=style) for index in range(40)]
        areas[side] = np.mean(
            [np.sqrt(i.outline.sum()) / side for scene in found for i in scene.instances if not i.crowd]
        )
    assert areas[128] == pytest.approx(areas[512], rel=0.15)


def test_at_least_half_of_every_object_is_in_sight_with_shares_too():
    for index in range(25):
        scene = render(index, 192, 192, style=scenes.Style(shares=(0.06, 0.7), period=5))
        for instance in scene.instances:
            if not instance.crowd:
                assert instance.mask.sum() > 0.45 * instance.outline.sum()


def test_poles_are_thin_and_stand_behind_the_objects():
    pole = scenes.BACKGROUNDS.index("pole")
    widths = [
        np.flatnonzero(mask.any(0)).size
        for index in range(20)
        for kind, mask in render(index, 256, 512, hood=True, style=scenes.Style(poles=True)).layers
        if kind == pole
    ]
    assert len(widths) > 20 and max(widths) <= 6
    assert not any(kind == pole for kind, _ in render(0, 256, 512).layers)


@pytest.mark.parametrize(
    "wrong", [{"shares": (0.5, 0.2)}, {"shares": (0.0, 0.2)}, {"shares": (0.1, 1.2)}, {"period": 1.5}]
)
def test_a_style_that_cannot_be_drawn_is_one_clear_error(wrong):
    with pytest.raises(UsageError):
        scenes.Style(**wrong)
