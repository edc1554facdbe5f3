"""Reading and writing of whole files: bounded in size, written atomically."""

import contextlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Protocol

from mnist_runtime.errors import FileMissingError, FileReadError, FileWriteError, MnistRuntimeError

_PIECE = 2**20  # bytes per read where the size is unknown


class Stream(Protocol):
    """A binary stream, open for reading."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; none only at the end."""
        ...


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], wanted: str) -> Iterator[None]:
    """Translate OSErrors from reading `path` into FileReadError; our own errors pass through.

    Raises:
        FileMissingError: there is no such file.
        FileReadError: it is a folder, or unreadable. All sentences end in the advice `wanted`.
    """
    try:
        yield
    except MnistRuntimeError:
        raise
    except FileNotFoundError as error:
        raise FileMissingError(f"{path} does not exist; {wanted}") from error
    except IsADirectoryError as error:
        raise FileReadError(f"{path} is a folder; {wanted}") from error
    except OSError as error:  # gzip's have no strerror
        raise FileReadError(f"{path} cannot be read ({error.strerror or error}); {wanted}") from error
    except (EOFError, zlib.error) as error:
        raise FileReadError(f"{path} is cut short or damaged ({error}); copy or save it again") from error
    except ValueError as error:  # a name with a null byte
        raise FileReadError(f"{str(path)!r} cannot be a file ({error}); {wanted}") from error


@contextlib.contextmanager
def open_regular(path: str | os.PathLike[str], wanted: str) -> Iterator[BufferedReader]:
    """Open the regular file at `path` for reading; a FIFO, which could block for ever, is refused at once.

    Raises:
        FileMissingError: there is none.
        FileReadError: it is a folder, a pipe, a socket or a device, or the block raises OSError. All sentences end in
            the advice `wanted`.
    """
    with reading(path, wanted), open(path, "rb", opener=_open_at_once) as file:  # Path has no opener
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileReadError(f"{path} is a pipe or a device, not a file; {wanted}")
        yield file


def decompressed(file: BufferedReader) -> BufferedReader:
    """Return the content of a stream that begins as gzip (RFC 1952) does, and any other stream as it is."""
    if not file.peek(2).startswith(b"\x1f\x8b"):
        return file
    import gzip

    return BufferedReader(gzip.GzipFile(fileobj=file))


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # which Windows lacks, as it lacks FIFOs


def read_whole(path: str | os.PathLike[str], *, limit: int, wanted: str) -> bytes:
    """Read the regular file at `path`, of 1 to `limit` bytes, in memory that grows with the bytes present.

    Raises:
        FileMissingError: there is none.
        FileReadError: it is no regular file, empty, larger than `limit` or unreadable. All sentences end in the advice
            `wanted`.
    """
    with open_regular(path, wanted) as file:
        size = os.fstat(file.fileno()).st_size
        data = read_pieces(file, limit) if size <= limit else b""
    if max(size, len(data)) > limit:
        raise FileReadError(f"{path} is larger than {limit:,} bytes; {wanted}")
    if not data:
        raise FileReadError(f"{path} is empty; {wanted}")
    return data


def read_pieces(stream: Stream, limit: int) -> bytes:
    """Read a stream to its end or to `limit` + 1 bytes, in memory that grows with the bytes present.

    `stream.read(limit)` would reserve the limit itself.
    """
    buffer = BytesIO()
    while piece := stream.read(min(_PIECE, limit + 1 - buffer.tell())):
        buffer.write(piece)
    return buffer.getvalue()


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
        with contextlib.suppress(OSError, ValueError):  # renamed, or never written
            temporary.unlink()


def sweep(path: Path) -> None:
    """Remove the temporary files beside `path` that killed processes have left.

    Raises:
        FileWriteError: one of them cannot be removed.
    """
    with write_errors(path):
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            if not left.is_dir() or left.is_symlink():
                left.unlink(missing_ok=True)


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
    except ValueError as error:  # a name with a null byte
        raise FileWriteError(f"cannot write {str(path)!r} ({error}); choose another path") from error


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
    with write_errors(probe.parent):
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()


def _fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (not on Windows, which cannot open a folder)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
