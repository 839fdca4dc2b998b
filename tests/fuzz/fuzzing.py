"""Spoiling files and watching what readers say: what the tests of untrusted input share.

``SAIBENCH_FUZZ_SECONDS=3600 pytest tests/fuzz`` gives each test an hour of new examples, where it otherwise takes the
same few.
"""

import copy
import itertools
import json
import os
import re
import time

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from benchmark.errors import SaibenchError

SECONDS = float(os.environ.get("SAIBENCH_FUZZ_SECONDS") or 0)
EXAMPLES = 40

#: A message says what to do in one of these words.
REMEDY = re.compile(
    r"\b(add|choose|convert|copy|delete|expected|fetch|fix|give|make|map|mend|merge|move|must|needs|put|remove|rename|"
    r"replace|run|save|set|should|takes?|uninstall|unpack|use)\b"
)

#: Values that a file may hold where another one is expected.
JUNK = st.one_of(
    st.sampled_from(
        [
            None, True, False, 0, 1, -1, 5, 255, 2**31, 2**63, 10**30, 0.5, -0.0, 1e300, 1e308, float("nan"),
            float("inf"), "", "x", "no", "5", "../x", "/etc/passwd", "a\0b", "\ud800", "\x1b[2J", "[red]x[/red]",
            "<script>", "line\nline", "ä" * 300, [], [[]], {}, [1, 2, 3, 4], {"x": {}},
        ]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3)),
)  # fmt: skip


def fuzz(strategy, check, examples=EXAMPLES):
    """Call ``check`` with examples of a strategy: the same few, or new ones for as long as `SECONDS` says."""
    end = time.monotonic() + SECONDS
    for turn in itertools.count():
        options = settings(max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck))
        options(seed(turn)(given(strategy)(lambda case: check(case))))()
        if time.monotonic() >= end:
            return


def own_error(action, place):
    """Run an action; return its result, or None after an error of the project's, in one line with place and remedy."""
    try:
        return action()
    except SaibenchError as error:
        check_message(str(error), place)
        return None


def check_message(text, place):
    """Check that a message is one line that names a file below a place and says what to do."""
    assert "\n" not in text and str(place) in text and REMEDY.search(text), text
    assert len(text) < 2000, text


@st.composite
def spoiled_bytes(draw, content):
    """Give a file's bytes with some of them changed, left out or added, or cut off."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["change", "insert", "remove", "cut"]))
        if kind == "change" and content:
            content[place] = draw(st.integers(0, 255))
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "remove":
            del content[place : place + draw(st.integers(1, 16))]
        elif draw(st.booleans()):
            del content[place:]
    return bytes(content)


@st.composite
def spoiled_json(draw, document):
    """Give a JSON document, as bytes, with some values changed, left out or repeated; sometimes as broken text."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        _spoil(draw, document)
    content = json.dumps(document).encode()
    return draw(spoiled_bytes(content)) if draw(st.integers(0, 9)) == 0 else content


def _spoil(draw, document):
    places = list(_places(document))
    if not places:
        return
    owner, key = draw(st.sampled_from(places))
    kind = draw(st.sampled_from(["junk", "junk", "junk", "remove", "repeat"]))
    if kind == "remove":
        del owner[key]
    elif kind == "repeat" and isinstance(owner, list):
        owner.append(copy.deepcopy(owner[key]))
    else:
        owner[key] = copy.deepcopy(draw(JUNK))  # a later change must not reach the strategy's own value


def _places(node):
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from _places(node[key])
