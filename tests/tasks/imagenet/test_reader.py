"""The ImageNet reader: class folders, the flat official validation folder, errors."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from benchmark.errors import DataError
from benchmark.tasks.imagenet.reader import ImageFolders

# In ImageNet's own order, which is not the alphabetical one.
ORDER = ["n02119789", "n02100735", "n01440764"]
TRUTH = [3, 1, 2, 1]


@pytest.fixture
def flat(tmp_path):
    """A set with training folders and a flat validation folder without its labels."""
    for wordnet_id in ORDER:
        (tmp_path / "train" / wordnet_id).mkdir(parents=True)
        Image.new("RGB", (9, 7)).save(tmp_path / "train" / wordnet_id / f"{wordnet_id}_1.JPEG")
    (tmp_path / "val").mkdir()
    for number in range(1, 5):
        Image.new("RGB", (9, 7)).save(tmp_path / "val" / f"ILSVRC2012_val_{number:08d}.JPEG")
    return tmp_path


def put_truth(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in TRUTH))


def put_solution(folder):
    rows = [f"ILSVRC2012_val_{i:08d},{ORDER[n - 1]} 1 2 3 4 {ORDER[0]} 5 6 7 8" for i, n in enumerate(TRUTH, start=1)]
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")


def put_map(folder):
    (folder / "map_clsloc.txt").write_text("".join(f"{w} {i} name_{i}\n" for i, w in enumerate(ORDER, start=1)))


def put_meta(folder):
    kinds = [("ILSVRC2012_ID", float), ("WNID", object), ("words", object), ("gloss", object), ("num_children", float)]
    rows = [(i, w, "words", "gloss", 0) for i, w in enumerate(ORDER, start=1)] + [(4, "n00001740", "entity", "g", 3)]
    savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=kinds).reshape(-1, 1)})


def expected_labels():
    classes = sorted(ORDER)
    return [classes.index(ORDER[number - 1]) for number in TRUTH]


def test_items_are_images_with_labels_in_the_folders_order(embedded):
    reader = ImageFolders(embedded["imagenet"], "train")
    assert len(reader) == 20 and len(reader.classes) == 10
    assert reader.classes == sorted(reader.classes)
    for index in range(len(reader)):
        image, label, identifier = reader[index]
        assert image.dtype == torch.uint8 and image.shape == (3, 48, 48)
        assert identifier == reader.names[index] and identifier.startswith(reader.classes[label] + "/")
    assert len(set(reader.names)) == len(reader)


def test_validation_has_the_labels_of_the_training_folders_even_if_it_lacks_classes(copied):
    root = copied("imagenet")
    first, second = ImageFolders(root, "val").classes[:2]
    shutil.rmtree(root / "val" / first)
    reader = ImageFolders(root, "val")
    assert reader.classes == ImageFolders(root, "train").classes
    assert reader.names[0].startswith(second) and reader[0][1] == 1


@pytest.mark.parametrize("form", ["webp", "png", "jpg"])
def test_other_formats_are_read(copied, form):
    root = copied("imagenet")
    path = next((root / "val").rglob("*.JPEG"))
    Image.open(path).save(path.with_suffix(f".{form}"))
    path.unlink()
    reader = ImageFolders(root, "val")
    assert len(reader) == 10 and reader[0][0].shape == (3, 48, 48)


def test_flat_validation_by_the_solution_file(flat):
    put_solution(flat)
    reader = ImageFolders(flat, "val")
    assert reader.labels == expected_labels()
    assert reader.names[2] == "ILSVRC2012_val_00000003.JPEG"


@pytest.mark.parametrize("order", [put_map, put_meta])
@pytest.mark.parametrize("place", [".", "val", "ILSVRC2012_devkit_t12/data"])
def test_flat_validation_by_the_ground_truth_in_imagenets_own_order(flat, order, place):
    put_truth(flat / place)
    order(flat / place)
    assert ImageFolders(flat, "val").labels == expected_labels()


def test_ground_truth_goes_by_the_images_number_not_by_its_rank(flat):
    put_truth(flat)
    put_map(flat)
    (flat / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()
    assert ImageFolders(flat, "val").labels == [label for i, label in enumerate(expected_labels()) if i != 1]


def test_solution_alone_gives_the_classes_if_there_is_no_training_set(flat):
    put_solution(flat)
    shutil.rmtree(flat / "train")
    assert ImageFolders(flat, "val").classes == sorted(ORDER)


def test_kaggles_solution_lies_above_the_images(flat):
    (flat / "ILSVRC" / "Data" / "CLS-LOC").mkdir(parents=True)
    for split in ("train", "val"):
        (flat / split).rename(flat / "ILSVRC" / "Data" / "CLS-LOC" / split)
    put_solution(flat)
    assert ImageFolders(flat / "ILSVRC" / "Data" / "CLS-LOC", "val").labels == expected_labels()


def test_missing_labels_and_orders_say_what_to_put_where(flat):
    with pytest.raises(DataError, match=r"val is flat .* put LOC_val_solution.csv or ILSVRC2012_validation"):
        ImageFolders(flat, "val")
    put_truth(flat)
    with pytest.raises(DataError, match=r"own order; put the development kit's meta.mat or map_clsloc.txt"):
        ImageFolders(flat, "val")
    (flat / "meta.mat").write_bytes(b"no matrix")
    with pytest.raises(DataError, match=r"is not ImageNet's meta.mat"):
        ImageFolders(flat, "val")
    (flat / "map_clsloc.txt").write_text("one two three\n")
    with pytest.raises(DataError, match=r"map_clsloc.txt is not of the form"):
        ImageFolders(flat, "val")


def test_labels_that_do_not_fit_are_named(flat):
    put_solution(flat)
    Image.new("RGB", (9, 7)).save(flat / "val" / "ILSVRC2012_val_00000009.JPEG")
    with pytest.raises(DataError, match=r"gives no label for .*00000009.JPEG"):
        ImageFolders(flat, "val")
    (flat / "LOC_val_solution.csv").unlink()
    put_truth(flat)
    put_map(flat)
    with pytest.raises(DataError, match=r"has 4 lines, none of them for .*00000009.JPEG"):
        ImageFolders(flat, "val")
    (flat / "val" / "ILSVRC2012_val_00000009.JPEG").unlink()
    shutil.rmtree(flat / "train" / ORDER[1])
    with pytest.raises(DataError, match=rf"class {ORDER[1]}, which .*train does not have"):
        ImageFolders(flat, "val")
    (flat / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,17\n")
    with pytest.raises(DataError, match=r"LOC_val_solution.csv, line 2"):
        ImageFolders(flat, "val")


def test_missing_and_strange_folders_are_named(copied, tmp_path):
    with pytest.raises(DataError, match=r"no such folder: .*nowhere/val; expected train/<WordNet id>"):
        ImageFolders(tmp_path / "nowhere", "val")
    root = copied("imagenet")
    (root / "val" / "n12345678").mkdir()
    with pytest.raises(DataError, match=r"n12345678 is a class that .*train does not have"):
        ImageFolders(root, "val")
    (tmp_path / "empty" / "val").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no images in "):
        ImageFolders(tmp_path / "empty", "val")
    (tmp_path / "empty" / "val" / "n12345678").mkdir()
    with pytest.raises(DataError, match=r"no images in the folders"):
        ImageFolders(tmp_path / "empty", "val")


def test_a_set_of_one_class_is_refused(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / ORDER[0]).mkdir(parents=True)
        Image.new("RGB", (9, 7)).save(tmp_path / split / ORDER[0] / "a.JPEG")
    with pytest.raises(DataError, match=f"has one class, {ORDER[0]}, so that nothing can be told apart"):
        ImageFolders(tmp_path, "train")


def test_a_name_that_no_table_can_hold_is_refused_before_anything_runs(flat):
    with open(bytes(flat / "train" / ORDER[0]) + b"/\xff.JPEG", "wb") as file:
        file.write((flat / "train" / ORDER[0] / f"{ORDER[0]}_1.JPEG").read_bytes())
    with pytest.raises(DataError, match=r"a class or image of the name '.*udcff.JPEG'; rename it"):
        ImageFolders(flat, "train")


def test_a_class_whose_name_breaks_lines_is_refused_in_one(flat):
    (flat / "train" / ORDER[0]).rename(flat / "train" / "n1\nx")
    with pytest.raises(DataError) as caught:
        ImageFolders(flat, "train")
    assert r"a class or image of the name 'n1\nx'; rename it" in str(caught.value) and "\n" not in str(caught.value)


def test_truncated_image_is_named_when_read(copied):
    reader = ImageFolders(copied("imagenet"), "val")
    path = reader.root / "val" / reader.names[4]
    path.write_bytes(path.read_bytes()[:-200])
    assert reader[3][1] == 3
    with pytest.raises(DataError, match=f"cannot decode .*{path.name}"):
        reader[4]


def test_fingerprint_follows_names_and_contents(copied, embedded):
    root = copied("imagenet")
    assert (
        ImageFolders(root, "val").fingerprint() == ImageFolders(embedded["imagenet"], "val", cache=True).fingerprint()
    )
    assert ImageFolders(root, "val").fingerprint() != ImageFolders(root, "train").fingerprint()
    next((root / "val").rglob("*.JPEG")).rename(root / "val" / ImageFolders(root, "val").classes[0] / "other.JPEG")
    assert ImageFolders(root, "val").fingerprint() != ImageFolders(embedded["imagenet"], "val").fingerprint()
