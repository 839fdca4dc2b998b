"""`saibench flops` answers with the paper's numbers, and its measured count lies where it must."""

import json

import pytest

from benchmark.errors import UsageError
from benchmark.flops.command import FlopsRequest, count_flops


def gmacs(task, **options):
    return count_flops(FlopsRequest(task, **options))["gmacs"]


@pytest.mark.parametrize(
    ("options", "expected", "tolerance"),
    [
        ({"task": "coco", "backbone": "resnet101", "shorter_side": 1000}, 289.475, 0.001),
        ({"task": "coco", "backbone": "resnet101", "shorter_side": 500}, 70.034, 0.001),
        ({"task": "coco", "backbone": "resnet50"}, 149.166, 0.001),
        ({"task": "coco", "method": "stochastic", "density": 0.264}, 96.6, 0.3),
        ({"task": "cityscapes", "backbone": "resnet50"}, 920.58, 0.01),
        ({"task": "imagenet", "backbone": "resnet34"}, 3.664, 0.001),
    ],
)
def test_the_papers_numbers(options, expected, tolerance):
    assert gmacs(**options) == pytest.approx(expected, abs=tolerance)


def test_the_answer_is_plain_json_with_every_layer():
    answer = count_flops(FlopsRequest("coco", method="stochastic", density=0.3, scale="mini", convention="measured"))
    assert json.loads(json.dumps(answer)) == answer
    assert {"gmacs", "convention", "height", "width", "layers", "uncounted"} <= set(answer)
    assert sum(layer["macs"] for layer in answer["layers"]) / 1e9 == pytest.approx(answer["gmacs"])
    assert "torchvision::nms" in answer["uncounted"]


def test_measured_backbone_without_masks_is_the_papers_form_and_bilinear_sampling():
    options = {"task": "coco", "scale": "small", "shorter_side": 192}
    answer = count_flops(FlopsRequest(**options, convention="measured", scope="backbone"))
    bilinear = sum(layer["macs"] for layer in answer["layers"] if layer["kind"] == "bilinear")
    assert bilinear > 0
    assert answer["gmacs"] - bilinear / 1e9 == pytest.approx(gmacs(**options), rel=1e-12)


@pytest.mark.parametrize("task", ["coco", "cityscapes", "imagenet"])
def test_scopes_add_up(task):
    options = {"task": task, "scale": "mini", "convention": "measured", "method": "stochastic", "density": 0.4}
    scopes = ["backbone", "neck", "head"] if task == "coco" else ["backbone", "head"]
    assert sum(gmacs(**options, scope=scope) for scope in scopes) == pytest.approx(gmacs(**options))


def test_every_masked_layer_gets_the_density():
    answer = count_flops(
        FlopsRequest("imagenet", scale="mini", convention="measured", method="stochastic", density=0.5)
    )
    masked = [layer for layer in answer["layers"] if layer["layer"].endswith(".1.conv1")]
    assert masked and all(layer["density"] == 0.5 for layer in masked)


@pytest.mark.parametrize("placement", [1, 2, 3])
def test_both_conventions_of_every_placement_lie_below_dense(placement):
    options = {"task": "coco", "scale": "small", "method": "stochastic", "density": 0.2}
    options["parameters"] = {"masks_per_block": placement}
    for convention in ("paper", "measured"):
        masked = gmacs(**options, convention=convention, scope="backbone")
        assert masked < gmacs("coco", scale="small", convention=convention, scope="backbone")


def test_fixed_masks_need_no_density():
    dense, fixed = gmacs("coco", scale="mini"), gmacs("coco", scale="mini", method="equal_interval")
    assert fixed < dense
    assert gmacs("coco", scale="mini", method="equal_interval", convention="measured", scope="backbone") < dense


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "coco", "density": 0.5}, "add --method stochastic"),
        ({"task": "coco", "method": "stochastic"}, "add --density"),
        ({"task": "coco", "method": "dense", "density": 0.5}, "masks no layer"),
        ({"task": "coco", "method": "equal_interval", "density": 0.5}, "leave out --density"),
        ({"task": "coco", "method": "stochastic", "density": 1.5}, "outside of 0 to 1"),
        ({"task": "coco", "scope": "neck"}, "try --convention measured"),
        ({"task": "coco", "scope": "tail"}, "unknown scope 'tail'"),
        ({"task": "coco", "convention": "guess"}, "unknown convention 'guess'"),
        ({"task": "coco", "shorter_side": 8}, "the smallest is 32"),
        ({"task": "coco", "backbone": "vgg"}, "unknown backbone 'vgg'"),
        ({"task": "mnist"}, "unknown task 'mnist'"),
    ],
)
def test_what_cannot_be_counted_is_said_in_one_line(options, message):
    with pytest.raises(UsageError, match=message):
        count_flops(FlopsRequest(**options))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"task": "coco", "backbone": "resnet18"}, "basic blocks have no deformable convolution"),
        ({"task": "imagenet", "method": "stochastic", "density": 0.5, "parameters": {"masks_per_block": 1}},
         "needs bottleneck blocks"),
    ],
)  # fmt: skip
def test_a_backbone_that_has_no_such_form_is_a_usage_error(request_, message):
    with pytest.raises(UsageError, match=message):
        count_flops(FlopsRequest(**request_))
