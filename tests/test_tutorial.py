"""The tutorial is true: its files are written, its commands run in turn, and they print what the page shows.

A block with a title is a file. What a ``text`` block shows is what the block before it prints. Figures that another
machine may measure otherwise are compared with a tolerance, all else word by word. Dots stand for anything: for words
within a line, or for lines.
"""

import contextlib
import io
import math
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)
RULES = re.compile(r"[\u2500-\u257f|]+|(?<!\S):?-{2,}:?(?!\S)")  # the lines of tables
MEASURED = re.compile(r"-?[\d,]*\.\d+|\d{1,3}(?:,\d{3})+")
IDENTIFIER = re.compile(r"\b[0-9a-f]{12}\b")
DOTS = "…"


class Block(NamedTuple):
    """A fenced block of the page."""

    language: str
    title: str
    text: str


def blocks(page):
    return [Block(*match) for match in BLOCK.findall(page)]


def words(line):
    """Return the words of a line without the lines of its table."""
    return RULES.sub(" ", line).split()


def alike(shown, printed):
    """Tell whether a word of the page is a printed one, or the same figure measured on another machine."""
    shown, printed = (IDENTIFIER.sub("#", word) for word in (shown, printed))
    if MEASURED.split(shown) != MEASURED.split(printed):
        return False
    return all(map(close, MEASURED.findall(shown), MEASURED.findall(printed)))


def close(one, other):
    # A difference of two accuracies is in points, and near 0.
    points = 1.0 if "-" in one + other else 0.01
    return math.isclose(*(float(word.replace(",", "")) for word in (one, other)), rel_tol=0.2, abs_tol=points)


def matches(shown, printed, same, dots):
    """Tell whether two sequences are the same, part by part, where dots stand for any number of parts."""
    if not shown:
        return not printed
    if shown[0] == dots:
        return any(matches(shown[1:], printed[skipped:], same, dots) for skipped in range(len(printed) + 1))
    return bool(printed) and same(shown[0], printed[0]) and matches(shown[1:], printed[1:], same, dots)


def is_shown(shown, printed):
    lines = [[line for line in map(words, text.splitlines()) if line] for text in (shown, printed)]
    return matches(*lines, lambda one, other: matches(one, other, alike, DOTS), [DOTS])


def run(block, folder, command):
    """Do what a block says in a folder, and return what it prints."""
    if block.title:
        (folder / block.title).write_text(block.text, encoding="utf-8")
        return ""
    if block.language == "python":
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.text, str(PAGE), "exec"), {})
        return printed.getvalue()
    printed = ""
    for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "saibench", f"not a command of the project: {line}"
        code, out, err = command(*arguments, columns=100)
        assert code == 0, f"{line}: {err}"
        printed += out
    return printed


def test_the_tutorial_prints_what_it_shows(tmp_path, monkeypatch, run_cli):
    monkeypatch.chdir(tmp_path)
    printed = ""
    for block in blocks(PAGE.read_text(encoding="utf-8")):
        if block.language == "text":
            assert is_shown(block.text, printed), f"the page shows\n{block.text}\nbut this is printed\n{printed}"
        else:
            printed = run(block, tmp_path, run_cli)


@pytest.mark.parametrize(
    ("shown", "printed", "agree"),
    [
        ("│ coco │ builds │ passed 3 points", "| coco | builds | passed 3 points", True),
        ("coco builds passed 3 points", "coco builds passed 2 points", False),
        ("AP 75.3, GMACs 0.041", "AP 75.3, GMACs 0.044", True),
        ("AP 75.3 better", "AP 75.3 worse", False),
        ("AP 75.3", "AP 47.0", False),
        ("first\n…\nlast", "first\nsecond\nthird\nlast", True),
        ("first\n…\nlast", "first\nsecond\nthird", False),
        ("first", "first\nsecond", False),
        ("| AP | … | 0.0382 | …", "| AP | 65.4 | 0 | 0.0391 | 5 |", True),
        ("| AP | … | 0.0382 | …", "| AP | 65.4 | 0 | 0.0591 | 5 |", False),
        ("gap -1.10", "gap -0.35", True),
        ("runs/26473eda688f", "runs/0c9107e51cf5", True),
        ("1,234,567 MACs", "1,240,000 MACs", True),
    ],
)
def test_what_is_compared(shown, printed, agree):
    assert is_shown(shown, printed) is agree
