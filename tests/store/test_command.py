"""``saibench store``: what the commands print, and how they exit."""

import json

import pytest

from benchmark.store import Store


def test_merge_copies_and_says_what_it_left_out(run_cli, a_cell, finish, tmp_path):
    finish(Store(tmp_path / "a"), a_cell())
    code, out, _ = run_cli("store", "merge", tmp_path / "a", "--into", tmp_path / "into")
    assert code == 0 and a_cell().id in out and "1 copied, 0 there already" in out
    torn = finish(Store(tmp_path / "a"), a_cell(seed=1)).folder
    (torn / "record.json").write_text("{")
    code, out, err = run_cli("store", "merge", tmp_path / "a", "--into", tmp_path / "into")
    assert code == 1 and "0 copied, 1 there already" in out and f"{torn}/record.json: broken" in err
    code, out, _ = run_cli("store", "merge", tmp_path / "a", "--into", tmp_path / "into", "--json")
    assert code == 1 and json.loads(out)["kept"] == 1 and len(json.loads(out)["warnings"]) == 1


def test_verify_exits_with_1_where_there_are_problems(run_cli, a_cell, finish, tmp_path):
    record = finish(Store(tmp_path), a_cell())
    code, out, _ = run_cli("store", "verify", "--store", tmp_path)
    assert code == 0 and "1 records, 0 problems" in out
    (record.folder / "predictions.json").write_text("[1]")
    code, out, _ = run_cli("store", "verify", "--store", tmp_path)
    assert code == 1 and "predictions.json is not as it was committed" in out
    code, out, _ = run_cli("store", "verify", "--store", tmp_path, "--json")
    assert code == 1 and len(json.loads(out)["problems"]) == 1


def test_gc_removes_only_without_dry_run(run_cli, a_cell, tmp_path):
    with pytest.raises(KeyboardInterrupt), Store(tmp_path).begin(a_cell()) as work:
        (work.scratch / "a.ckpt").write_bytes(b"weights")
        raise KeyboardInterrupt
    code, out, _ = run_cli("store", "gc", "--store", tmp_path)
    assert code == 0 and "0.0 MB removed" in out and "1 unfinished cells kept" in out
    code, out, _ = run_cli("store", "gc", "--store", tmp_path, "--unfinished", "--dry-run")
    assert code == 0 and str(work.folder) in out and work.folder.exists()
    code, out, _ = run_cli("store", "gc", "--store", tmp_path, "--unfinished", "--json")
    assert code == 0 and json.loads(out)["removed"] == [str(work.folder)] and not work.folder.exists()


@pytest.mark.parametrize("arguments", [["merge", "none", "--into", "into"], ["verify"], ["gc"]])
def test_a_store_that_is_not_there_is_one_line_and_exit_code_1(run_cli, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli("store", *arguments)
    assert code == 1 and "no such store" in err and len(err.splitlines()) == 1
