"""Tasks: model, data, recipe and metric of each; `find_task` gives one by its name."""

from benchmark.tasks.base import Batch, Task, find_task

__all__ = ["Batch", "Task", "find_task"]
