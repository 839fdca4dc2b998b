"""Provenance: the commit only of a checkout that tracks this code."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import torch

provenance = importlib.import_module("benchmark.store.provenance")  # the package has a function of this name


def test_provenance_names_the_commit_only_of_a_checkout_that_tracks_this_code(tmp_path, monkeypatch):
    copy = tmp_path / "site-packages" / "benchmark" / "store" / "provenance.py"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(Path(provenance.__file__).read_bytes())
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(provenance, "__file__", str(copy))
    monkeypatch.chdir(tmp_path)
    assert provenance.checkout.__wrapped__() == (None, None)


def test_provenance_names_the_instruction_set_that_pytorch_uses(monkeypatch):
    for name in provenance._ISA_LIMITS:
        monkeypatch.delenv(name, raising=False)
    found = provenance.provenance()
    assert found["isa"] == torch.backends.cpu.get_cpu_capability()
    assert found["isa_limit"] is None
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert provenance.provenance()["isa_limit"] == "ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2"


def test_a_lowered_instruction_set_is_seen():
    program = "from benchmark.store import provenance; print(provenance()['isa'], provenance()['isa_limit'])"
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["DEFAULT", "ATEN_CPU_CAPABILITY=default"]
