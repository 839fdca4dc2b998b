"""The command as a whole: the application that each file of `commands` adds itself to, and how it ends.

Exit codes: 0, 1 (a result failed, or an error that the user can fix), 2 (usage).
"""

import os
import sys
import warnings
from typing import NoReturn

import typer

from benchmark.cli.output import print_error
from benchmark.errors import SaibenchError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> NoReturn:
    """Run the command; every error that the user can fix becomes one line."""
    from benchmark.cli import commands

    _silence_libraries()
    commands.load()
    try:
        app(standalone_mode=True)
    except SaibenchError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print_error("finished cells are kept; the same command resumes from here", "interrupted")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


def _silence_libraries() -> None:
    """Keep what torchvision says of its own code while it is imported from the user, here and in worker processes."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit\._script")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning:torch.jit._script")
