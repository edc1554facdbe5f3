"""Reading and writing of whole files: bounded in size, written atomically."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from mnist_runtime.errors import FileMissingError, FileReadError, FileWriteError, MnistRuntimeError


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], wanted: str) -> Iterator[None]:
    """Translate OSErrors from reading `path` into FileReadError; our own errors pass through.

    Raises:
        FileMissingError: there is no such file.
        FileReadError: it is a folder, or unreadable. Both sentences end in the advice `wanted`.
    """
    try:
        yield
    except MnistRuntimeError:
        raise
    except FileNotFoundError as error:
        raise FileMissingError(f"{path} does not exist; {wanted}") from error
    except IsADirectoryError as error:
        raise FileReadError(f"{path} is a folder; {wanted}") from error
    except OSError as error:
        raise FileReadError(f"{path} cannot be read ({error.strerror}); {wanted}") from error
    except ValueError as error:  # a name with a null byte
        raise FileReadError(f"{str(path)!r} cannot be a file ({error}); {wanted}") from error


def read_whole(path: str | os.PathLike[str], *, limit: int, wanted: str) -> bytes:
    """Read the regular file at `path`, of 1 to `limit` bytes.

    Raises:
        FileMissingError: there is none.
        FileReadError: it is a folder, a pipe, a device, empty, larger than `limit` or unreadable. All sentences end in
            `wanted`.
    """
    with reading(path, wanted), open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FileReadError(f"{path} is a pipe or a device, not a file; {wanted}")
        size = status.st_size
        data = file.read(limit + 1) if size <= limit else b""
    if max(size, len(data)) > limit:
        raise FileReadError(f"{path} is larger than {limit / 2**20:,.0f} MiB; {wanted}")
    if not data:
        raise FileReadError(f"{path} is empty; {wanted}")
    return data


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for the other end, if the file is a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` atomically: a reader finds the old bytes or all of the new ones.

    Raises:
        FileWriteError: naming `path`; an earlier file there is unchanged.
    """
    with staged(path, data) as commit:
        commit()


@contextlib.contextmanager
def staged(path: str | os.PathLike[str], data: bytes) -> Iterator[Callable[[], None]]:
    """Write `data` to a hidden temporary file beside `path`, fsync it, and yield a function that renames it to `path`.

    Several files can be staged before the first is renamed, so that a full disk stops them all. The folder is made if
    missing, and fsynced after the rename. A temporary file that was not renamed is removed at the end.

    Raises:
        FileWriteError: naming `path`; an earlier file there is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")

    def commit() -> None:
        with write_errors(path):
            temporary.replace(path)
            _fsync_folder(path.parent)

    try:
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        yield commit
    finally:
        with contextlib.suppress(OSError):  # if the name cannot be looked up, nothing was written
            temporary.unlink()


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Translate OSErrors from writing `path` into FileWriteError; our own errors pass through.

    Raises:
        FileWriteError: naming `path`.
    """
    try:
        yield
    except MnistRuntimeError:
        raise
    except OSError as error:
        raise FileWriteError(f"cannot write {path} ({error.strerror}); choose another path") from error


def publish(part: Path, path: Path) -> None:
    """Rename a complete file to its final name, after fsync has put its bytes on the disk.

    Raises:
        FileWriteError: naming `path`.
    """
    with write_errors(path):
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        _fsync_folder(path.parent)


def ensure_writable(folder: str | os.PathLike[str]) -> None:
    """Make `folder` if it is missing, and raise before any work starts if no file can be written there.

    Raises:
        FileWriteError: naming `folder`.
    """
    probe = Path(folder) / f".{os.urandom(4).hex()}.tmp"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise FileWriteError(f"cannot write in {folder} ({error.strerror}); choose another folder") from error


def _fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (not on Windows, which cannot open a folder)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
