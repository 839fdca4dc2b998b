"""What a metric is called, which direction is better, and in which unit it is printed.

Which metrics there are, and how they are computed, is each task's business.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

__all__ = ["COUNT_TOLERANCE", "MACHINE_TOLERANCE", "MASK_TOLERANCE", "Metric", "describe_metrics", "parse_metrics"]

#: How far a cell's main metric, a share from 0 to 1, may lie from its record on another machine or with another number
#: of threads, where sums run in another order; docs/training.md says what was seen.
MACHINE_TOLERANCE = 0.01

#: The same where learned masks came out with another density: then training went another way, as with another seed.
MASK_TOLERANCE = 0.03

#: The same for a cell's computation, as a share of its record's, and for its mean density, itself a share. What is seen
#: is learned masks that training moved; other masks are counted the same everywhere.
COUNT_TOLERANCE = 0.05


@dataclass(frozen=True)
class Metric:
    """A number that cells are compared by.

    Attributes
    ----------
    name
        The record's field, without ``metric_``.
    label
        For axes and table heads.
    higher_is_better
        Its direction.
    scale
        Factor from the record's value to the printed one.
    unit
        Unit of the printed value.
    """

    name: str
    label: str
    higher_is_better: bool
    scale: float = 1.0
    unit: str = ""

    @classmethod
    def percent(cls, name: str, label: str | None = None) -> Metric:
        """Return an accuracy that records hold as a share from 0 to 1, printed in per cent, as the paper does."""
        return cls(name, label or name, higher_is_better=True, scale=100.0, unit="%")

    @property
    def upward(self) -> Metric:
        """The metric as statistics read it, the higher the better: an error's values and scale have the other sign."""
        return self if self.higher_is_better else replace(self, higher_is_better=True, scale=-self.scale)

    @property
    def column(self) -> str:
        """Where a table of cells has it: the record's field, or beside it the values with the other sign."""
        return f"metric_{self.name}" if self.scale > 0 else f"upward_{self.name}"

    @property
    def title(self) -> str:
        """Label and unit: ``AP (%)``."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


def describe_metrics(metrics: Sequence[Metric]) -> str:
    """Return the text by which a record says what its metrics are, for `benchmark.stats.task_metrics`."""
    return json.dumps([asdict(metric) for metric in metrics])


def parse_metrics(text: str) -> list[Metric]:
    """Read what `describe_metrics` wrote.

    Raises
    ------
    ValueError
        If it is another text, in one line.
    """
    try:
        found = json.loads(text)
        metrics = [Metric(**each) for each in found]
    except (ValueError, TypeError, RecursionError):
        raise ValueError("does not describe metrics") from None
    kinds = {"name": str, "label": str, "higher_is_better": bool, "scale": int | float, "unit": str}
    if not metrics or not all(
        isinstance(getattr(each, name), kind) for each in metrics for name, kind in kinds.items()
    ):
        raise ValueError("does not describe metrics")
    return metrics
