"""A sweep that is killed at random moments and started again leaves what one leaves that nobody killed."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "kills.py"


def test_kills_lose_tear_and_repeat_nothing(tmp_path):
    """Three kills of two cells; ``python tests/kills.py`` kills two hundred times."""
    command = [sys.executable, SCRIPT, "--kills", "3", "--methods", "dense,stochastic", "--folder", tmp_path / "kills"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    last = json.loads(ended.stdout.splitlines()[-1])
    assert last["kills"] == {"all": 3} and last["cells"] == 2
