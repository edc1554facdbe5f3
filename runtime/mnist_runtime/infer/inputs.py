"""Inputs of a command: files of any format, folders, globs, and standard input."""

# What only some formats need is imported where it is used, because mnist-infer spends its time on imports.

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn

from mnist_runtime.console.command import note
from mnist_runtime.digits import PIXELS, UPRIGHT, Intensities, Orientation, Pixels, suspicion
from mnist_runtime.errors import DigitError, FileMissingError, FileReadError, printable
from mnist_runtime.io.arrays import OtherArrayError, StoredArray
from mnist_runtime.io.files import Stream, decompressed, read_pieces, reading
from mnist_runtime.io.formats import recognise

CHUNK = 4096
"""Digits read at a time."""

STDIN = "-"
_PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".avif")
_IN_ZIP = (".npy", *_PICTURES)
_IN_FOLDER = (".npz", ".csv", "-idx3-ubyte", ".idx3-ubyte", *_IN_ZIP)
"""Ends of the names of files in a folder that are read, gzipped or not; the others are counted on stderr."""

_LIMIT = 2**28  # bytes of an image or of a .zip that comes as a stream; a larger array belongs in an .npy
_WANTED = "give a .npy, .npz, IDX, CSV or image file, a folder of them, or - for standard input"

Chunk = tuple[str, int, Intensities | Pixels]
"""Name of the source, index of the first digit in it, and checked digits, uint8 or float32 `[n, 784]`."""


@dataclass(frozen=True)
class Reading:
    """Settings of the reading of inputs."""

    recursive: bool = False
    """True to read subfolders too."""
    orientation: Orientation = UPRIGHT
    """Turns that arrays need."""

    def oriented(self, chunks: Iterable[Intensities | Pixels], source: str) -> Iterator[Chunk]:
        """Number the digits of an array, turned as asked for; note on stderr what is suspicious about the first."""
        start = 0
        for given in chunks:
            digits = self.orientation.turned(given)
            if start == 0 and (doubt := suspicion(digits)):
                note(f"{source}: {doubt}")
            yield source, start, digits
            start += len(digits)


def expand(path: str, *, recursive: bool) -> Iterator[str]:
    """Yield the files for one path of the command line, sorted: those of a folder or glob, or the path itself.

    Raises:
        FileMissingError: a folder or glob contains no file that can be read.
        FileReadError: a folder cannot be read.
    """
    with reading(path, _WANTED):
        if path != STDIN and Path(path).is_dir():
            yield from _files_in(Path(path), recursive=recursive)
        elif path == STDIN or Path(path).exists():
            yield path
        else:
            yield from _matching(path, recursive=recursive)


def _matching(path: str, *, recursive: bool) -> list[str]:
    """Return the files that a glob matches, sorted; the path itself if it is no glob."""
    import glob

    if not glob.has_magic(path):
        return [path]
    matches = sorted(glob.glob(path, recursive=recursive))  # noqa: PTH207  # Path.glob takes no absolute pattern
    files = [match for match in matches if not Path(match).is_dir()]
    if not files:
        raise FileMissingError(f"{path} matches no file; {_WANTED}")
    return files


def _files_in(folder: Path, *, recursive: bool) -> Iterator[str]:
    """Yield the files of a folder that can be read, sorted; note on stderr how many others there are.

    Raises:
        FileMissingError: there are none.
        FileReadError: a subfolder cannot be read; raised after the files of the others.
    """
    found = sorted(folder.rglob("*") if recursive else folder.iterdir())
    shown = [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    every = [file for file in shown if not file.is_dir()]
    files = [
        str(file) for file in every if file.name.lower().removesuffix(".gz").endswith(_IN_FOLDER) and file.is_file()
    ]
    if not files:
        others = f" among its {len(every):,}" if every else ""
        deeper = "" if recursive else "; --recursive reads its subfolders too"
        raise FileMissingError(f"{folder} holds no file{others} of {', '.join(sorted(_IN_FOLDER))}{deeper}")
    if left_out := len(every) - len(files):
        note(f"{folder}: left out {left_out} {'file' if left_out == 1 else 'files'} of other kinds")
    yield from files
    closed = [file for file in shown if recursive and file.is_dir() and not os.access(file, os.R_OK | os.X_OK)]
    if closed:  # rglob passes over them
        raise FileReadError(f"{closed[0]} is a folder that may not be read; change its mode, or leave it out")


def chunks(path: str, how: Reading) -> Iterator[Chunk]:
    """Read the digits of one file, or of standard input for "-", one chunk at a time.

    The first bytes determine the format.

    Raises:
        FileMissingError, FileReadError: it is not there, or cannot be read.
        DigitError: it holds no digits.
        ExtraMissingError: it is an image, and Pillow is not installed.
    """
    if path == STDIN:
        with reading("standard input", _WANTED), _open(sys.stdin.fileno()) as file:
            yield from _of_stream(file, STDIN, "standard input", how)
        return
    with reading(path, _WANTED), _open(path) as file:
        status = os.fstat(file.fileno())  # a FIFO, a process substitution or a device has no size
        yield from _of_stream(file, path, path, how, status.st_size if stat.S_ISREG(status.st_mode) else None)


def _open(file: str | int) -> BufferedReader:
    """Open a file whose first bytes can be peeked at: a buffer of a buffer is filled, even from a slow pipe."""
    return BufferedReader(open(file, "rb", closefd=isinstance(file, str)))


def _of_stream(given: BufferedReader, source: str, name: str, how: Reading, size: int | None = None) -> Iterator[Chunk]:
    """Read the digits of a stream that may not be seekable; `name` is for errors."""
    if given.isatty():
        raise DigitError(f"{name} is a terminal; pipe a file into it, as in: mnist-infer - < digit.npy")
    stream = decompressed(given)
    start = stream.peek()
    if not start:
        raise DigitError(f"{name} is empty; {_WANTED}")
    match recognise(start):
        case "array":
            array = StoredArray.of_stream(stream, name, size if stream is given else None)
            yield from how.oriented(array.chunks(CHUNK), source)
        case "zip":
            yield from _of_zip(stream if stream.seekable() else BytesIO(_read(stream, name)), source, how)
        case "text":
            from mnist_runtime.io.tables import StoredTable

            yield from how.oriented((digits for digits, _ in StoredTable(stream, name).chunks(CHUNK)), source)
        case "image":
            yield source, 0, _image(_read(stream, name), name)
        case _:
            _refuse_format(name)


def _of_zip(file: BinaryIO, path: str, how: Reading) -> Iterator[Chunk]:
    """Read the pictures of a .zip, and every array that has the shape and dtype of digits; skip labels and the like."""
    from mnist_runtime.io.zips import unzipped

    skipped: list[str] = []
    found = False
    with unzipped(file, path) as archive:
        for member in archive.infolist():
            place = PurePosixPath(member.filename)
            if not place.name.lower().endswith(_IN_ZIP) or place.name.startswith("."):
                continue
            name = f"{path}:{printable(str(place.with_suffix('') if place.suffix == '.npy' else place))}"
            with archive.open(member) as stream:
                if place.suffix.lower() != ".npy":
                    found = True
                    yield name, 0, _image(_read(stream, name), name)
                    continue
                try:
                    array = StoredArray.of_stream(stream, name, member.file_size)
                    len(array)
                except OtherArrayError as error:
                    skipped.append(str(error))
                    continue
                found = True
                yield from how.oriented(array.chunks(CHUNK), name)
        if not found:
            names = printable(", ".join(archive.namelist()[:3])) or "nothing"
            reason = skipped[0] if skipped else f"it holds {names}, and neither a .npy nor a picture"
            raise DigitError(f"{path} holds no digits: {reason}")


def _read(stream: Stream, name: str) -> bytes:
    data = read_pieces(stream, _LIMIT)
    if len(data) > _LIMIT:
        raise DigitError(f"{name} holds more than {_LIMIT >> 20} MiB; save large arrays as .npy, which is streamed")
    return data


def _refuse_format(name: str) -> NoReturn:
    raise DigitError(f"{name} is of an unknown format; {_WANTED}")


def _image(data: bytes, name: str) -> Intensities:
    if recognise(data) != "image":
        _refuse_format(name)
    from mnist_runtime.io.images import read_image

    return read_image(data, name).reshape(1, PIXELS)
