"""Where a command's digits come from: files by what is in them, folders, globs, and standard input."""

import glob
import io
import os
import stat
import sys
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

from numpy.typing import NDArray

from mnist_runtime.digits import as_batch
from mnist_runtime.errors import DigitError, FileMissingError
from mnist_runtime.io.files import read_whole, reading
from mnist_runtime.io.npy import NpyFile, OtherArrayError, read_digits

CHUNK = 4096
"""Digits read at a time."""

STDIN = "-"
SUFFIXES = frozenset([".npy", ".npz", ".png", ".jpg", ".jpeg", ".bmp", ".webp"])
"""Files of a folder that are read; the others are left alone."""

_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_LIMIT = 2**28  # bytes of an image or of an .npz; a larger array belongs in an .npy, which streams
_WANTED = "give a .npy, .npz or image file, a folder of them, or - for standard input"

Chunk = tuple[str, int, NDArray[Any]]
"""Name of the source, index of the first digit in it, and digits `[n, 784]`, checked for shape and dtype."""


def expand(path: str, *, recursive: bool) -> Iterator[str]:
    """Name the files that a path of the command line stands for, in sorted order: a folder's, a glob's, or itself.

    Raises:
        FileMissingError: a folder or glob holds no file that can be read.
    """
    folder = Path(path)
    with reading(path, _WANTED):
        is_there, is_folder = folder.exists(), folder.is_dir()
    if path != STDIN and is_folder:
        found = sorted(folder.rglob("*") if recursive else folder.iterdir())
        shown = (file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts))
        files = [str(file) for file in shown if file.suffix.lower() in SUFFIXES and file.is_file()]
        deeper = "" if recursive else "; --recursive looks into its folders too"
        if not files:
            raise FileMissingError(f"{path} holds no {', '.join(sorted(SUFFIXES))}{deeper}")
        yield from files
    elif path != STDIN and not is_there and glob.has_magic(path):  # quoted, or a shell that leaves globs alone
        matches = sorted(glob.glob(path, recursive=recursive))  # noqa: PTH207  # Path.glob takes no absolute pattern
        files = [match for match in matches if not Path(match).is_dir()]
        if not files:
            raise FileMissingError(f"{path} matches no file; {_WANTED}")
        yield from files
    else:
        yield path


def chunks(path: str) -> Iterator[Chunk]:
    """Read the digits of one file, or of standard input for "-", a chunk at a time; what it is, its bytes tell.

    Raises:
        FileMissingError, FileReadError: it is not there, or cannot be read.
        DigitError: it holds no digits.
        ExtraMissingError: it is an image, and Pillow is not installed.
    """
    if path == STDIN:
        yield from _of_stream(sys.stdin.buffer, STDIN, "standard input")  # type: ignore[arg-type]  # a BufferedReader
        return
    with reading(path, _WANTED), Path(path).open("rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a FIFO, a process substitution or a device
            yield from _of_stream(file, path, path)
            return
        start = file.peek(len(_NPY))
        if not start:
            raise DigitError(f"{path} is empty; {_WANTED}")
        if start.startswith(_NPY):
            npy = NpyFile.open(path)
            for index in range(0, len(npy), CHUNK):
                yield path, index, npy.digits(index, min(index + CHUNK, len(npy)))
        elif start.startswith(_ZIP):
            yield from _of_npz(file, path)
        else:
            yield path, 0, _image(read_whole(path, limit=_LIMIT, wanted=_WANTED), path)


def _of_stream(stream: BufferedReader, source: str, name: str) -> Iterator[Chunk]:
    """Read what comes only once; `name` is for the errors."""
    if stream.isatty():
        raise DigitError(f"{name} is a terminal; pipe a file into it, as in: mnist-infer - < digit.npy")
    start = stream.peek(len(_NPY))
    if not start:
        raise DigitError(f"{name} is empty; {_WANTED}")
    if start.startswith(_NPY):
        yield from _split(source, read_digits(stream, name))
        return
    data = stream.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise DigitError(f"{name} holds more than {_LIMIT >> 20} MiB; save it to a file and give its path")
    if data.startswith(_ZIP):
        yield from _of_npz(io.BytesIO(data), source)
    else:
        yield source, 0, _image(data, name)


def _of_npz(file: BinaryIO, path: str) -> Iterator[Chunk]:
    """Every array of an .npz that is digits by its shape; labels and the like stay where they are."""
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
                        array = read_digits(stream, name)  # type: ignore[arg-type]  # all it needs is read
                    except OtherArrayError as error:
                        skipped.append(str(error))
                        continue
                found = True
                yield from _split(name, array)
    except DigitError:
        raise
    except Exception as error:  # zipfile raises whatever its parsing ran into
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DigitError(f"{path} is not a .npz file that can be read ({reason}); copy or save it again") from error
    if not found:
        raise DigitError(f"{path} holds no digits: {skipped[0] if skipped else 'it is empty'}")


def _split(name: str, array: NDArray[Any]) -> Iterator[Chunk]:
    digits = as_batch(array)
    for index in range(0, len(digits), CHUNK):
        yield name, index, digits[index : index + CHUNK]


def _image(data: bytes, name: str) -> NDArray[Any]:
    from mnist_runtime.io.images import read_image

    return as_batch(read_image(data, name))
