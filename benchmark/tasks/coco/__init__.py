"""Object detection on COCO-format data: Faster R-CNN with FPN, average precision by pycocotools."""

from benchmark.tasks.coco.task import TASK

__all__ = ["TASK"]
