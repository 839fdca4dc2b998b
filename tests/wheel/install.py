"""The wheel, as a user installs it: built, put into an empty environment, and asked for what a user asks first.

``python tests/wheel/install.py`` builds it from this checkout. PyTorch and the other dependencies are those of the
Python that runs this, found through a path file: a second PyTorch takes five gigabytes and tests nothing of the wheel.
The checkout is not on the path, so that a file which the wheel lacks is an error here and nowhere else.
"""

import json
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Printed as JSON by the Python that has the wheel: where the package lies, and what came with it.
LOOK = """
import json, benchmark, methods, reports
from benchmark.engines import find
from benchmark.tasks import find_task
from benchmark.weights import files
weights = [files.find(find_task(task), name).is_file() for task, name in WEIGHTS]
print(json.dumps({"package": benchmark.__file__, "engine": find("cpu") is not None, "weights": weights}))
"""
WEIGHTS = [("coco", "mini"), ("cityscapes", "mini"), ("imagenet", "mini_basic")]


def build(folder: Path) -> Path:
    """Build the wheel in an environment of its own, from what git tracks.

    Raises
    ------
    SystemExit
        When there is not exactly one.
    """
    source = folder / "source"
    source.mkdir()
    archive = subprocess.run(
        ["git", "-C", ROOT, "archive", "HEAD", ":!results/reference"], check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source], check=True
    )
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"expected one wheel, found {[wheel.name for wheel in wheels]}")
    return wheels[0]


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel alone into an empty environment that sees this Python's packages; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    # A path in a path file is searched, but its own path files are not read: the editable install stays out.
    (Path(site.stdout.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def main() -> None:
    """Build, install and ask; the first thing that is not as it should be ends it.

    Raises
    ------
    SystemExit
        Naming what the wheel lacks.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        python = install(build(folder), folder / "environment")

        def ask(*words: str | Path) -> str:
            done = subprocess.run([python, *words], capture_output=True, text=True, cwd=folder)
            if done.returncode:
                raise SystemExit(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stderr}")
            return done.stdout

        found = json.loads(ask("-c", LOOK.replace("WEIGHTS", repr(WEIGHTS))))
        if not Path(found["package"]).is_relative_to(folder):
            raise SystemExit(f"the wheel was not used, but {found['package']}")
        if not found["engine"] or not all(found["weights"]):
            raise SystemExit(f"the wheel lacks the engine's extension or starting weights: {found}")
        command = python.parent / "saibench"
        (folder / "checkerboard.py").write_text((ROOT / "tests" / "fixtures" / "checkerboard.py").read_text())
        known = json.loads(ask(command, "methods", "--json"))
        here = {path.stem for room in ("methods", "baselines") for path in (ROOT / room).glob("[!_]*.py")}
        if here - {each["name"] for each in known}:
            raise SystemExit(f"the wheel lacks methods: {sorted(here - {each['name'] for each in known})}")
        for words in (["flops", "imagenet", "--method", "checkerboard.py"], ["new-method", "mine"]):
            ask(command, *words)
    print(f"the wheel has the engine, {len(WEIGHTS)} sets of weights and {len(here)} methods")


if __name__ == "__main__":
    main()
