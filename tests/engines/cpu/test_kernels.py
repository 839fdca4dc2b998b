"""The kernels against PyTorch and plain NumPy: every instruction set that this CPU has, one to three threads."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import deform_conv2d

from benchmark.engines import EngineUnavailable
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.descriptions import Geometry
from benchmark.nn import noise, sparsity

try:
    kernels.require()
except EngineUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

from tests.engines.cpu import operators

rng = np.random.default_rng


pytestmark = pytest.mark.usefixtures("isa")


def close(ours, reference):
    reference = np.asarray(reference)
    assert ours.shape == reference.shape
    assert np.abs(ours - reference).max(initial=0) <= 1e-5 * max(np.abs(reference).max(initial=0), 1e-3)


def random(generator, *shape):
    return generator.standard_normal(shape).astype(np.float32)


def to_rows(image):
    return np.ascontiguousarray(image.transpose(1, 2, 0).reshape(-1, image.shape[0]))


def torch_rows(tensor):
    return np.ascontiguousarray(tensor[0].permute(1, 2, 0).reshape(-1, tensor.shape[1]).numpy())


maps = st.tuples(st.integers(1, 17), st.integers(1, 19))
shapes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**16),
        "size": maps,
        "cin": st.sampled_from([1, 3, 7, 16, 33, 64]),
        "cout": st.sampled_from([1, 5, 16, 24, 63, 64, 80, 131, 200]),
        "kernel": st.sampled_from([1, 3, 5]),
        "stride": st.integers(1, 3),
        "dilation": st.integers(1, 3),
        "density": st.sampled_from([0.0, 0.01, 0.3, 0.9, 1.0]),
        "threads": st.integers(1, 3),
    }
)


def case(c, cout=None):
    """Geometry, torch arguments, image, weight, bias and listed positions of a drawn case."""
    generator = rng(c["seed"])
    padding = c["dilation"] * (c["kernel"] // 2)
    geometry = Geometry(c["cin"], c["kernel"], c["stride"], padding, c["dilation"])
    image = random(generator, c["cin"], *c["size"])
    weight = random(generator, cout or c["cout"], c["cin"], c["kernel"], c["kernel"])
    bias = random(generator, len(weight))
    height, width = geometry.out_size(c["size"])
    positions = np.flatnonzero(generator.random(height * width) < c["density"]).astype(np.int32)
    options = {"stride": c["stride"], "padding": padding, "dilation": c["dilation"]}
    return generator, geometry, options, image, weight, bias, positions


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_convolution_at_positions_is_the_convolution_there(c):
    generator, geometry, options, image, weight, bias, positions = case(c)
    reference = torch_rows(F.conv2d(*map(torch.from_numpy, (image[None], weight, bias)), **options))
    residual, scale = random(generator, *reference.shape), random(generator, len(positions))
    layer = operators.Convolution(weight, bias, geometry)
    out = np.full((len(positions), len(weight)), np.nan, np.float32)
    layer(to_rows(image), c["size"], out, positions=positions, threads=c["threads"])
    close(out, reference[positions])
    scattered = np.full_like(reference, 7.0)
    layer(
        to_rows(image),
        c["size"],
        scattered,
        positions=positions,
        scatter=True,
        residual=residual,
        scale=scale,
        relu=True,
        threads=c["threads"],
    )
    expected = np.full_like(reference, 7.0)
    expected[positions] = np.maximum(reference + residual, 0)[positions] * scale[:, None]
    close(scattered, expected)
    dense = np.empty_like(reference)
    layer(to_rows(image), c["size"], dense, threads=c["threads"])
    close(dense, reference)


@settings(max_examples=30, deadline=None)
@given(shapes, st.sampled_from([1, 9, 16, 17, 18, 20]))
def test_narrow_convolution_is_the_convolution(c, outputs):
    _, geometry, options, image, weight, bias, positions = case(c, outputs)
    reference = torch_rows(F.conv2d(*map(torch.from_numpy, (image[None], weight, bias)), **options))
    layer = operators.NarrowConvolution(weight, bias, geometry)
    out = np.full((len(positions), outputs), np.nan, np.float32)
    layer(to_rows(image), c["size"], out, positions=positions, threads=c["threads"])
    close(out, reference[positions])


@settings(max_examples=30, deadline=None)
@given(shapes)
def test_deformable_convolution_is_torchvisions(c):
    generator, geometry, options, image, weight, bias, positions = case(c)
    height, width = geometry.out_size(c["size"])
    offsets = 3 * random(generator, 2 * c["kernel"] ** 2, height, width)
    reference = torch_rows(deform_conv2d(*map(torch.from_numpy, (image[None], offsets[None], weight, bias)), **options))
    layer = operators.Convolution(weight, bias, geometry)
    listed = np.ascontiguousarray(to_rows(offsets)[positions])
    out = np.full((len(positions), len(weight)), np.nan, np.float32)
    layer(to_rows(image), c["size"], out, offsets=listed, positions=positions, relu=True, threads=c["threads"])
    close(out, np.maximum(reference, 0)[positions])


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(1, 2))
def test_two_masks_of_different_strides_come_from_one_pass(c, second):
    generator, geometry, options, image, weight, bias, _ = case(c, 1)
    if c["kernel"] == 5:
        return
    other = Geometry(c["cin"], 3, second, 1)
    weight2 = random(generator, 1, c["cin"], 3, 3)
    layer = operators.MaskConvolution([weight, weight2], [float(bias[0]), 0.5], [geometry, other])
    products = np.full((image[0].size, layer.columns), np.nan, np.float32)
    layer.products(to_rows(image), c["size"], products, threads=c["threads"])
    x = torch.from_numpy(image[None])
    first = F.conv2d(x, torch.from_numpy(weight), torch.from_numpy(bias), **options)[0, 0].numpy()
    last = (F.conv2d(x, torch.from_numpy(weight2), stride=second, padding=1)[0, 0] + 0.5).numpy()
    for which, reference in enumerate((first, last)):
        logits = layer.logits(which, products, c["size"], threads=c["threads"])
        close(logits, reference)


@settings(max_examples=30, deadline=None)
@given(size=maps, seed=st.integers(0, 2**16), grid=st.sampled_from([None, 2, 3]), threads=st.integers(1, 2))
def test_a_decided_mask_is_where_the_logit_exceeds_its_threshold(size, seed, grid, threads):
    generator = rng(seed)
    geometry = Geometry(5, 3, 1, 1)
    layer = operators.MaskConvolution([random(generator, 1, 5, 3, 3)], [0.1], [geometry])
    products = np.empty((size[0] * size[1], layer.columns), np.float32)
    layer.products(random(generator, len(products), 5), size, products)
    logits, threshold = layer.logits(0, products, size), random(generator, *size)
    for limit in (None, threshold):
        expected = (logits > (0 if limit is None else limit)).astype(np.float32)
        if grid:
            expected[::grid, ::grid] = 1
        decided = layer.decide(0, products, size, limit, grid=grid, threads=threads)
        np.testing.assert_array_equal(decided, expected)
    rectified = np.maximum(logits, 0)
    if grid:
        rectified[::grid, ::grid] = np.maximum(rectified[::grid, ::grid], 1)
    np.testing.assert_array_equal(layer.rectified(0, products, size, grid=grid, threads=threads), rectified)


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 2**16),
    grid=st.sampled_from([None, 3]),
    threads=st.integers(1, 2),
)
def test_a_stochastic_mask_is_decided_by_the_field_of_its_image_and_layer(size, seed, grid, threads):
    layer = operators.MaskConvolution([random(rng(seed), 1, 5, 3, 3)], [0.1], [Geometry(5, 3, 1, 1)])
    products = np.empty((size[0] * size[1], layer.columns), np.float32)
    layer.products(random(rng(seed), len(products), 5), size, products)
    threshold = noise.logistic_threshold(seed, "image", "layer", size)
    expected = layer.decide(0, products, size, threshold, grid=grid)
    decided = layer.decide(0, products, size, key=noise.field_key(seed, "image", "layer"), grid=grid, threads=threads)
    near = np.abs(layer.logits(0, products, size) - threshold) < 1e-5 * (1 + np.abs(threshold))
    np.testing.assert_array_equal(decided[~near], expected[~near])
    assert near.sum() <= 1 + near.size // 1000


@settings(max_examples=30, deadline=None)
@given(shapes)
def test_mask_products_that_follow_are_those_of_the_finished_map(c):
    generator, geometry, _, image, weight, bias, _ = case(c)
    size = geometry.out_size(c["size"])
    channels = len(weight)
    masks = [random(generator, 1, channels, 3, 3) for _ in range(2)]
    layer = operators.MaskConvolution(masks, [0.0, 0.0], [Geometry(channels, 3, 1, 1)] * 2)
    out = np.empty((size[0] * size[1], channels), np.float32)
    after, alone = (np.full((len(out), layer.columns), np.nan, np.float32) for _ in range(2))
    convolution = operators.Convolution(weight, bias, geometry)
    convolution(to_rows(image), c["size"], out, relu=True, follow=layer.follow(after), threads=c["threads"])
    layer.products(out, size, alone)
    close(after, alone)
    samples = operators.SampleIndex(
        operators.Samples((generator.random(size) < 0.4).astype(np.float32)), 3, compact=False
    )
    table = generator.random((3, 3)).astype(np.float32)
    rows, after[:] = out.copy(), np.nan
    options = {"numerator": table, "denominator": table, "residual": out, "follow": layer.follow(after)}
    operators.blend(samples, rows, out, **options, threads=c["threads"])
    layer.products(out, size, alone)
    close(after, alone)


@settings(max_examples=50, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 600)),
    density=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    radius=st.integers(0, 3),
    gated=st.booleans(),
    threads=st.integers(1, 2),
)
def test_samples_list_and_number_what_a_mask_samples(size, density, radius, gated, threads):
    generator = rng(size[1])
    mask = (generator.random(size) < density).astype(np.float32) * (0.5 if gated else 1)
    samples = operators.Samples(mask, threads=threads)
    positions = np.flatnonzero(mask)
    np.testing.assert_array_equal(samples.positions, positions)
    np.testing.assert_array_equal(np.diff(samples.starts), (mask > 0).sum(1))
    assert samples.kind == int(((mask == 0) | (mask == 1)).all())
    inner = (slice(radius, radius + size[0]), slice(radius, radius + size[1]))
    for compact, ring in ((True, None), (True, 3), (False, None)):
        index = operators.SampleIndex(samples, 2 * radius + 1, compact=compact, ring=ring, threads=threads).index[0]
        expected = np.full((size[0] + 2 * radius, size[1] + 2 * radius), -1)
        numbers = np.full(mask.size, -1)
        numbers[positions] = positions if not compact else np.arange(len(positions)) % (ring or max(1, len(positions)))
        expected[inner] = numbers.reshape(size)
        np.testing.assert_array_equal(index, expected)


@settings(max_examples=50, deadline=None)
@given(shapes)
def test_positions_read_are_what_the_shared_rules_say(c):
    generator, size = rng(c["seed"]), c["size"]
    geometry = Geometry(1, c["kernel"], c["stride"], c["dilation"] * (c["kernel"] // 2), c["dilation"])
    mask = (generator.random(size) < 0.5).astype(np.float32)
    reader = (generator.random(geometry.out_size(size)) < c["density"]).astype(np.float32)
    walk = (geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
    read = sparsity.positions_read(reader, *walk, size)
    samples, options = operators.Samples(reader), {"threads": c["threads"]}
    np.testing.assert_array_equal(operators.positions_read(samples, geometry, size, **options), read)
    missing = operators.positions_read(samples, geometry, size, missing_of=operators.Samples(mask), **options)
    np.testing.assert_array_equal(missing, sparsity.missing(mask) & read)


def test_rows_may_lie_apart():
    generator = rng(4)
    mask = (generator.random((6, 7)) < 0.5).astype(np.float32)
    samples = operators.Samples(mask)
    layer = operators.Convolution(random(generator, 512, 8, 1, 1), None, Geometry(8))
    x = random(generator, mask.size, 8)
    table = generator.random((5, 5)).astype(np.float32)
    index = operators.SampleIndex(samples, 5, compact=True)
    outs = []
    for distance in (512, operators.row_distance(512)):
        rows = np.full((len(samples), distance), np.nan, np.float32)[:, :512]
        layer(x, mask.shape, rows, positions=samples.positions)
        outs.append(np.empty((mask.size, 512), np.float32))
        operators.blend(index, rows, outs[-1], numerator=table, denominator=table)
    assert operators.row_distance(512) > 512
    np.testing.assert_array_equal(*outs)


def test_subnormal_numbers_are_zero_in_a_kernel_and_only_there():
    tiny = np.full((1, 1), 1e-39, np.float32)
    layer = operators.Convolution(np.full((1, 1, 1, 1), 1e-3, np.float32), None, Geometry(1))
    out = np.ones((1, 1), np.float32)
    layer(tiny, (1, 1), out)
    if kernels.instruction_set() != "portable":
        assert out[0, 0] == 0
    assert (tiny * np.float32(0.5))[0, 0] > 0


def test_row_taps_give_the_stem():
    generator = rng(0)
    image, weight = random(generator, 3, 45, 52), random(generator, 64, 3, 7, 7)
    reference = torch_rows(F.conv2d(torch.from_numpy(image[None]), torch.from_numpy(weight), stride=2, padding=3))
    layer = operators.Convolution(weight, None, Geometry(3, 7, 2, 3, row_taps=True))
    out = np.empty_like(reference)
    layer(operators.channels_last(image, border=3, threads=2)[0], (45, 52), out, threads=2)
    close(out, reference)


def interpolate(mask, values, numerator, denominator, epsilon=1e-5):
    """The definition: out = M Y + (1 - M) (W * M Y) / (W * M + eps), zero outside the map."""
    radius = len(numerator) // 2
    pad = ((radius, radius), (radius, radius))
    m, y = np.pad(mask, pad), np.pad(values * mask[..., None], (*pad, (0, 0)))
    out, pairs = np.empty_like(values), 0
    for i in range(mask.shape[0]):
        for j in range(mask.shape[1]):
            window = slice(i, i + len(numerator)), slice(j, j + len(numerator))
            above = (numerator[..., None] * y[window]).sum((0, 1))
            below = (denominator * m[window]).sum() + epsilon
            out[i, j] = y[i + radius, j + radius] + (1 - mask[i, j]) * above / below
            pairs += int((m[window] > 0).sum()) if mask[i, j] != 1 else 0
    return out, pairs


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    size=maps,
    channels=st.sampled_from([1, 5, 8, 16, 40, 64, 300]),
    window=st.sampled_from([1, 3, 5, 7, 9, 15, 17, 31]),
    density=st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]),
    gated=st.booleans(),
    threads=st.integers(1, 2),
)
def test_blend_is_the_definition_of_interpolation(seed, size, channels, window, density, gated, threads):
    generator = rng(seed)
    mask = (generator.random(size) < density).astype(np.float32)
    if gated:
        mask *= (generator.random(size) + 0.1).astype(np.float32)
    values = random(generator, *size, channels)
    numerator, denominator = random(generator, window, window), generator.random((window, window)).astype(np.float32)
    expected, pairs = interpolate(mask, values, numerator, denominator)
    samples = operators.SampleIndex(operators.Samples(mask, threads=threads), window, compact=True, threads=threads)
    rows = (values * mask[..., None]).reshape(-1, channels)[np.flatnonzero(mask)]
    bias, residual = random(generator, channels), random(generator, mask.size, channels)
    out = residual.copy()
    options = {"numerator": numerator, "denominator": denominator, "threads": threads}
    counted = operators.blend(samples, rows, out, bias=bias, residual=out, relu=True, **options)
    assert counted == pairs
    close(out, np.maximum(expected.reshape(-1, channels) + bias + residual, 0))
    zero = np.full_like(residual, np.nan)
    assert operators.blend(samples, rows, zero, threads=threads) == 0
    close(zero, (values * mask[..., None]).reshape(-1, channels))


def test_blend_in_place_fills_only_the_listed_positions():
    generator = rng(3)
    mask = (generator.random((9, 11)) < 0.4).astype(np.float32)
    values = random(generator, 9, 11, 20)
    table = generator.random((7, 7)).astype(np.float32)
    expected, _ = interpolate(mask, values, table, table)
    missing = np.flatnonzero(mask == 0)[::2]
    wanted = np.zeros(mask.shape, bool)
    wanted.flat[missing] = True
    samples = operators.SampleIndex(operators.Samples(mask), 7, compact=False)
    out = values.reshape(-1, 20).copy()
    operators.blend(samples, out, out, numerator=table, denominator=table, wanted=wanted)
    reference = values.reshape(-1, 20).copy()
    reference[missing] = expected.reshape(-1, 20)[missing]
    close(out, reference)


def test_nearest_copies_the_named_row():
    mask = np.zeros((4, 6), np.float32)
    mask[::2, ::2] = 1
    samples = operators.SampleIndex(operators.Samples(mask), 1, compact=True)
    nearest = (np.arange(4)[:, None] // 2 * 3 + np.arange(6) // 2).astype(np.int32)
    rows = random(rng(0), int(mask.sum()), 8)
    out = np.empty((24, 8), np.float32)
    assert operators.blend(samples, rows, out, nearest=nearest) == 0
    close(out, rows[nearest.reshape(-1)])


@settings(max_examples=20, deadline=None)
@given(size=st.tuples(st.integers(3, 20), st.integers(3, 20)), channels=st.sampled_from([3, 16, 64, 70]))
def test_max_pool_is_pytorchs(size, channels):
    image = random(rng(1), channels, *size)
    reference = torch_rows(F.max_pool2d(torch.from_numpy(image[None]), 3, 2, 1))
    out = np.full_like(reference, np.nan)
    operators.max_pool(to_rows(image), size, out, kernel=3, stride=2, padding=1, threads=2)
    close(out, reference)
    rows = (size[0] + 1) // 2
    banded = np.full_like(reference, np.nan)
    for row in range(rows):
        first = max(0, 2 * row - 1)
        part = to_rows(image)[first * size[1] : (2 * row + 2) * size[1]]
        operators.max_pool(part, size, banded, kernel=3, stride=2, padding=1, first_row=first, rows=(row, row + 1))
    close(banded, reference)


def test_a_position_outside_of_the_map_is_neither_read_nor_written():
    layer = operators.Convolution(np.ones((2, 4, 3, 3), np.float32), None, Geometry(4, 3, 1, 1))
    for wrong in (-1, 30):
        out = np.zeros((30, 2), np.float32)
        positions = np.array([0, wrong], np.int32)
        assert layer(np.ones((30, 4), np.float32), (5, 6), out, positions=positions, scatter=True) == 2
        assert not out.any()


def test_values_that_no_mask_has_are_found():
    for wrong in (np.nan, np.inf, -1.0):
        mask = np.ones((3, 3), np.float32)
        mask[1, 1] = wrong
        starts = np.empty(4, np.int32)
        counted = operators.pointer(mask), 3, 3, operators.pointer(starts), 1
        assert operators.C.saibench_count_samples(*counted) == -1


def test_unknown_instruction_sets():
    with pytest.raises(ValueError, match="not available"):
        kernels.use_instruction_set("sse9")


def test_without_the_compiled_kernels_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("benchmark.engines.cpu.kernels.library.compiled", None)
    with pytest.raises(EngineUnavailable, match="install a C compiler"):
        kernels.require()


def test_kernels_of_another_commit_say_how_to_compile_them(monkeypatch):
    monkeypatch.setattr("benchmark.engines.cpu.kernels.library.INTERFACE", 99)
    with pytest.raises(EngineUnavailable, match="compiled from other sources"):
        kernels.require()


@settings(max_examples=30, deadline=None)
@given(shapes)
def test_half_weights_are_off_by_half_a_unit_of_bfloat16_at_most(c):
    _, geometry, options, image, weight, bias, positions = case(c)
    layer = operators.Convolution(weight, bias, geometry, is_half=True)
    out = np.empty((len(positions), len(weight)), np.float32)
    layer(to_rows(image), c["size"], out, positions=positions, threads=c["threads"])
    tensors = [torch.from_numpy(a) for a in (image[None], weight, bias)]
    reference = torch_rows(F.conv2d(*tensors, **options))
    # bfloat16 has 8 bits: each product is off by 2^-9 of its size at most, and a sum by as much of all sizes.
    sizes = torch_rows(F.conv2d(tensors[0].abs(), tensors[1].abs(), **options))
    assert (np.abs(out - reference[positions]) <= sizes[positions] * 2.0**-8 + 1e-5).all()
    one = operators.Convolution(weight, None, geometry, is_half=True)
    assert one.packed.packed.size * 2 == operators.Convolution(weight, None, geometry).packed.packed.size


def test_half_weights_that_bfloat16_has_stay_what_they_are_where_their_neighbours_are_zero():
    weight = np.zeros((128, 8, 1, 1), np.float32)
    weight[::2, :, 0, 0] = np.float32(0.25)
    weight[:64] = 0  # a vector that shares its words with another is zero
    x = np.ones((3, 8), np.float32)
    out = np.empty((3, 128), np.float32)
    operators.Convolution(weight, None, Geometry(8), is_half=True)(x, (1, 3), out)
    np.testing.assert_allclose(out, x @ weight[:, :, 0, 0].T, rtol=2**-8)
