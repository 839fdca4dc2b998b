"""Image classification on image folders: ResNet, top-1 and top-5 accuracy."""

from benchmark.tasks.imagenet.task import TASK

__all__ = ["TASK"]
