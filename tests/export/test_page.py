"""docs/export.md is true: a cell is run and exported, and the page's script draws boxes without Saibench."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from benchmark.cells import Request, execute, plan
from benchmark.store import Store
from tests.conftest import TINY

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def test_the_script_of_the_page_draws_boxes_on_a_photograph(run_cli, tiny_set, tmp_path):
    record = execute(
        plan(Request("coco", "stochastic", data=tiny_set("coco"), overrides=TINY)), Store(tmp_path / "runs")
    )
    code, _, error = run_cli(
        "export", record.cell_id, "--store", tmp_path / "runs", "--data", tiny_set("coco"),
        "--out", tmp_path / "network.onnx",
    )  # fmt: skip
    assert code == 0 and record.cell_id[:8] not in error, error
    (script,) = re.findall(r'^```python title="boxes.py"\n(.*?)^```$', PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len([line for line in script.splitlines() if line and not line.startswith(("import", "from"))]) <= 15
    photo = next(path for path in tiny_set("coco").rglob("*.jpg") if "val" in path.as_posix())
    Image.open(photo).save(tmp_path / "photo.jpg", quality=95)
    script += "import sys\nassert 'benchmark' not in sys.modules and 'torch' not in sys.modules\nprint(len(scores))\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    drawn, original = Image.open(tmp_path / "boxes.png"), Image.open(tmp_path / "photo.jpg")
    assert drawn.size == original.size and int(done.stdout) >= 0
