"""Images out of folders and archives."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmark.data.images import ImageStore, decode, inspect
from benchmark.errors import DataError


def noise(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8).squeeze()


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "val2017"
    place.mkdir()
    for index in range(3):
        Image.fromarray(noise(8 + index, 12)).save(place / f"{index}.png")
    return place


@pytest.fixture(params=["inside", "flat"])
def archive(request, folder):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as file:
        for image in sorted(folder.iterdir()):
            file.write(image, f"val2017/{image.name}" if request.param == "inside" else image.name)
    return path


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1", "LA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.fromarray(noise(6, 9)).convert(mode).save(path)
    image = decode(path, "image")
    assert image.dtype == torch.uint8
    assert image.shape == (3, 6, 9)
    if mode in ("L", "1"):
        assert torch.equal(image[0], image[1])


def test_pixels_are_those_of_the_file(folder):
    assert np.array_equal(decode(folder / "0.png", "0").permute(1, 2, 0).numpy(), noise(8, 12))


@pytest.mark.parametrize("form", ["jpg", "png", "webp"])
@pytest.mark.parametrize("look", [decode, inspect])
def test_truncated_images_are_named(tmp_path, form, look):
    path = tmp_path / f"short.{form}"
    Image.fromarray(noise(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(DataError, match=rf"cannot decode here/short.{form}: .*fetch it again"):
        look(path, f"here/short.{form}")


def test_no_image_and_no_file_are_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"text.jpg: not an image"):
        decode(tmp_path / "text.jpg", "text.jpg")
    with pytest.raises(DataError, match=r"no such image: gone.jpg"):
        decode(tmp_path / "gone.jpg", "gone.jpg")


def test_archive_gives_what_the_folder_gives(folder, archive):
    plain, zipped = ImageStore(folder), ImageStore(archive)
    names = ["0.png", "1.png", "2.png"]
    assert plain.listing() == zipped.listing() == set(names)
    assert plain.sizes([*names, "3.png"]) == zipped.sizes([*names, "3.png"])
    assert plain.missing(["2.png", "3.png"]) == zipped.missing(["2.png", "3.png"]) == ["3.png"]
    for name in names:
        assert torch.equal(plain.read(name), zipped.read(name))


class _Images(Dataset):
    def __init__(self, store):
        self.store = store

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return self.store.read(f"{index % 3}.png")[:, :8]


def test_archive_is_safe_in_worker_processes(archive):
    store = ImageStore(archive)
    store.read("0.png")  # opened before the workers are forked
    loader = DataLoader(_Images(store), batch_size=4, num_workers=2, multiprocessing_context="fork")
    alone = torch.cat(list(DataLoader(_Images(store), batch_size=4)))
    assert torch.equal(torch.cat(list(loader)), alone)
    assert torch.equal(pickle.loads(pickle.dumps(store)).read("1.png"), store.read("1.png"))


def test_missing_and_broken_archives_are_named(folder, tmp_path):
    (tmp_path / "broken.zip").write_bytes(b"PK no archive")
    with pytest.raises(DataError, match=r"cannot read .*broken.zip"):
        ImageStore(tmp_path / "broken.zip")


def test_cache_gives_the_same_and_cannot_be_spoilt(folder):
    store = ImageStore(folder, cache=8 * 12 * 3)
    first = store.read("0.png")
    expected = first.clone()
    first.zero_()
    (folder / "0.png").unlink()
    assert torch.equal(store.read("0.png"), expected)
    store.read("1.png")
    (folder / "1.png").unlink()
    with pytest.raises(DataError, match="no such image"):  # there was no room for a second one
        store.read("1.png")


@pytest.mark.parametrize("values", [np.full((8, 9), 40000, np.uint16), np.full((8, 9), 7, np.int32)])
def test_more_than_8_bits_a_channel_are_refused_not_clipped_to_white(tmp_path, values):
    path = tmp_path / "deep.tiff"  # of these, PNG holds the first alone
    Image.fromarray(values).save(path)
    for read in (decode, inspect):
        with pytest.raises(DataError, match=r"deep.tiff: it has more than 8 bits a channel .*; convert it to 8"):
            read(path, str(path))
