"""What kernels and engine refuse instead of reading or writing where they should not, and threads of all kinds."""

import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.engines import EngineRefusal, EngineUnavailable
from benchmark.engines.cpu import CPUEngine, kernels
from benchmark.engines.cpu.descriptions import Geometry, check_map
from benchmark.nn import Masks, build_backbone, interpolation, residual_blocks

try:
    kernels.require()
except EngineUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

from tests.engines.cpu import operators

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
        layer = operators.Convolution(np.random.default_rng(0).random((64, 32, 3, 3), np.float32), None, GEOMETRY32)
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


GEOMETRY32 = Geometry(32, 3, 1, 1)


class TestThreads:
    @pytest.mark.parametrize("threads", WRONG_THREADS)
    def test_numbers_that_cannot_be_are_refused(self, threads):
        with pytest.raises(ValueError, match=f"threads must be 1 to 256, not {threads}"):
            CPUEngine(sparse_network(), threads=threads)

    def test_as_many_as_may_be_give_the_same(self):
        layer = operators.Convolution(ones(16, 32, 3, 3), None, GEOMETRY32)
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
        layer = operators.Convolution(ones(16, 32, 3, 3), None, GEOMETRY32)
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


class TestLimits:
    """What would read or write beyond an array is refused where it is described, by layer and limit."""

    def test_weights_packed_for_another_instruction_set(self, isa):
        others = [name for name in kernels.available_instruction_sets() if name != isa]
        if not others:
            pytest.skip("one instruction set alone")
        engine, image = CPUEngine(sparse_network(), threads=1), np.zeros((3, 64, 64), np.float32)
        kernels.use_instruction_set(others[0])
        try:
            with pytest.raises(ValueError, match=f"packed for {isa}, but {others[0]} is selected"):
                engine(image)
        finally:
            kernels.use_instruction_set(isa)
        engine(image)

    @pytest.mark.parametrize("size", [(0, 64), (64, 0), (1, 1)])
    def test_images_without_a_position(self, size):
        engine = CPUEngine(sparse_network(), threads=1)
        image = np.zeros((3, *size), np.float32)
        if 0 in size:
            with pytest.raises(ValueError, match="image has shape"):
                engine(image)
        else:
            assert engine(image).stages["layer4"].shape[:2] == size

    def test_maps_of_more_positions_than_a_number_of_32_bits_counts(self):
        with pytest.raises(ValueError, match="50000 x 50000 positions: 1 to 2147483647"):
            check_map((50_000, 50_000))
        with pytest.raises(ValueError, match="64 maps of 8000 x 8000"):
            check_map((8000, 8000), 64)

    def test_a_geometry_beyond_32_bits(self):
        for wrong in ({"padding": 2**30}, {"stride": 2**31}, {"dilation": 2**30, "kernel": 3}):
            with pytest.raises(ValueError, match="reaches"):
                Geometry(4, **wrong)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: setattr(m.layer1[0], "conv2", nn.Conv2d(16, 16, 3, padding=1, groups=2)), r"layer1\.0\.conv2"),
            (lambda m: setattr(m.layer1[0], "conv2", nn.Conv2d(16, 16, (3, 1))), r"layer1\.0\.conv2: .*square"),
            (
                lambda m: setattr(m.layer1[0], "conv2", nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")),
                r"layer1\.0\.conv2",
            ),
            (
                lambda m: setattr(m.layer2[0], "conv1", nn.Conv2d(63, 32, 1)),
                r"layer2\.0.*: it reads 64 .* with 63",
            ),
            (
                lambda m: setattr(m.layer2[0], "conv2", nn.Conv2d(31, 32, 3)),
                r"layer2\.0\.conv2: it reads 31 .* with 32",
            ),
            (lambda m: setattr(m, "conv1", nn.Conv2d(1, 16, 7, 2, 3)), "conv1: it reads 1 channels of a map with 3"),
            (
                lambda m: setattr(m, "conv1", nn.Conv2d(3, 16, 7, 2, 3, dilation=2)),
                "conv1: .*row_taps needs dilation 1",
            ),
            (lambda m: setattr(m, "maxpool", nn.MaxPool2d(17, 2, 8)), "maxpool: .*up to 15"),
            (lambda m: setattr(m, "maxpool", nn.MaxPool2d(3, 2, 1, dilation=2)), "maxpool"),
            (lambda m: setattr(m, "maxpool", nn.AvgPool2d(3, 2, 1)), "maxpool: .*not AvgPool2d"),
            (lambda m: setattr(m.layer1[0].mask1, "grid_stride", -1), r"layer1\.0\.mask1: .*grids of 1"),
            (
                lambda m: setattr(m.layer1[0].mask1, "conv", nn.Conv2d(15, 1, 3, padding=1)),
                r"layer1\.0\.mask1: masks of one pass read the same channels",
            ),
        ],
    )
    def test_layers_that_do_not_fit_are_named_when_they_are_compiled(self, change, message):
        model = sparse_network()
        change(model)
        with pytest.raises(EngineRefusal, match=message):
            CPUEngine(model.eval(), threads=1)


class TestNotANumber:
    def test_a_relu_and_a_pooling_pass_it_on(self):
        nan = np.zeros((16, 20), np.float32)
        nan[5] = np.nan
        layer = operators.Convolution(ones(35, 20, 1, 1), None, Geometry(20))
        out = ones(16, 35)
        layer(nan, (4, 4), out, relu=True)
        np.testing.assert_array_equal(np.isnan(out).all(1), np.isnan(nan[:, 0]))
        blended = ones(16, 20)
        index = operators.SampleIndex(operators.Samples(ones(4, 4)), 3, compact=True)
        operators.blend(index, nan, blended, relu=True)
        np.testing.assert_array_equal(np.isnan(blended), np.isnan(nan))
        for first in (nan, nan[::-1].copy()):  # met first or last by the window
            pooled = ones(4, 20)
            operators.max_pool(first, (4, 4), pooled, kernel=3, stride=2, padding=1)
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
        model = sparse_network()
        with torch.no_grad():
            for change in (model.layer3[0].conv2.weight, model.layer2[0].mask1.conv.bias):
                before = change.clone()
                change.view(-1)[0] = value
                with pytest.raises(ValueError, match=r"layer\d\.0\.(conv2|mask1): .*holds NaN or infinity"):
                    CPUEngine(model, threads=1)
                change.copy_(before)

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
            samples = operators.Samples(mask)
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
