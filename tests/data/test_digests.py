"""Digests of files: of contents, and read once."""

import hashlib
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data import digests
from benchmark.data.digests import digest_files
from benchmark.errors import DataError

LONG_AGO = 1_600_000_000


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAIBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def settled(monkeypatch):
    """Have the files that were just written be old enough to be known again."""
    now = time.time() + 60
    monkeypatch.setattr(digests.time, "time", lambda: now)


def test_a_digest_is_that_of_the_content_whatever_is_kept(cache, tmp_path, monkeypatch):
    settled(monkeypatch)
    names = ["a.jpg", "b/c.jpg", "ü\udcff.png"]
    (tmp_path / "b").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(os.fsencode(name) * 1000)
    oracle = [hashlib.blake2b((tmp_path / name).read_bytes(), digest_size=16).hexdigest() for name in names]
    assert digest_files(tmp_path, names) == digest_files(tmp_path, names) == oracle
    assert digest_files(tmp_path, names[::-1] + names[:1]) == [*oracle[::-1], oracle[0]]


def test_files_are_read_once_while_they_are_as_they_were(cache, tmp_path, monkeypatch):
    settled(monkeypatch)
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"one")
    read = []
    monkeypatch.setattr(digests, "_digest", lambda path, digest=digests._digest: read.append(path) or digest(path))
    first = digest_files(tmp_path, ["a"])
    assert digest_files(tmp_path, ["a", "b"]) == first * 2
    assert [os.path.basename(path) for path in read] == ["a", "b"]


@pytest.mark.parametrize("keep_times", [True, False])
def test_another_content_of_equal_size_is_seen_even_where_its_time_is_put_back(
    cache, tmp_path, monkeypatch, keep_times
):
    settled(monkeypatch)
    path = tmp_path / "a"
    path.write_bytes(b"one")
    os.utime(path, (LONG_AGO, LONG_AGO))
    before = digest_files(tmp_path, ["a"])
    time.sleep(0.02)  # more than a tick of the file system's clock
    path.write_bytes(b"two")
    if keep_times:
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert digest_files(tmp_path, ["a"]) != before


def test_a_file_that_was_just_written_is_not_kept_since_it_may_change_within_a_tick(cache, tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    digest_files(tmp_path, ["a"])
    assert not list(cache.rglob("*.npz"))


@given(st.binary(max_size=200))
def test_what_is_kept_may_be_broken(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("set")
    (folder / "a").write_bytes(b"one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAIBENCH_CACHE", str(folder / "cache"))
        settled(patch)
        whole = digest_files(folder, ["a"])
        (kept,) = (folder / "cache").rglob("*.npz")
        kept.write_bytes(content)
        assert digest_files(folder, ["a"]) == whole == digest_files(folder, ["a"])


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    settled(monkeypatch)
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SAIBENCH_CACHE", str(tmp_path / "file"))
    assert digest_files(tmp_path, ["a"]) == [hashlib.blake2b(b"one", digest_size=16).hexdigest()]


def test_a_missing_file_is_named(cache, tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*gone\.jpg: No such file"):
        digest_files(tmp_path, ["gone.jpg"])


def test_an_interrupted_pass_keeps_what_it_has_read(cache, tmp_path, monkeypatch):
    settled(monkeypatch)
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode())

    def interrupted(path, digest=digests._digest):
        if path.endswith("c"):
            raise KeyboardInterrupt
        return digest(path)

    with monkeypatch.context() as patch:
        patch.setattr(digests, "_digest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            digest_files(tmp_path, list("abc"))
    read = []
    monkeypatch.setattr(digests, "_digest", lambda path, digest=digests._digest: read.append(path) or digest(path))
    digest_files(tmp_path, list("abc"))
    assert [os.path.basename(path) for path in read] == ["c"]
