"""Tasks: model, data, recipe and metric of each; `find_task` gives one by its name."""

from benchmark.data.reader import Reader, Sample
from benchmark.tasks.base import Batch, Prepared, Task
from benchmark.tasks.discovery import find_task

__all__ = ["Batch", "Prepared", "Reader", "Sample", "Task", "find_task"]
