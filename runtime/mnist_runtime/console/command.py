"""How every command of the project ends: results on stdout, one sentence on stderr, a documented exit code."""

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from mnist_runtime.errors import MnistRuntimeError

FAILURE = 1
"""Something asked for could not be done; a wrong command line is 2, click's own code."""
INTERRUPTED = 130
"""Ctrl-C: 128 + SIGINT, as shells report it."""
TERMINATED = 143
"""128 + SIGTERM, of commands that end in a sentence at it."""

_UNWRITABLE = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF])
"""What the system says, naming no file, where standard output takes no more."""


class Command(click.Command):
    """A click command that turns the project's errors into one line and an exit code, never a traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; refuse "" as a value, which for a path would mean the current folder."""
        if not ctx.resilient_parsing:
            given, _, order = self.make_parser(ctx).parse_args(list(args))
            for param in order:
                value = given.get(param.name)
                if "" in (value if isinstance(value, (list, tuple)) else [value]):
                    raise click.BadParameter("it is empty; is a variable unset?", ctx, param)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that has seen enough, as `| head`, ends it quietly and well."""
        try:
            status = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _give_up_stdout()
            return 0
        return status

    def main(  # type: ignore[override]  # click types the return of its standalone mode alone
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run with `args` (default: the process's) and exit."""
        _complete_streams()
        sys.exit(self._status(args, prog_name or self.name, extra))

    def _status(self, args: Sequence[str] | None, prog_name: str | None, extra: dict[str, Any]) -> int:
        try:
            status = super().main(args, prog_name, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except MnistRuntimeError as error:
            complain(str(error))
            return FAILURE
        except OSError as error:  # what is read and written by name has errors of ours
            if error.filename is not None or error.errno not in _UNWRITABLE:
                raise
            _give_up_stdout()
            complain(f"standard output cannot be written ({error.strerror}); send it to another place")
            return FAILURE
        except (KeyboardInterrupt, click.Abort):
            complain("interrupted; nothing half-written stands under its final name")
            return INTERRUPTED
        return status or 0


class Group(Command, click.Group):
    """A group of commands that begins and ends as `Command` does, and so does each of its commands."""

    command_class = Command


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold a Ctrl-C back while native modules are imported, which would make an ImportError of it."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _complete_streams() -> None:
    """Make streams that were closed by `>&-` and the like, and write any text to those that cannot hold all of it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _give_up_stdout() -> None:
    """Write what is left nowhere, or the interpreter would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(sentence: str) -> None:
    """Say on stderr, in one line, what went wrong and what to do."""
    click.echo(f"Error: {sentence}", err=True)


def note(sentence: str) -> None:
    """Say on stderr, in one line, what is good to know."""
    click.echo(sentence, err=True)
