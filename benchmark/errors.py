"""The errors that the command turns into one clear line and an exit code.

Every message names the file or cell it is about and says what to do; nothing else in Saibench prints errors.
"""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence

_LONGEST = 300  # characters of another library's text in a message of ours


class SaibenchError(Exception):
    """Something went wrong that the user can mend: the command prints the message and exits with 1."""

    exit_code = 1


class UsageError(SaibenchError):
    """The command was asked for something that does not exist or is out of range: exit code 2."""

    exit_code = 2


def unknown(what: str, name: str, known: Iterable[str], remedy: str = "") -> UsageError:
    """Return the error for a name that is not there: the nearest one that is, and all that are.

    >>> str(unknown("task", "koko", ["coco", "imagenet"]))
    "unknown task 'koko'; did you mean 'coco'? There are coco, imagenet"
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    start = f"unknown {what} {name!r}; "
    start += f"did you mean {nearest[0]!r}? There are" if nearest else "there are"
    return UsageError(f"{start} {', '.join(names) or 'none'}{remedy}")


def one_line(error: BaseException) -> str:
    """Return an error's text on one line, of a length that can be read; its kind where it has no text."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


class DataError(SaibenchError):
    """A data folder or one of its files is missing, broken or inconsistent."""


class StoreError(SaibenchError):
    """The results store cannot be read or written."""


class PluginError(SaibenchError):
    """A method's file could not be imported or breaks the contract."""


@contextlib.contextmanager
def noting_images(identifiers: Sequence[object]) -> Iterator[None]:
    """Add to an error from inside which images were at hand: a network fails at one of them, and does not say which."""
    try:
        yield
    except Exception as error:
        error.add_note(f"at image {', '.join(map(str, identifiers))}")
        raise


def noted(error: BaseException) -> str:
    """Return an error's text with what was noted on it."""
    return "; ".join([str(error), *getattr(error, "__notes__", ())])
