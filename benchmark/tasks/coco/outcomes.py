"""Detections matched with objects, image by image: COCO's own matching, kept so that it is done once."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import pandas as pd
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def match(truth: COCO, results: Sequence[dict[str, Any]], images: Sequence[str | int]) -> pd.DataFrame:
    """Match detections with objects of all sizes at COCO's ten overlaps.

    Parameters
    ----------
    truth
        The annotations.
    results
        Detections in COCO's results format.
    images
        Identifiers of the evaluated images.

    Returns
    -------
    pandas.DataFrame
        The detection table of `benchmark.stats.outcomes`.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(list(results)) if results else COCO(), "bbox")
        evaluation.params.imgIds = sorted(images)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.params.maxDets = evaluation.params.maxDets[-1:]
        evaluation.evaluate()
    rows: list[dict[str, Any]] = []
    for found in filter(None, evaluation.evalImgs):  # None: neither objects nor detections
        here = {"image": found["image_id"], "category": found["category_id"]}
        objects = sum(not ignored for ignored in found["gtIgnore"])
        rows.append({**here, "score": None, "hits": 0, "ignored": 0, "truths": objects})
        for place, score in enumerate(found["dtScores"]):
            ignored = found["dtIgnore"][:, place].astype(bool)
            rows.append({
                **here, "score": score, "hits": _bits((found["dtMatches"][:, place] != 0) & ~ignored),
                "ignored": _bits(ignored), "truths": 0,
            })  # fmt: skip
    columns = {"image": "int64", "category": "int64", "score": "float64"}
    small = dict.fromkeys(("hits", "ignored", "truths"), "uint16")
    return pd.DataFrame(rows, columns=[*columns, *small]).astype({**columns, **small})


def _bits(flags: Any) -> int:
    """Return an integer whose bit t is flag t."""
    return sum(1 << place for place, flag in enumerate(flags) if flag)
