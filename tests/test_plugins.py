"""Methods that a reader of CONTRIBUTING.md writes: short, counted, and fast on the engine."""

from pathlib import Path

import pytest

from benchmark.checks.suite import check_task
from benchmark.method import discover

FIXTURES = Path(__file__).parent / "fixtures"
LINES = {"bernoulli": 40, "tiles": 25, "per_stage": 20}


@pytest.mark.parametrize("name", LINES)
def test_a_short_file_is_a_whole_method(name, tmp_path):
    path = FIXTURES / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES[name]
    results = list(check_task(discover([path])[name], "imagenet", tmp_path))
    assert {result.status for result in results} == {"passed"}, [r for r in results if r.status != "passed"]
    assert "counts match the engine" in {result.name for result in results}
