"""The promise about weights: a saved model comes back as it was."""

import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from benchmark.checks.subject import Subject, equal


def saves(subject: Subject) -> str:
    """A saved model, loaded into a fresh one, predicts the same."""
    model = subject.trained()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
        other = subject.build()
        subject.plan.method.restore(subject.plan.task.backbone(other))
        other.load_state_dict(load_file(path))
        subject.plan.method.configure(subject.plan.task.backbone(other))
    assert equal(subject.predictions(model, [0]), subject.predictions(other, [0])), (
        "the loaded model predicts otherwise"
    )
    return f"{sum(value.numel() for value in model.state_dict().values()):,} values"
