"""Small adapted classifiers for the tests of methods."""

import pytest
import torch

from benchmark.method import discover
from benchmark.nn import residual_blocks
from benchmark.tasks.imagenet.classifier import Classifier


@pytest.fixture
def adapted():
    """Build a small classifier adapted by a method, with masks that sample about half of the positions."""

    def build(name, backbone="mini_basic", **parameters):
        torch.manual_seed(0)
        method = discover()[name].make(parameters)
        model = Classifier(backbone, 10, 64)
        method.adapt(model)
        for block in residual_blocks(model):
            for module in block.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
                    torch.nn.init.uniform_(module.running_var, 0.5, 2)
                    torch.nn.init.uniform_(module.weight, 0.5, 1.5)  # a branch that starts at zero would hide the mask
        return method, model

    return build
