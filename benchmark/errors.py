"""The errors that the command turns into one clear line and an exit code.

Every message names the file or cell it is about and says what to do; nothing else in Saibench prints errors.
"""


class SaibenchError(Exception):
    """Something went wrong that the user can mend: the command prints the message and exits with 1."""

    exit_code = 1


class UsageError(SaibenchError):
    """The command was asked for something that does not exist or is out of range: exit code 2."""

    exit_code = 2


class DataError(SaibenchError):
    """A data folder or one of its files is missing, broken or inconsistent."""


class StoreError(SaibenchError):
    """The results store cannot be read or written."""


class PluginError(SaibenchError):
    """A method's file could not be imported or breaks the contract."""
