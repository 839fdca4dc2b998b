"""The engine's speed under pytest-benchmark: dense, sparse and other runtimes in one group, to be read as ratios."""

import numpy as np
import pytest
import torch

from benchmark.engines import EngineUnavailable
from benchmark.engines.cpu import CPUEngine, kernels
from benchmark.engines.cpu.descriptions import Geometry
from benchmark.timing.networks import network
from benchmark.timing.peers import PEERS, prepare

try:
    kernels.require()
except EngineUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

from tests.engines.cpu import operators

SIZE = (256, 416)
BACKBONE = "ResNet-50 at 256x416"


@pytest.fixture
def image():
    return np.random.default_rng(0).standard_normal((3, *SIZE)).astype(np.float32)


@pytest.mark.parametrize("density", [None, 0.493, 0.264, 0.182])
@pytest.mark.benchmark(group=BACKBONE, min_rounds=5, warmup=True)
def test_backbone(benchmark, image, density):
    engine = CPUEngine(network("resnet50", False, density is not None, 0))
    masks = {}
    if density is not None:
        rng = np.random.default_rng(0)
        shapes = {layer: mask.shape for layer, mask in engine(image).masks.items()}
        masks = {layer: (rng.random(shape) < density).astype(np.float32) for layer, shape in shapes.items()}
    result = benchmark(lambda: engine(image, masks=masks))
    benchmark.extra_info["gmacs"] = result.macs / 1e9


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.benchmark(group=BACKBONE, min_rounds=5, warmup=True)
def test_peer(benchmark, image, name):
    threads, dense = torch.get_num_threads(), network("resnet50", False, False, 0)
    row, variant = prepare(name, dense, image, CPUEngine(dense)(image), threads)
    if row["skipped"]:
        pytest.skip(row["skipped"])
    benchmark(variant.call)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("density", [1.0, 0.264])
@pytest.mark.benchmark(group="3x3 convolution, 256 to 256 channels, 62x104", min_rounds=5, warmup=True)
def test_convolution(benchmark, density):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((256, 256, 3, 3)).astype(np.float32)
    layer = operators.Convolution(weight, None, Geometry(256, 3, 1, 1))
    x = rng.standard_normal((62 * 104, 256)).astype(np.float32)
    positions = np.flatnonzero(rng.random(62 * 104) < density).astype(np.int32)
    out = np.empty((len(positions), 256), np.float32)
    benchmark(lambda: layer(x, (62, 104), out, positions=positions))


@pytest.mark.benchmark(group="RBF interpolation, 1024 channels, 62x104", min_rounds=5, warmup=True)
@pytest.mark.parametrize("density", [0.8, 0.264])
def test_interpolation(benchmark, density):
    rng = np.random.default_rng(0)
    mask = (rng.random((62, 104)) < density).astype(np.float32)
    samples = operators.SampleIndex(operators.Samples(mask), 7, compact=True)
    rows, out = np.ones((int(mask.sum()), 1024), np.float32), np.empty((mask.size, 1024), np.float32)
    table = np.ones((7, 7), np.float32)
    benchmark(lambda: operators.blend(samples, rows, out, numerator=table, denominator=table))


@pytest.mark.benchmark(group="mask products, 18 outputs of 168 rows", min_rounds=5, warmup=True)
@pytest.mark.parametrize("channels", [256, 1024])
def test_mask_products(benchmark, channels):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((18, channels, 1, 1)).astype(np.float32)
    layer = operators.NarrowConvolution(weight, None, Geometry(channels))
    x, out = rng.standard_normal((168, channels)).astype(np.float32), np.empty((168, 18), np.float32)
    benchmark(lambda: layer(x, (168, 1), out))
    benchmark.extra_info["gmacs"] = x.shape[0] * weight.size / 1e9
