"""Scenes: what is drawn, what is annotated, and that a key decides both."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from benchmark.data import scenes


def render(index, height=128, width=128, **options):
    return scenes.render_scene(scenes.generator(7, index), height, width, **options)


@pytest.fixture(scope="module")
def many():
    return [render(index) for index in range(150)]


def test_same_key_gives_same_bytes_and_another_key_does_not():
    assert render(3).image.tobytes() == render(3).image.tobytes()
    assert render(3).image.tobytes() != render(4).image.tobytes()


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
        picture = np.zeros((80, 80, 3), np.float32)
        scenes._paint(picture, scenes._draw_shape(rng, scenes.OBJECT_CLASSES[label], 50, (40, 40)))
        middle = picture[25:55, 25:55].mean(axis=2)
        along += np.abs(np.diff(middle, axis=1 - axis)).mean()
        across += np.abs(np.diff(middle, axis=axis)).mean()
    assert across > 2 * along
