"""Files that are whole or not there, whenever the writer stops and however many write at once."""

import os
import threading

import pytest

from benchmark.files import TEMPORARY, atomic_path, write_atomic


@pytest.mark.parametrize("content", ["γ = 0.05\n", b"\x00\xff", ""])
def test_what_is_written_is_read(tmp_path, content):
    path = write_atomic(tmp_path / "file", content)
    assert path == tmp_path / "file"
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("owner", ["fsync", "replace"])
def test_a_writer_that_stops_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, owner):
    path = write_atomic(tmp_path / "file", "old")

    def stops(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, owner, stops)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = write_atomic(tmp_path / "file", "old")
    with pytest.raises(ValueError, match="no weights"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ValueError("no weights")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("replace"), replace(*paths)))
    write_atomic(tmp_path / "file", "new")
    assert events == ["fsync", "replace", "fsync"]


def test_readers_see_whole_files_while_several_write(tmp_path):
    path = write_atomic(tmp_path / "file", "0" * 10_000)

    def write(digit):
        for _ in range(50):
            write_atomic(path, digit * 10_000)

    writers = [threading.Thread(target=write, args=(digit,)) for digit in "123"]
    for writer in writers:
        writer.start()
    seen = []
    while any(writer.is_alive() for writer in writers):
        seen.append(path.read_text())
    assert all(len(text) == 10_000 and len(set(text)) == 1 for text in seen)
    assert list(tmp_path.iterdir()) == [path]


def test_the_longest_name_can_be_written(tmp_path):
    assert write_atomic(tmp_path / ("x" * 255), "content").read_text() == "content"


def test_others_may_read_the_file_as_they_may_any_other(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    assert write_atomic(tmp_path / "file", "").stat().st_mode == plain.stat().st_mode


def test_the_pattern_of_temporary_files_finds_them(tmp_path):
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("half")
        assert list(tmp_path.glob(TEMPORARY)) == [temporary]
