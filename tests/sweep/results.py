"""What two sweeps are compared by."""

#: Fields of a record that say when, where and how long, and nothing about the result.
TIMES = {"started", "finished", "seconds_train", "seconds_eval", "git_dirty", "git_sha"}


def results(store):
    """Return what the records of a store say by cell, times apart."""
    records, broken = store.scan()
    assert not broken
    return {record.cell_id: {k: v for k, v in record.fields.items() if k not in TIMES} for record in records}
