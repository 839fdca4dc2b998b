"""Promises about building and training: every point builds, weights change, gradients arrive, seeds repeat."""

import torch
from torch import nn

from benchmark.checks.subject import STEPS, Subject, equal
from benchmark.method import Step
from benchmark.nn import Mask, residual_blocks, training


def builds(subject: Subject) -> str:
    """Every point of the curve makes a model that runs."""
    kind = type(subject.plan.method)
    points = kind.points(subject.plan.recipe.curves)
    for point in points:
        kind.make(point)
    subject.predictions(subject.build(), [0])
    return f"{len(points)} point{'s' if len(points) != 1 else ''} on its curve"


def trains(subject: Subject) -> str:
    """Two steps change the weights and leave them finite."""
    before = {key: value.clone() for key, value in subject.build().state_dict().items()}
    after = subject.trained().state_dict()
    changed = [key for key, value in after.items() if key not in before or not torch.equal(value, before[key])]
    assert changed, "training changed no weight"
    broken = [key for key, value in after.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    assert not broken, f"{broken[0]} is not finite after {STEPS} steps"
    return f"{len(changed)} tensors change"


def gradients(subject: Subject) -> str:
    """The loss reaches every learned mask and every interpolation parameter."""
    model = subject.build().train()
    torch.manual_seed(0)
    body = subject.plan.task.backbone(model)
    for block in residual_blocks(body):
        # As in a trained network: at 0, where they start, no gradient passes the branch.
        nn.init.ones_(block.last_norm.weight)
    subject.plan.method.prepare(body)
    subject.plan.method.on_step(body, 0.5)
    batch = subject.batch(subject.train, [0, 1])
    with training(0.5):
        outputs = subject.plan.task.training_outputs(model, batch)
        loss = subject.plan.task.loss(model, batch, outputs)
        (loss + subject.plan.method.loss(body, Step(0.5, batch.targets, outputs))).backward()
    learned = {
        name: parameter
        for owner, module in model.named_modules()
        if isinstance(module, Mask)
        for name, parameter in module.named_parameters(prefix=owner)
    }
    unreached = [name for name, parameter in learned.items() if not _reached(parameter)]
    assert not unreached, f"no gradient reaches {unreached[0]} ({len(unreached)} of {len(learned)})"
    return f"{len(learned)} mask parameters" if learned else "no learned masks"


def _reached(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()) and bool(parameter.grad.any())


def repeatable(subject: Subject) -> str:
    """The same seed gives the same weights and the same predictions."""
    first, second = subject.trained(), subject.trained()
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), f"{key} differs between two runs of one seed"
    assert equal(subject.predictions(first, [0]), subject.predictions(second, [0])), "predictions differ"
    return ""
