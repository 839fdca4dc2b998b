"""Migrating a store: records under their new ids, none lost, and what names them follows."""

import dataclasses
import json
import os
import shutil

import pytest

from benchmark.errors import StoreError
from benchmark.store import Record, Store, migrate, migrating, verify
from benchmark.store.packing import pack, unpack
from benchmark.store.replacing import incoming_path
from tests.store.test_merging import files


def renamed(changes):
    """Return a rewrite that gives data sets other fingerprints; one that is missing stays as it is."""

    def rewrite(record, identity):
        if identity["dataset_fingerprint"] not in changes:
            raise StoreError("its data set is not here")
        return {**identity, "dataset_fingerprint": changes[identity["dataset_fingerprint"]]}

    return rewrite


CHANGES = {"f00d": "beef", "beef": "beef"}


def today(cell, **determinants):
    return dataclasses.replace(
        cell, dataset_fingerprint="beef", determinants={**cell.determinants, **determinants}
    )  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_records_move_to_the_ids_of_today_and_keep_everything_else(store, a_cell, finish):
    cell = a_cell()
    before = finish(store, cell)
    content = files(before.folder)
    done = migrate(store, renamed(CHANGES), {})
    assert done.moved == {cell.id: today(cell).id} and not done.left
    record = store.find(today(cell))
    assert store.find(cell) is None and record.former_ids == [cell.id] and verify(store).problems == []
    assert store.get(cell.id).cell_id == record.cell_id, "it is still found under the id that documents may name"
    changed = {"record.json", "cell.json", "checksums.sha256"}
    assert {k: v for k, v in files(record.folder).items() if k not in changed} == {
        name: value for name, value in content.items() if name not in changed
    }
    fields = {**before.fields, "cell_id": record.cell_id, "dataset_fingerprint": "beef", "migrated_from": [cell.id]}
    assert dict(record.fields) == fields


def test_a_second_migration_does_nothing(store, a_cell, finish):
    finish(store, a_cell())
    migrate(store, renamed(CHANGES), {})
    content = files(store.root)
    again = migrate(store, renamed(CHANGES), {})
    assert (again.moved, again.unchanged, again.left, again.files) == ({}, 1, [], []) and files(store.root) == content


def test_cells_that_start_from_others_follow_them_over_several_steps(store, a_cell, finish):
    first = a_cell()
    second = a_cell(seed=1, determinants={"start": first.id})
    third = a_cell(seed=2, determinants={"start": second.id})
    for cell in (third, first, second):
        finish(store, cell)
    assert len(migrate(store, renamed(CHANGES), {}).moved) == 3
    moved = [today(first)]
    for cell in (second, third):
        moved.append(today(cell, start=moved[-1].id))
    assert all(store.find(cell) is not None for cell in moved) and verify(store).problems == []


def test_a_cell_whose_start_or_data_is_not_there_stays_and_is_named(store, a_cell, finish):
    alone = a_cell(seed=1, determinants={"start": "0123456789ab"})
    other = a_cell(dataset_fingerprint="cafe")
    follows = a_cell(seed=3, determinants={"start": other.id})
    for cell in (alone, other, follows):
        finish(store, cell)
    content = files(store.root)
    done = migrate(store, renamed(CHANGES), {})
    assert not done.moved and len(done.left) == 3 and files(store.root) == content
    told = "\n".join(done.left)
    assert f"{alone.id}: left as it is: it starts from cell 0123456789ab, which is not in this store" in told
    assert f"{other.id}: left as it is: its data set is not here" in told
    assert f"{follows.id}: left as it is: it starts from cell {other.id}: its data set is not here" in told


def test_a_record_that_is_in_the_place_already_is_never_replaced(store, a_cell, finish):
    finish(store, a_cell(), ap=0.5)
    finish(store, today(a_cell()), ap=0.75)
    content = files(store.root)
    done = migrate(store, renamed(CHANGES), {})
    assert not done.moved and f"cell {today(a_cell()).id} is there already" in done.left[0]
    assert files(store.root) == content


def test_a_broken_identity_stays_and_is_named(store, a_cell, finish):
    (finish(store, a_cell()).folder / "cell.json").write_text("{}")
    finish(store, a_cell(seed=1))
    done = migrate(store, renamed(CHANGES), {})
    assert len(done.moved) == 1 and "cell.json" in done.left[0]


class Killed(BaseException):
    """Stands for a kill: nothing handles it."""


@pytest.mark.parametrize("step", range(1, 43))
def test_a_kill_at_any_step_loses_no_record_and_the_next_call_completes(step, store, a_cell, finish, monkeypatch):
    cells = [a_cell(seed=seed) for seed in range(2)]
    for cell in cells:
        finish(store, cell)
    counted = 0

    def killing(function):
        def wrapped(*arguments, **options):
            nonlocal counted
            counted += 1
            if counted == step:
                raise Killed
            return function(*arguments, **options)

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("rename", "replace", "link", "unlink"):
            patch.setattr(os, name, killing(getattr(os, name)))
        for name in ("write_atomic", "update_checksum", "promote"):
            patch.setattr(migrating, name, killing(getattr(migrating, name)))
        try:
            migrate(store, renamed(CHANGES), {})
        except Killed:
            pass
        else:
            assert counted < step
    found = {record["seed"] for record in store.scan()[0]}
    assert found == {0, 1}
    migrate(store, renamed(CHANGES), {})
    assert {record.cell_id for record in store.scan()[0]} == {today(cell).id for cell in cells}
    assert verify(store).problems == [] and all(record.former_ids for record in store.scan()[0])


def test_what_names_cells_follows_timings_too(store, a_cell, finish):
    cell = a_cell()
    finish(store, cell)
    timing = store.root / "timing" / f"cell-{cell.id}-1t.json"
    timing.parent.mkdir()
    timing.write_text(json.dumps({"cell": {"cell_id": cell.id}, "text": f"not {cell.id}x"}, indent=1))
    again = store.root / "reproduced" / f"{cell.id}-avx2.json"
    again.parent.mkdir()
    again.write_text(json.dumps({"cell_id": cell.id, "dataset_fingerprint": "f00d"}))
    (store.root / "other.json").write_text("[1]")
    done = migrate(store, renamed(CHANGES), CHANGES)
    new = today(cell).id
    assert [path.name for path in done.files] == [f"{new}-avx2.json", f"cell-{new}-1t.json"]
    assert json.loads(done.files[0].read_text()) == {"cell_id": new, "dataset_fingerprint": "beef"}
    assert json.loads(done.files[1].read_text()) == {"cell": {"cell_id": new}, "text": f"not {cell.id}x"}
    assert not timing.exists() and not again.exists() and (store.root / "other.json").read_text() == "[1]"


def test_a_half_removed_record_does_not_come_back(store, a_cell, finish):
    cell = a_cell()
    old = finish(store, cell).folder
    migrate(store, renamed(CHANGES), {})
    left = incoming_path(old)
    shutil.copytree(store.folder(today(cell)), left)
    assert store.find(cell) is None and len(store.scan()[0]) == 1


def test_a_record_without_checksums_stays_without(store, a_cell, finish):
    (finish(store, a_cell()).folder / "checksums.sha256").unlink()
    migrate(store, renamed(CHANGES), {})
    (record,) = store.scan()[0]
    assert isinstance(record, Record) and not (record.folder / "checksums.sha256").exists()
    assert verify(store).problems == []


def test_a_link_in_a_record_is_refused(store, a_cell, finish, tmp_path):
    (finish(store, a_cell()).folder / "link").symlink_to(tmp_path)
    assert "is a link" in migrate(store, renamed(CHANGES), {}).left[0]


def test_a_packed_store_is_to_be_unpacked_first(store, a_cell, finish):
    finish(store, a_cell())
    pack(store.root)
    with pytest.raises(StoreError, match="its records are packed: run `saibench store unpack`"):
        migrate(store, renamed(CHANGES), {})
    unpack(store.root)
    migrate(store, renamed(CHANGES), {})
    pack(store.root)
    record = store.find(today(a_cell()))
    assert record.packed and record.former_ids == [a_cell().id] and store.get(a_cell().id).cell_id == record.cell_id
    assert verify(store).problems == []
