"""What the command prints: user's text as it is, and one line where the output cannot be written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.cli.output import emit, print_error, print_line, print_note, print_table


@pytest.fixture
def odd(tmp_path):
    """A plug-in whose description looks like markup to Rich."""
    path = tmp_path / "odd.py"
    path.write_text(
        "from benchmark import Method\n\n\nclass Odd(Method):\n    '''Compute [red]x[/red] only [/].'''\n\n"
        "    name = 'odd'\n    references = ['[bold]nobody[/bold]']\n"
    )
    return path


def test_markup_in_a_plugins_description_is_listed_literally(run_cli, odd):
    code, out, _ = run_cli("methods", odd)
    assert code == 0 and "Compute [red]x[/red] only [/]." in out and "[bold]nobody[/bold]" in out


def test_a_plugin_named_like_markup_is_refused_literally(run_cli, odd):
    odd.write_text(odd.read_text().replace("name = 'odd'", "name = '[red]x[/red]'"))
    code, _, err = run_cli("methods", odd)
    assert code == 1 and "'[red]x[/red]'" in err


def test_markup_in_a_mistyped_name_is_printed_literally(run_cli):
    code, _, err = run_cli("check", "[red]x")
    assert code == 2 and "unknown method '[red]x'" in err


@pytest.mark.parametrize("text", ["[red]x[/red]", "[/]", "[link=file:///]x[/link]", "\\[red]"])
def test_no_function_of_printing_reads_markup(capsys, monkeypatch, text):
    monkeypatch.setenv("COLUMNS", "240")
    print_line(text)
    print_note(text)
    print_error(text)
    print_table([{text: text}], title=text)
    out, err = capsys.readouterr()
    assert out.count(text) == 4 and err.count(text) == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b[2Jx", "\\x1b[2Jx"), ("a\x07b", "a\\x07b"), ("\u202egnp.exe", "\\u202egnp.exe"), ("\ud800", "\\ud800")],
)
def test_no_function_of_printing_passes_what_a_terminal_obeys(capsys, monkeypatch, text, shown):
    monkeypatch.setenv("COLUMNS", "240")
    print_line(text)
    print_note(text)
    print_error(text)
    print_table([{text: text}], title=text)
    out, err = capsys.readouterr()
    assert text not in out + err and out.count(shown) == 4 and err.count(shown) == 2


def test_an_error_is_one_line_whatever_its_text(capsys):
    print_error("first\n  second\r\nthird\n")
    assert capsys.readouterr().err == "error: first second third\n"


def test_half_a_character_does_not_stop_json(capsys):
    emit({"name": "a\ud800b", "\ud800": float("nan")})
    assert json.loads(capsys.readouterr().out) == {"name": "a?b", "?": None}


def test_a_long_name_in_a_table_is_not_cut_short(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_table([{"path": "/a/long/folder/" * 6, "what": "words " * 20}])
    out, _ = capsys.readouterr()
    assert "…" not in out
    assert "/a/long/folder/" * 6 in "".join(line.split("│")[1].strip() for line in out.splitlines() if "│" in line)


def in_a_process(*arguments, **options):
    """Run the command in a process of its own, where nothing captures what libraries print."""
    command = [sys.executable, "-m", "benchmark.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["report", "--store", ".", "--out", "out"], ["methods", "--json"]]
)
def test_an_output_that_takes_nothing_is_one_line(tmp_path, arguments):
    with open("/dev/full", "w") as full:
        done = in_a_process(*arguments, cwd=tmp_path, stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: the output cannot be written (No space left on device)"]


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m benchmark.cli --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


def test_a_check_prints_nothing_of_what_libraries_say(tmp_path, plugin):
    path = tmp_path / "plugin.py"
    elsewhere = "    def skip(self, task):\n        return None if task == 'imagenet' else 'one task is enough'\n"
    path.write_text(f"{plugin.read_text()}\n{elsewhere}")
    done = in_a_process("check", path, stdout=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupted_command_says_how_to_go_on(run_cli, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmark.store.provenance", interrupt)
    code, _, err = run_cli("info")
    assert code == 130 and err == "interrupted: finished cells are kept; the same command resumes from here\n"


def test_json_stays_json_when_a_plugin_prints(tmp_path):
    path = tmp_path / "loud.py"
    path.write_text(
        "import os\n\nfrom benchmark import Method\n\nprint('hello')\nos.system('echo child')\n"
        "os.write(1, b'raw')\n\n\n"
        "class Loud(Method):\n    name = 'loud'\n"
    )
    done = in_a_process("methods", path, "--json", cwd=tmp_path, stdout=subprocess.PIPE)
    assert done.returncode == 0 and json.loads(done.stdout)[0]["name"] == "loud"
    assert all(word in done.stderr for word in ("hello", "child", "raw"))
