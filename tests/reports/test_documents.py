"""The figures in the README are those of the stored records."""

from pathlib import Path

import pytest

from reports import documents
from reports.base import Results

ROOT = Path(__file__).parents[2]


def test_the_readme_says_what_the_records_say():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert documents.filled(text, Results.read([ROOT / "results" / "reference"])) == text, (
        "run: python -m reports.documents README.md"
    )


def test_only_what_stands_between_the_marks_is_replaced(monkeypatch):
    monkeypatch.setitem(documents.BLOCKS, "made", lambda results: "new")
    text = "before\n<!-- begin: made -->\nold\n<!-- end -->\nafter\n"
    assert documents.filled(text, Results([], [], [])) == "before\n<!-- begin: made -->\nnew\n<!-- end -->\nafter\n"


def test_an_unknown_block_is_an_error():
    with pytest.raises(KeyError, match="nobody"):
        documents.filled("<!-- begin: nobody -->\n<!-- end -->", Results([], [], []))
