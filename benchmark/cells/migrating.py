"""What of a cell's identity is written in another form than before, though nothing computes another result.

Each change says how it is known of a record: data are hashed again as before, a method's code is one of a table.
The records are rewritten by `benchmark.store.migrating`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.cells.planning import data_fingerprint
from benchmark.cells.request import Request, data_folder, reader
from benchmark.errors import DataError, StoreError, UsageError
from benchmark.listing import project_tasks
from benchmark.store import Migrated, Record, Store, migrate
from benchmark.tasks import find_task

#: Methods' files whose code changed and whose results did not: by method, the hash before, the hash now, and why.
CODE_CHANGES = Path(__file__).with_name("code_changes.json")


def migrate_store(store: Store, folders: Sequence[Path] = ()) -> Migrated:
    """Give a store's records the ids that their cells have today, where the result is known to be the same.

    - A data set's fingerprint is of the pictures' contents, and was of their sizes. A record follows where its data
      set is at hand and has the fingerprint of before: rendered, or one of `folders`.
    - A method's code changed in a way that cannot change a result: `CODE_CHANGES`.
    - A cell that starts from another one follows it.

    Parameters
    ----------
    folders
        Data sets that were given by ``--data``.

    Raises
    ------
    StoreError
        If the store is not there or cannot be written.
    UsageError
        For a folder that no record was made from.
    """
    records = store.scan()[0]
    data = _data_changes(records, folders)
    code = {(each["method"], each["before"]): each["now"] for each in json.loads(CODE_CHANGES.read_text("utf-8"))}

    def rewrite(record: Record, identity: Mapping[str, Any]) -> dict[str, Any]:
        determinants, task = dict(identity["determinants"]), str(identity["task"])
        if task not in project_tasks():  # its data are hashed by a reader of its own
            return dict(identity)
        recipe, schedules = determinants.get("recipe") or {}, determinants.get("schedules") or [{}]
        if not recipe.get("start") and determinants.get("start") is None and not schedules[0].get("from_nothing"):
            raise StoreError("it does not say which ImageNet weights it started from: run the cell again")
        key = (task, str(identity["dataset_fingerprint"]))
        if key not in data:
            raise StoreError(f"its data set {record['dataset']} is not here as it was: give its folder with --data")
        while (identity["method"], determinants["method"]) in code:
            determinants["method"] = code[identity["method"], determinants["method"]]
        return {**identity, "dataset_fingerprint": data[key], "determinants": determinants}

    return migrate(store, rewrite, {before: now for (_, before), now in data.items()})


def _data_changes(records: Sequence[Record], folders: Sequence[Path]) -> dict[tuple[str, str], str]:
    """Return today's fingerprint of each data set at hand, by its task, and the fingerprint before or today's."""
    found: dict[tuple[str, str], str] = {}
    wanted = {(str(record["task"]), str(record["scale"]), str(record["dataset"])) for record in records}
    tasks = sorted({task for task, _, _ in wanted} & set(project_tasks()))
    for task, scale, dataset in sorted(wanted):
        if task in tasks and dataset == find_task(task).embedded.name(scale):
            found |= _changes_of(task, data_folder(Request(task, "", scale)))
    known = {(str(record["task"]), str(record["dataset_fingerprint"])) for record in records}
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"no data folder {folder}")
        changes = [_changes_of(task, folder.resolve()) for task in tasks]
        if not any(key in known for change in changes for key in change):
            raise UsageError(f"{folder}: no record was made from this data set as it is now: leave it out")
        for change in changes:
            found |= change
    return found


def _changes_of(task: str, folder: Path) -> dict[tuple[str, str], str]:
    """Return a data set's fingerprints of before and of today, with today's; nothing where it is none of the task."""
    try:
        readers = [reader(task, folder, split) for split in ("train", "val")]
    except DataError:
        return {}
    if any(getattr(each, "doubts", ()) for each in readers) or any(map(_has_turned, readers)):
        return {}  # read otherwise than by earlier versions: another result is to be expected
    now = data_fingerprint(task, folder)
    before = "-".join(each.former_fingerprint()[:12] for each in readers)  # type: ignore[attr-defined]
    return {(task, before): now, (task, now): now}


def _has_turned(split: Any) -> bool:
    """Return whether EXIF data turn an image of a split."""
    return any(look.turned for look in split.images.inspect_all(split.names))
