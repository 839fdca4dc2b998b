"""Metrics from outcomes of single images, against brute force on images that are really repeated."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.stats import OUTCOMES, read_outcomes


def outcomes(tmp_path, table, images):
    pd.DataFrame(table).to_parquet(tmp_path / OUTCOMES)
    return read_outcomes(tmp_path, pd.Series(images))


def test_classification_is_the_weighted_share_of_right_images(tmp_path):
    found = outcomes(tmp_path, {"image": ["a", "b", "c"], "correct": [True, False, True]}, ["c", "a", "b"])
    weights = np.array([[1, 1, 1], [0, 0, 3], [2, 1, 0], [1, 0, 1]], dtype=float)
    assert found.scores(weights).tolist() == pytest.approx([2 / 3, 0, 1, 1 / 2])


@given(st.data())
def test_segmentation_is_the_mean_iou_of_the_summed_confusion_matrices(tmp_path_factory, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    images, classes = 4, 3
    matrices = rng.integers(0, 5, (images, classes + 1, classes + 1)) * rng.integers(0, 2, (images, 1, classes + 1))
    labels = [*range(classes), -1]
    rows = [
        {"image": str(i), "truth": labels[t], "found": labels[f], "pixels": matrices[i, t, f]}
        for i in range(images) for t in range(classes + 1) for f in range(classes + 1)
    ]  # fmt: skip
    found = outcomes(tmp_path_factory.mktemp("record"), rows, list(map(str, range(images))))
    weights = rng.integers(0, 3, (5, images)).astype(float)

    def brute(draw):
        total = sum(draw[i] * matrices[i] for i in range(images))
        shares = []
        for k in range(classes):
            right, missed = total[k, k], total[k].sum() - total[k, k]
            wrong = total[:classes, k].sum() - total[k, k]  # pixels that are not evaluated count against nobody
            if right + missed + wrong > 0:
                shares.append(right / (right + missed + wrong))
        return np.mean(shares) if shares else np.nan

    np.testing.assert_allclose(found.scores(weights), [brute(draw) for draw in weights])


def detections(rng, images=5, categories=2):
    """Make up matches: falling thresholds of overlap, objects that are found at most once."""
    rows = []
    for image in range(images):
        for category in range(categories):
            truths = int(rng.integers(0, 4))
            rows.append({"image": str(image), "category": category, "score": None, "truths": truths})
            found = 0
            for score in rng.random(int(rng.integers(0, 5))):
                up_to = int(rng.integers(0, 11)) if found < truths else 0
                found += up_to > 0
                ignored = int(rng.random() < 0.1 and up_to == 0) * 1023
                rows.append({
                    "image": str(image), "category": category, "score": float(score),
                    "hits": (1 << up_to) - 1, "ignored": ignored, "truths": 0,
                })  # fmt: skip
    return pd.DataFrame(rows).fillna({"hits": 0, "ignored": 0})


def brute_force_ap(table, draw):
    """Average precision by COCO's definition, over images that are really repeated."""
    shares = []
    for _, rows in table.groupby("category"):
        for threshold in range(10):
            objects, found = 0, []
            for image, times in enumerate(draw):
                here = rows[rows["image"] == str(image)]
                for _ in range(int(times)):
                    objects += here["truths"].sum()
                    found += [
                        (score, bool(int(hits) >> threshold & 1))
                        for score, hits, ignored in zip(here["score"], here["hits"], here["ignored"], strict=True)
                        if score == score and score is not None and not int(ignored) >> threshold & 1
                    ]
            if not objects:
                continue
            found.sort(key=lambda pair: -pair[0])
            right = np.cumsum([hit for _, hit in found]) if found else np.zeros(0)
            recall, precision = right / objects, right / np.arange(1, len(found) + 1)
            at = [precision[recall >= wanted].max(initial=0) for wanted in np.linspace(0, 1, 101)]
            shares.append(np.mean(at))
    return np.mean(shares) if shares else np.nan


@pytest.mark.parametrize("seed", range(8))
def test_detection_is_coco_s_average_precision(tmp_path, seed):
    rng = np.random.default_rng(seed)
    table = detections(rng)
    images = [str(image) for image in range(5)]
    found = outcomes(tmp_path, table, images)
    weights = np.vstack([np.ones(5), rng.integers(0, 3, (6, 5))]).astype(float)
    np.testing.assert_allclose(found.scores(weights), [brute_force_ap(table, draw) for draw in weights], atol=1e-12)


def test_resamples_of_average_precision_are_near_the_exact_ones(tmp_path):
    rng = np.random.default_rng(0)
    images = [str(image) for image in range(200)]
    found = outcomes(tmp_path, detections(rng, images=200), images)
    weights = rng.multinomial(200, np.full(200, 1 / 200), size=300).astype(float)
    exact, linear = found.scores(weights), found.resampled(weights)
    assert np.corrcoef(exact, linear)[0, 1] > 0.9
    assert linear.std() == pytest.approx(exact.std(), rel=0.1)
    assert abs(linear.mean() - exact.mean()) < exact.std()


def test_what_images_add_to_average_precision_sums_to_nothing(tmp_path):
    found = outcomes(tmp_path, detections(np.random.default_rng(1), images=30), [str(image) for image in range(30)])
    value, influences = found.influences()
    assert influences.sum() == pytest.approx(0, abs=1e-12)  # twice every image is the same data
    ones = np.ones((1, 30))
    assert found.resampled(ones)[0] == pytest.approx(value) == found.scores(ones)[0]


def test_a_record_without_outcomes_has_none(tmp_path):
    assert read_outcomes(tmp_path, pd.Series(["a"])) is None


def test_outcomes_of_other_images_are_none(tmp_path):
    assert outcomes(tmp_path, {"image": ["a"], "correct": [True]}, ["b"]) is None
