#!/bin/bash
# pycocotools 2.0.11: an object whose annotation id is 0 counts as missed, however well it is detected.
#
# `evaluateImg` keeps, for each detection, the id of the object that it matches, and 0 for none; `accumulate` takes a
# detection for a hit where that number is not 0. COCO's own ids begin at 1, but its format asks for unique numbers alone,
# and a converter that counts from 0 loses one object. Seen: AP 1.0 with ids 1 and 2, and 0.252 with ids 0 and 1.
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pycocotools==2.0.11 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def average_precision(first_id):
    boxes = [[10, 10, 40, 40], [100, 100, 40, 40]]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 1, "width": 200, "height": 200}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": first_id + n, "image_id": 1, "category_id": 1, "bbox": box, "area": 1600, "iscrowd": 0}
            for n, box in enumerate(boxes)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes([{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes])
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


one, zero = average_precision(1), average_precision(0)
print(f"ids from 1: AP {one:.3f}; ids from 0, all else the same: AP {zero:.3f}")
raise SystemExit(0 if abs(one - 1) < 1e-9 and zero < 0.6 else 1)
PYTHON
