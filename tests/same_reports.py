"""Builds all reports from two stores and compares them: a packed store must give what its folders give.

    python tests/same_reports.py FOLDERS PACKED

Every table (CSV, Markdown, LaTeX, JSON) must be the same, byte for byte, and what is printed, too. Exits with 1 and
names what differs.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

COMPARED = (".csv", ".md", ".tex", ".json")


def build(store: Path, folder: Path) -> dict[str, bytes]:
    """Build all reports of a store, under one path whatever its own is: reports name it."""
    (folder / "store").symlink_to(store.resolve())
    words = [sys.executable, "-m", "benchmark.cli", "report", "--store", "store", "--out", "out", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "SAIBENCH_CACHE": str(folder / "cache")}
    printed = subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True).stdout
    files = {path.name: path.read_bytes() for path in (folder / "out").iterdir() if path.suffix in COMPARED}
    return {"what is printed": printed, **files}


def main() -> None:
    """Compare the reports of the two stores that the command names."""
    made = []
    for store in sys.argv[1:3]:
        with tempfile.TemporaryDirectory() as folder:
            made.append(build(Path(store), Path(folder)))
    names = sorted(made[0].keys() | made[1].keys())
    differing = [name for name in names if made[0].get(name) != made[1].get(name)]
    for name in differing:
        print(f"{name}: differs")
    print(f"{len(names)} compared, {len(differing)} differ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
