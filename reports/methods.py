"""What the records say about methods: how they are called, what kind they are, in which order and colour they come.

Reports keep no list of methods. A method's label, kind, references and trade-off parameters stand in its records; the
methods that the paper prints numbers of come first, in the order of its files, and the others follow by kind and name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from benchmark.store import Record
from reports import published

__all__ = ["REFERENCE", "Methods"]

#: The method whose cells are the reference of a panel: what the others save is measured against it.
REFERENCE = "dense"

_FIELDS = ("method_label", "method_kind", "method_curve", "method_references")
_KINDS = ("method", "baseline", "plug-in")


class Methods:
    """The methods of some records.

    Parameters
    ----------
    records
        In which to look; of several that say something of a method, the newest counts.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._known: dict[str, dict[str, object]] = {}
        for record in sorted(records, key=lambda record: str(record.fields.get("finished") or "")):
            said = {name: value for name, value in record.fields.items() if name in _FIELDS and value is not None}
            self._known.setdefault(str(record.fields["method"]), {}).update(said)

    def label(self, name: str) -> str:
        """Return what a method is called in figures and tables: its label, or a label made from its name."""
        words = name.replace("_", " ")
        made = words[:1].upper() + words[1:]
        return str(self._field(name, "method_label") or self._printed.get(name) or made)

    def kind(self, name: str) -> str:
        """Return "method", "baseline" or "plug-in"; "" where the records do not say."""
        return str(self._field(name, "method_kind") or "")

    def references(self, name: str) -> list[str]:
        """Return where a method was published."""
        return [str(reference) for reference in self._list(name, "method_references")]

    def curve(self, name: str) -> list[str]:
        """Return the names of a method's trade-off parameters; none where the records do not say."""
        return [str(parameter) for parameter in self._list(name, "method_curve")]

    def rank(self, name: str) -> int:
        """Return a method's place in every list: the reference first."""
        return self.order.index(name) if name in self.order else len(self.order)

    def place(self, name: str) -> int:
        """Return the number of a method's colour, the same in every figure; the reference has none of these."""
        return self.rank(name) - 1

    @cached_property
    def _printed(self) -> dict[str, str]:
        return published.labels()

    @cached_property
    def order(self) -> Sequence[str]:
        """All methods, those of the paper's files too."""
        printed = published.methods()
        others = sorted((name for name in self._known if name not in printed), key=self._by_kind)
        return list(dict.fromkeys([REFERENCE, *printed, *others]))

    def _by_kind(self, name: str) -> tuple[int, str]:
        kind = self.kind(name)
        return (_KINDS.index(kind) if kind in _KINDS else 0, name)

    def _field(self, name: str, field: str) -> object:
        return self._known.get(name, {}).get(field)

    def _list(self, name: str, field: str) -> list[object]:
        value = self._field(name, field)
        return list(value) if isinstance(value, list) else []
