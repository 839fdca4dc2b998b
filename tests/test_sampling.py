"""The masks of an image, and the file that keeps them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.errors import StoreError
from benchmark.sampling import KEPT_SIDE, Sampling, pack, read


def sampling(sizes, draws=2, size=(24, 32), confident=(), seed=0):
    rng = np.random.default_rng(seed)
    masks = {f"layer1.{place}.mask1": rng.random((draws, *each)) < 0.5 for place, each in enumerate(sizes)}
    confidences = {name: rng.random(masks[name].shape[1:]).astype(np.float32) for name in list(masks)[: len(confident)]}
    image = np.full((*size, 3), 128, dtype=np.uint8)
    return Sampling(image, "an image", list(range(draws)), masks, confidences)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 13), st.integers(1, 13)), min_size=1, max_size=4),
    draws=st.integers(1, 3),
    confident=st.integers(0, 4),
)
def test_a_kept_file_gives_back_masks_confidences_and_names(tmp_path_factory, sizes, draws, confident):
    first = sampling(sizes, draws, confident=range(min(confident, len(sizes))))
    path = tmp_path_factory.mktemp("kept") / "sampling.npz"
    path.write_bytes(pack([first, sampling(sizes[::-1], 1, seed=1)]))
    found = read(path)
    assert len(found) == 2 and found[0].identifier == "an image" and list(found[0].seeds) == list(range(draws))
    assert list(found[0].masks) == list(first.masks) and found[0].confidences.keys() == first.confidences.keys()
    for name, mask in first.masks.items():
        np.testing.assert_array_equal(found[0].masks[name], mask)
    for name, values in first.confidences.items():
        np.testing.assert_allclose(found[0].confidences[name], values, atol=0.5 / 255 + 1e-6)
    assert found[0].image.shape == (24, 32, 3) and abs(int(found[0].image.mean()) - 128) <= 2


def test_the_same_masks_give_the_same_bytes():
    assert pack([sampling([(3, 4)])]) == pack([sampling([(3, 4)])])


def test_a_large_picture_is_kept_small(tmp_path):
    path = tmp_path / "sampling.npz"
    path.write_bytes(pack([sampling([(60, 100)], size=(960, 1600))]))
    assert max(read(path)[0].image.shape) == KEPT_SIDE


def test_density_counts_for_each_pixel_the_masks_that_compute_it():
    seen = sampling([(3, 4), (6, 8), (5, 3)], draws=2)
    expected = np.zeros((2, 24, 32))
    for draw in range(2):
        for y in range(24):
            for x in range(32):
                hits = [mask[draw][y * mask.shape[1] // 24, x * mask.shape[2] // 32] for mask in seen.masks.values()]
                expected[draw, y, x] = sum(hits) / 3
    for draw in range(2):
        np.testing.assert_allclose(seen.density(draw), expected[draw])
    np.testing.assert_allclose(seen.density(), expected.mean(0))


def test_shares_are_those_of_one_draw():
    seen = sampling([(3, 4)], draws=2)
    assert seen.shares(1) == {"layer1.0.mask1": seen.masks["layer1.0.mask1"][1].mean()}


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no archive"])
def test_a_broken_file_is_one_line_that_names_it_and_what_to_do(tmp_path, spoil):
    path = tmp_path / "sampling.npz"
    path.write_bytes(spoil(pack([sampling([(3, 4)])])))
    with pytest.raises(StoreError, match="sampling.npz: broken .*--keep") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_file_with_less_in_it_than_it_says_is_broken(tmp_path):
    path = tmp_path / "sampling.npz"
    np.savez(path, count=np.array(1))
    with pytest.raises(StoreError, match="broken"):
        read(path)
    np.savez(path, count=np.array([{"a": 1}], dtype=object))  # a pickle: refused, not loaded
    with pytest.raises(StoreError, match="broken"):
        read(path)
