"""What holds for every task: its reader gives samples by name."""

import itertools
import pickle

import pytest
import torch

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
