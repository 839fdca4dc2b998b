"""`saibench new-method`: what it writes is a method that keeps the contract, and it never overwrites."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.checks import CHECKS
from benchmark.errors import UsageError
from benchmark.method.contract import Method
from benchmark.method.scaffold import HOOKS, write_method

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_method("my_method", tmp_path_factory.mktemp("author"))


def test_the_generated_test_passes(written):
    _, test = written
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        cwd=test.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout


def test_the_generated_method_passes_the_check(written, run_cli, monkeypatch):
    monkeypatch.setattr("benchmark.checks.suite.task_names", lambda: ["imagenet"])  # the others take minutes
    method, _ = written
    code, out, _ = run_cli("check", method, "--json")
    results = json.loads(out)
    assert code == 0 and {result["status"] for result in results} <= {"passed", "skipped"}
    assert len([result for result in results if result["status"] == "passed"]) >= len(CHECKS) - 1


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]])
def test_the_generated_files_are_as_the_project_s_own(written, arguments):
    ruff = pytest.importorskip("ruff.__main__")
    command = [ruff.find_ruff_bin(), *arguments, "--config", ROOT / "pyproject.toml", "--no-cache", *written]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_hook_of_the_contract_is_told_with_when_it_is_called(written):
    method, _ = written
    text = " ".join(method.read_text().replace("#", " ").split())
    assert set(HOOKS) >= {"adapt", "mask", "loss", "finish", "restore"} and "make" not in HOOKS
    for hook in HOOKS:
        assert f"{hook}(" in text, hook
        assert callable(getattr(Method, hook))
    assert text.count("Called") == len(HOOKS)
    assert "on_step(backbone, progress): Anneal, or change weights" in text
    assert "Called before every step of training" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dense", "taken by another method"),
        ("My", "small letters, digits and '_'"),
        ("a-b", "small letters"),
        ("class", "cannot name a Python file"),
        ("../up", "cannot name a folder"),
        ("x" * 101, "use 100 at most"),
        ("", "cannot name a folder"),
        ("torch", "would hide the Python module"),
        ("benchmark", "would hide the Python module"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_nothing_is_written(tmp_path, run_cli, name, message):
    code, _, err = run_cli("new-method", name, "--folder", tmp_path)
    assert code == 2 and message in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("taken", ["mine.py", "test_mine.py"])
def test_no_file_is_overwritten(tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(UsageError, match=f"{taken} is there already"):
        write_method("mine", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [taken] and (tmp_path / taken).read_text() == "mine"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        write_method("mine", tmp_path / "none")
