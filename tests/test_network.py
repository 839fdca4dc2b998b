"""Nothing is fetched while the command runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import FIXTURES

# Sockets of this machine alone are how processes of a sweep talk. The hook sees every other one, whoever opens it.
PROGRAM = """
import socket, sys

def watch(event, arguments):
    connects = event in ("socket.connect", "socket.sendto") and arguments[0].family != getattr(socket, "AF_UNIX", None)
    if connects or event == "socket.getaddrinfo":
        print("network:", event, arguments[1:], file=sys.stderr)
        raise OSError("the network is not to be used")

sys.addaudithook(watch)
from benchmark.cli import main
main()
"""


def command(tmp_path, *words, program=PROGRAM):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "SAIBENCH_CACHE": str(tmp_path / "cache")},
    )


def test_a_cell_is_rendered_trained_evaluated_and_counted_without_a_network(tmp_path):
    words = ("run", FIXTURES / "stripes", "--method", "stochastic", "--store", tmp_path / "store", "--json")
    done = command(tmp_path, *words)
    assert done.returncode == 0 and "network:" not in done.stderr, done.stderr
    assert json.loads(done.stdout)["status"] == "finished"


def test_the_watch_sees_a_connection(tmp_path):
    reached = PROGRAM.replace(
        "from benchmark.cli import main\nmain()", "socket.create_connection(('127.0.0.1', 9), timeout=1)"
    )
    done = command(tmp_path, program=reached)
    assert done.returncode == 1 and "network: socket." in done.stderr
