"""What kernels and engine refuse instead of reading or writing where they should not, and threads of all kinds."""

import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch

from benchmark.engines import EngineUnavailable
from benchmark.engines.cpu import CPUEngine, kernels
from benchmark.nn import Masks, build_backbone, interpolation, residual_blocks

try:
    kernels.require()
except EngineUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

WRONG_THREADS = [0, -1, 257, 60_000, 100_000]


pytestmark = pytest.mark.usefixtures("isa")


def ones(*shape):
    return np.ones(shape, np.float32)


def sparse_network():
    torch.manual_seed(0)
    model = build_backbone("mini_small")
    for block in residual_blocks(model):
        block.adapt(Masks.gumbel(), interpolation.rbf())
    return model.eval()


class TestPythonThreads:
    def test_two_of_them_on_one_engine_get_the_maps_of_their_own_images(self):
        engine = CPUEngine(sparse_network(), threads=2)
        images = [np.random.default_rng(i).standard_normal((3, 64, 64)).astype(np.float32) for i in range(2)]
        expected = [{name: stage.copy() for name, stage in engine(image).stages.items()} for image in images]
        wrong = []

        def call(which):
            for _ in range(15):
                stages = engine(images[which]).stages
                time.sleep(0.001)  # the other thread's call may now run
                wrong.extend(name for name, stage in stages.items() if (stage != expected[which][name]).any())

        threads = [threading.Thread(target=call, args=(which,)) for which in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_two_of_them_on_two_kernels_at_once(self):
        layer = kernels.Convolution(np.random.default_rng(0).random((64, 32, 3, 3), np.float32), None, GEOMETRY32)
        x = np.random.default_rng(1).random((900, 32), np.float32)
        expected, wrong = np.empty((900, 64), np.float32), []
        layer(x, (30, 30), expected)

        def call():
            out = np.empty_like(expected)
            for _ in range(50):
                out[:] = 0
                layer(x, (30, 30), out, threads=2)
                wrong.extend(np.flatnonzero((out != expected).any(1)))

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_buffers_of_a_thread_end_with_it(self):
        engine = CPUEngine(sparse_network(), threads=1)
        image = np.zeros((3, 64, 64), np.float32)
        engine(image)
        before = engine.memory_bytes
        thread = threading.Thread(target=lambda: engine(image))
        thread.start()
        thread.join()
        assert engine.memory_bytes == before


GEOMETRY32 = kernels.Geometry(32, 3, 1, 1)


class TestThreads:
    @pytest.mark.parametrize("threads", WRONG_THREADS)
    def test_numbers_that_cannot_be_are_refused(self, threads):
        mask, image = kernels.Samples(ones(4, 4)), ones(3, 4, 4)
        masks = kernels.MaskConvolution([ones(1, 3, 3, 3)], [0.0], [kernels.Geometry(3, 3, 1, 1)])
        calls = [
            lambda: CPUEngine(sparse_network(), threads=threads),
            lambda: kernels.Samples(ones(4, 4), threads=threads),
            lambda: kernels.SampleIndex(mask, 3, compact=True, threads=threads),
            lambda: kernels.positions_read(mask, kernels.Geometry(1), (4, 4), threads=threads),
            lambda: kernels.channels_last(image, threads=threads),
            lambda: kernels.max_pool(ones(16, 3), (4, 4), ones(4, 3), kernel=2, stride=2, padding=0, threads=threads),
            lambda: masks.products(ones(16, 3), (4, 4), ones(16, 9), threads=threads),
            lambda: masks.logits(0, ones(16, 9), (4, 4), threads=threads),
            lambda: kernels.blend(
                kernels.SampleIndex(mask, 3, compact=True), ones(16, 3), ones(16, 3), threads=threads
            ),
        ]
        for call in calls:
            with pytest.raises(ValueError, match=f"threads must be 1 to 256, not {threads}"):
                call()

    def test_as_many_as_may_be_give_the_same(self):
        layer = kernels.Convolution(ones(16, 32, 3, 3), None, GEOMETRY32)
        x = np.random.default_rng(1).random((900, 32), np.float32)
        one, many = np.empty((900, 16), np.float32), np.empty((900, 16), np.float32)
        layer(x, (30, 30), one)
        layer(x, (30, 30), many, threads=16)
        np.testing.assert_array_equal(one, many)

    @pytest.mark.parametrize(("said", "there"), [("1", 1), ("3,2", 3), ("9999", 256), ("", None), ("0", None)])
    def test_how_many_there_are_is_what_the_environment_says(self, monkeypatch, said, there):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        found = kernels.max_threads()
        assert found == there if there else 1 <= found <= 256

    @pytest.mark.skipif(sys.platform == "win32", reason="no fork")
    def test_a_forked_child_has_threads_of_its_own(self):
        layer = kernels.Convolution(ones(16, 32, 3, 3), None, GEOMETRY32)
        x, out = ones(900, 32), np.zeros((900, 16), np.float32)
        layer(x, (30, 30), out, threads=2)
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # ends a child that hangs, by a signal that the parent sees
            again = np.zeros_like(out)
            for _ in range(20):
                layer(x, (30, 30), again, threads=2)
            os._exit(0 if (again == out).all() else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class TestBounds:
    """Every case here read or wrote beyond an array, or could have."""

    def test_products_of_another_width(self):
        narrow = kernels.NarrowConvolution(ones(18, 4, 1, 1), None, kernels.Geometry(4))
        with pytest.raises(ValueError, match=r"products has shape \(30, 9\)"):
            kernels.Follow(narrow, ones(30, 9))

    def test_what_follows_is_pointwise(self):
        wide = kernels.NarrowConvolution(ones(9, 4, 3, 3), None, kernels.Geometry(4, 3, 1, 1))
        with pytest.raises(ValueError, match="1 x 1"):
            kernels.Follow(wide, ones(30, 9))

    def test_weights_packed_for_another_instruction_set(self, isa):
        others = [name for name in kernels.available_instruction_sets() if name != isa]
        if not others:
            pytest.skip("one instruction set alone")
        layer = kernels.Convolution(ones(2, 4, 3, 3), None, kernels.Geometry(4, 3, 1, 1))
        narrow = kernels.NarrowConvolution(ones(9, 4, 1, 1), None, kernels.Geometry(4))
        follow = kernels.Follow(narrow, ones(30, 9))
        kernels.use_instruction_set(others[0])
        try:
            for call in (
                lambda: layer(ones(30, 4), (5, 6), ones(30, 2)),
                lambda: layer.deform(ones(30, 4), (5, 6), ones(30, 18), ones(30, 2)),
                lambda: narrow(ones(30, 4), (5, 6), ones(30, 9)),
                lambda: follow.bound(ones(30, 4)),
            ):
                with pytest.raises(ValueError, match=f"packed for {isa}, but {others[0]} is selected"):
                    call()
        finally:
            kernels.use_instruction_set(isa)
        layer(ones(30, 4), (5, 6), ones(30, 2))

    @pytest.mark.parametrize("ring", [0, -1])
    def test_rings_without_rows(self, ring):
        with pytest.raises(ValueError, match=f"a ring of {ring} rows"):
            kernels.SampleIndex(kernels.Samples(ones(4, 4)), 3, compact=True, ring=ring)
        if ring == 0:  # nothing sampled needs no row
            kernels.SampleIndex(kernels.Samples(0 * ones(4, 4)), 3, compact=True, ring=ring)

    @pytest.mark.parametrize("size", [(0, 5), (5, 0), (-4, -4), (1 << 20, 1 << 20)])
    def test_sizes_that_no_map_has(self, size):
        pointwise, three = kernels.Geometry(4), kernels.Geometry(4, 3, 1, 3)
        masks = kernels.MaskConvolution([ones(1, 4, 3, 3)], [0.0], [three])
        samples = kernels.Samples(ones(4, 4))
        for call in (
            lambda: kernels.max_pool(ones(16, 4), size, ones(4, 4), kernel=3, stride=2, padding=1),
            lambda: kernels.Convolution(ones(2, 4, 3, 3), None, three)(ones(16, 4), size, ones(16, 2)),
            lambda: kernels.NarrowConvolution(ones(9, 4, 1, 1), None, pointwise)(ones(16, 4), size, ones(16, 9)),
            lambda: masks.logits(0, ones(16, 9), size),
            lambda: kernels.positions_read(samples, pointwise, size),
        ):
            with pytest.raises(ValueError, match="size must be"):
                call()

    @pytest.mark.parametrize("which", [-1, 1])
    def test_masks_that_are_not_there(self, which):
        masks = kernels.MaskConvolution([ones(1, 4, 3, 3)], [0.0], [kernels.Geometry(4, 3, 1, 1)])
        for call in (masks.logits, masks.decide):
            with pytest.raises(ValueError, match=f"there are masks 0 to 0, not {which}"):
                call(which, ones(16, 9), (4, 4))

    def test_rows_as_taps_where_there_is_no_border(self):
        rows = kernels.Geometry(4, 3, 1, 1, row_taps=True)
        with pytest.raises(ValueError, match="row_taps"):
            kernels.MaskConvolution([ones(1, 4, 3, 3)], [0.0], [rows])
        with pytest.raises(ValueError, match="no border"):
            kernels.positions_read(kernels.Samples(ones(4, 4)), rows, (4, 4))

    def test_masks_of_one_pass_read_the_same_channels(self):
        walks = [kernels.Geometry(4, 3, 1, 1), kernels.Geometry(5, 3, 1, 1)]
        with pytest.raises(ValueError, match="same channels"):
            kernels.MaskConvolution([ones(1, 4, 3, 3), ones(1, 5, 3, 3)], [0.0, 0.0], walks)
        with pytest.raises(ValueError, match="one output"):
            kernels.MaskConvolution([ones(2, 4, 3, 3)], [0.0], walks[:1])

    def test_lists_cannot_be_written_or_replaced(self):
        samples = kernels.Samples(ones(4, 4))
        index = kernels.SampleIndex(samples, 3, compact=True)
        for owner, name in ((samples, "positions"), (samples, "starts"), (index, "index")):
            with pytest.raises(AttributeError):
                setattr(owner, name, np.full(16, 99, np.int32))
            with pytest.raises(ValueError, match="read-only"):
                getattr(owner, name)[:] = 99
            with pytest.raises(ValueError, match="WRITEABLE"):
                getattr(owner, name).flags.writeable = True
        with pytest.raises(AttributeError):
            index.rows = 99

    def test_a_geometry_beyond_32_bits(self):
        for wrong in ({"padding": 2**30}, {"stride": 2**31}, {"dilation": 2**30, "kernel": 3}):
            with pytest.raises(ValueError, match="reaches"):
                kernels.Geometry(4, **wrong)

    def test_maps_without_channels(self):
        with pytest.raises(ValueError, match="no channels"):
            kernels.max_pool(ones(16, 0), (4, 4), ones(4, 0), kernel=2, stride=2, padding=0)
        index = kernels.SampleIndex(kernels.Samples(ones(4, 4)), 3, compact=True)
        with pytest.raises(ValueError, match="no channels"):
            kernels.blend(index, ones(16, 0), ones(16, 0))


class TestNotANumber:
    def test_a_relu_and_a_pooling_pass_it_on(self):
        nan = np.zeros((16, 20), np.float32)
        nan[5] = np.nan
        layer = kernels.Convolution(ones(35, 20, 1, 1), None, kernels.Geometry(20))
        out = ones(16, 35)
        layer(nan, (4, 4), out, relu=True)
        np.testing.assert_array_equal(np.isnan(out).all(1), np.isnan(nan[:, 0]))
        blended = ones(16, 20)
        index = kernels.SampleIndex(kernels.Samples(ones(4, 4)), 3, compact=True)
        kernels.blend(index, nan, blended, relu=True)
        np.testing.assert_array_equal(np.isnan(blended), np.isnan(nan))
        for first in (nan, nan[::-1].copy()):  # met first or last by the window
            pooled = ones(4, 20)
            kernels.max_pool(first, (4, 4), pooled, kernel=3, stride=2, padding=1)
            image = torch.from_numpy(first.reshape(1, 4, 4, 20)).permute(0, 3, 1, 2)
            expected = torch.nn.functional.max_pool2d(image, 3, 2, 1)[0].permute(1, 2, 0).reshape(4, 20)
            np.testing.assert_array_equal(pooled, expected.numpy())

    def test_a_network_whose_maps_are_not_numbers_in_pytorch_has_none_here(self):
        torch.manual_seed(0)
        model = build_backbone("mini_small").eval()
        with torch.no_grad():
            for norm in (model.bn1, model.layer1[0].bn1):
                norm.weight.fill_(1e30)
        image = np.random.default_rng(0).standard_normal((3, 64, 64)).astype(np.float32)
        with torch.no_grad():
            reference = model.stages(torch.from_numpy(image)[None])["layer4"][0].permute(1, 2, 0)
        ours = CPUEngine(model)(image).stages["layer4"]
        assert torch.isnan(reference).all()
        assert np.isnan(ours).all()

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_biases_and_weights_are_checked(self, value):
        bias = ones(2)
        bias[1] = value
        for call in (
            lambda: kernels.Convolution(ones(2, 4, 3, 3), bias, kernels.Geometry(4, 3)),
            lambda: kernels.NarrowConvolution(ones(2, 4, 3, 3), bias, kernels.Geometry(4, 3)),
            lambda: kernels.MaskConvolution([ones(1, 4, 3, 3)], [value], [kernels.Geometry(4, 3)]),
        ):
            with pytest.raises(ValueError, match=r"bias .*holds NaN or infinity"):
                call()

    def test_the_layer_is_named(self):
        model = build_backbone("mini_small")
        with torch.no_grad():
            model.layer2[0].bn2.bias[0] = float("nan")
        with pytest.raises(ValueError, match=r"layer2\.0\.conv2: bias .*NaN"):
            CPUEngine(model)


def test_a_mask_that_is_written_to_while_it_is_listed_stays_in_bounds():
    """Lists of another mask than was counted are wrong, but every position lies in its own row of the map."""
    mask, stop = ones(64, 64), threading.Event()

    def write():
        generator = np.random.default_rng(0)
        while not stop.is_set():
            mask[:] = generator.random(mask.shape) < 0.5

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(300):
            samples = kernels.Samples(mask)
            rows = np.repeat(np.arange(64), np.diff(samples.starts))
            np.testing.assert_array_equal(samples.positions // 64, rows)
    finally:
        stop.set()
        thread.join()


def test_maps_scratch_and_lists_are_counted_as_memory():
    engine = CPUEngine(sparse_network(), threads=1)
    image = np.random.default_rng(0).standard_normal((3, 64, 64)).astype(np.float32)
    held = []
    for _ in range(3):
        stages = engine(image).stages
        held.append(engine.memory_bytes)
    assert held[0] == held[1] == held[2]
    # Beside the results: the stem's map, that between a block's convolutions, and the image with its border at least.
    assert held[0] > sum(stage.nbytes for stage in stages.values()) + 3 * 70 * 70 * 4
