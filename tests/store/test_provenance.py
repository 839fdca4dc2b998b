"""Provenance: the commit only of a checkout that tracks this code."""

import importlib
import subprocess
from pathlib import Path

provenance = importlib.import_module("benchmark.store.provenance")  # the package has a function of this name


def test_provenance_names_the_commit_only_of_a_checkout_that_tracks_this_code(tmp_path, monkeypatch):
    copy = tmp_path / "site-packages" / "benchmark" / "store" / "provenance.py"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(Path(provenance.__file__).read_bytes())
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(provenance, "__file__", str(copy))
    monkeypatch.chdir(tmp_path)
    assert provenance.checkout.__wrapped__() == (None, None)
