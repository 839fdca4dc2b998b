"""Classification data in image folders by WordNet id, and ImageNet's flat official validation folder.

It gives images and labels; resizing, cropping and batching are the task's.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path

from scipy.io import loadmat
from torchvision.datasets.folder import find_classes, make_dataset

from benchmark.data.images import CACHE_BYTES, EXTENSIONS, ImageStore, is_hidden, told_turned
from benchmark.data.reader import Sample
from benchmark.errors import DataError, one_line

LAYOUT = "expected train/<WordNet id>/*.JPEG, and val/ in the same form or flat with a file of its labels"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SOLUTION = "LOC_val_solution.csv"
ORDERS = ("map_clsloc.txt", "meta.mat")
_WORDNET_ID = re.compile(r"n\d{8}", re.ASCII)
_NUMBER = re.compile(r"\d{1,6}", re.ASCII)


class ImageFolders:
    """One split of a classification set.

    A sample's target is its label in 0..K-1, by the ascending order of the class folders' names, as torchvision numbers
    them. Its identifier is the file's name below the split.

    Parameters
    ----------
    root : path
        Folder with ``train/<class>/*`` and ``val/<class>/*`` (JPEG, PNG, WebP). ``val`` may also be flat, as
        ImageNet is given out; its labels are then read from ``LOC_val_solution.csv``, or from
        ``ILSVRC2012_validation_ground_truth.txt`` with the development kit's ``meta.mat`` or
        ``map_clsloc.txt``, in the root, in ``val``, or in the kit's ``data`` folder.
    split : str
        ``train`` or ``val``.
    cache : bool
        Keep decoded images in memory, up to `CACHE_BYTES`.

    Attributes
    ----------
    classes : list of str
        Class names, by label: the WordNet ids of the training folders (of the split's own if there is no
        ``train``).
    names, labels : list
        The images' identifiers and labels, by index.

    Raises
    ------
    DataError
        If folders, images or labels are missing or do not match, or a class has no training image; an image that
        cannot be decoded raises it when it is read.
    """

    def __init__(self, root: str | Path, split: str = "val", *, cache: bool = False) -> None:
        self.root, self.split = Path(root), split
        place = self.root / split
        if not place.is_dir():
            raise DataError(f"no such folder: {place}; {LAYOUT}")
        self.classes, samples = list_samples(self.root, split)
        absent = classes_without_images(self.classes, samples)
        if absent and split == "train":
            raise DataError(f"no images of class {place / absent[0]}; copy them there or remove the folder")
        self.names = [name for name, _ in samples]
        self.labels = [label for _, label in samples]
        self.images = ImageStore(place, CACHE_BYTES if cache else 0)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """Return an image, its label and its identifier."""
        return Sample(self.images.read(self.names[index]), self.labels[index], self.names[index])

    def examine(self) -> list[str]:
        """Look at every image; return what is doubtful in the split, a line each.

        Raises
        ------
        DataError
            For an image that cannot be decoded.
        """
        looks = zip(self.names, self.images.inspect_all(self.names), strict=True)
        return told_turned(self.images, [name for name, look in looks if look.turned])

    def fingerprint(self) -> str:
        """Return a hash of the classes, the labels, and the images' names and contents."""
        return self._fingerprint(self.images.digests(self.names))

    def former_fingerprint(self) -> str:
        """Return the hash of earlier versions: of the images' sizes on disk in place of their contents."""
        return self._fingerprint(self.images.sizes(self.names))

    def _fingerprint(self, images: Sequence[object]) -> str:
        content = [self.classes, self.names, self.labels, images]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def list_samples(root: Path, split: str) -> tuple[list[str], list[tuple[str, int]]]:
    """List the classes of a set and the images of a split.

    Returns
    -------
    classes : list of str
        By label.
    samples : list of (str, int)
        Name below ``root/split`` and label, in ascending order of the names.

    Raises
    ------
    DataError
        If the split has no images, or classes that the training set lacks, or labels that do not fit, or names that
        cannot be written; if there is one class alone.
    """
    place = root / split
    classes, samples = _list(root, place)
    for name in (*classes, *(name for name, _ in samples)):
        if not name.isprintable():  # a file system takes any bytes, a table does not
            raise DataError(f"{place} has a class or image of the name {name!r}; rename it to printable characters")
    if len(classes) < 2:
        raise DataError(f"{place} has one class, {classes[0]}, so that nothing can be told apart; {LAYOUT}")
    return classes, samples


def _list(root: Path, place: Path) -> tuple[list[str], list[tuple[str, int]]]:
    own = _folders(place)
    classes = _folders(root / "train") or own
    if not own:
        return _flat(root, place, classes)
    strangers = sorted(set(own) - set(classes))
    if strangers:
        raise DataError(f"{place / strangers[0]} is a class that {root / 'train'} does not have; {LAYOUT}")
    index = {name: label for label, name in enumerate(classes)}
    pairs = make_dataset(place, {name: index[name] for name in own}, extensions=EXTENSIONS, allow_empty=True)
    named = sorted((Path(path).relative_to(place).as_posix(), label) for path, label in pairs)
    samples = [(name, label) for name, label in named if not is_hidden(name)]
    if not samples:
        raise DataError(f"no images in the folders of {place}; {LAYOUT}")
    return classes, samples


def classes_without_images(classes: Sequence[str], samples: Sequence[tuple[str, int]]) -> list[str]:
    """Return the classes of which a split has no image."""
    seen = {label for _, label in samples}
    return [name for label, name in enumerate(classes) if label not in seen]


def _folders(place: Path) -> list[str]:
    try:
        return [name for name in find_classes(place)[0] if not is_hidden(name)]
    except FileNotFoundError:  # no such folder, or no folder in it
        return []


def _flat(root: Path, place: Path, classes: list[str]) -> tuple[list[str], list[tuple[str, int]]]:
    """List a split whose images lie side by side, with the labels of ImageNet's files."""
    names = sorted(path.name for path in place.iterdir() if path.suffix.lower() in EXTENSIONS)
    names = [name for name in names if not is_hidden(name)]
    if not names:
        raise DataError(f"no images in {place}; {LAYOUT}")
    solution = _find(SOLUTION, root, place)
    truth = _find(GROUND_TRUTH, root, place)
    if solution is not None:
        wordnet, source = _read_solution(solution), solution
    elif truth is not None:
        wordnet, source = _read_ground_truth(truth, root, place, names), truth
    else:
        raise DataError(f"{place} is flat and nothing gives its labels: put {SOLUTION} or {GROUND_TRUTH} beside it")
    classes = classes or sorted(set(wordnet.values()))
    index = {name: label for label, name in enumerate(classes)}
    samples = []
    for name in names:
        stem = Path(name).stem
        if stem not in wordnet:
            raise DataError(f"{source} gives no label for {place / name}; remove the image or complete the file")
        if wordnet[stem] not in index:
            raise DataError(f"{source} gives {name} class {wordnet[stem]}, which {root / 'train'} does not have")
        samples.append((name, index[wordnet[stem]]))
    return classes, samples


def _find(name: str, root: Path, place: Path) -> Path | None:
    """Find one of ImageNet's own files where its downloads put it."""
    around = [root, place, root / "data", *sorted(root.glob("*devkit*/data")), *sorted(root.glob("*devkit*"))]
    around += list(root.resolve().parents)[:3]  # Kaggle's download: three levels above Data/CLS-LOC
    return next((folder / name for folder in around if (folder / name).is_file()), None)


def _read_solution(path: Path) -> dict[str, str]:
    """Read ``LOC_val_solution.csv``: the first WordNet id of each image."""
    wordnet = {}
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8", errors="replace").splitlines()))
    except (OSError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}; fetch it again") from error
    for number, row in enumerate(rows, start=1):
        if not row or row[0] == "ImageId":
            continue
        fields = row[1].split() if len(row) > 1 else []
        if not fields or not _WORDNET_ID.fullmatch(fields[0]):
            raise DataError(f"{path}, line {number}: expected `<image>,<WordNet id> ...`; fetch it again")
        wordnet[row[0]] = fields[0]
    return wordnet


def _read_ground_truth(path: Path, root: Path, place: Path, names: list[str]) -> dict[str, str]:
    """Read the official ground truth: line i is the class, in ImageNet's own order, of the i-th image."""
    order = _read_order(path, root, place)
    wordnet = {}
    lines = path.read_text(encoding="utf-8", errors="replace").split()
    for name in names:
        number = re.search(r"(\d+)$", Path(name).stem)
        if number is None or not 1 <= int(number[1]) <= len(lines):
            raise DataError(f"{path} has {len(lines)} lines, none of them for {place / name}; remove the image")
        value = lines[int(number[1]) - 1]
        if not _NUMBER.fullmatch(value) or int(value) not in order:
            told = reprlib.repr(value)
            raise DataError(f"{path}, line {int(number[1])}: {told} is no class of ImageNet; fetch it again")
        wordnet[Path(name).stem] = order[int(value)]
    return wordnet


def _read_order(truth: Path, root: Path, place: Path) -> dict[int, str]:
    """Read which WordNet id each number of the ground truth stands for: not the order of the folders."""
    listed = _find("map_clsloc.txt", root, place)
    if listed is not None:
        rows = [
            line.split() for line in listed.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
        ]
        if all(len(row) >= 2 and _WORDNET_ID.fullmatch(row[0]) and _NUMBER.fullmatch(row[1]) for row in rows):
            return {int(row[1]): row[0] for row in rows}
        raise DataError(f"{listed} is not of the form `<WordNet id> <number> <name>`; fetch it again")
    packed = _find("meta.mat", root, place)
    if packed is None:
        raise DataError(
            f"{truth} numbers the classes in ImageNet's own order; put the development kit's {ORDERS[1]} or "
            f"{ORDERS[0]} beside it, or use {SOLUTION}"
        )
    try:
        synsets = loadmat(packed, squeeze_me=True)["synsets"]
        return {int(synset[0]): str(synset[1]) for synset in synsets if int(synset[4]) == 0}
    except Exception as error:  # of a decoder, or of content of another form
        raise DataError(f"{packed} is not ImageNet's meta.mat: {one_line(error)}; fetch it again") from error
