"""The command: exit codes, JSON, and one clear line for every bad input."""

import json
import os
import shutil
import stat

import numpy as np
import pytest
from PIL import Image

from benchmark.data.embedded import Size
from benchmark.listing import method_names
from benchmark.tasks import find_task
from tests.conftest import TINY

RECIPE = [word for name, value in TINY.items() for word in ("--recipe", f"{name}={value}")]


def one_line(err):
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    return lines[0]


def test_methods_lists_parameters_curves_and_references(run_cli):
    code, out, _ = run_cli("methods", "--json")
    listed = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and listed["stochastic"]["parameters"]["gamma"] == 0.05
    assert listed["uniform"]["curve"] == {"shorter_side": [1000, 800, 600, 500]}
    assert "ECCV 2020" in listed["stochastic"]["references"][0]


def test_the_list_of_methods_fits_a_narrow_terminal(run_cli):
    code, out, _ = run_cli("methods", columns=80)
    lines = out.splitlines()
    assert code == 0 and len(lines) < 100 and max(map(len, lines)) <= 80
    assert all(name in out for name in method_names())


def test_a_methods_name_shows_its_parameters_curve_and_references(run_cli):
    code, out, _ = run_cli("methods", "lccl")
    assert code == 0 and "shift=0.0" in out and "CVPR" in out and "not coco: " in out and "stochastic" not in out


def test_info_names_versions_hardware_and_data(run_cli, tmp_path, monkeypatch):
    monkeypatch.setenv("SAIBENCH_CACHE", str(tmp_path))
    rendered = tmp_path / "data" / "coco-mini-v0-seed0" / "manifest.json"
    rendered.parent.mkdir(parents=True)
    rendered.write_text("{}")
    code, out, _ = run_cli("info", "--json")
    found = json.loads(out)
    assert code == 0 and {"torch", "python", "cpu", "isa", "threads", "cores", "cache"} <= found.keys()
    assert found["data"] == [str(rendered.parent)]
    assert found["engines"]["cpu"]["instruction_set"] in ("portable", "avx2", "avx512")
    assert run_cli("info")[0] == 0


def test_data_make_writes_the_same_bytes_twice(run_cli, tmp_path, monkeypatch):
    small = Size(64, 64, {"train": 2, "val": 1})
    monkeypatch.setitem(find_task("coco").embedded.sizes, "mini", small)
    prints = []
    for name in ("a", "b"):
        code, out, _ = run_cli("data", "make", "coco", "--out", tmp_path / name, "--json")
        assert code == 0
        prints.append(json.loads(out)["fingerprint"])
    assert prints[0] == prints[1]


def test_run_sweep_and_report_end_to_end(run_cli, tiny_set, tmp_path, plugin):
    store, out = tmp_path / "store", tmp_path / "reports"
    common = ["--data", tiny_set("coco"), "--store", store, *RECIPE]
    code, printed, _ = run_cli("run", "coco", "--method", "dense", *common, "--json")
    assert code == 0 and json.loads(printed)["status"] == "finished"
    code, printed, _ = run_cli("sweep", "coco", "--methods", f"{plugin},dense", *common, "--json", "--out", out)
    methods = sorted(row["method"] for row in json.loads(printed))
    assert code == 0 and methods == ["checkerboard", "checkerboard", "dense"]
    code, printed, _ = run_cli("report", "--only", "figure4", "--store", store, "--out", out)
    assert code == 0 and "checkerboard" in printed.lower()
    assert {path.suffix for path in out.rglob("*") if path.is_file()} >= {".png", ".svg", ".md", ".csv"}
    code, printed, _ = run_cli("sweep", "coco", "--methods", f"{plugin},dense", *common, "--dry-run", "--json")
    assert {row["state"] for row in json.loads(printed)["cells"]} == {"finished"}


def test_a_plugin_passes_the_contract(run_cli, plugin):
    code, out, _ = run_cli("check", plugin, "--json")
    results = json.loads(out)
    assert code == 0, [result for result in results if result["status"] == "failed"]
    assert {result["name"] for result in results} >= {"builds", "counts match the engine", "same seed, same result"}


def test_a_method_that_breaks_the_contract_fails_the_check(run_cli, tmp_path):
    path = tmp_path / "negative.py"
    path.write_text(
        "import torch\nfrom benchmark import Method\nfrom benchmark.nn import Masks, Mask\n\n\n"
        "class Negative(Mask):\n    def forward(self, x):\n        return -torch.ones(len(x), 1, *self.size(x))\n\n\n"
        "class Bad(Method):\n    '''Negative masks.'''\n\n    name = 'bad'\n\n"
        "    def mask(self, block):\n        return Negative\n"
    )
    code, out, _ = run_cli("check", path, "--json")
    failed = [result for result in json.loads(out) if result["status"] == "failed"]
    assert code == 1 and any("negative" in result["detail"] for result in failed)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "coco", "--method", "stochastik"], 2, "unknown method 'stochastik'"),
        (["run", "koko", "--method", "dense"], 2, "unknown task 'koko'; did you mean 'coco'? There are"),
        (["run", "coco", "--method", "dense", "--scale", "huge"], 2, "'huge' is not one of 'mini'"),
        (["run", "coco", "--method", "stochastic", "--set", "gama=1"], 2, "no parameter 'gama'"),
        (["run", "coco", "--method", "stochastic", "--set", "gamma=-1"], 2, "greater than or equal to 0"),
        (["run", "coco", "--method", "stochastic", "--set", "gamma"], 2, "write it as name=value"),
        (
            ["run", "coco", "--method", "dense", "--recipe", "train.step=1"],
            2,
            "field 'train.step'; train has",
        ),
        (["run", "coco", "--method", "dense", "--recipe", "train.steps=-5"], 2, "'train.steps': input should be gr"),
        (["run", "coco", "--method", "dense", "--recipe", "train.batch=0"], 2, "'train.batch': input should be gr"),
        (["run", "coco", "--method", "dense", "--recipe", "train.optimizer=foo"], 2, "'sgd' or 'adamw', got \"foo\""),
        (["sweep", "coco", "--recipe", "backbone=vgg"], 2, "'backbone': there are resnet18"),
        (["run", "coco", "--method", "dense", "--data", "/no/such/folder"], 1, "no data folder /no/such/folder"),
        (["run", "coco", "--method", "/no/such/method.py"], 2, "no such method file: /no/such/method.py"),
        (["sweep", "coco", "--seeds", "one"], 2, "--seeds 'one': give whole numbers"),
        (["sweep", "coco", "--executor", "cloud"], 2, "unknown executor 'cloud'; there are local, slurm"),
        (["sweep", "coco", "--partition", "gpu"], 2, "partition is an option of a cluster's queue: give --executor"),
        (["sweep", "coco", "--slurm", "mem"], 2, "--slurm 'mem': write it as name=value"),
        (["sweep", "coco", "--executor", "slurm"], 2, "give --time"),
        (["sweep", "coco", "--executor", "slurm", "--time", "soon"], 2, "--time 'soon': write it as H:M:S"),
        (["sweep", "coco", "--measure"], 2, "--measure goes with --dry-run"),
        (["sweep", "coco", "--jobs", "-1"], 2, "greater than or equal to 0"),
        (["sweep", "coco", "--cells", "tabel1"], 2, "no cells 'tabel1'; there are"),
        (["sweep", "coco", "--methods", "lccl"], 2, "no cell to run on coco: lccl: "),
        (["sweep", "coco", "--set", "gama=0.1"], 2, "unknown parameter 'gama'; did you mean 'gamma'?"),
        (["sweep", "coco", "--methods", "uniform", "--set", "gamma=0.1"], 2, "there are shorter_side in the methods"),
        (["sweep", "coco", "--methods", ""], 2, "--methods '': name at least one"),
        (["sweep", "coco", "--seeds", ","], 2, "--seeds ',': name at least one"),
        (["sweep", "coco", "--cells", ""], 2, "--cells '': name at least one"),
        (["time", "--size", "99999999x99999999"], 2, "GiB, this machine has"),
        (["time", "--size", "31x99"], 2, "at least 32x32 pixels"),
        (["time", "--size", "wide"], 2, "write it as HxW in pixels, at least 32x32, or small"),
        (["time", "--threads", "0"], 2, "greater than or equal to 1"),
        (["time", "--threads", "-1"], 2, "greater than or equal to 1"),
        (["time", "--threads", "60000"], 2, "--threads 60000: this process may use"),
        (["report", "--only", ""], 2, "--only '': name at least one"),
        (["report", "--only", "figur4"], 2, "did you mean 'figure4'?"),
        (["report", "--store", "missing"], 1, "missing: there is no such store"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(run_cli, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    found, _, err = run_cli(*arguments)
    assert found == code and message in one_line(err)
    assert not list(tmp_path.rglob("record.json"))


@pytest.fixture
def spoiled(copied_set):
    """A copy of the tiny detection set, to be spoiled."""
    return copied_set("coco")


def run_on(run_cli, folder, store, task="coco"):
    return run_cli("run", task, "--method", "dense", "--data", folder, "--store", store, *RECIPE)


def test_annotations_that_are_not_json_are_named(run_cli, spoiled, tmp_path):
    path = spoiled / "annotations" / "instances_train2017.json"
    path.write_text("{not json")
    code, _, err = run_on(run_cli, spoiled, tmp_path / "store")
    assert code == 1 and str(path) in one_line(err)
    assert not list((tmp_path / "store").rglob("record.json"))


def test_an_image_that_is_not_there_is_named(run_cli, spoiled, tmp_path):
    lost = sorted((spoiled / "train2017").iterdir())[0]
    lost.unlink()
    code, _, err = run_on(run_cli, spoiled, tmp_path / "store")
    assert code == 1 and lost.name in one_line(err)


def test_an_annotation_for_an_image_that_is_not_listed_is_named(run_cli, spoiled, tmp_path):
    path = spoiled / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["image_id"] = 987654
    path.write_text(json.dumps(content))
    code, _, err = run_on(run_cli, spoiled, tmp_path / "store")
    assert code == 1 and "987654" in one_line(err) and str(path) in err


def test_a_truncated_image_fails_the_cell_and_names_the_file(run_cli, spoiled, tmp_path):
    for path in (spoiled / "train2017").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, _, err = run_on(run_cli, spoiled, tmp_path / "store")
    line = err.strip().splitlines()[-1]
    assert code == 1 and "train2017" in line and ".jpg" in line
    (record,) = (tmp_path / "store").rglob("record.json")
    assert json.loads(record.read_text())["status"] == "failed"


def cut(*paths):
    for path in paths:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def relabel(labels, paths):
    for path in paths:
        Image.fromarray(labels).save(path)


def label_maps(folder, split):
    return sorted((folder / "gtFine" / split).rglob("*_labelIds.png"))


def pictures(folder, split):
    places = [folder / "leftImg8bit" / split, folder / split]
    return sorted(path for place in places for path in place.rglob("*") if path.is_file())


def drop(paths):
    for path in paths:
        path.unlink()


def flatten(place):
    for number, path in enumerate(sorted(place.rglob("*.JPEG")), start=1):
        path.rename(place / f"ILSVRC2012_val_{number:08d}.JPEG")
    for folder in [path for path in place.iterdir() if path.is_dir()]:
        folder.rmdir()


# How a set is spoiled, what the one line says, and whether the fault shows only when a training image is read (`late`).
SPOILED = [
    ("cityscapes", lambda d: shutil.rmtree(d / "leftImg8bit/val"), "leftImg8bit/val; expected leftImg8bit/", False),
    ("cityscapes", lambda d: drop(pictures(d, "train")), "no images in ", False),
    ("cityscapes", lambda d: shutil.rmtree(d / "gtFine"), "no labels for scenes_000000_000000", False),
    ("cityscapes", lambda d: cut(*pictures(d, "train")), "leftImg8bit.png: image file is truncated; fetch", True),
    ("cityscapes", lambda d: cut(*label_maps(d, "val")), "gtFine_labelIds.png: image file is truncated; fetch", False),
    (
        "cityscapes",
        lambda d: relabel(np.full((128, 256), 60, np.uint8), label_maps(d, "val")),
        "gtFine_labelIds.png has label id 60; Cityscapes has 0 to 33 and 255: map it",
        False,
    ),
    (
        "cityscapes",
        lambda d: relabel(np.full((64, 128), 7, np.uint8), label_maps(d, "train")),
        "gtFine_labelIds.png is 128x64 pixels, but its image is 256x128; fetch",
        True,
    ),
    (
        "cityscapes",
        lambda d: relabel(np.zeros((128, 256), np.uint8), label_maps(d, "val")),
        "gtFine/val shows no class that Cityscapes evaluates",
        False,
    ),
    ("imagenet", lambda d: shutil.rmtree(d / "val"), "val; expected train/<WordNet id>", False),
    ("imagenet", lambda d: drop(pictures(d, "train")), "no images in the folders of ", False),
    ("imagenet", lambda d: drop(pictures(d, "train")[:6]), "no images of class ", False),
    ("imagenet", lambda d: (d / "val/n99000003").rename(d / "val/n12345678"), "n12345678 is a class that ", False),
    ("imagenet", lambda d: flatten(d / "val"), "val is flat and nothing gives its labels: put ", False),
    ("imagenet", lambda d: cut(*pictures(d, "train")), ".JPEG: image file is truncated", True),
    ("imagenet", lambda d: pictures(d, "val")[5].write_text("text"), ".JPEG: not an image that Pillow knows", False),
]


@pytest.mark.parametrize(("task", "spoil", "message", "late"), SPOILED)
def test_spoiled_sets_of_the_other_tasks_are_one_line(run_cli, copied_set, tmp_path, task, spoil, message, late):
    folder = copied_set(task)
    spoil(folder)
    code, _, err = run_on(run_cli, folder, tmp_path / "store", task)
    line = one_line(err)
    assert code == 1 and message in line and str(folder) in line
    records = [json.loads(path.read_text()) for path in (tmp_path / "store").rglob("record.json")]
    assert [record["status"] for record in records] == ["failed"] * late
    code, out, _ = run_cli("data", "verify", task, "--data", folder, "--json")
    assert json.loads(out)["problems"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_store_is_said_before_anything_runs(run_cli, tiny_set, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    code, _, err = run_on(run_cli, tiny_set("coco"), locked / "store")
    assert code == 1 and "locked" in one_line(err)


def test_a_store_that_is_a_file_is_said_before_anything_runs(run_cli, tiny_set, tmp_path):
    (tmp_path / "store").write_text("a file")
    code, _, err = run_on(run_cli, tiny_set("coco"), tmp_path / "store")
    assert code == 1 and str(tmp_path / "store") in one_line(err)


def test_a_plugin_that_raises_is_named(run_cli, tmp_path):
    path = tmp_path / "raises.py"
    path.write_text("1 / 0\n")
    code, _, err = run_cli("check", path)
    assert code == 1 and f"{path}:1: importing it raised ZeroDivisionError" in one_line(err)
