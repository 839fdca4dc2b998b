"""The floor: what a network computes where nothing is sampled, and of what it is made."""

import json

import pytest

from benchmark.errors import UsageError
from benchmark.flops.command import FlopsRequest, count_flops
from benchmark.flops.floor import count_floor


def floor(scale, **options):
    return count_floor(FlopsRequest("coco", scale=scale, method="stochastic", convention="measured", **options))


def test_it_is_the_count_at_density_zero_over_the_dense_one():
    options = {"scale": "mini", "convention": "measured", "scope": "backbone"}
    empty = count_flops(FlopsRequest("coco", method="stochastic", density=0.0, **options))["gmacs"]
    dense = count_flops(FlopsRequest("coco", **options))["gmacs"]
    found = floor("mini")
    assert found["floor"] == pytest.approx(empty / dense)
    assert sum(found["parts"].values()) == pytest.approx(found["floor"])
    assert found["gmacs"] == dense


def test_its_pieces_are_those_of_the_formulas():
    # At stride 4 and per position, in multiples of the stem's 24 channels: 3x3x3 at four times the positions.
    found = floor("evidence")
    positions = 256 * 416 / 16
    assert found["parts"]["stem"] * found["gmacs"] * 1e9 == pytest.approx(4 * 27 * 24 * positions)
    shortcuts = 24 * 64 + 64 * 128 / 4 + 128 * 512 / 16 + 512 * 512 / 64
    assert found["parts"]["shortcuts"] * found["gmacs"] * 1e9 == pytest.approx(shortcuts * positions)
    assert found["parts"]["other"] == 0


def test_the_network_of_scale_evidence_has_the_papers_economics():
    assert floor("evidence")["floor"] <= 0.15 < 0.35 < floor("mini")["floor"]


def test_the_command_prints_it_and_what_it_is_made_of(run_cli):
    code, out, _ = run_cli("flops", "coco", "--scale", "mini", "--method", "stochastic", "--floor")
    assert code == 0 and out.startswith("floor 0.3") and "stem" in out and "masks" in out and "shortcuts" in out
    code, out, _ = run_cli("flops", "coco", "--scale", "mini", "--method", "stochastic", "--floor", "--json")
    assert code == 0 and set(json.loads(out)) == {"floor", "parts", "gmacs"}


def test_a_floor_needs_masks():
    with pytest.raises(UsageError, match="a density needs a method that masks layers"):
        count_floor(FlopsRequest("coco", scale="mini"))
