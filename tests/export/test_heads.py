"""Whole networks: what a task finds in an image, the exported file finds."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from benchmark.cells import mask_values  # noqa: E402
from benchmark.export import Options, write_network  # noqa: E402
from benchmark.listing import task_names  # noqa: E402
from benchmark.nn import Masks, inference, interpolation, residual_blocks  # noqa: E402
from benchmark.nn.noise import uniform_field  # noqa: E402
from benchmark.tasks import Batch, find_task  # noqa: E402


@pytest.mark.parametrize("name", task_names())
def test_an_exported_network_finds_what_the_task_finds(name, embedded):
    task = find_task(name)
    recipe, reader = task.recipe("mini"), task.open(embedded[name], "val")
    torch.manual_seed(0)
    model = task.build(recipe, {"imagenet": "mini_basic_small"}.get(name, "mini_small"), len(reader.classes), 96)
    body = task.backbone(model)
    for block in residual_blocks(body):
        if block.adaptable("two"):
            block.adapt(Masks.gumbel(initial_bias=0.0), interpolation.rbf())
    if name == "coco":  # an untrained head's boxes hardly differ
        torch.nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.05)
        torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.2)
    model.eval()
    written = write_network(body, Options(noise="input"), task.head(model))
    session = onnxruntime.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
    for cut in (0, 7):
        image = reader[0].image
        image = image[:, : image.shape[1] - cut, : image.shape[2] - 2 * cut]
        with inference(["a"], 0), torch.inference_mode(), mask_values() as masks:
            prepared = task.prepare(model, Batch([image], [None], ["a"]))
            expected = task.forward(model, prepared)
        height, width = prepared.sizes[0]  # the file pads itself
        feed = {"image": prepared.images[:, :, :height, :width].numpy()}
        for place, values in masks.items():
            feed[f"noise.{place}"] = uniform_field(0, "a", place, tuple(values.shape[-2:]))[None, None]
        found = dict(zip([each.name for each in session.get_outputs()], session.run(None, feed), strict=True))
        if name == "coco":
            assert len(expected[0]["boxes"])
            assert np.array_equal(found["labels"], expected[0]["labels"].numpy())
            for key in ("boxes", "scores"):
                assert np.allclose(found[key], expected[0][key].numpy(), atol=1e-3), key
        else:
            assert np.allclose(found["logits"], expected.numpy(), atol=1e-4)


def test_the_command_writes_a_file_that_says_what_it_holds(run_cli, tiny_set, tmp_path):
    out = tmp_path / "network.onnx"
    code, text, error = run_cli(
        "export", "--method", "stochastic", "--task", "coco", "--data", tiny_set("coco"), "--density", "0.3",
        "--out", out, "--json",
    )  # fmt: skip
    assert code == 0, error
    said = json.loads(text)
    assert said["inputs"] == ["image"] and said["outputs"] == ["boxes", "scores", "labels"]
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata == said["metadata"] and metadata["method"] == "stochastic" and metadata["weights"] == "starting"
    assert json.loads(metadata["preparation"])["mean"] == [0.485, 0.456, 0.406]
    assert len(json.loads(metadata["classes"])) > 1 and metadata["commit"] and metadata["licence"]
    nothing = session.run(None, {"image": np.zeros((1, 3, 64, 96), dtype=np.float32)})
    assert len({len(each) for each in nothing}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either a trained cell's id, or --method"),
        (["abc", "--method", "dense"], "give either a trained cell's id, or --method"),
        (["abc", "--density", "0.3"], "a cell says task, backbone, parameters and scale"),
        (["--method", "dense", "--out", "."], "is a folder"),
        (["--method", "dense", "--out", "network.txt"], "end it in .onnx or .pt2"),
        (["--method", "dense", "--out", "nowhere/network.onnx"], "there is no folder"),
        (["--method", "dense", "--size", "16x640"], "the smallest that a backbone takes is 32x32"),
        (["--method", "dense", "--size", "large"], "write it as HxW"),
        (["--method", "dense", "--out", "network.pt2", "--noise", "input"], "--noise input is for .onnx"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_loaded(run_cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, error = run_cli("export", *arguments)
    assert code == 2 and not out and message in error and len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_has_no_network_to_export_says_so(run_cli, tiny_set, tmp_path):
    data, out = tiny_set("coco"), tmp_path / "network.onnx"
    for arguments, message in (
        (["--method", "dense", "--density", "0.3"], "--density is for masks"),
        (["--method", "perforated"], "give --size HxW"),
        (["--method", "sact"], "HaltingStage"),
    ):
        code, text, error = run_cli("export", *arguments, "--data", data, "--out", out)
        assert code and not text and message in error and not out.exists()
        assert len(error.strip().splitlines()) == 1
