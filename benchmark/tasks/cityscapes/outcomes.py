"""Pixels of each class by what was found there, image by image: the confusion matrices that IoU is computed from."""

import numpy as np
import pandas as pd

from benchmark.tasks.cityscapes.reader import LABEL_IDS

_CLASSES = len(LABEL_IDS)
#: Class of a label id; the number of classes for one that Cityscapes does not evaluate.
_CLASS_OF = np.full(256, _CLASSES, np.int64)
_CLASS_OF[LABEL_IDS] = np.arange(_CLASSES)


def confuse(image: str, found: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    """Count an image's pixels.

    Parameters
    ----------
    found, truth
        Label ids ``(H, W)``, uint8. Pixels whose true class is not evaluated are left out.

    Returns
    -------
    pandas.DataFrame
        The image's part of the segmentation table of `benchmark.stats.outcomes`.
    """
    evaluated = _CLASS_OF[truth] < _CLASSES
    pairs = _CLASS_OF[truth] * (_CLASSES + 1) + _CLASS_OF[found]
    counts = np.bincount(pairs[evaluated], minlength=_CLASSES * (_CLASSES + 1))
    there = np.flatnonzero(counts)
    named = there % (_CLASSES + 1)
    return pd.DataFrame({
        "image": image, "truth": (there // (_CLASSES + 1)).astype(np.int16),
        "found": np.where(named == _CLASSES, -1, named).astype(np.int16), "pixels": counts[there],
    })  # fmt: skip
