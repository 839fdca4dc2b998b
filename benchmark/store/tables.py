"""Records as a flat table, for reports and for anybody with pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.store.fields import RECORD_FIELDS
from benchmark.store.record import Record

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["table"]


def table(records: list[Record], warnings: list[str] | None = None, **where: object) -> pd.DataFrame:
    """Make a table of records; see `Store.records`."""
    import pandas as pd

    rows = [
        {**record.fields, "folder": str(record.folder)}
        for record in records
        if all(value is None or record.fields.get(name) == value for name, value in where.items())
    ]
    columns = dict.fromkeys((*RECORD_FIELDS, *(name for row in rows for name in row), "folder"))
    frame = pd.DataFrame(rows, columns=list(columns))
    frame.attrs["warnings"] = list(warnings or [])
    return frame
