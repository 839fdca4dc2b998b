"""What a cell runs on: which of it is part of its identity, and what precision does."""

import dataclasses

import pandas as pd
import pytest
import torch

from benchmark.cells import Request, execute, plan, plan_of
from benchmark.errors import UsageError
from benchmark.hardware import FULL, true_float32
from benchmark.nn import GumbelMask, logistic_noise
from benchmark.nn.masks import Site
from benchmark.store import Store
from benchmark.train import LOSSES
from tests.conftest import TINY


def request(tiny_set, **changes):
    return Request("imagenet", "stochastic", data=tiny_set("imagenet"), overrides=TINY, **changes)


def test_mixed_precision_is_another_cell_and_full_precision_is_not_named(tiny_set):
    full, mixed = plan(request(tiny_set)), plan(request(tiny_set, precision="bf16-mixed"))
    assert full.cell.id == plan(request(tiny_set, precision=FULL)).cell.id != mixed.cell.id
    assert "precision" not in full.cell.determinants and mixed.cell.determinants["precision"] == "bf16-mixed"
    with pytest.raises(UsageError, match="precision 'fp4': there are 32-true, bf16-mixed"):
        plan(request(tiny_set, precision="fp4"))


def test_a_cell_in_mixed_precision_trains_other_weights_in_float32_and_is_found_again(tiny_set, tmp_path):
    records = {
        precision: execute(plan(request(tiny_set, precision=precision)), Store(tmp_path))
        for precision in (FULL, "bf16-mixed")
    }
    losses = {precision: pd.read_parquet(record.path(LOSSES))["loss"] for precision, record in records.items()}
    assert (losses[FULL] != losses["bf16-mixed"]).all()
    assert losses["bf16-mixed"].to_numpy() == pytest.approx(losses[FULL].to_numpy(), rel=0.1)
    for precision, record in records.items():
        assert record["precision"] == precision
        assert plan_of(record, tiny_set("imagenet")).request.precision == precision


def test_the_cell_that_others_start_from_has_their_precision(tiny_set):
    scratch = dataclasses.replace(request(tiny_set, precision="bf16-mixed"), overrides={**TINY, "from_scratch": True})
    assert plan(scratch).start.cell.determinants["precision"] == "bf16-mixed"


def test_masks_decide_in_float32_under_mixed_precision():
    mask = GumbelMask(Site("layer1.0.mask1", 4, 4, 1, 1.0), grid_stride=None).train()
    features = torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert mask.conv(features).dtype is torch.bfloat16
        assert mask(features).dtype is torch.float32 and mask.confidence.dtype is torch.float32
    noise = logistic_noise(torch.zeros(64, 1, 32, 32, dtype=torch.bfloat16))
    # bfloat16 has 256 values in [0, 1) and would draw each of its ends once in 256 times.
    assert noise.dtype is torch.float32 and len(noise.unique()) > 10_000


def test_float32_is_that_of_ieee_while_it_is_asked_for():
    before = torch.backends.cudnn.allow_tf32
    with true_float32():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_an_unknown_precision_is_one_line(run_cli):
    code, _, err = run_cli("run", "imagenet", "--method", "dense", "--precision", "fp4")
    assert code == 2 and "fp4" in err and "bf16-mixed" in err
