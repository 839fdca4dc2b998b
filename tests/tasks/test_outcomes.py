"""Outcomes of single images give the task's official metric again, for all images and for a part of them."""

import numpy as np
import pandas as pd
import pytest
import torch

from benchmark.stats import OUTCOMES, read_outcomes
from benchmark.tasks import find_task
from benchmark.tasks.cityscapes.reader import LABEL_IDS


def detections(reader, index, rng):
    """Make up detections: boxes near the objects, some wrong, with scores that are partly equal."""
    target = reader[index].target
    boxes = target["boxes"].numpy() + rng.normal(0, 2.5, target["boxes"].shape)
    labels = np.where(rng.random(len(boxes)) < 0.2, 1, target["labels"].numpy())
    more = rng.random((4, 4)) * 40
    more[:, 2:] += more[:, :2] + 2
    boxes, labels = np.concatenate([boxes, more]), np.concatenate([labels, rng.integers(1, len(reader.classes), 4)])
    boxes[:, 2:] -= boxes[:, :2]
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "scores": torch.tensor(rng.random(len(boxes)).round(2), dtype=torch.float32),
        "labels": torch.tensor(labels),
    }


def segmentation(reader, index, rng):
    truth = reader.label_ids(index)
    return torch.from_numpy(np.where(rng.random(truth.shape) < 0.3, rng.choice(LABEL_IDS[:8], truth.shape), truth))


def classes(reader, index, rng):
    order = rng.permutation(len(reader.classes))[:5]
    return {"labels": torch.tensor(order), "scores": torch.linspace(0.5, 0.1, len(order))}


@pytest.mark.parametrize(
    ("name", "predict"), [("coco", detections), ("cityscapes", segmentation), ("imagenet", classes)]
)
def test_the_metric_follows_from_outcomes(tiny_set, tmp_path, name, predict):
    task = find_task(name)
    reader = task.open(tiny_set(name), "val")
    rng = np.random.default_rng(1)
    images = [reader[index].identifier for index in range(len(reader))]
    found = {image: predict(reader, index, rng) for index, image in enumerate(images)}
    task.outcomes(found, reader).to_parquet(tmp_path / OUTCOMES, index=False)
    outcomes = read_outcomes(tmp_path, pd.Series(images))
    half = np.arange(len(images)) % 2
    scores = outcomes.scores(np.stack([np.ones(len(images)), half]).astype(float))
    assert 0 < scores[0] < 1
    assert scores[0] == pytest.approx(task.evaluate(found, reader)[task.metrics[0].name], abs=1e-9)
    part = {image: found[image] for image, kept in zip(images, half, strict=True) if kept}
    assert scores[1] == pytest.approx(task.evaluate(part, reader)[task.metrics[0].name], abs=1e-9)


def test_no_detection_at_all_scores_zero(tiny_set, tmp_path):
    task = find_task("coco")
    reader = task.open(tiny_set("coco"), "val")
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    images = [reader[index].identifier for index in range(len(reader))]
    task.outcomes(dict.fromkeys(images, nothing), reader).to_parquet(tmp_path / OUTCOMES, index=False)
    assert read_outcomes(tmp_path, pd.Series(images)).scores(np.ones((1, len(images)))).tolist() == [0]


def test_without_detections_sizes_that_the_split_has_not_are_no_number(tiny_set):
    task = find_task("coco")
    reader = task.open(tiny_set("coco"), "val")
    images = [reader[index].identifier for index in range(len(reader))]
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    wrong = {"boxes": torch.tensor([[0.0, 0, 1, 1]]), "scores": torch.ones(1), "labels": torch.ones(1).long()}
    none = task.evaluate(dict.fromkeys(images, nothing), reader)
    one = task.evaluate({**dict.fromkeys(images, nothing), images[0]: wrong}, reader)
    areas = [each["area"] for each in reader.coco.anns.values()]
    for name, there in {"APs": min(areas) < 32**2, "APl": max(areas) > 96**2, "AP": True}.items():
        assert (none[name] == 0) if there else np.isnan(none[name])
    assert list(map(str, none.values())) == list(map(str, one.values()))
    assert any(np.isnan(value) for value in none.values())  # pictures of 128 pixels have no large object
