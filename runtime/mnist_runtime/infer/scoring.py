"""A large .npy of digits scored into a .npy of labels: chunk by chunk, in parts, and on from where it was killed.

While it grows, the result is `<output>.part`, a .npy that is whole but for its end. `<output>.json` beside it records
what it is made of and, at the end, the SHA-256 of it all; a part is taken up again only where that record is the same,
and a result taken for done only where its bytes are too. Side files that hold anything else are not ours, and are kept.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mnist_runtime.classifier import Classifier
from mnist_runtime.digits import CLASSES, PIXELS
from mnist_runtime.errors import FileWriteError
from mnist_runtime.io.files import ensure_writable, publish, read_whole, write_atomically, write_errors
from mnist_runtime.io.npy import NpyFile, open_npy

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHUNK = 12 * 2**20
"""Bytes of pixels between two writes: 16,049 digits of uint8."""

SCHEMA = 1
"""Version of the record's layout."""

_ELSEWHERE = "move it away, or give --output another name"


@dataclass(frozen=True)
class Shard:
    """The I-th of N parts of near equal size."""

    index: int
    """From 1 to `count`."""
    count: int

    def rows(self, total: int) -> range:
        """Which of `total` digits belong to it; together the parts hold each digit once."""
        return range(total * (self.index - 1) // self.count, total * self.index // self.count)

    def name(self, output: Path) -> Path:
        """Its own file: labels.npy becomes labels.2-of-8.npy; the only part of one keeps the name."""
        return (
            output
            if self.count == 1
            else output.with_name(f"{output.stem}.{self.index}-of-{self.count}{output.suffix}")
        )


def side_files(output: Path) -> tuple[Path, Path]:
    """Where the growing result and the record of `output` stand."""
    return Path(f"{output}.part"), Path(f"{output}.json")


def score(
    classifier: Classifier,
    digits: NpyFile,
    output: Path,
    rows: range,
    *,
    probabilities: bool = False,
    advance: Callable[[int], object] = lambda _: None,
) -> bool:
    """Write the labels, uint8 `[n]`, or probabilities, float32 `[n, 10]`, of `rows` of `digits` at `output`.

    Args:
        classifier: What answers.
        digits: The input.
        output: Where the result goes, once it is complete.
        rows: Which digits, in order.
        probabilities: Write these instead of labels.
        advance: Called with the number of digits each time some are done, those of an earlier run first.

    Returns:
        False when an earlier run had done it all, and nothing was computed.

    Raises:
        DigitError, FileReadError: the digits are none, or cannot be read; the part stays to be taken up again.
        FileWriteError: the result cannot be written, or a file that is not ours stands where its side files go.
    """
    part, record = side_files(output)
    with write_errors(output):
        for written in (output, part, record):
            if written.exists() and not written.is_file():
                raise FileWriteError(f"{written} is a folder or a device, and has to be a file; {_ELSEWHERE}")
    found = _found(part, record)
    ensure_writable(output.parent)
    about = _about(classifier, digits, rows, probabilities=probabilities)
    row = np.dtype((np.float32, (len(CLASSES),)) if probabilities else np.uint8)
    header = _header(len(rows), probabilities=probabilities)
    digest = found.pop("sha256", None)
    known = found == about
    if known and digest and output.is_file() and not part.exists() and _sha256(output) == digest:
        advance(len(rows))
        return False
    step = max(1, CHUNK // (PIXELS * digits.dtype.itemsize))
    with write_errors(part), _alone_at(part) as file:
        if not known:
            file.truncate()
            write_atomically(record, _encoded(about))
        done = _taken_up(file, header, row.itemsize)
        advance(done)
        for start in range(done, len(rows), step):
            chunk = digits.digits(rows.start + start, rows.start + min(start + step, len(rows)))
            said = classifier.predict_proba(chunk) if probabilities else classifier.predict(chunk).astype(np.uint8)
            file.write(said.tobytes())
            file.flush()
            advance(len(chunk))
        write_atomically(record, _encoded({**about, "sha256": _sha256(part)}))
        publish(part, output)
    return True


@contextlib.contextmanager
def _alone_at(part: Path) -> Iterator[BinaryIO]:
    """Open a part, new or begun, that no other run is writing; until it is closed none begins to (with flock)."""
    with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.samestat(part.stat(), os.fstat(file.fileno()))
        except (BlockingIOError, FileNotFoundError):  # it is being written, or was published a moment ago
            is_ours = False
        if not is_ours:
            raise FileWriteError(f"another run is writing {part}; wait for its end, or give --output another name")
        yield file


def labels_of(output: Path) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """The labels, int64 `[n]`, in a result of `score`."""
    result = open_npy(output)
    return result.argmax(axis=1) if result.ndim == 2 else result.astype(np.int64)


def _about(classifier: Classifier, digits: NpyFile, rows: range, *, probabilities: bool) -> dict[str, Any]:
    status = digits.path.stat()
    return {
        "schema": SCHEMA,
        "models": sorted(classifier.digests),
        "input": {"file": digits.path.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns},
        "rows": [rows.start, rows.stop],
        "output": "probabilities" if probabilities else "labels",
    }


def _encoded(about: dict[str, Any]) -> bytes:
    return (json.dumps(about, indent=2) + "\n").encode()


def _found(part: Path, record: Path) -> dict[str, Any]:
    """What an earlier run has recorded, or nothing; refuse side files that no run of ours has written."""
    about: dict[str, Any] = {}
    header = b""
    if record.exists():
        try:
            about = json.loads(read_whole(record, limit=2**20, wanted=_ELSEWHERE))
            start, stop = map(int, about["rows"])
            if not about.keys() >= {"schema", "models", "input", "output"}:
                raise KeyError
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            raise FileWriteError(f"{record} is no record of this command; {_ELSEWHERE}") from error
        header = _header(stop - start, probabilities=about["output"] == "probabilities")
    if part.exists():
        try:
            with part.open("rb") as file:
                start_of_part = file.read(max(len(header), 1))
        except OSError as error:
            raise FileWriteError(f"{part} cannot be read ({error.strerror}); {_ELSEWHERE}") from error
        if not header.startswith(start_of_part):  # a kill may have left less than a header
            raise FileWriteError(f"{part} is no part of this command's; {_ELSEWHERE}")
    return about


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header(count: int, *, probabilities: bool) -> bytes:
    descr, shape = ("<f4", (count, len(CLASSES))) if probabilities else ("|u1", (count,))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _taken_up(file: Any, header: bytes, itemsize: int) -> int:
    """Rows that an earlier run has written whole; the file is ready for the next one."""
    size = os.fstat(file.fileno()).st_size
    if size < len(header) or file.read(len(header)) != header:
        file.seek(0)
        file.truncate()
        file.write(header)
        return 0
    done = (size - len(header)) // itemsize
    file.truncate(len(header) + done * itemsize)
    file.seek(0, os.SEEK_END)
    return done
