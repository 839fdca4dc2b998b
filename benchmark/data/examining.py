"""Looking at a data set before anything is trained on it: what would fail afterwards, and what may not be meant.

`benchmark.data.verification` says all that is wrong with a folder. This stops at the first fault, and is quick: what
was looked at once is known by the fingerprint of its contents.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmark.data.images import ImageStore
from benchmark.data.reader import Reader
from benchmark.data.verification import SHARED
from benchmark.errors import DataError
from benchmark.files import cache_folder, write_atomic

__all__ = ["check_classes", "examine"]

#: Part of the name under which a look is kept: raise it when `examine` sees more.
VERSION = 2


def check_classes(train: Reader, val: Reader, folder: Path) -> None:
    """Make sure that a network that learns the classes of one split is judged by the same of the other.

    Raises
    ------
    DataError
        If they differ in number, name or order.
    """
    ours, theirs = list(train.classes), list(val.classes)
    if ours != theirs:
        pairs = enumerate(zip([*ours, "nothing"], [*theirs, "nothing"], strict=False))
        number, (one, other) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
        raise DataError(
            f"{folder}: class {number + 1} of {len(ours)} is {one!r} in train and {other!r} in val, which has "
            f"{len(theirs)}: give both splits the same classes in the same order"
        )


def examine(train: Reader, val: Reader, folder: Path) -> list[str]:
    """Decode a data set's validation images; return what is doubtful in the set, a line each.

    Raises
    ------
    DataError
        For an image that cannot be decoded, or that has the identifier of another.
    """
    key = f"{train.fingerprint()[:32]}-{val.fingerprint()[:32]}"
    path = cache_folder() / "digests" / f"examined-{VERSION}-{key}.json"
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(kept, list) and all(isinstance(line, str) for line in kept):
            return kept
    look: Callable[[], list[str]] = getattr(val, "examine", lambda: _read_all(val, folder))
    found = [*getattr(train, "doubts", ()), *look(), *_shared(train, val)]
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(found))
    return found


def _read_all(reader: Reader, folder: Path) -> list[str]:
    """Read each sample of a reader that cannot look at its images by itself."""
    names = Counter(reader[index].identifier for index in range(len(reader)))
    name, count = names.most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise DataError(f"{folder}: {count} validation images have the identifier {name!r}; give each its own")
    return []


def _shared(train: Reader, val: Reader) -> list[str]:
    """Return a line about validation pictures that are among the training ones, byte for byte."""
    ours, theirs = _pictures(train), _pictures(val)
    same = sorted(theirs.keys() & ours.keys())
    if not same:
        return []
    return [f"{len(same)} x validation picture that is in train, too, such as {theirs[same[0]]}: {SHARED}"]


def _pictures(reader: Reader) -> dict[str, str]:
    """Return a split's pictures by the digest of their contents, where its reader says what they are."""
    images, names = getattr(reader, "images", None), getattr(reader, "names", None)
    if not isinstance(images, ImageStore) or names is None:
        return {}
    return {digest: images.where(name) for digest, name in zip(images.digests(names), names, strict=True)}
