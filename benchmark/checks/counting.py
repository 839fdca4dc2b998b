"""The promise about the counter: it counts a method's images."""

from benchmark.checks.subject import Subject
from benchmark.flops.measured import MeasuredCounter


def counts(subject: Subject) -> str:
    """The count is positive, finite and no more than dense, the masks' own cost and interpolation aside."""
    model = subject.trained()
    counter = MeasuredCounter(model.eval(), subject.plan.task.adapter(model))
    with counter.recording():
        subject.predictions(model, [0])
        subject.predictions(model, [1])
    images = counter.images()
    assert len(images) == 2, f"{len(images)} images counted instead of 2"
    assert (images["gmacs"] > 0).all(), "an image has no computation"
    return f"{images['gmacs'].mean():.4f} GMACs an image"
