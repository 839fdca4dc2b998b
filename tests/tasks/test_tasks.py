"""What holds for every task: its reader gives samples by name."""

import pickle

import pytest
import torch

from benchmark.listing import task_names
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
