"""Inputs of a command: files of any format, folders, globs, and standard input."""

import glob
import io
import os
import stat
import sys
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipFile

from mnist_runtime.console.command import note
from mnist_runtime.digits import PIXELS, Intensities, Pixels
from mnist_runtime.errors import DigitError, FileMissingError, first_line
from mnist_runtime.io.files import reading
from mnist_runtime.io.npy import Npy, OtherArrayError

CHUNK = 4096
"""Digits read at a time."""

STDIN = "-"
SUFFIXES = frozenset(
    [".npy", ".npz", ".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".avif"]
)
"""Suffixes of the files in a folder that are read; the others are left out, and counted on stderr."""

_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_LIMIT = 2**28  # bytes of an image or of an .npz; a larger array belongs in an .npy, which streams
_WANTED = "give a .npy, .npz or image file, a folder of them, or - for standard input"

Chunk = tuple[str, int, Intensities | Pixels]
"""Name of the source, index of the first digit in it, and checked digits, uint8 or float32 `[n, 784]`."""


def expand(path: str, *, recursive: bool) -> Iterator[str]:
    """Yield the files for one path of the command line, sorted: those of a folder or glob, or the path itself.

    Raises:
        FileMissingError: a folder or glob contains no file that can be read.
    """
    folder = Path(path)
    with reading(path, _WANTED):
        is_there, is_folder = folder.exists(), folder.is_dir()
    if path != STDIN and is_folder:
        found = sorted(folder.rglob("*") if recursive else folder.iterdir())
        shown = (file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts))
        every = [file for file in shown if file.is_file()]
        files = [str(file) for file in every if file.suffix.lower() in SUFFIXES]
        deeper = "" if recursive else "; --recursive reads its subfolders too"
        if not files:
            raise FileMissingError(f"{path} holds no {', '.join(sorted(SUFFIXES))}{deeper}")
        if left_out := len(every) - len(files):
            note(f"{path}: left out {left_out} {'file' if left_out == 1 else 'files'} of other kinds")
        yield from files
    elif path != STDIN and not is_there and glob.has_magic(path):  # quoted, or a shell that expands no globs
        matches = sorted(glob.glob(path, recursive=recursive))  # noqa: PTH207  # Path.glob takes no absolute pattern
        files = [match for match in matches if not Path(match).is_dir()]
        if not files:
            raise FileMissingError(f"{path} matches no file; {_WANTED}")
        yield from files
    else:
        yield path


def chunks(path: str) -> Iterator[Chunk]:
    """Read the digits of one file, or of standard input for "-", a chunk at a time; the format shows in the bytes.

    Raises:
        FileMissingError, FileReadError: it is not there, or cannot be read.
        DigitError: it holds no digits.
        ExtraMissingError: it is an image, and Pillow is not installed.
    """
    if path == STDIN:
        with reading("standard input", _WANTED):
            yield from _of_stream(sys.stdin.buffer, STDIN, "standard input")  # type: ignore[arg-type]  # a BufferedReader
        return
    with reading(path, _WANTED), Path(path).open("rb") as file:
        status = os.fstat(file.fileno())  # a FIFO, a process substitution or a device has no size
        yield from _of_stream(file, path, path, status.st_size if stat.S_ISREG(status.st_mode) else None)


def _of_stream(stream: BufferedReader, source: str, name: str, size: int | None = None) -> Iterator[Chunk]:
    """Read the digits of a stream that may not be seekable; `name` is for errors."""
    if stream.isatty():
        raise DigitError(f"{name} is a terminal; pipe a file into it, as in: mnist-infer - < digit.npy")
    start = stream.peek(len(_NPY))
    if not start:
        raise DigitError(f"{name} is empty; {_WANTED}")
    if start.startswith(_NPY):
        yield from _of_npy(Npy.of_stream(stream, name, size), source)
    elif start.startswith(_ZIP):
        yield from _of_npz(stream if stream.seekable() else io.BytesIO(_read(stream, name)), source)
    else:
        yield source, 0, _image(_read(stream, name), name)


def _of_npy(npy: Npy, source: str) -> Iterator[Chunk]:
    start = 0
    for digits in npy.chunks(CHUNK):
        yield source, start, digits
        start += len(digits)


def _of_npz(file: BinaryIO, path: str) -> Iterator[Chunk]:
    """Read every array of an .npz that has the shape and dtype of digits; skip labels and the like."""
    skipped: list[str] = []
    found = False
    try:
        with ZipFile(file) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    continue
                name = f"{path}:{member.filename.removesuffix('.npy')}"
                with archive.open(member) as stream:
                    try:
                        npy = Npy.of_stream(stream, name, member.file_size)
                        len(npy)
                    except OtherArrayError as error:
                        skipped.append(str(error))
                        continue
                    found = True
                    yield from _of_npy(npy, name)
    except DigitError:
        raise
    except Exception as error:  # zipfile raises whatever its parsing ran into
        raise DigitError(
            f"{path} is not a .npz file that can be read ({first_line(error)}); copy or save it again"
        ) from error
    if not found:
        raise DigitError(f"{path} holds no digits: {skipped[0] if skipped else 'it is empty'}")


def _read(stream: BinaryIO, name: str) -> bytes:
    data = stream.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise DigitError(f"{name} holds more than {_LIMIT >> 20} MiB; save large arrays as .npy, which is streamed")
    return data


def _image(data: bytes, name: str) -> Intensities:
    from mnist_runtime.io.images import read_image

    return read_image(data, name).reshape(1, PIXELS)
