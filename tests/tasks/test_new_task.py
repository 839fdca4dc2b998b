"""A task in a folder of its own: everything works on it, and no other file knows it."""

import json
import shutil
import subprocess
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from benchmark import listing
from benchmark.cells import Request, plan
from benchmark.errors import PluginError, UsageError
from benchmark.tasks import discovery, find_task
from tests.conftest import FIXTURES

FOLDER = FIXTURES / "stripes"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Keep what is rendered out of the user's cache, and forget folders that a test opened."""
    monkeypatch.setenv("SAIBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "stripes"))
    monkeypatch.setattr(discovery, "_opened", {})


def copy_to(place, name="stripes"):
    """Return a copy of the task's folder, under which its task has another name."""
    folder = Path(shutil.copytree(FOLDER, place / name, ignore=shutil.ignore_patterns("__pycache__")))
    task = folder / "task.py"
    task.write_text(task.read_text().replace('name = "stripes"', f'name = "{name}"'))
    return folder


def test_no_other_file_knows_the_task():
    root = FIXTURES.parents[1]
    listed = subprocess.run(["git", "-C", root, "ls-files"], capture_output=True, text=True, check=True).stdout
    code = [root / name for name in listed.splitlines() if name.endswith((".py", ".toml"))]
    knowing = [path for path in code if path.is_file() and "stripes" in path.read_text().lower()]
    assert {path for path in knowing if "tests" not in path.relative_to(root).parts} <= {
        root / "benchmark/data/scenes.py"  # which paints stripes
    }


def test_data_is_made_and_verified(run_cli, tmp_path):
    code, out, _ = run_cli("data", "make", FOLDER, "--out", tmp_path, "--json")
    made = Path(json.loads(out)["folder"])
    assert code == 0 and len(list(made.rglob("*.png"))) == 12
    code, out, _ = run_cli("data", "verify", FOLDER, "--data", made, "--json")
    assert code == 0 and json.loads(out)["counts"] == {"train": {"images": 8}, "val": {"images": 4}}
    (made / "val" / "lying-0.png").write_bytes(b"no picture")
    (made / "val" / "standing-1.png").rename(made / "val" / "tilted-1.png")
    code, out, _ = run_cli("data", "verify", FOLDER, "--data", made, "--json")
    assert code == 1
    assert {problem["kind"] for problem in json.loads(out)["problems"]} == {"unreadable image", "unknown class"}


def test_it_is_swept_counted_and_reported(run_cli, tmp_path):
    store, out = tmp_path / "store", tmp_path / "reports"
    code, printed, err = run_cli(
        "sweep",
        FOLDER,
        "--methods",
        "dense,stochastic,uniform",
        "--store",
        store,
        "--json",
        "--recipe",
        "smoothing=0.1",
    )
    assert code == 0, err
    cells = json.loads(printed)
    assert sorted(cell["method"] for cell in cells) == ["dense", "stochastic", "uniform", "uniform"]
    for cell in cells:
        assert cell["task"] == "stripes" and 0 <= cell["metric_accuracy"] <= 1 and cell["gmacs_measured_mean"] > 0
        assert json.loads(cell["overrides"]) == {"smoothing": 0.1}
    small = next(cell for cell in cells if cell.get("p_shorter_side") == 32)
    large = next(cell for cell in cells if cell.get("p_shorter_side") == 48)
    assert small["gmacs_paper"] < large["gmacs_paper"]
    code, printed, _ = run_cli("report", "--only", "figure4", "--store", store, "--out", out)
    assert code == 0 and "accuracy" in printed and "mean doubt" in printed


@pytest.mark.parametrize("convention", ["paper", "measured"])
def test_a_nominal_model_is_counted(run_cli, convention):
    code, out, err = run_cli(
        "flops", FOLDER, "--scale", "mini", "--method", "stochastic", "--density", 0.5, "--convention", convention,
        "--json",
    )  # fmt: skip
    assert code == 0, err
    counted = json.loads(out)
    assert (counted["height"], counted["width"], counted["task"]) == (48, 48, "stripes") and counted["gmacs"] > 0


def test_its_recipe_is_checked(run_cli, tmp_path):
    code, _, err = run_cli("run", FOLDER, "--method", "dense", "--recipe", "smoothing=much", "--store", tmp_path)
    assert code == 2 and "recipe field 'smoothing': input should be a valid number" in err


def test_its_code_is_part_of_the_identity_of_its_cells(tmp_path):
    first, second = copy_to(tmp_path / "a"), copy_to(tmp_path / "b")
    (second / "task.py").write_text((second / "task.py").read_text().replace("mean((2, 3))", "amax((2, 3))"))
    ids = []
    for folder in (FOLDER, first, second):
        discovery._opened.clear()
        ids.append(plan(Request(str(folder), "dense")).cell.id)
    assert ids[0] == ids[1] != ids[2]
    assert "task" not in plan(Request("imagenet", "dense", data=_tiny_imagenet(tmp_path))).cell.determinants


def _tiny_imagenet(place):
    from benchmark.data.embedded import Size

    return find_task("imagenet").embedded.make("mini", place, size=Size(48, 48, {"train": 1, "val": 1}))


def test_an_installed_package_offers_it_by_name(monkeypatch, run_cli, tmp_path):
    copy_to(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    points = EntryPoints([EntryPoint("stripes", "stripes:TASK", listing.TASK_ENTRY_POINT_GROUP)])
    monkeypatch.setattr(listing, "task_entry_points", lambda: points)
    monkeypatch.setattr(discovery, "task_entry_points", lambda: points)
    assert find_task("stripes").name == "stripes" and "stripes" in listing.task_names()
    assert run_cli("data", "make", "stripes", "--out", tmp_path / "data")[0] == 0


def test_a_folder_s_task_is_known_by_its_name_once_it_was_opened():
    with pytest.raises(UsageError, match="unknown task 'stripes'; there are .*, or give a folder's path"):
        find_task("stripes")
    assert find_task(str(FOLDER)) is find_task("stripes")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, UsageError, "no task in {folder}: it needs an __init__.py that defines TASK"),
        ("", PluginError, "{folder}/__init__.py: TASK is NoneType, not an instance of benchmark.tasks.Task"),
        ("\n1 / 0\n", PluginError, "{folder}/__init__.py:2: importing it raised ZeroDivisionError"),
        ("from . import other\n", PluginError, "{folder}/__init__.py:1: importing it raised ImportError"),
    ],
)
def test_a_folder_without_a_task_is_named(tmp_path, content, error, message):
    if content is not None:
        (tmp_path / "__init__.py").write_text(content)
    with pytest.raises(error) as caught:
        find_task(str(tmp_path))
    assert str(caught.value).startswith(message.format(folder=tmp_path))


def test_a_name_that_is_taken_is_refused(tmp_path):
    with pytest.raises(PluginError, match="the name 'coco' is taken"):
        find_task(str(copy_to(tmp_path, "coco")))
