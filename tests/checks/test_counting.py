"""`saibench check` fails where a multiply-accumulate runs that no row counts, wherever a method hides it."""

import textwrap

import pytest
import torch
from torch import nn
from torchvision.ops import DeformConv2d

from benchmark.cells import Request, plan
from benchmark.checks.counting import Watcher, counts_everything
from benchmark.checks.subject import Subject
from benchmark.errors import SaibenchError
from benchmark.flops.measured import MeasuredCounter

METHOD = '''
import torch
from torch import nn
import torch.nn.functional as F
from benchmark import Method
from benchmark.nn import Mask, Masks, interpolation


class Stage(nn.Sequential):
    """A stage whose own forward computes, with what it holds."""

    def forward(self, x):
        return self.extra(super().forward(x))


class Hidden(Method):
    name = "hidden"

    def adapt(self, model):
        super().adapt(model)
        {adapt}
'''

CAUGHT = {
    "a hook": (
        "model.layer2.register_forward_hook(lambda module, inputs, output: output + 0 * F.conv2d(output,"
        " torch.zeros(output.shape[1], output.shape[1], 1, 1)))",
        r"layer2: aten\.convolution runs.*no row",
    ),
    "a backbone in a list of a hook": (
        "hidden = [nn.Conv2d(3, 4, 3)]\n"
        "model.register_forward_pre_hook(lambda module, inputs: (hidden[0](inputs[0]), None)[1])",
        r"Conv2d in .*: aten\.convolution runs.*no row",
    ),
    "a convolution whose result nothing reads": (
        "model.layer2.__class__ = Stage\n"
        "model.layer2.extra = lambda x: (F.conv2d(x, torch.zeros(7, x.shape[1], 1, 1)), x)[1]",
        r"layer2: aten\.convolution runs.*no row",
    ),
    "a product": (
        "model.layer3.register_forward_pre_hook(lambda module, inputs: (torch.einsum('nchw,dc->ndhw', inputs[0],"
        " torch.zeros(2, inputs[0].shape[1])), None)[1])",
        r"layer3: aten\.(bmm|mm) runs.*no row",
    ),
}

COUNTED = {
    "nothing": "pass",
    "a functional convolution in a stage's own forward": (
        "model.layer2.__class__ = Stage\n"
        "model.layer2.extra = lambda x: x + F.conv2d(x, torch.zeros(x.shape[1], x.shape[1], 1, 1))"
    ),
    "constants in a plain list of a stage": (
        "model.layer2.__class__ = Stage\n"
        "channels = model.stage_channels[1]\n"
        "model.layer2.hidden = [nn.Conv2d(channels, channels, 1).requires_grad_(False)]\n"
        "model.layer2.extra = lambda x, stage=model.layer2: x + stage.hidden[0](x)"
    ),
}


@pytest.fixture
def subject(tiny_set, tmp_path):
    """Return a function: what a method's `adapt` does to the subject of the checks."""

    def make(adapt):
        path = tmp_path / "hidden.py"
        path.write_text(METHOD.format(adapt=textwrap.indent(adapt, " " * 8).strip()))
        return Subject(plan(Request("imagenet", str(path), data=tiny_set("imagenet"))))

    return make


@pytest.mark.parametrize("where", CAUGHT)
def test_what_no_row_counts_is_named(subject, where):
    adapt, message = CAUGHT[where]
    with pytest.raises(AssertionError, match=message):
        counts_everything(subject(adapt))


@pytest.mark.parametrize("where", COUNTED)
def test_what_the_networks_forward_computes_is_counted(subject, where):
    assert "multiply-accumulates in" in counts_everything(subject(COUNTED[where]))


def test_weights_in_a_plain_list_are_refused(subject):
    adapt = COUNTED["constants in a plain list of a stage"].replace(".requires_grad_(False)", "")
    with pytest.raises(SaibenchError, match=r"layer2: weights run that no module registers"):
        counts_everything(subject(adapt))


@pytest.mark.parametrize("task", ["coco", "cityscapes", "imagenet"])
def test_the_watcher_and_the_counter_agree_to_the_last_digit(tiny_set, task):
    subject = Subject(plan(Request(task, "stochastic", data=tiny_set(task))))
    model = subject.build().eval()
    counter = MeasuredCounter(model, subject.plan.task.adapter(model))
    with counter.recording(), Watcher(model) as watcher:
        subject.predictions(model, [0])
    assert dict(watcher.macs) == {layer: macs for layer, macs in counter.dense_macs().items() if macs}


@pytest.mark.parametrize(
    ("function", "macs"),
    [
        (lambda x: torch.nn.functional.conv2d(x, torch.zeros(5, 4, 3, 3)), 5 * 4 * 9 * 4 * 5),
        (lambda x: nn.Linear(7, 3)(x), 7 * 3 * 4 * 6),
        (lambda x: torch.einsum("nchw,dc->ndhw", x, torch.zeros(2, 4)), 4 * 2 * 6 * 7),
        (lambda x: x[0] @ x[0].mT, 4 * 6 * 6 * 7),
        (lambda x: x[0, 0] @ x[0, 0, 0], 6 * 7),
        (lambda x: DeformConv2d(4, 5, 3)(x, torch.zeros(1, 18, 4, 5)), 5 * 4 * 9 * 4 * 5),
        (lambda x: torch.relu(x) * x, 0),
    ],
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_watcher_sees_every_operator(function, macs, mode):
    class Model(nn.Module):
        def forward(self, x):
            return function(x)

    with mode(), Watcher(Model()) as watcher:
        Model()(torch.zeros(1, 4, 6, 7))
    assert sum(watcher.macs.values()) == macs
