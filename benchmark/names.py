"""Names that are folders: of tasks, scales and methods.

A name is part of paths, and stands in reports, HTML and the terminal. So it has nothing that any of them could take
for a path or for markup.
"""

import re

__all__ = ["check_name"]

_LONGEST = 100  # file systems allow 255 bytes a name; what tools add to one needs room too
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def check_name(name: str) -> None:
    """Refuse a name that cannot name a folder.

    Raises
    ------
    ValueError
        If it is empty, longer than 100 characters, begins with a sign, or has other characters than ASCII letters,
        digits and ``_ . + -``. One line that quotes the name and says what is allowed.
    """
    if len(name) > _LONGEST:
        raise ValueError(f"{name[:20]!r}… has {len(name)} characters; use {_LONGEST} at most")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a folder; use letters and digits, with '_.+-' between them")
