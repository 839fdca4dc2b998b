"""A method in an installed package: pip installs it, the entry point makes it known by its name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import FIXTURES

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install the package into a folder of its own, and return a function that runs Python with it."""
    pytest.importorskip("setuptools")
    pytest.importorskip("pip")
    place = tmp_path_factory.mktemp("package")
    source = shutil.copytree(FIXTURES / "package", place / "source")  # building leaves files beside the code
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", place / "site"]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *options, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place / "site"), str(ROOT)])}

    def run(*words):
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, cwd=place)

    return run


def test_an_installed_method_is_listed_with_its_parameters(installed):
    done = installed("-m", "benchmark.cli", "methods", "chessboard", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert (found["name"], found["kind"]) == ("chessboard", "plug-in")
    assert found["parameters"] == {"stride": 2} and found["curve"] == {"stride": [2, 3]}


def test_an_installed_method_is_addressed_by_its_name_and_planned_like_any_other(installed, tiny_set):
    program = (
        "import sys; from pathlib import Path; from benchmark.cells import Request, plan; "
        "from benchmark.method import address, resolve; (kind,) = resolve(['chessboard']); "
        "planned = plan(Request('imagenet', 'chessboard', data=Path(sys.argv[1]))); "
        "print(address(kind), planned.method.stride, planned.cell.method)"
    )
    done = installed("-c", program, str(tiny_set("imagenet")))
    assert done.stdout.split() == ["chessboard", "2", "chessboard"], done.stderr


def test_a_package_that_raises_names_its_entry_point(installed, tmp_path):
    (tmp_path / "broken-1.0.dist-info").mkdir()
    (tmp_path / "broken-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (tmp_path / "broken-1.0.dist-info" / "entry_points.txt").write_text("[saibench.methods]\nbroken = no_such_module\n")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.argv[1:] = ['methods']; "
        "from benchmark.cli import main; main()"
    )
    done = installed("-c", program, str(tmp_path))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "entry point 'no_such_module' raised ModuleNotFoundError" in done.stderr
