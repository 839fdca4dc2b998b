"""Readers of records, tables, weights and plug-ins against spoiled files."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from benchmark.cli.commands.methods import _describe
from benchmark.errors import PluginError
from benchmark.method import discover
from benchmark.nn import build_backbone, load_weights
from benchmark.sampling import SAMPLING, Sampling, pack, read
from benchmark.stats import task_metrics
from benchmark.store import Cell, Store, verify
from benchmark.tensors import load_into
from benchmark.weights.files import fill
from reports import build
from tests.fuzz.fuzzing import EXAMPLES, JUNK, check_message, fuzz, own_error, spoiled_bytes, spoiled_json


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with one finished record."""
    store = Store(tmp_path_factory.mktemp("store"))
    cell = Cell("coco", "mini", "set", "f00d", "stochastic", {"gamma": 0.05}, 0, {"recipe": {}})
    described = {"name": "AP", "label": "AP", "higher_is_better": True, "scale": 100.0, "unit": "%"}
    with store.begin(cell) as work:
        (work.folder / "predictions.json").write_text("[]")
        work.commit(
            {
                "metric_AP": 0.5, "gmacs_measured_mean": 1.25, "gmacs_paper": 1.5, "density_mean": 0.3,
                "metrics": json.dumps([described]), "method_label": "Stochastic", "method_kind": "method",
                "method_curve": ["gamma"], "method_references": ["A paper."], "start": None, "overrides": None,
                "uncounted": ["noise"],
            },
            layers=pd.DataFrame({"layer": ["a"], "density": [0.3], "macs": [3]}),
            images=pd.DataFrame({"image": [1, 2], "gmacs": [1.0, 1.5]}),
        )  # fmt: skip
    return store.find(cell)


@pytest.fixture
def record(made, tmp_path):
    """A copy of it, to be spoiled."""
    root = shutil.copytree(made.folder.parents[3], tmp_path / "store")
    return Store(root).scan()[0][0]


def test_records(record, tmp_path):
    store, path = Store(record.folder.parents[3]), record.folder / "record.json"

    def check(content):
        path.write_bytes(content)
        records, warnings = store.scan()
        assert len(records) + len(warnings) == 1
        for line in [*warnings, *verify(store).problems]:
            check_message(line, record.folder)
        frame = store.records()
        assert len(frame) == len(records)
        for each in records:
            task_metrics("coco", each.fields.get("metrics"))
        json.dumps([dict(each.fields) for each in records], ensure_ascii=False).encode()

    fuzz(spoiled_json(dict(record.fields)), check)


def test_reports_on_records(record, tmp_path):
    path = record.folder / "record.json"

    def check(content):
        path.write_bytes(content)
        for output in (
            own_error(lambda: build([record.folder.parents[3]], tmp_path / "out", ["figure4"]), tmp_path) or []
        ):
            assert output.text

    fuzz(spoiled_json(dict(record.fields)), check, EXAMPLES // 8)


def test_tables(record):
    path = record.folder / "layers.parquet"
    content = path.read_bytes()

    def check(spoiled):
        path.write_bytes(spoiled)
        own_error(record.layers, record.folder)

    fuzz(spoiled_bytes(content), check)


@pytest.mark.parametrize("name", ["cell.json", "checksums.sha256", "environment.txt", "layers.parquet"])
def test_verifying_a_store(record, name):
    path = record.folder / name
    content = path.read_bytes()

    def check(spoiled):
        path.write_bytes(spoiled)
        problems = verify(Store(record.folder.parents[3])).problems
        assert problems or spoiled == content or spoiled.split() == content.split()
        for line in problems:
            check_message(line, record.folder)

    fuzz(spoiled_bytes(content), check)


def test_timings(record):
    store = Store(record.folder.parents[3])
    path = store.root / "timing" / "one.json"
    path.parent.mkdir()

    def check(spoiled):
        path.write_bytes(spoiled)
        for line in verify(store).problems:
            check_message(line, path)

    fuzz(spoiled_json({"backbone": [{"seconds": 1.0}], "cell": None}), check)


@st.composite
def spoiled_arrays(draw, arrays):
    """Give a whole archive of arrays in which some are other ones, or missing."""
    arrays = dict(arrays)
    for name in draw(st.lists(st.sampled_from(sorted(arrays)), min_size=1, max_size=3, unique=True)):
        kind = draw(st.sampled_from(["other", "junk", "numbers", "remove"]))
        if kind == "remove":
            del arrays[name]
        elif kind == "junk":
            arrays[name] = np.array(draw(st.text("ab\x1b<", max_size=5) | st.floats() | st.integers(-9, 2**62)))
        elif kind == "other":
            arrays[name] = arrays[draw(st.sampled_from(sorted(arrays)))]
        else:
            arrays[name] = np.array(draw(st.lists(st.integers(-5, 2**40), max_size=6)))
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def test_masks_of_images(tmp_path):
    path = tmp_path / SAMPLING
    masks = {"a": np.ones((2, 3, 4), bool), "b": np.zeros((2, 2, 2), bool)}
    sampling = Sampling(np.zeros((8, 9, 3), np.uint8), "one", [0, 1], masks, {"a": np.full((3, 4), 0.5, np.float32)})
    content = pack([sampling])
    with np.load(io.BytesIO(content)) as stored:
        arrays = {name: stored[name] for name in stored.files}

    def check(spoiled):
        path.write_bytes(spoiled)
        for each in own_error(lambda: read(path), path) or []:
            assert each.image.ndim == 3 and all(mask.dtype == bool for mask in each.masks.values())

    fuzz(spoiled_bytes(content) | spoiled_arrays(arrays), check)


class Network(nn.Module):
    """A few tensors."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)


def test_weights(tmp_path):
    path, model = tmp_path / "model.safetensors", Network()
    content = save({key: value.contiguous() for key, value in model.state_dict().items()}, {"saibench": "1"})
    header = int.from_bytes(content[:8], "little")
    described = json.loads(content[8 : 8 + header])

    def with_header(text):
        return len(text).to_bytes(8, "little") + text + content[8 + header :]

    def check(spoiled):
        path.write_bytes(spoiled)
        for strict in (True, False):
            own_error(lambda strict=strict: load_into(model, path, "run the cell again", strict), path)
        own_error(lambda: fill(model, path), path)
        assert all(isinstance(value, torch.Tensor) for value in model.state_dict().values())

    fuzz(spoiled_bytes(content) | spoiled_json(described).map(with_header), check)


def test_imagenet_weights(tmp_path):
    path, model = tmp_path / "resnet.safetensors", build_backbone("mini_small")
    content = save({"conv1.weight": model.conv1.weight.detach().contiguous()})

    def check(spoiled):
        path.write_bytes(spoiled)
        assert own_error(lambda: load_weights(model, path), path) is None  # it lacks all other keys

    fuzz(spoiled_bytes(content), check, EXAMPLES // 4)


METHOD = """from benchmark import Method

nan = inf = float("nan")


class Spoiled(Method):
    {doc!r}

    name = {name!r}
    label = {label!r}
    references = {references!r}
    curve = {curve!r}
    follows = {follows!r}
    stride: int = {stride!r}
"""


def test_what_a_plugin_says_of_itself(tmp_path_factory):
    sound = {
        "doc": "Doc.", "name": "spoiled", "label": "Spoiled", "references": ("A paper.",), "curve": {"stride": (2, 3)},
        "follows": ("stride",), "stride": 2,
    }  # fmt: skip

    def check(case):
        path = tmp_path_factory.mktemp("plugin") / "spoiled.py"
        path.write_text(METHOD.format(**{**sound, **case}), encoding="utf-8", errors="surrogatepass")
        found = own_error(lambda: discover([path]), path)
        if found is not None:
            (method,) = [each for each in found.values() if each.__module__.startswith("saibench_plugin_")]
            row = own_error(lambda: _describe(method), path)
            json.dumps(row, ensure_ascii=False, default=str).encode()
            assert isinstance(method.title(), str) and isinstance(method.points({}), list)

    fuzz(st.dictionaries(st.sampled_from(sorted(sound)), JUNK, min_size=1, max_size=2), check)


def test_the_text_of_a_plugin(tmp_path_factory, plugin):
    content = plugin.read_bytes()

    def check(spoiled):
        path = tmp_path_factory.mktemp("plugin") / "spoiled.py"
        path.write_bytes(spoiled)
        try:
            discover([path])
        except PluginError as error:
            check_message(str(error), path)

    fuzz(spoiled_bytes(content), check)
