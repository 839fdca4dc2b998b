"""``saibench store migrate`` end to end: what changed in form is known of a record, and the rest stays."""

import json
import shutil

import pandas as pd
import pytest
from PIL import Image, ImageOps

from benchmark.cells import Request, migrating, plan, planning
from benchmark.store import Store, verify
from tests.conftest import TINY


@pytest.fixture
def formerly(monkeypatch):
    """Give what plans a cell as earlier versions did."""

    def make(request):
        with monkeypatch.context() as patch:
            patch.setattr(planning, "data_fingerprint", lambda task, folder: "-".join(
                planning.reader(task, folder, split).former_fingerprint()[:12] for split in ("train", "val")
            ))  # fmt: skip
            return plan(request)

    return make


def finish(store, planned):
    with store.begin(planned.cell) as work:
        table = pd.DataFrame({"layer": ["a"]})
        return work.commit({"start": planned.cell.determinants["start"]}, table, table)


@pytest.mark.parametrize("task", ["coco", "cityscapes", "imagenet"])
def test_a_sweep_finds_the_records_of_before_and_their_starts(task, copied_set, tmp_path, formerly, run_cli):
    store, data = Store(tmp_path / "store"), copied_set(task)
    request = Request(task, "stochastic", data=data, overrides={**TINY, "from_scratch": True})
    former, now = formerly(request), plan(request)
    for planned in (former, former.start):
        finish(store, planned)
    assert former.cell.id != now.cell.id and store.find(now.cell) is None
    code, out, _ = run_cli("store", "migrate", store.root, "--data", data)
    assert code == 0 and f"{former.cell.id} -> {now.cell.id}" in out and "2 records have new ids" in out
    record = store.find(now.cell)
    assert record["start"] == now.start.cell.id and store.find(now.start.cell) is not None
    assert verify(store).problems == []
    code, out, _ = run_cli("store", "migrate", store.root, "--data", data, "--json")
    assert code == 0 and json.loads(out)["unchanged"] == 2


def test_a_set_whose_pictures_changed_at_equal_size_is_not_taken_for_the_one_of_before(
    copied_set, tmp_path, formerly, run_cli
):
    """Its sizes are those of the record's, which is all that is known of it: so the annotations alone decide."""
    store, data = Store(tmp_path / "store"), copied_set("coco")
    finish(store, formerly(Request("coco", "dense", data=data, overrides=TINY)))
    annotations = data / "annotations" / "instances_val2017.json"
    annotations.write_text(annotations.read_text() + " ")
    code, _, err = run_cli("store", "migrate", store.root, "--data", data)
    assert code == 2 and "no record was made from this data set as it is now" in err
    code, _, err = run_cli("store", "migrate", store.root)
    assert code == 1 and "its data set coco is not here as it was: give its folder with --data" in err
    assert len(store.scan()[0]) == 1 and verify(store).problems == []


def test_a_method_whose_code_changed_in_form_follows_the_table_with_its_reason(
    copied_set, tmp_path, formerly, monkeypatch, run_cli
):
    store, data = Store(tmp_path / "store"), copied_set("coco")
    request = Request("coco", "dense", data=data, overrides=TINY)
    now = plan(request)
    with monkeypatch.context() as patch:
        patch.setattr(type(now.method), "code_fingerprint", classmethod(lambda cls: "0123456789abcdef"))
        finish(store, formerly(request))
    changes = tmp_path / "changes.json"
    steps = [("0123456789abcdef", "1123456789abcdef"), ("1123456789abcdef", now.cell.determinants["method"])]
    changes.write_text(json.dumps([{"method": "dense", "before": a, "now": b, "why": "a test"} for a, b in steps]))
    monkeypatch.setattr(migrating, "CODE_CHANGES", changes)
    run_cli("store", "migrate", store.root, "--data", data)
    assert store.find(now.cell) is not None


def test_every_change_of_code_has_a_reason_and_leads_to_code_of_today():
    from benchmark.method import discover

    changes = json.loads(migrating.CODE_CHANGES.read_text(encoding="utf-8"))
    code = {(each["method"], each["before"]): each["now"] for each in changes}
    assert len(code) == len(changes) and all(each["why"] for each in changes)
    for (method, _), now in code.items():
        while (method, now) in code:
            now = code[method, now]
        assert discover()[method].code_fingerprint() == now, f"{method} changed again: add how"


def test_a_cell_from_imagenet_weights_that_it_does_not_name_stays(copied_set, tmp_path, formerly, run_cli, monkeypatch):
    monkeypatch.setenv("SAIBENCH_CACHE", str(tmp_path / "cache"))
    store, data = Store(tmp_path / "store"), copied_set("coco")
    finish(store, formerly(Request("coco", "dense", "paper", data=data)))
    code, _, err = run_cli("store", "migrate", store.root, "--data", data)
    assert code == 1 and "does not say which ImageNet weights it started from" in err


def test_mirrored_pictures_of_equal_size_are_another_data_set(copied_set, tmp_path):
    """As the three tasks' readers see it, through the cell's id."""
    for task in ("coco", "cityscapes", "imagenet"):
        data = copied_set(task)
        other = tmp_path / "other" / task
        shutil.copytree(data, other)
        path = next(
            path for path in sorted(other.rglob("*val*/**/*")) if path.suffix.lower() in (".jpeg", ".jpg", ".png")
        )
        size = path.stat().st_size
        with Image.open(path) as image:
            ImageOps.mirror(image).save(path, quality=60)
        content = path.read_bytes()
        assert len(content) <= size
        path.write_bytes(content + b"\0" * (size - len(content)))
        first, second = (plan(Request(task, "dense", data=folder, overrides=TINY)) for folder in (data, other))
        assert first.cell.id != second.cell.id
