"""``saibench show``: pictures of masks, what they say, and one line for each mistake."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.cells import Request, execute, plan
from benchmark.sampling import SAMPLING, read
from benchmark.store import Store
from tests.conftest import TINY


@pytest.fixture
def show(run_cli, tiny_set, tmp_path):
    """Run the command on the small set: arguments to (exit code, stdout, stderr)."""
    common = ["--data", tiny_set("coco"), "--out", tmp_path / "out", "--store", tmp_path / "store"]
    return lambda *arguments: run_cli("show", *arguments, *common)


def one_line(err):
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    return lines[0]


def test_untrained_masks_are_drawn_and_said_to_be_untrained(show, tmp_path):
    code, out, _ = show("1000001", "--method", "stochastic", "--draws", 2, "--seed", 5, "--json")
    found = json.loads(out)
    assert code == 0 and found["trained"] is False and "Untrained" in found["caption"]
    assert found["seeds"] == [5, 6] and len(found["density"]) == 2 and found["image"] == "1000001"
    assert all(len(mask["shares"]) == 2 for mask in found["masks"])
    png, svg, pdf = sorted(found["files"], key=lambda path: ("png", "svg", "pdf").index(path[-3:]))
    assert np.array(Image.open(png)).std() > 0
    assert "<svg" in Path(svg).read_text() and Path(pdf).read_bytes().startswith(b"%PDF-")


def test_the_table_has_a_column_a_draw(show):
    code, out, _ = show("1000001", "--method", "random", "--set", "density=0.5", "--draws", 2)
    assert code == 0 and "seed 0" in out and "seed 1" in out and "layer1.0.mask1" in out and ".png" in out


def test_a_file_of_any_size_and_kind_is_shown(show, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (37, 300), dtype=np.uint8)).convert("P")
    picture.save(tmp_path / "a b <c>.png")
    code, out, _ = show(tmp_path / "a b <c>.png", "--method", "equal_interval", "--json")
    assert code == 0 and json.loads(out)["image"] == "a b <c>.png"


def test_a_trained_cell_is_shown_and_keeps_its_masks_where_asked(show, tiny_set, tmp_path):
    store = Store(tmp_path / "store")
    record = execute(plan(Request("coco", "stochastic", data=tiny_set("coco"), overrides=TINY)), store)
    kept = record.path(SAMPLING).read_bytes()
    record.path(SAMPLING).unlink()
    code, out, _ = show("1000001", "--checkpoint", record.cell_id, "--keep", "--json")
    found = json.loads(out)
    assert code == 0 and found["trained"] is True and record.cell_id in found["caption"]
    assert "Untrained" not in found["caption"] and record.path(SAMPLING).read_bytes() == kept
    assert found["masks"][0]["shares"][0] == next(iter(read(record.path(SAMPLING))[0].shares().values()))


@pytest.mark.parametrize(
    ("arguments", "said", "exit_code"),
    [
        (["1000001"], "--method", 2),
        (["1000001", "--method", "stochastic", "--checkpoint", "abc"], "--checkpoint", 2),
        (["1000001", "--checkpoint", "abc", "--set", "gamma=1"], "leave --task, --set and --scale out", 2),
        (["1000001", "--checkpoint", "abc", "--scale", "mini"], "leave --task", 2),
        (["1000001", "--method", "stochastic", "--keep"], "--keep is for a trained cell", 2),
        (["1000001", "--method", "stochastik"], "did you mean 'stochastic'", 2),
        (["1000001", "--method", "stochastic", "--set", "gama=1"], "no parameter 'gama'", 2),
        (["1000001", "--method", "stochastic", "--draws", "0"], "--draws", 2),
        (["1000001", "--checkpoint", "abc"], "one cell id must begin with 'abc'", 1),
        (["1000001", "--method", "lccl"], "does not run on coco", 2),
        (["1000001", "--method", "dense"], "no masks to show", 1),
        (["5", "--method", "stochastic"], "such as 1000001", 1),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(show, tmp_path, arguments, said, exit_code):
    code, out, err = show(*arguments)
    assert code == exit_code and said in one_line(err) and out == "" and not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_line(show, run_cli, tiny_set, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run_cli(
        "show", "1000001", "--method", "random", "--data", tiny_set("coco"), "--out", tmp_path / "file" / "below"
    )
    assert code == 1 and "use another --out" in one_line(err)
