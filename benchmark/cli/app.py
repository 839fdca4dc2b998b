"""The command as a whole: the application that each file of `commands` adds itself to, and how it ends.

Exit codes: 0, 1 (a result failed, or an error that the user can fix), 2 (usage), 130 (interrupted).
"""

import contextlib
import errno
import os
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from benchmark._version import __version__
from benchmark.cli.output import answers_apart, print_error, print_line
from benchmark.errors import SaibenchError

INTERRUPTED = 130

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def main() -> NoReturn:
    """Run the command; every error that the user can fix becomes one line."""
    from benchmark.cli import commands

    _prepare_environment()
    commands.load()
    try:
        with answers_apart() if "--json" in sys.argv else contextlib.nullcontext():
            code = app(prog_name="saibench", standalone_mode=False)
        sys.stdout.flush()
    except SaibenchError as error:
        print_error(str(error))
        code = error.exit_code
    except typer.TyperException as error:
        _print_usage_error(error)
        code = error.exit_code
    except OSError as error:
        # What opens a file says which; without a name it is the output that was not taken: a full disk, a closed pipe.
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE):
            raise
        if error.errno != errno.EPIPE:
            print_error(f"the output cannot be written ({error.strerror})")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails again on what it still holds
        code = 1
    if code == INTERRUPTED:
        print_error("finished cells are kept; the same command resumes from here", "interrupted")
    sys.exit(code or 0)


def _print_version(asked: bool) -> None:
    if asked:
        print_line(f"saibench {__version__}")
        raise typer.Exit


@app.callback()
def _saibench(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Measure spatially adaptive inference: train, evaluate, count and time."""


def _prepare_environment() -> None:
    """Set what libraries read when they are imported, here and in worker processes; what the user set stays."""
    # PyTorch's OpenMP threads that wait for work spin, by GCC's default for so long (14 ms on an Intel core) that two
    # programs on the same cores mostly wait for each other. Set here and not by `import benchmark`: a library must not
    # decide it for its host.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    # What torchvision says of its own code while it is imported, and Lightning of a Slurm that is installed and not
    # used, is nothing that the user can change.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit\._script")
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    notes = "ignore::FutureWarning:torch.jit._script,ignore:The `srun` command is available"
    os.environ.setdefault("PYTHONWARNINGS", notes)


def _print_usage_error(error: typer.TyperException) -> None:
    """Print what the parser found wrong in one line that says where the help is."""
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    if message:  # a group of commands without any has printed its help instead
        print_error(message if context is None else f"{message} (see {context.command_path} --help)")
