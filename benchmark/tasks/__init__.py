"""Tasks: model, data, recipe and metric of each; `TASKS` has them by name."""

from benchmark.tasks.base import Batch, Task, find_task

__all__ = ["Batch", "Task", "find_task"]
