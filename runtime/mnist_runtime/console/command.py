"""Base of every command: results on stdout, errors in one sentence on stderr, and a documented exit code."""

import atexit
import contextlib
import errno
import gc
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from mnist_runtime.errors import MnistRuntimeError, printable

FAILURE = 1
"""Exit code of a failure; a wrong command line exits with 2, which is click's own code."""
INTERRUPTED = 130
"""Ctrl-C: 128 + SIGINT, as shells report it."""
TERMINATED = 143
"""SIGTERM: 128 + SIGTERM, for commands that handle it."""

_UNWRITABLE = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF])
"""errnos that mean standard output itself cannot be written."""


class Command(click.Command):
    """A click command that turns the project's errors into one line and an exit code, never a traceback."""

    def __init__(self, name: str | None, *, context_settings: dict[str, Any] | None = None, **extra: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], **(context_settings or {})}
        super().__init__(name, context_settings=settings, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and refuse an empty value, because an empty path would mean the current folder."""
        if not ctx.resilient_parsing:
            given, _, order = self.make_parser(ctx).parse_args(list(args))
            for param in order:
                value = given.get(param.name)
                if "" in (value if isinstance(value, (list, tuple)) else [value]):
                    raise click.BadParameter("the value is empty; is a shell variable unset?", ctx, param)
        with _quiet_in_closed_pipe(ctx):  # --help and --version print here
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _quiet_in_closed_pipe(ctx):
            status = super().invoke(ctx)
            sys.stdout.flush()
        return status

    def main(  # type: ignore[override]  # click types the return of its standalone mode alone
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run with `args` (default: the process's) and exit."""
        _complete_streams()
        atexit.register(gc.freeze)  # looking for garbage at the end takes a seventh of mnist-infer's CPU time
        sys.exit(self._status(args, prog_name or self.name, extra))

    def _status(self, args: Sequence[str] | None, prog_name: str | None, extra: dict[str, Any]) -> int:
        try:
            return super().main(args, prog_name, **{**extra, "standalone_mode": False}) or 0
        except click.ClickException as error:
            with _for_a_person():
                error.show()
            return error.exit_code
        except (KeyboardInterrupt, click.Abort):  # before RuntimeError, which an Abort is
            print_error("interrupted; no file is left half-written under its final name")
            return INTERRUPTED
        except MnistRuntimeError as error:
            print_error(str(error))
        except OSError as error:  # named files raise our own errors
            if error.filename is not None or error.errno not in _UNWRITABLE:
                raise
            _give_up(sys.stdout)
            print_error(f"standard output cannot be written ({error.strerror}); send it to another place")
        except MemoryError:
            print_error("there is not enough memory; raise its limit (ulimit -v), or use a machine with more")
        except RuntimeError as error:
            if str(error) != "can't start new thread":
                raise
            print_error("no thread can be started; raise the limit of processes (ulimit -u, or pids.max)")
        return FAILURE


class Group(Command, click.Group):
    """A group of commands that handles errors as `Command` does, as do its subcommands."""

    command_class = Command


@contextlib.contextmanager
def _quiet_in_closed_pipe(ctx: click.Context) -> Iterator[None]:
    """Exit quietly with 0 when the reader of standard output has left, as in `| head`."""
    try:
        yield
    except BrokenPipeError:
        _give_up(sys.stdout)
        ctx.exit()


def require_a_thread() -> None:
    """Raise RuntimeError if no thread can be started; call it before NumPy and torch load in a command of many threads.

    OpenBLAS would send a SIGINT, and OpenMP would end the process.
    """
    import threading

    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


@contextlib.contextmanager
def native_imports() -> Iterator[None]:
    """Import NumPy and onnxruntime here, in a command that multiplies nothing large with NumPy.

    BLAS keeps to one thread: starting several takes a quarter of the start-up, and where none can be started, OpenBLAS
    sends a SIGINT. No garbage is looked for meanwhile, which takes a twentieth. A Ctrl-C waits, because native modules
    would raise ImportError instead.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        gc.enable()
        if before is not None:  # not on Windows
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _complete_streams() -> None:
    """Replace streams closed by `>&-`; let stdout replace characters that its encoding lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _give_up(stream: TextIO) -> None:
    """Discard what is and will be written, because the interpreter would print an error for it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_error(sentence: str) -> None:
    """Print an error on stderr: one line that says what went wrong and what to do."""
    with _for_a_person():
        click.echo(f"Error: {printable(sentence)}", err=True)


def note(sentence: str, *, warning: bool = False) -> None:
    """Print a note on stderr, in one line; a warning in red where stderr takes colour."""
    line = printable(sentence)
    if warning:
        from mnist_runtime.console.drawing import has_colour  # and with it NumPy

        line = click.style(line, fg="red") if has_colour(sys.stderr) else line
    with _for_a_person():
        click.echo(line, err=True, color=warning or None)


@contextlib.contextmanager
def _for_a_person() -> Iterator[None]:
    """Print on stderr, whose reader may have left; results and exit code stay the same."""
    try:
        yield
    except BrokenPipeError:
        _give_up(sys.stderr)
