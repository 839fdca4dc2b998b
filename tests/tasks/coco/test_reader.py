"""The COCO reader against annotations written by hand, and its errors."""

import json
import shutil
import zipfile

import pytest
import torch
from PIL import Image

from benchmark.errors import DataError
from benchmark.tasks.coco.reader import CocoDetection


@pytest.fixture
def written(tmp_path):
    """Write a set of two images with categories 7 and 90, changed by `change`; return its root."""

    def write(change=lambda content: None):
        (tmp_path / "val2017").mkdir(exist_ok=True)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for name in ("a.jpg", "b.jpg"):
            Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "val2017" / name)
        content = {
            "images": [
                {"id": 5, "file_name": "a.jpg", "width": 40, "height": 30},
                {"id": 6, "file_name": "b.jpg", "width": 40, "height": 30},
            ],
            "categories": [{"id": 90, "name": "late"}, {"id": 7, "name": "early"}],
            "annotations": [
                {"id": 1, "image_id": 5, "category_id": 90, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0},
                {"id": 2, "image_id": 5, "category_id": 7, "bbox": [30, 20, 20, 20], "area": 99, "iscrowd": 0},
                {"id": 3, "image_id": 5, "category_id": 7, "bbox": [0, 0, 40, 30], "area": 900, "iscrowd": 1},
            ],
        }
        change(content)
        (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
        return tmp_path

    return write


def annotation(**fields):
    base = {"id": 4, "image_id": 5, "category_id": 7, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    return {**base, **fields}


def test_item_holds_clipped_corners_and_contiguous_labels(written):
    reader = CocoDetection(written(), "val")
    image, target, identifier = reader[0]
    assert image.dtype == torch.uint8 and image.shape == (3, 30, 40)
    assert target["boxes"].tolist() == [[1, 2, 11, 22], [30, 20, 40, 30], [0, 0, 40, 30]]
    assert target["labels"].tolist() == [2, 1, 1]
    assert target["iscrowd"].tolist() == [0, 0, 1]
    assert target["area"].tolist() == [150, 99, 900]
    assert identifier == reader.ids[0] == 5
    assert (target["boxes"].dtype, target["labels"].dtype) == (torch.float32, torch.int64)


def test_category_ids_map_there_and_back(written):
    reader = CocoDetection(written(), "val")
    assert reader.classes == ["early", "late"]
    assert [reader.category_id(label) for label in (1, 2)] == [7, 90]
    assert all(reader.category_id(reader.labels[category]) == category for category in (7, 90))


def test_images_without_boxes_stay_for_evaluation_and_go_for_training(written):
    assert len(CocoDetection(written(), "val")) == 2
    empty = CocoDetection(written(), "val")[1][1]
    assert empty["boxes"].shape == (0, 4) and empty["labels"].dtype == torch.int64
    training = CocoDetection(written(), "val", training=True)
    assert training.ids == [5]
    assert training[0][1]["iscrowd"].tolist() == [0, 0]
    assert len(CocoDetection(written(), "val", training=True, keep_empty=True)) == 2


def test_an_image_with_nothing_but_a_crowd_is_not_trained_on(written):
    reader = CocoDetection(written(lambda c: c.update(annotations=c["annotations"][2:])), "val")
    assert reader[0][1]["iscrowd"].tolist() == [1]
    with pytest.raises(DataError, match="leaves no image"):
        CocoDetection(reader.root, "val", training=True)


def test_crowds_stay_in_the_ground_truth_of_the_metric(written):
    reader = CocoDetection(written(), "val", training=True)
    assert sum(a["iscrowd"] for a in reader.coco.anns.values()) == 1


@pytest.mark.parametrize("box", [[5, 5, 0, 9], [5, 5, 9, 0], [5, 5, -4, 9], [50, 2, 5, 5], [5, -9, 4, 8]])
def test_boxes_without_extent_inside_the_image_are_left_out(written, box):
    reader = CocoDetection(written(lambda c: c["annotations"].append(annotation(bbox=box))), "val")
    assert len(reader[0][1]["boxes"]) == 3


def test_what_sets_leave_out_is_filled_in(written):
    def strip(content):
        for entry in content["annotations"]:
            del entry["area"], entry["iscrowd"], entry["id"]
        for entry in content["images"]:
            del entry["width"], entry["height"]

    reader = CocoDetection(written(strip), "val")
    assert reader[0][1]["area"].tolist() == [200, 400, 1200]
    assert sorted(reader.coco.anns) == [1, 2, 3]
    assert reader.size(0) == (30, 40)


def test_annotation_id_zero_is_renumbered_because_pycocotools_takes_it_for_no_match(written):
    reader = CocoDetection(written(lambda c: c["annotations"][0].update(id=0)), "val")
    assert sorted(reader.coco.anns) == [1, 2, 3]


def test_annotation_ids_that_are_texts_are_renumbered_because_pycocotools_keeps_them_as_numbers(written):
    reader = CocoDetection(written(lambda c: [a.update(id=f"x{a['id']}") for a in c["annotations"]]), "val")
    assert sorted(reader.coco.anns) == [1, 2, 3]


def test_pycocotools_prints_nothing(written, capsys):
    CocoDetection(written(), "val")
    assert capsys.readouterr().out == ""


def test_a_zip_beside_the_annotations_gives_the_same(embedded, tmp_path):
    root = embedded["coco"]
    shutil.copytree(root / "annotations", tmp_path / "annotations")
    with zipfile.ZipFile(tmp_path / "val2017.zip", "w") as file:
        for path in (root / "val2017").iterdir():
            file.write(path, f"val2017/{path.name}")
    plain, zipped = CocoDetection(root, "val"), CocoDetection(tmp_path, "val")
    assert all(torch.equal(plain[i][0], zipped[i][0]) for i in range(len(plain)))
    assert plain.fingerprint() == zipped.fingerprint()


@pytest.mark.parametrize("name", ["val", "val2017"])
def test_split_is_found_by_either_name(written, name):
    assert len(CocoDetection(written(), name)) == 2


def test_split_of_another_year_is_found(written):
    root = written()
    (root / "val2017").rename(root / "val2014")
    (root / "annotations" / "instances_val2017.json").rename(root / "annotations" / "instances_val2014.json")
    assert len(CocoDetection(root, "val")) == 2


def test_fingerprint_follows_annotations_and_the_contents_of_images(written):
    first = CocoDetection(written(), "val").fingerprint()
    assert CocoDetection(written(), "val", training=True, cache=True).fingerprint() == first
    moved = CocoDetection(written(lambda c: c["annotations"][0].update(bbox=[1, 2, 10, 21])), "val")
    assert moved.fingerprint() != first
    root = written()
    with (root / "val2017" / "b.jpg").open("ab") as file:
        file.write(b"more")
    longer = CocoDetection(root, "val").fingerprint()
    assert longer != first
    content = (root / "val2017" / "b.jpg").read_bytes()
    (root / "val2017" / "b.jpg").write_bytes(content[:-4] + b"less")
    assert CocoDetection(root, "val").fingerprint() not in (longer, first)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("images"), "no list 'images'"),
        (lambda c: c.update(annotations={}), "no list 'annotations'"),
        (lambda c: c["annotations"][1].pop("bbox"), "entry 1 of 'annotations' lacks bbox"),
        (lambda c: c["images"][0].pop("file_name"), "entry 0 of 'images' lacks file_name"),
        (lambda c: c["annotations"].append([]), "entry 3 of 'annotations' lacks image_id"),
        (lambda c: c["annotations"].append(annotation(image_id=[5])), "has image_id"),
        (lambda c: c["annotations"].append(annotation(image_id=77)), "annotation 4 is for image 77"),
        (lambda c: c["annotations"].append(annotation(category_id=1)), "annotation 4 has category 1"),
        (lambda c: c["annotations"].append(annotation(bbox=[1, 2, 3])), "annotation 4 has bbox"),
        (lambda c: c["annotations"].append(annotation(bbox=[1, 2, float("nan"), 3])), "annotation 4 has bbox"),
        (lambda c: c["images"].append(dict(c["images"][0])), "id 5 occurs 2 times in 'images'"),
        (lambda c: c.update(categories=[]), "lists no categories"),
        (lambda c: c.update(images=[], annotations=[]), "leaves no image"),
        (lambda c: c["images"][1].update(file_name="c.jpg"), "no such image: .*c.jpg, listed in"),
        (lambda c: c["images"][1].update(file_name="ä" * 300), "no such image: .*ä, listed in"),
        (lambda c: c["images"][1].update(file_name=5), "has file_name 5; it must be a path below"),
        (lambda c: c["images"][1].update(file_name="../b.jpg"), "has file_name '../b.jpg'; it must be a path below"),
        (
            lambda c: c["images"][1].update(file_name="/etc/b.jpg"),
            "has file_name '/etc/b.jpg'; it must be a path below",
        ),
        (lambda c: c["images"][1].update(file_name="\ud800"), "it must be a path below"),
        (lambda c: c["images"][1].update(width="wide"), "has width 'wide'; it must be a whole number of pixels"),
        (lambda c: c["images"][1].update(id=True), "has id True"),
        (lambda c: c["categories"][0].update(name=5), "has name 5; it must be a text"),
        (lambda c: c["annotations"].append(annotation(image_id="a\nb")), "it must be the id of an image"),
        (lambda c: c["categories"][0].update(id="90"), "ids of 'categories' are numbers and texts"),
        (lambda c: c["annotations"].append(annotation(id=3)), "id 3 occurs 2 times in 'annotations'"),
        (lambda c: c["annotations"].append(annotation(area=-25)), "has area -25; it must be a number of pixels, 0 or"),
        (lambda c: c["annotations"].append(annotation(area="big")), "has area 'big'"),
        (lambda c: c["annotations"].append(annotation(bbox=[1, 2, 1e300, 3])), "annotation 4 has bbox"),
        (lambda c: c["annotations"].append(annotation(bbox=[1, 2, 10**400, 3])), "annotation 4 has bbox"),
        (lambda c: c["annotations"].append(annotation(iscrowd="no")), "has iscrowd 'no'; it must be 0 or 1"),
        (lambda c: c["annotations"].append(annotation(iscrowd=2)), "has iscrowd 2"),
        (lambda c: c.update(annotations=[]), "it has images and no annotations; fetch it again"),
    ],
)
def test_bad_annotations_are_one_line_that_names_the_file(written, change, message):
    with pytest.raises(DataError, match=message) as caught:
        CocoDetection(written(change), "val")
    assert "instances_val2017.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_annotation_file_that_is_not_json(written):
    root = written()
    (root / "annotations" / "instances_val2017.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"instances_val2017.json is not JSON"):
        CocoDetection(root, "val")


def test_missing_parts_say_which_layout_is_expected(written, tmp_path):
    with pytest.raises(DataError, match=r"no such data folder: .*nowhere; expected val2017/"):
        CocoDetection(tmp_path / "nowhere", "val")
    root = written()
    with pytest.raises(DataError, match=r"no annotation file for split 'train'.*instances_train2017.json"):
        CocoDetection(root, "train")
    shutil.rmtree(root / "val2017")
    with pytest.raises(DataError, match=r"neither val2017/ nor val2017.zip"):
        CocoDetection(root, "val")


def test_truncated_image_and_wrong_size_are_named_when_read(written):
    reader = CocoDetection(written(lambda c: c["images"][1].update(width=41)), "val")
    with pytest.raises(DataError, match=r"b.jpg is 40x30 pixels, but .* says 41x30"):
        reader[1]
    path = reader.root / "val2017" / "a.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"cannot decode .*a.jpg"):
        reader[0]
