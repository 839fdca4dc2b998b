"""Looking at masks: those that an evaluation counts, image by image and draw by draw."""

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from benchmark.cells import Request, execute, find_image, look, look_at_first, plan, reader, starting_model
from benchmark.cells.running import DENSITY_MAPS
from benchmark.errors import DataError, SaibenchError
from benchmark.sampling import SAMPLING, read
from benchmark.store import Store, verify
from benchmark.tasks import find_task
from tests.conftest import SCRATCH, TINY


@pytest.fixture(scope="module")
def cell(tmp_path_factory, tiny_set):
    """A store with a stochastic cell of two steps, and its record."""
    store = Store(tmp_path_factory.mktemp("store"))
    planned = plan(Request("coco", "stochastic", data=tiny_set("coco"), overrides=TINY))
    return store, execute(planned, store)


def untrained(task, method, folder, store, **changes):
    planned = plan(Request(task, method, data=folder, **changes))
    return planned, starting_model(planned, store)


def test_a_record_keeps_the_masks_that_its_evaluation_counted(cell):
    _, record = cell
    kept = read(record.path(SAMPLING))
    images = record.images().set_index("image_id")
    for each in kept:
        counted = images.loc[int(each.identifier), "density"]
        assert np.mean(list(each.shares().values())) == pytest.approx(counted)
        assert each.density(0).mean() == pytest.approx(counted)  # maps divide the image evenly at this scale
    maps = {layer.removeprefix("backbone.body.") for layer in load_file(record.path(DENSITY_MAPS))}
    assert maps == set(kept[0].masks) and kept[0].confidences.keys() == kept[0].masks.keys()


def test_draws_differ_by_seed_and_the_first_is_the_cells_own(cell):
    _, record = cell
    first = read(record.path(SAMPLING))[0]
    assert list(first.seeds) == [0, 1, 2, 3]
    name = next(iter(first.masks))
    assert len({first.masks[name][draw].tobytes() for draw in range(4)}) == 4


def test_draws_of_a_deterministic_method_are_one(tiny_set, tmp_path):
    planned, model = untrained("coco", "deterministic_gumbel", tiny_set("coco"), Store(tmp_path))
    seen = look_at_first(planned, model)[0]
    assert list(seen.seeds) == [0] and all(mask.shape[0] == 1 for mask in seen.masks.values())


def test_confidence_decides_the_masks_of_a_deterministic_method(tiny_set, tmp_path):
    planned, model = untrained("coco", "deterministic_gumbel", tiny_set("coco"), Store(tmp_path))
    seen = look_at_first(planned, model)[0]
    for name, mask in seen.masks.items():
        drawn = seen.confidences[name] > 0.5
        assert (mask[0] >= drawn).all() and (mask[0] & ~drawn).sum() <= np.ceil(
            mask[0].size / planned.method.grid_stride
        )


@pytest.mark.parametrize("task", ["coco", "cityscapes", "imagenet"])
def test_an_image_is_found_by_its_id_and_by_its_path(tiny_set, task):
    folder = tiny_set(task)
    planned = plan(Request(task, "stochastic", data=folder))
    val = reader(task, planned.folder, "val")
    wanted = val[len(val) - 1]
    by_id = find_image(planned, str(wanted.identifier))
    assert by_id.identifier == wanted.identifier and (by_id.image == wanted.image).all()
    files = [
        path for path in folder.rglob("*") if path.suffix in (".jpg", ".png", ".JPEG") and "val" in path.as_posix()
    ]
    images = [path for path in files if "gtFine" not in path.parts]
    found = {find_image(planned, str(path)).identifier for path in images}
    assert found == {val[index].identifier for index in range(len(val))}


def test_another_file_has_its_name_as_identifier(tiny_set, tmp_path):
    planned = plan(Request("coco", "stochastic", data=tiny_set("coco")))
    Image.fromarray(np.zeros((40, 60), dtype=np.uint8)).save(tmp_path / "grey.png")
    found = find_image(planned, str(tmp_path / "grey.png"))
    assert found.identifier == "grey.png" and found.image.shape == (3, 40, 60)


def test_no_such_image_is_one_line_with_an_id_that_there_is(tiny_set, tmp_path):
    planned = plan(Request("coco", "stochastic", data=tiny_set("coco")))
    with pytest.raises(DataError, match=r"no image 'nowhere.jpg': .* such as 1000001"):
        find_image(planned, "nowhere.jpg")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match="text.png"):
        find_image(planned, str(tmp_path / "text.png"))


def test_a_method_without_masks_says_so_and_keeps_none(tiny_set, tmp_path):
    planned, model = untrained("coco", "dense", tiny_set("coco"), Store(tmp_path))
    sample = reader("coco", planned.folder, "val")[0]
    with pytest.raises(SaibenchError, match="'dense' has no masks to show"):
        look(planned, model, sample.image, sample.identifier, [0])
    assert look_at_first(planned, model) == []


def test_what_is_shown_is_what_the_backbone_reads(tiny_set, tmp_path):
    planned, model = untrained("coco", "random", tiny_set("coco"), Store(tmp_path))
    sample = reader("coco", planned.folder, "val")[0]
    seen = look(planned, model, sample.image, sample.identifier, [0])
    assert seen.image.shape == (128, 128, 3)  # at this scale neither resized nor padded
    np.testing.assert_array_equal(seen.image, sample.image.permute(1, 2, 0).numpy())


def test_a_network_that_starts_from_a_cell_asks_for_that_cell(tiny_set, tmp_path):
    planned = plan(Request("coco", "stochastic", data=tiny_set("coco"), overrides=SCRATCH))
    with pytest.raises(SaibenchError, match="saibench run coco --method dense"):
        starting_model(planned, Store(tmp_path))


def test_a_file_that_is_attached_has_its_checksum(cell):
    store, record = cell
    before = {path.name: path.read_bytes() for path in record.folder.iterdir()}
    store.attach(record, SAMPLING, before[SAMPLING] + b" ")
    assert verify(store).problems == []
    store.attach(record, SAMPLING, before[SAMPLING])
    assert {path.name: path.read_bytes() for path in record.folder.iterdir()} == before


@pytest.mark.parametrize("task", ["cityscapes", "imagenet"])
def test_other_tasks_show_masks_too(tiny_set, tmp_path, task):
    planned, model = untrained(task, "stochastic", tiny_set(task), Store(tmp_path))
    seen = look_at_first(planned, model)[0]
    height, width = find_task(task).embedded.sizes["mini"].height, find_task(task).embedded.sizes["mini"].width
    assert seen.image.ndim == 3 and 0 < seen.image.shape[0] <= max(height, width) * 2
    assert seen.density().min() > 0 and seen.density().max() <= 1
