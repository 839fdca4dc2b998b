"""What answers at once: help, version, completion and mistyped words import none of the large libraries."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import listing
from benchmark.method import discover

HEAVY = ("torch", "torchvision", "lightning_fabric", "pandas", "matplotlib", "numpy")
PROBE = f"""
import json, os, sys
from benchmark.cli import main
try:
    main()
except SystemExit as stop:
    heavy = [name for name in {HEAVY} if name in sys.modules]
    found = {{"code": stop.code, "heavy": heavy, "spin": os.environ["GOMP_SPINCOUNT"]}}
    open(os.environ["PROBE"], "w").write(json.dumps(found))
"""


@pytest.fixture
def command(tmp_path):
    """Return a function that runs the command in a process of its own: arguments to (exit code, modules, stdout)."""

    def run(*arguments, **environment):
        probe = tmp_path / "probe.json"
        done = subprocess.run(
            [sys.executable, "-c", PROBE, *arguments],
            env={**os.environ, **environment, "PROBE": str(probe)},
            capture_output=True,
            text=True,
        )
        found = json.loads(probe.read_text())
        return found["code"], found["heavy"], done.stdout, done.stderr

    return run


def complete(command, *words, **environment):
    """Return what the shell is offered for the last word."""
    line = {"COMP_WORDS": " ".join(["saibench", *words]), "COMP_CWORD": str(len(words))}
    _, heavy, out, _ = command(_SAIBENCH_COMPLETE="complete_bash", **line, **environment)
    return heavy, out.split()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["sweep", "--help"], 0),
        (["time", "--help"], 0),
        (["swep"], 2),
        (["run", "coco", "--method", "dense", "--foo"], 2),
        (["run", "koko", "--method", "dense"], 2),
        (["run", "coco", "--method", "stochastik"], 2),
        (["run", "coco", "--method", "dense", "--set", "gamma"], 2),
        (["sweep", "coco", "--methods", ""], 2),
        (["sweep", "coco", "--seeds", "one"], 2),
        (["time", "--threads", "0"], 2),
        (["time", "--threads", "60000"], 2),
        (["time", "--size", "99999999x99999999"], 2),
        (["report", "--only", "figure"], 2),
    ],
)
def test_help_and_usage_errors_import_no_large_library(command, arguments, code):
    found, heavy, _, err = command(*arguments)
    assert (found, heavy) == (code, [])
    assert len(err.splitlines()) == (1 if code else 0), err


def test_the_large_libraries_would_be_seen(command):
    code, heavy, _, _ = command("methods", "--json")
    assert code == 0 and "torch" in heavy


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["sw"], {"sweep"}),
        (["run", "co"], {"coco"}),
        (["run", "coco", "--method", "dete"], {"deterministic_gumbel"}),
        (["sweep", "coco", "--methods", "dense,dete"], {"dense,deterministic_gumbel"}),
        (["run", "coco", "--scale", "p"], {"paper"}),
        (["report", "--only", "fig"], {name for name in listing.report_names() if name.startswith("fig")}),
    ],
)
def test_the_shell_completes_names_without_large_libraries(command, words, offered):
    heavy, found = complete(command, *words)
    assert heavy == [] and set(found) == offered


@pytest.fixture
def installed(tmp_path):
    """A folder like site-packages with a package that offers a method."""
    folder = tmp_path / "site"
    for path, text in {
        "toy-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
        "toy-1.0.dist-info/entry_points.txt": "[saibench.methods]\nanything = toy.methods\n",
        "toy/__init__.py": "raise RuntimeError('imported')\n",
        "toy/methods.py": "class Toy:\n    name = 'toy_method'\n",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_the_shell_completes_methods_of_installed_packages_without_importing_them(command, installed):
    root = Path(__file__).parents[2]
    heavy, found = complete(command, "check", "toy", PYTHONPATH=f"{root}{os.pathsep}{installed}")
    assert heavy == [] and found == ["toy_method"]


def test_the_names_read_from_files_are_those_of_the_methods():
    assert sorted(listing.method_names()) == sorted(discover())


def test_the_names_listed_are_those_of_the_tasks_and_reports():
    import reports
    from benchmark.tasks import find_task

    assert [find_task(name).name for name in listing.task_names()] == listing.task_names()
    assert listing.report_names() == sorted(reports.available())


def test_only_the_command_sets_how_long_threads_spin(command, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    probe = "import os, benchmark; benchmark.Method; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


def test_the_command_leaves_the_users_spin_count(command, tmp_path, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    for given, kept in (({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7")):
        command("--version", **given)
        assert json.loads((tmp_path / "probe.json").read_text())["spin"] == kept
