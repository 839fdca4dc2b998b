"""What a trained network did on each image, in the form from which the task's metric follows for any weights.

Resampling images means to weigh them: an image drawn twice counts twice, one not drawn not at all. Running COCO's or
Cityscapes' evaluation for each of a thousand resamples would take hours. Their slow part, matching detections with
objects or counting pixels, does not depend on the weights: it is done once, when the cell is evaluated, and kept as
``outcomes.parquet``. The rest is sums. With all weights 1 the official metric comes out.

For average precision the sums are seconds a cell, too much for a report of hundreds. Its resamples are linear: the
metric, and what each image adds to it (Jaeckel, "The infinitesimal jackknife", 1972). A test holds them against the
exact ones.

Three tables are known, told apart by their columns:

``image, correct``
    Classification: whether the best class is the right one.
``image, truth, found, pixels``
    Segmentation: pixels of each evaluated class (0 … K-1) by what was found there; -1 for a class that is not
    evaluated.
``image, category, score, hits, ignored, truths``
    Detection: one row a detection, with bit t of ``hits`` set where it matches an object at threshold t, and of
    ``ignored`` where it counts neither way. One more row for each image and category gives the number of objects in
    ``truths`` and has no score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmark.store import has_file, read_table

__all__ = ["OUTCOMES", "THRESHOLDS", "Outcomes", "read_outcomes"]

#: Name of the file in a record's folder.
OUTCOMES = "outcomes.parquet"

#: Overlaps at which COCO counts a detection as right: 0.5, 0.55 … 0.95.
THRESHOLDS = 10
_RECALLS = np.linspace(0.0, 1.0, 101)

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Outcomes(ABC):
    """A cell's outcomes on the images of its validation split."""

    @abstractmethod
    def scores(self, weights: Floats) -> Floats:
        """Return the task's main metric under weights of the images.

        Parameters
        ----------
        weights
            ``(B, N)``: B times a weight for each image, in the order in which the images were given.

        Returns
        -------
        numpy.ndarray
            ``(B,)``, shares from 0 to 1; NaN where the weights leave nothing to score.
        """

    def resampled(self, weights: Floats) -> Floats:
        """Return the scores under the weights of resamples: `scores`, or what is near enough and much faster."""
        return self.scores(weights)

    def remembered(self, weights: Floats) -> Floats:
        """Return `resampled` under weights that come again and again: those of the last array are remembered."""
        if getattr(self, "_weights", None) is not weights:
            self._weights, self._scores = weights, self.resampled(weights)
        return self._scores

    def remembered_mean(self, values: Floats, weights: Floats) -> Floats:
        """Return the weighted means of a number of each image, ``(B,)``, remembered as the scores are."""
        if getattr(self, "_weighed", (None, None)) != (id(values), id(weights)):
            self._kept = values, weights  # so that no other array gets their ids
            self._weighed, self._means = (id(values), id(weights)), weights @ values / weights.sum(1)
        return self._means


def read_outcomes(folder: Path, images: pd.Series) -> Outcomes | None:
    """Read a record's outcomes.

    Parameters
    ----------
    folder
        The record's.
    images
        The identifiers of all evaluated images, which set the order of the weights.

    Returns
    -------
    Outcomes or None
        None for a record that keeps none, as those of older versions.

    Raises
    ------
    StoreError
        If the table is broken.
    """
    path = folder / OUTCOMES
    if not has_file(folder, OUTCOMES):
        return None
    table = read_table(path)
    places = pd.Series(range(len(images)), index=images.astype(str))
    place = table["image"].astype(str).map(places).to_numpy()
    if np.isnan(place.astype(float)).any():
        return None  # of other images than the record's: nothing to pair with
    for columns, kind in _KINDS.items():
        if set(columns) <= set(table.columns):
            return kind(table, place.astype(np.int64), len(images))
    return None


class _Hits(Outcomes):
    """Right or wrong, an image each."""

    def __init__(self, table: pd.DataFrame, place: Integers, images: int) -> None:
        self.correct = np.zeros(images)
        self.correct[place] = table["correct"].to_numpy(dtype=float)

    def scores(self, weights: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return (weights @ self.correct) / weights.sum(1)


class _Pixels(Outcomes):
    """A confusion matrix an image."""

    def __init__(self, table: pd.DataFrame, place: Integers, images: int) -> None:
        classes = 1 + int(table[["truth", "found"]].to_numpy().max())
        # The last row and column are the classes that are not evaluated.
        matrices = np.zeros((images, classes + 1, classes + 1))
        np.add.at(matrices, (place, table["truth"].to_numpy(), table["found"].to_numpy()), table["pixels"].to_numpy())
        right = np.einsum("nkk->nk", matrices[:, :classes, :classes])
        truth, found = matrices[:, :classes].sum(2), matrices[:, :classes, :classes].sum(1)
        self.right, self.either = right, truth + found - right

    def scores(self, weights: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            shares = (weights @ self.right) / (weights @ self.either)  # 0 / 0 where no pixel shows the class
        there = ~np.isnan(shares)
        with np.errstate(invalid="ignore"):
            return np.where(there, shares, 0).sum(1) / there.sum(1)


class _Matches(Outcomes):
    """Detections, matched once."""

    def __init__(self, table: pd.DataFrame, place: Integers, images: int) -> None:
        self.images = images
        self.categories: list[tuple[Floats, Integers, Integers, Integers]] = []
        scored = table["score"].notna().to_numpy()
        category = table["category"].to_numpy()
        for name in np.unique(category):
            rows = np.flatnonzero(category == name)
            counts = rows[~scored[rows]]
            truths = np.bincount(place[counts], table["truths"].to_numpy(dtype=float)[counts], images)
            found = rows[scored[rows]]
            # As pycocotools sorts: by falling score, equal ones in the order of the images.
            found = found[np.argsort(-table["score"].to_numpy()[found], kind="stable")]
            hits, ignored = (table[column].to_numpy(dtype=np.int64)[found] for column in ("hits", "ignored"))
            self.categories.append((truths.astype(float), place[found], hits, ignored))

    def scores(self, weights: Floats) -> Floats:
        parts = [self._category(weights, *category) for category in self.categories]
        if not parts:
            return np.zeros(len(weights))
        shares = np.stack(parts)
        there = ~np.isnan(shares)
        with np.errstate(invalid="ignore"):
            return np.where(there, shares, 0).sum(0) / there.sum(0)

    def resampled(self, weights: Floats) -> Floats:
        """Return the metric, plus what each image adds to it by its weight."""
        value, influences = self.influences()
        return value + weights @ influences * (self.images / weights.sum(1)) - influences.sum()

    def influences(self) -> tuple[float, Floats]:
        """Return the metric where all weights are 1, and its derivative by each image's weight there, ``(N,)``.

        The derivative is of average precision with recall read everywhere, not at 101 places: steps have none.
        """
        parts = [_influence(*category) for category in self.categories if category[0].any()]
        if not parts:
            return 0.0, np.zeros(self.images)
        values, influences = zip(*parts, strict=True)
        return float(np.mean(values)), np.mean(influences, axis=0)

    def _category(self, weights: Floats, truths: Floats, place: Integers, hits: Integers, ignored: Integers) -> Floats:
        """Return a category's mean average precision over the thresholds; NaN where the weights leave no object."""
        objects = weights @ truths
        total = np.zeros(len(weights))
        drawn = weights[:, place]
        counted = drawn.cumsum(1)
        for threshold in range(THRESHOLDS):
            bit = 1 << threshold
            hit = np.flatnonzero(hits & bit)
            if not len(hit):
                continue
            skipped = np.flatnonzero(ignored & bit)
            ranks = counted if not len(skipped) else np.where(ignored & bit, 0, drawn).cumsum(1)
            total += _average_precision(drawn[:, hit], ranks[:, hit], objects)
        with np.errstate(invalid="ignore"):
            return np.where(objects > 0, total / THRESHOLDS, np.nan)


def _average_precision(right: Floats, ranks: Floats, objects: Floats) -> Floats:
    """Return COCO's average precision: precision, made to fall, at 101 recalls.

    Only detections that hit are looked at: between two of them recall stays and precision falls.

    Parameters
    ----------
    right
        ``(B, M)``: weights of the detections that hit, by falling score.
    ranks
        ``(B, M)``: weights of all detections down to each of them.
    objects
        ``(B,)``: weights of the objects.
    """
    found = right.cumsum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(ranks > 0, found / (ranks + np.spacing(1)), 0)
        recall = found / objects[:, None]
    falling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # How many of the 101 recalls are reached first at each detection.
    reached = np.searchsorted(_RECALLS, np.nan_to_num(recall), side="right")
    steps = np.diff(reached, axis=1, prepend=0)
    return (falling * steps).sum(1) / len(_RECALLS)


def _influence(truths: Floats, place: Integers, hits: Integers, ignored: Integers) -> tuple[float, Floats]:
    """Return a category's mean average precision and its derivative by each image's weight, ``(N,)``.

    Average precision is the mean of the precision, made to fall, over the objects that are found. A weight changes how
    often its image's hits count, the precision that they are read at, and the number of objects.
    """
    images, objects = len(truths), truths.sum()
    value, total = 0.0, np.zeros(images)
    for threshold in range(THRESHOLDS):
        bit = 1 << threshold
        hit = np.flatnonzero(hits & bit)
        if not len(hit):
            continue
        found, counts = np.arange(1.0, 1 + len(hit)), (ignored & bit) == 0
        ranks = counts.cumsum()[hit]
        precision = found / ranks
        falling = np.maximum.accumulate(precision[::-1])[::-1]
        reached = np.searchsorted(found / objects, _RECALLS)  # the first hit at which each recall is reached
        value += falling[reached[reached < len(hit)]].sum() / len(_RECALLS)
        # Which hit's precision stands at each: the next one, itself included, where it is not below what follows.
        tops = np.flatnonzero(precision >= falling)
        read = np.bincount(tops[np.searchsorted(tops, np.arange(len(hit)))], minlength=len(hit))
        # What one more hit, and one more detection, up to here adds to all that is read from here on.
        more_hits = (read / ranks)[::-1].cumsum()[::-1]
        more_ranks = np.bincount(hit, read * found / ranks**2, len(place))[::-1].cumsum()[::-1] * counts
        total += np.bincount(place[hit], falling + more_hits, images) - np.bincount(place, more_ranks, images)
        total -= falling.sum() / objects * truths
    return value / THRESHOLDS, total / (objects * THRESHOLDS)


_KINDS: Mapping[tuple[str, ...], type] = {
    ("image", "correct"): _Hits,
    ("image", "truth", "found", "pixels"): _Pixels,
    ("image", "category", "score", "hits", "ignored", "truths"): _Matches,
}
