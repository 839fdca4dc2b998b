"""Promises about building and training: every point builds, weights change, gradients arrive, seeds repeat."""

import torch
from torch import Tensor, nn

from benchmark.checks.subject import STEPS, Subject, equal
from benchmark.method import Method, Step
from benchmark.method.contract import HOOKS
from benchmark.nn import Mask, residual_blocks, training


def builds(subject: Subject) -> str:
    """Every point of the curve makes a model that runs."""
    points = subject.points()
    for method in points:
        other = subject.of(method)
        other.predictions(other.build(), [0])
    return f"{len(points)} point{'s' if len(points) != 1 else ''} on its curve"


class Unchanged(Method):
    """The network as it is, trained as the recipe says."""

    name = "unchanged"


def has_effect(subject: Subject) -> str:
    """Somewhere on its curve, the method changes the network, the images' size or what training makes of them."""
    recipe, kind = subject.plan.recipe, type(subject.plan.method)
    if kind.name == recipe.start:
        return "the network that other methods start from"
    for method in subject.points():
        if method.backbone(recipe.backbone) != recipe.backbone:
            return f"another backbone: {method.backbone(recipe.backbone)}"
        if method.image_size(recipe.shorter_side) != recipe.shorter_side:
            return f"another size: {method.image_size(recipe.shorter_side)}"
        body = subject.plan.task.backbone(subject.of(method).build())
        blocks = [block.name for block in residual_blocks(body) if block.work.masks or block.work.gates]
        if blocks:
            return f"masks or gates in {len(blocks)} blocks"
        if method.schedule(recipe.train) != recipe.train:
            return "another training run"
    for method in subject.points():
        if not _alike(subject.of(method).trained().state_dict(), subject.of(Unchanged()).trained().state_dict()):
            return "other weights"
    own = [hook for hook in HOOKS if getattr(kind, hook) is not getattr(Method, hook)]
    raise AssertionError(
        "no mask, gate, size, backbone or weight differs from the network without it: "
        f"of the contract's hooks, class {kind.__name__} has {', '.join(own) or 'none'}"
    )


def _alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


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
