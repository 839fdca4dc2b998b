"""Well-formed data of another meaning: read right, or said to be doubtful, or refused before anything is trained.

Each set is written here, small, and looked at through three doors: what plans a cell, what looks before training, and
``data verify``. The oracle of what is read right is a perfect detector, which knows the file and not the reader: its
average precision is 1.
"""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmark.cells import planning
from benchmark.data.examining import check_classes, examine
from benchmark.data.images import decode, inspect
from benchmark.data.verification import verify
from benchmark.errors import DataError
from benchmark.stats.outcomes import OUTCOMES, read_outcomes
from benchmark.store import write_table
from benchmark.tasks import find_task

NAMES = ("cell", "plate", "dust")
HEIGHT, WIDTH = 40, 60
BESIDE = 1000  # id of an annotation beside the twelve


def annotations(split, images=4):
    """Return a COCO file's content: each image with one object of each category."""
    return {
        "images": [
            {"id": 10 + index, "file_name": f"{split}{index}.png", "height": HEIGHT, "width": WIDTH}
            for index in range(images)
        ],
        "categories": [{"id": 1 + index, "name": name} for index, name in enumerate(NAMES)],
        "annotations": [
            {
                "id": 1 + 3 * image + number, "image_id": 10 + image, "category_id": 1 + number,
                "bbox": [2 + 18 * number, 3 + image, 12, 15 + 4 * number], "area": 12 * (15 + 4 * number), "iscrowd": 0,
            }
            for image in range(images)
            for number in range(3)
        ],
    }  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAIBENCH_CACHE", str(tmp_path / "cache"))


def write(root, val=lambda content: None, train=lambda content: None):
    """Write a set in COCO's format; `val` and `train` change the annotations."""
    for split, change in (("train", train), ("val", val)):
        content = annotations(split)
        change(content)
        (root / f"{split}2017").mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
        for index, image in enumerate(annotations(split)["images"]):
            pixels = np.random.default_rng([index, split == "val"]).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(root / f"{split}2017" / image["file_name"])
    return root


def opened(root, task="coco"):
    """Read a set as a cell does before it is trained: both readers, and what is doubtful."""
    train, val = (find_task(task).open(root, split) for split in ("train", "val"))
    check_classes(train, val, root)
    return train, val, examine(train, val, root)


def average_precision(root, tmp_path):
    """Return AP of a perfect detector of the validation objects, by the official metric and by the kept outcomes."""
    task, (train, val, _) = find_task("coco"), opened(root)
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    predictions = {}
    for index in range(len(val)):
        sample = val[index]
        own = [each for each in content["annotations"] if each["image_id"] == sample.identifier]
        own = [each for each in own if each.get("id") != BESIDE]  # of nothing: there is nothing to detect
        predictions[sample.identifier] = {
            "boxes": torch.tensor([each["bbox"] for each in own], dtype=torch.float64).reshape(-1, 4),
            "scores": torch.full((len(own),), 0.9),
            "labels": torch.tensor([1 + list(train.classes).index(names[each["category_id"]]) for each in own]),
        }
    write_table(task.outcomes(predictions, val), tmp_path / OUTCOMES)
    kept = read_outcomes(tmp_path, pd.Series(list(predictions)))
    return task.evaluate(predictions, val)["AP"], float(kept.scores(np.ones((1, len(val))))[0])


def on_annotations(**fields):
    """Return a change of every annotation; values may be functions of the annotation."""

    def change(content):
        for annotation in content["annotations"]:
            for name, value in fields.items():
                annotation[name] = value(annotation) if callable(value) else value

    return change


def renumbered(order, names=NAMES):
    """Return a change of the categories' ids: name i gets order[i], and its annotations follow."""

    def change(content):
        ids = {1 + index: order[index] for index in range(3)}
        content["categories"] = [{"id": order[index], "name": names[index]} for index in range(3)]
        on_annotations(category_id=lambda each: ids[each["category_id"]])(content)

    return change


def without(name):
    """Return a change that drops a category and its annotations."""

    def change(content):
        number = 1 + NAMES.index(name)
        content["categories"] = [each for each in content["categories"] if each["id"] != number]
        content["annotations"] = [each for each in content["annotations"] if each["category_id"] != number]

    return change


def with_category(number, name):
    return lambda content: content["categories"].append({"id": number, "name": name})


READ_RIGHT = {
    "as it is": lambda content: None,
    "ids of two categories swapped": renumbered((2, 1, 3)),
    "ids turned round": renumbered((3, 2, 1)),
    "other ids": renumbered((7, 90, 12)),
    "ids from 0": renumbered((0, 1, 2)),
    "negative category ids": renumbered((-3, -2, -1)),
    "a root category without objects": with_category(0, "things"),
    "a root category behind": with_category(9, "things"),
    "without one category": without("plate"),
    "without two categories": lambda content: (without("plate")(content), without("dust")(content)),
    "a category without objects": lambda content: content["annotations"].__setitem__(
        slice(None), [each for each in content["annotations"] if each["category_id"] != 2]
    ),
    "categories listed in another order": lambda content: content["categories"].reverse(),
    "annotation ids below 0": on_annotations(id=lambda each: -each["id"]),
    "annotation ids of 0 and below": on_annotations(id=lambda each: 1 - each["id"]),
    "annotation ids as texts": on_annotations(id=lambda each: f"a{each['id']}"),
    "annotation ids as digits": on_annotations(id=lambda each: str(each["id"])),
    "no annotation ids": lambda content: [each.pop("id") for each in content["annotations"]],
    "annotation ids beyond 2^53": on_annotations(id=lambda each: (1 << 60) + each["id"]),
    "image ids of 0": lambda content: shift_images(content, -10),
    "image ids below 0": lambda content: shift_images(content, -20),
    "image ids beyond 2^40": lambda content: shift_images(content, 1 << 40),
    "no areas": lambda content: [each.pop("area") for each in content["annotations"]],
    "areas of 0": on_annotations(area=0),
    "boxes with fractions": on_annotations(bbox=lambda each: [value + 0.25 for value in each["bbox"]]),
    "an empty box beside": lambda content: content["annotations"].append(another(content, bbox=[5, 5, 0, 9])),
    "a box of no height": lambda content: content["annotations"].append(another(content, bbox=[5, 5, 9, 0])),
    "a box of negative width": lambda content: content["annotations"].append(another(content, bbox=[9, 5, -3, 9])),
    "a box beside its image": lambda content: content["annotations"].append(another(content, bbox=[90, 5, 9, 9])),
    "a box above its image": lambda content: content["annotations"].append(another(content, bbox=[5, -9, 9, 9])),
    "a box of a millionth": lambda content: content["annotations"].append(another(content, bbox=[5, 5, 1e-6, 9])),
    "objects marked as ignored": on_annotations(ignore=1),
}


def shift_images(content, by):
    for image in content["images"]:
        image["id"] += by
    on_annotations(image_id=lambda each: each["image_id"] + by)(content)


def another(content, **fields):
    return {**content["annotations"][0], "id": BESIDE, **fields}


@pytest.mark.parametrize("what", READ_RIGHT)
def test_a_perfect_detector_is_perfect_and_its_outcomes_say_so(what, tmp_path):
    root = write(tmp_path / "set", READ_RIGHT[what])
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    official, kept = average_precision(root, tmp_path)
    assert official == pytest.approx(1.0) and kept == pytest.approx(official), content["annotations"][:2]
    assert verify(find_task("coco"), root).ok or "beside" in what or "above" in what


DOUBTFUL = {
    "areas of 0": "12 x area of 0.*that of its box is used",
    "an empty box beside": "1 x empty box, such as annotation 1000.*left out",
    "a box of no height": "1 x empty box",
    "a box of negative width": "1 x empty box",
    "a box beside its image": "1 x annotation outside its image.*left out",
    "a box above its image": "1 x annotation outside its image.*left out",
    "a box of a millionth": "1 x empty box",
    "objects marked as ignored": "12 x object to be ignored.*not read, as by pycocotools.*iscrowd 1",
    "ids of two categories swapped": "other ids: matched by name",
    "a root category without objects": "matched by name",
}


@pytest.mark.parametrize("what", READ_RIGHT)
def test_what_is_doubtful_is_said_once_with_file_and_remedy_and_the_rest_is_not(what, tmp_path):
    root = write(tmp_path / "set", READ_RIGHT[what])
    told, report = opened(root)[2], "\n".join(verify(find_task("coco"), root).lines())
    if what in DOUBTFUL:
        (line,) = told
        assert "instances_val2017.json" in line and "all is well" not in report
        assert re.search(DOUBTFUL[what], line), line
    elif "id" not in what and "categor" not in what:
        assert told == [] and "all is well" in report
    assert opened(root)[2] == told


REFUSED = {
    "another name": (lambda content: content["categories"][1].update(name="dish"), "annotations of category 'dish'"),
    "no common name": (renumbered((1, 2, 3), ("a", "b", "c")), "annotations of category 'a', which train does not"),
    "an annotated root category": (
        lambda content: (with_category(0, "things")(content), content["annotations"][0].update(category_id=0)),
        "annotations of category 'things'",
    ),
    "two categories of one name": (
        lambda content: (renumbered((2, 1, 3))(content), content["categories"][0].update(name="plate")),
        "categories share a name",
    ),
    "image ids as digits": (
        lambda content: [
            [image.update(id=str(image["id"])) for image in content["images"]],
            on_annotations(image_id=lambda each: str(each["image_id"]))(content),
        ],
        "ids of 'images' are texts, such as '10'; use whole numbers",
    ),
    "image ids as texts": (
        lambda content: [
            [image.update(id=f"i{image['id']}") for image in content["images"]],
            on_annotations(image_id=lambda each: f"i{each['image_id']}")(content),
        ],
        "ids of 'images' are texts, such as 'i10'",
    ),
    "category ids as texts": (
        lambda content: [
            [each.update(id=str(each["id"])) for each in content["categories"]],
            on_annotations(category_id=lambda each: str(each["category_id"]))(content),
        ],
        "ids of 'categories' are texts",
    ),
    "an entry for each box": (
        lambda content: content["images"].append({**content["images"][0], "id": 99}),
        "val0.png is listed 2 times in 'images'; give each file one entry",
    ),
    "boxes in shares": (
        on_annotations(bbox=lambda each: [each["bbox"][i] / (WIDTH, HEIGHT)[i % 2] for i in range(4)]),
        "all 12 boxes lie within 0 to 1; multiply them by the images' widths and heights",
    ),
    "boxes as shares of corners": (on_annotations(bbox=[0.1, 0.1, 0.9, 0.9]), "within 0 to 1"),
    "other sizes than the images'": (
        lambda content: [image.update(height=WIDTH, width=HEIGHT) for image in content["images"]],
        r"val0\.png is 60x40 pixels, but .*instances_val2017\.json says 40x60",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_meant_is_refused_before_training_and_named_by_verify(what, tmp_path):
    change, message = REFUSED[what]
    root = write(tmp_path / "set", change)
    with pytest.raises(DataError, match=message):
        opened(root)
    report = verify(find_task("coco"), root)
    assert not report.ok and not any("Traceback" in line for line in report.lines())


@given(st.permutations([1, 2, 3, 5, 8]), st.permutations([1, 2, 3]), st.booleans(), st.integers(-30, 30))
def test_any_numbering_of_categories_images_and_annotations_is_read_by_name(tmp_path_factory, ids, other, shuffle, by):
    tmp_path = tmp_path_factory.mktemp("numbering")

    def change(content):
        renumbered(ids[:3])(content)
        shift_images(content, by)
        on_annotations(id=lambda each: each["id"] + by)(content)
        if shuffle:
            content["categories"].reverse()
            content["annotations"].reverse()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAIBENCH_CACHE", str(tmp_path / "cache"))
        root = write(tmp_path / "set", change, renumbered(other))
        assert average_precision(root, tmp_path) == (pytest.approx(1.0), pytest.approx(1.0))


def test_corners_in_place_of_sizes_are_said_to_leave_their_images(tmp_path):
    corners = on_annotations(
        bbox=lambda each: [*each["bbox"][:2], each["bbox"][0] + each["bbox"][2] + 20, each["bbox"][1] + 40]
    )
    (line,) = opened(write(tmp_path / "set", corners))[2]
    assert "12 of 12: they are clipped; are they [left, top, right, bottom]?" in line


# --- pictures ----------------------------------------------------------------------------------------------------


def turned(path, orientation, size=(WIDTH, HEIGHT)):
    """Write a picture whose left half is red, to be turned by its EXIF orientation; return how a viewer shows it."""
    stored = Image.new("RGB", size, "blue")
    stored.paste("red", (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif)
    return stored


#: By EXIF's own definition: which way the stored picture is turned to be upright.
TURNS = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_picture_is_turned_as_viewers_do_unless_its_labels_are_of_the_stored_pixels(tmp_path, orientation, ending):
    path = tmp_path / f"picture.{ending}"
    stored = turned(path, orientation)
    upright = stored if TURNS[orientation] is None else stored.transpose(TURNS[orientation])
    for listed in (None, (upright.height, upright.width)):
        read = decode(path, "picture", listed)
        off = (read.permute(1, 2, 0).numpy().astype(int) - np.asarray(upright)) ** 2
        assert read.shape[1:] == (upright.height, upright.width) and off.mean() < 200
        assert inspect(path, "picture", listed) == ((upright.height, upright.width), orientation != 1)
    if upright.size != stored.size:
        assert decode(path, "picture", (HEIGHT, WIDTH)).shape[1:] == (HEIGHT, WIDTH)
        assert inspect(path, "picture", (HEIGHT, WIDTH)) == ((HEIGHT, WIDTH), False)


def test_broken_exif_data_do_not_hide_a_picture(tmp_path):
    Image.new("RGB", (9, 6)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff" + b"\xff" * 40)
    assert decode(tmp_path / "a.jpg", "a").shape == (3, 6, 9)


def test_turned_pictures_are_said_and_read_with_their_boxes(tmp_path):
    def upright(content):
        content["images"][0].update(height=WIDTH, width=HEIGHT)
        for annotation in content["annotations"][:3]:
            left, top, width, height = annotation["bbox"]
            annotation["bbox"] = [top, left, height, width]

    root = write(tmp_path / "set", upright)
    turned(root / "val2017" / "val0.png", 6)
    (line,) = opened(root)[2]
    assert "1 x image that EXIF data turn, such as" in line and "val0.png" in line and "remove the EXIF" in line
    assert average_precision(root, tmp_path) == (pytest.approx(1.0), pytest.approx(1.0))
    assert "image that EXIF data turn" in "\n".join(verify(find_task("coco"), root).lines())


SPOILT = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "a text": lambda path: path.write_text("<html>404</html>"),
    "16 bits": lambda path: Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(path),
    "a strip": lambda path: Image.new("RGB", (500, 1)).save(path),
}


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.parametrize("task", ["coco", "cityscapes", "imagenet"])
def test_a_validation_picture_that_cannot_be_used_is_named_before_training(what, task, copied_set):
    root = copied_set(task)
    names = {path: path.relative_to(root).as_posix() for path in sorted(root.rglob("*"))}
    paths = [path for path, name in names.items() if "val" in name and "gtFine" not in name]
    path = next(path for path in paths if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if what == "16 bits":
        content = path.with_suffix(".tmp.png")
        SPOILT[what](content)
        content.rename(path)
    elif what == "a strip":
        with Image.open(path) as image:
            kind = image.format
        Image.new("RGB", (500, 1)).save(path, format=kind)
    else:
        SPOILT[what](path)
    with pytest.raises(DataError, match=path.name.replace(".", r"\.")) as error:
        opened(root, task)
    report = verify(find_task(task), root)
    assert not report.ok
    if what == "16 bits":
        assert "convert it to 8 bits" in str(error.value) and "fetch it again" not in str(error.value)
        (problem,) = (each for each in report.problems if each.kind == "unreadable image")
        assert problem.where == [str(path)] and problem.remedy.endswith("convert it to 8 bits")


HIDDEN = (".DS_Store", "._{name}", ".ipynb_checkpoints/{name}", "__MACOSX/._{name}", ".Trashes/{name}")


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("task", ["coco", "cityscapes", "imagenet"])
def test_what_is_hidden_is_no_picture_and_no_class(hidden, task, copied_set, tmp_path):
    root = copied_set(task)
    before = opened(root, task)
    for path in [path for path in sorted(root.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]:
        for folder in {path.parent, path.parent.parent}:
            place = folder / hidden.format(name=path.name)
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(path.read_bytes())
    after = opened(root, task)
    for one, other in zip(before[:2], after[:2], strict=True):
        assert len(one) == len(other) and list(one.classes) == list(other.classes)
        assert one.fingerprint() == other.fingerprint()
    assert verify(find_task(task), root).lines()[-1] == "all is well"


@pytest.mark.parametrize("task", ["coco", "cityscapes", "imagenet"])
def test_pictures_of_both_splits_are_said(task, copied_set):
    root = copied_set(task)
    train, val, told = opened(root, task)
    assert told == []
    shutil.copyfile(train.images.place / train.names[0], val.images.place / val.names[0])
    if task == "cityscapes":
        shutil.copyfile(train.label_paths[0], val.label_paths[0])
    (line,) = opened(root, task)[2]
    assert "1 x validation picture that is in train, too" in line and val.names[0] in line
    lines = "\n".join(verify(find_task(task), root).lines())
    assert "1 x picture that is in train, too: its result says nothing of other pictures" in lines


# --- segmentation ------------------------------------------------------------------------------------------------


def label_maps(root, split="val"):
    return sorted((root / "gtFine" / split).rglob("*_labelIds.png"))


def test_train_ids_in_place_of_label_ids_are_refused(copied_set):
    from benchmark.tasks.cityscapes.reader import TRAIN_IDS

    root = copied_set("cityscapes")
    for path in label_maps(root):
        Image.fromarray(TRAIN_IDS[np.array(Image.open(path))]).save(path)
    with pytest.raises(DataError, match="hold train ids, 0 to 18: write label ids, 0 to 33"):
        opened(root, "cityscapes")
    assert "train ids in place of label ids" in "\n".join(verify(find_task("cityscapes"), root).lines())


@pytest.mark.parametrize(
    "ids", [(7, 8, 11), (7, 11, 23), (8, 17), (7, 0), (11, 255), (7, 8, 9), (7, 8, 11, 12, 13, 17, 3)]
)
def test_sets_of_few_label_ids_are_not_taken_for_train_ids(ids, copied_set):
    root = copied_set("cityscapes")
    for path in label_maps(root):
        with Image.open(path) as image:
            width, height = image.size
        Image.fromarray(np.resize(np.array(ids, np.uint8), (height, width))).save(path)
    opened(root, "cityscapes")


def test_one_name_in_two_cities_is_refused_before_training(copied_set):
    root = copied_set("cityscapes")
    for kind in ("leftImg8bit", "gtFine"):
        shutil.copytree(root / kind / "val" / "scenes", root / kind / "val" / "other")
    with pytest.raises(DataError, match=r"two images have the name scenes_.*other/.*scenes/.*; rename one"):
        opened(root, "cityscapes")
    assert "repeated name" in "\n".join(verify(find_task("cityscapes"), root).lines())


# --- readers of other tasks ---------------------------------------------------------------------------------------


class Few:
    """A reader of a task from outside: what it says is all that is known of it."""

    def __init__(self, names, classes=("a", "b")):
        self.names_, self.classes = names, classes

    def __len__(self):
        return len(self.names_)

    def __getitem__(self, index):
        from benchmark.data.reader import Sample

        return Sample(torch.zeros(3, 4, 4, dtype=torch.uint8), 0, self.names_[index])

    def fingerprint(self):
        return repr([self.names_, self.classes]).encode().hex()


def test_identifiers_of_other_readers_are_unique_or_refused(tmp_path):
    assert examine(Few("ab"), Few("ab"), tmp_path) == []
    with pytest.raises(DataError, match="2 validation images have the identifier 'b'; give each its own"):
        examine(Few("ab"), Few("abb"), tmp_path)


@pytest.mark.parametrize("other", [("b", "a"), ("a",), ("a", "b", "c"), ("a", "B"), ()])
def test_classes_of_other_readers_are_the_same_in_order_or_refused(other, tmp_path):
    with pytest.raises(DataError, match="give both splits the same classes in the same order"):
        check_classes(Few("ab"), Few("ab", other), tmp_path)


def test_a_plan_compares_classes(tmp_path, copied_set, monkeypatch):
    """And so does all that makes one: `run`, `sweep`, `measure`, `show`, `time`."""
    root = copied_set("imagenet")
    planning.data_fingerprint.cache_clear()
    task = find_task("imagenet")
    monkeypatch.setattr(type(task), "open", lambda self, root, split: Few(split, (split, "b")))
    monkeypatch.setattr(planning, "reader", lambda name, folder, split: task.open(folder, split))
    with pytest.raises(DataError, match="class 1 of 2 is 'train' in train and 'val' in val"):
        planning.data_fingerprint("imagenet", root)
