"""Semantic segmentation in Cityscapes' layout: dilated FCN, intersection over union by cityscapesscripts."""

from benchmark.tasks.cityscapes.task import TASK

__all__ = ["TASK"]
