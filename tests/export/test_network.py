"""Exported networks compute in ONNX Runtime what PyTorch computes here, with standard operators alone."""

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from benchmark.cells import mask_values  # noqa: E402
from benchmark.checks.subject import outputs  # noqa: E402
from benchmark.engines import EngineRefusal, find  # noqa: E402
from benchmark.export import OPSET, ExportRefusal, Options, write_network  # noqa: E402
from benchmark.flops.measured import MeasuredCounter  # noqa: E402
from benchmark.method import discover  # noqa: E402
from benchmark.nn import GumbelMask, build_backbone, inference, residual_blocks  # noqa: E402
from benchmark.nn.masks import LearnedMask  # noqa: E402

SIZES = ((64, 96), (75, 61))
BOTTLENECK, BASIC = "mini_small", "mini_basic_small"
CASES = [
    ("dense", {}, BOTTLENECK, {}),
    ("stochastic", {}, BOTTLENECK, {}),
    ("stochastic", {"masks_per_block": 1}, BOTTLENECK, {}),
    ("stochastic", {"masks_per_block": 3, "fill": "reuse"}, BOTTLENECK, {}),
    ("stochastic", {"fill": "convolution"}, BASIC, {}),
    ("stochastic", {}, BOTTLENECK, {"deformable": True, "output_stride": 8, "deep_stem": True}),
    ("stochastic_without_interpolation", {}, BASIC, {}),
    ("deterministic_gumbel", {}, BOTTLENECK, {}),
    ("relu_gating", {}, BOTTLENECK, {}),
    ("equal_interval", {}, BOTTLENECK, {}),
    ("random", {}, BASIC, {}),
    ("perforated", {}, BOTTLENECK, {}),
    ("lccl", {}, BASIC, {}),
    ("dynconv", {}, BOTTLENECK, {}),
    ("lasnet", {}, BASIC, {}),
    ("sfp", {}, BASIC, {}),
]


def network(name, parameters, backbone, options):
    """A method's backbone with random weights, norms that have seen something, and masks of all densities."""
    torch.manual_seed(0)
    method = discover()[name].make(parameters)
    body = build_backbone(backbone, **options)
    method.adapt(body)
    method.prepare(body)
    for module in body.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, LearnedMask):
            torch.nn.init.normal_(module.conv.weight, std=0.1)
        if isinstance(module, GumbelMask):
            torch.nn.init.constant_(module.conv.bias, 0.0)
    for name, parameter in body.named_parameters():
        if name.endswith("offset.weight"):
            torch.nn.init.normal_(parameter, std=0.05)  # samples also fall outside of the map
    method.finish(body)
    return body.eval()


@pytest.mark.parametrize(("name", "parameters", "backbone", "options"), CASES, ids=lambda value: str(value))
def test_the_exported_graph_computes_what_pytorch_computes_and_tallies_what_is_counted(
    name, parameters, backbone, options
):
    body = network(name, parameters, backbone, options)
    engine = find("onnx")(body, threads=1)
    stages = [stage for stage, _ in body.named_children() if stage.startswith("layer")]
    for height, width in SIZES:
        image = np.random.default_rng(height).normal(size=(1, 3, height, width)).astype(np.float32)
        counter = MeasuredCounter(body)
        with (
            inference(["a"], 7), counter.recording(), torch.inference_mode(), outputs(body, stages) as maps,
            mask_values() as masks,
        ):  # fmt: skip
            body(torch.from_numpy(image))
        with inference(["a"], 7):
            result = engine(image[0])
        assert set(result.masks) == set(masks)
        for place, values in masks.items():
            assert np.allclose(result.masks[place], values[0, 0].numpy(), rtol=1e-4, atol=1e-5), place
        for stage in stages:
            expected = maps[stage][0].permute(1, 2, 0).numpy()
            assert np.linalg.norm(result.stages[stage] - expected) <= 1e-4 * np.linalg.norm(expected), stage
        table = counter.image_layers().query("scope == 'backbone' and macs > 0")
        counted = dict(zip(table["layer"], table["macs"], strict=True))
        assert {layer: row.macs for layer, row in result.tally.items() if row.macs} == counted
        assert result.executed >= result.macs or name == "perforated"


def test_a_file_has_standard_operators_of_one_named_opset_and_says_what_it_is():
    body = network("stochastic", {}, BOTTLENECK, {})
    model = write_network(body, Options(metadata={"method": "stochastic"}))
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
    assert {node.domain for node in model.graph.node} == {""}
    assert [value.name for value in model.graph.input] == ["image"]  # noise is drawn in the graph
    assert {each.key: each.value for each in model.metadata_props} == {"method": "stochastic"}


def test_noise_in_the_graph_differs_from_mask_to_mask_and_from_call_to_call():
    import onnxruntime

    body = network("random", {"density": 0.5}, BASIC, {})
    model = write_network(body, Options(masks=True))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs() if output.name.startswith("decided.layer1")]
    image = {"image": np.zeros((1, 3, 64, 64), dtype=np.float32)}
    first, second = session.run(names, image), session.run(names, image)
    assert first[0].mean() == first[1].mean() == 0.5
    assert (first[0] != first[1]).any() and (first[0] != second[0]).any()


def test_masks_that_are_given_take_the_place_of_those_that_are_decided():
    body = network("deterministic_gumbel", {}, BOTTLENECK, {})
    engine = find("onnx")(body, threads=1)
    image = np.random.default_rng(0).normal(size=(3, 64, 64)).astype(np.float32)
    own = engine(image)
    given = {place: np.ones_like(mask) for place, mask in own.masks.items()}
    dense = engine(image, masks=given)
    assert all((mask == 1).all() for mask in dense.masks.values()) and dense.macs > own.macs
    one = next(iter(given))
    partly = engine(image, masks={one: given[one]})
    assert (partly.masks[one] == 1).all()
    several = engine([image, image[:, :40].copy()], masks=[given, None])
    assert len(several) == 2 and several[0].macs == dense.macs and several[1].stages["layer1"].shape[0] == 10
    with pytest.raises(ValueError, match="2 images but 1"):
        engine([image, image], masks=[given])
    with pytest.raises(ValueError, match="no mask layers"):
        engine(image, masks={"layer9.0.mask1": given[one]})
    with pytest.raises(ValueError, match="the map is"):
        engine(image, masks={one: given[one][1:]})
    with pytest.raises(TypeError, match="float32"):
        engine(image.astype(np.float64))


def test_what_cannot_be_exported_is_refused_by_name():
    with pytest.raises(EngineRefusal, match=r"layer1: .*HaltingStage"):
        find("onnx")(network("sact", {}, "mini", {}), threads=1)
    with pytest.raises(ExportRefusal, match=r"mask1: its pattern is made for one size of map: give --size"):
        write_network(network("perforated", {}, BOTTLENECK, {}), Options())
    body = network("dynconv", {}, BOTTLENECK, {})
    mask = next(residual_blocks(body)).mask3
    mask.forward = lambda x: torch.fft.fft(x).real[:, :1]
    with pytest.raises(ExportRefusal, match=r"layer1\.0\.mask3: its forward"):
        write_network(body, Options())
