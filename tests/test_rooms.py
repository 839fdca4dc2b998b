"""The rooms of docs/design.md: nothing in the harness names a method, and one module derives what a block computes."""

import ast
import re
from pathlib import Path

from benchmark.method import discover

ROOT = Path(__file__).parent.parent
#: Names of methods that are also words of the field.
WORDS = {"dense", "random", "uniform"}


def sources(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def test_the_harness_names_no_method():
    names = set(discover()) - WORDS
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, sorted(names)))})\b")
    found = []
    for path in sources("benchmark"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            # Docstrings and help texts may give an example; a name alone is one that the code acts on.
            if pattern.fullmatch(text):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {text}")
    assert not found


def test_the_work_of_a_block_has_one_author():
    """Only those who evaluate a region of `nn.work` dilate a mask: that module itself, and the engine in C."""
    callers = set()
    for path in sources("benchmark"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None
            if name == "positions_read":
                callers.add(str(path.relative_to(ROOT / "benchmark")))
    assert callers == {"nn/work.py"}
