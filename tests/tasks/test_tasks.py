"""What holds for every task: its reader gives samples by name."""

import itertools
import pickle

import pytest
import torch

from benchmark.checks.subject import equal
from benchmark.flops.measured import MeasuredCounter
from benchmark.listing import task_names
from benchmark.nn.context import inference
from benchmark.tasks import Batch, Sample, find_task


@pytest.fixture(params=task_names())
def task(request):
    return find_task(request.param)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_reader_gives_the_same_samples_under_the_same_names_in_every_process(task, split, embedded):
    reader = task.open(embedded[task.name], split)
    copy = pickle.loads(pickle.dumps(reader))
    samples = [reader[index] for index in range(len(reader))]
    assert all(isinstance(sample, Sample) and sample.image.dtype == torch.uint8 for sample in samples)
    assert len({sample.identifier for sample in samples}) == len(reader) == len(copy)
    for index, sample in enumerate(samples):
        assert copy[index].identifier == sample.identifier and torch.equal(copy[index].image, sample.image)
    assert copy.fingerprint() == reader.fingerprint() and list(copy.classes) == list(reader.classes)


def test_a_batch_keeps_the_order_of_its_samples(task, embedded):
    reader = task.open(embedded[task.name], "val")
    batch = Batch.collate([reader[2], reader[0]])
    assert batch.identifiers == [reader[2].identifier, reader[0].identifier]
    assert torch.equal(batch.images[1], reader[0].image)


@pytest.mark.parametrize("scale", ["mini", "small"])
def test_uniform_sampling_computes_less_with_each_size_of_its_curve(task, scale):
    """Or a point pays for padding: its objects are smaller, and its computation is that of a larger size."""
    recipe, size = task.recipe(scale), task.embedded.sizes[scale]
    image = Sample(torch.zeros(3, size.height, size.width, dtype=torch.uint8), None, 0)
    sizes = dict.fromkeys((recipe.shorter_side, *recipe.curves["shorter_side"]))
    counted = []
    for side in sizes:
        model = task.build(recipe, recipe.backbone, 3, side).eval()
        counter = MeasuredCounter(model, task.adapter(model))
        with counter.recording(), inference([0]), torch.inference_mode():
            task.predict(model, Batch.collate([image]))
        counted.append(int(counter.images()["macs_backbone"].iloc[0]))
    assert len(counted) > 2 and all(less < more for more, less in itertools.pairwise(counted))


def test_a_backbone_reads_what_a_task_prepares(task, embedded):
    """In a whole prediction of a batch, to the last bit: an engine and a look at masks take `prepare`'s word for it."""
    recipe, reader = task.recipe("mini"), task.open(embedded[task.name], "val")
    model = task.build(recipe, recipe.backbone, len(reader.classes), recipe.shorter_side).eval()
    batch = Batch.collate([reader[0], reader[1]])
    read = []
    task.backbone(model).conv1.register_forward_pre_hook(lambda module, given: read.append(given[0].clone()))
    with torch.inference_mode():
        predicted = task.predict(model, batch)
        prepared = task.prepare(model, batch)
        again = task.decode(task.forward(model, prepared), prepared)
    assert torch.equal(read[0], prepared.images) and equal(predicted, again)
    assert prepared.originals == [image.shape[-2:] for image in batch.images]
    assert all(
        height <= prepared.images.shape[-2] and width <= prepared.images.shape[-1] for height, width in prepared.sizes
    )


def test_a_detector_in_three_steps_finds_what_torchvision_finds_in_one(embedded):
    task = find_task("coco")
    recipe, reader = task.recipe("mini"), task.open(embedded["coco"], "val")
    torch.manual_seed(0)
    model = task.build(recipe, recipe.backbone, len(reader.classes), 96).eval()
    # Scores and boxes of an untrained head hardly differ from box to box.
    torch.nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.1)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.1)
    batch = Batch.collate([reader[0], reader[1]])
    with torch.inference_mode():
        whole = model([image.float() / 255 for image in batch.images])
        steps = task.predict(model, batch)
    for expected, found in zip(whole, steps, strict=True):
        corners = torch.cat((found["boxes"][:, :2], found["boxes"][:, :2] + found["boxes"][:, 2:]), dim=1)
        assert len(corners) and torch.allclose(corners, expected["boxes"], atol=1e-4)
        assert torch.equal(found["scores"], expected["scores"]) and torch.equal(found["labels"], expected["labels"])
