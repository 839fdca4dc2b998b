"""Faults of image folders: each is named, and nothing else is."""

from tests.data.verifying import found, verify, where


def test_faults_of_imagenet_folders(copied):
    root = copied("imagenet")
    first, second = sorted(path for path in (root / "train").iterdir())[:2]
    for path in first.iterdir():
        path.unlink()
    (second / "notes.txt").write_text("no image")
    report = verify("imagenet", root)
    assert found(report, serious=True) == {("train", "class without images")}
    assert where(report, "class without images") == [str(first)]
    assert where(report, "surplus file") == [str(second / "notes.txt")]
