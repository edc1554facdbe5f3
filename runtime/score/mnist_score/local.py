"""One .npy of digits scored into one .npy on this machine: in constant memory, in parts, and resumed after a kill.

Until they are complete, the answers are in `<output>.part`, a .npy that lacks only its end. `<output>.json` is their
resume record; once it has the SHA-256 of the complete answers, nothing is left to do. If one of these files exists and
was not written by mnist-score, it is kept, and the run is refused.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mnist_runtime.classifier import Classifier
from mnist_runtime.console.command import note
from mnist_runtime.digits import CLASSES, PIXELS, UPRIGHT, Orientation, suspicion
from mnist_runtime.errors import FileWriteError
from mnist_runtime.io.arrays import StoredArray
from mnist_runtime.io.files import ensure_writable, publish, read_whole, write_atomically, write_errors
from mnist_score.job import Job, Shard

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHUNK_BYTES = 12 * 2**20
"""Bytes of pixels between two writes: 16,049 digits of uint8."""

_ROW = {"labels": np.dtype(np.uint8), "probabilities": np.dtype((np.float32, (len(CLASSES),)))}
"""Answer to one digit, by the job's output."""

_RECORD_LIMIT = 2**20  # bytes; a record takes less than 1 KiB
_ELSEWHERE = "move it away, or choose another OUTPUT"


def score(
    classifier: Classifier,
    digits: StoredArray,
    output: Path,
    rows: range,
    *,
    probabilities: bool = False,
    orientation: Orientation = UPRIGHT,
    labels: Path | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> bool:
    """Write the labels, uint8 `[n]`, or the probabilities, float32 `[n, 10]`, of some digits to `output`.

    Args:
        classifier: Model that answers.
        digits: File of the digits.
        output: File of the answers, which appears once they are complete.
        rows: Rows of `digits` to answer, in order.
        probabilities: Write probabilities instead of labels.
        orientation: Turns that the digits need; if the first ones look wrong, a note on stderr says so.
        labels: File of the true labels, if any, which must not be overwritten either.
        advance: Called with the number of digits answered since the last call; first with the number that an earlier
            run has answered.

    Returns:
        False if an earlier run had completed the answers, and nothing was computed.

    Raises:
        DigitError, FileReadError: the file cannot be read, or holds something else; the next run resumes there.
        FileWriteError: the answers cannot be written, or a file that must be kept is in their way.
    """
    unfinished, record = Path(f"{output}.part"), Path(f"{output}.json")
    for path in (output, unfinished, record):
        _check_replaceable(path, [Path(name) for name in (digits.name, classifier.artifact.name, labels) if name])
    source = Path(digits.name).resolve()
    job = Job.of(f"local://{source.parent}", classifier, orientation, probabilities=probabilities)
    details = {"shard": asdict(Shard.of_file(source.name, source)), "rows": [rows.start, rows.stop]}
    is_resumable, digest = _read_record(record, unfinished, job, details)
    ensure_writable(output.parent)
    if digest and output.is_file() and not unfinished.exists() and _sha256(output) == digest:
        advance(len(rows))
        return False
    chunk = max(1, CHUNK_BYTES // (PIXELS * digits.dtype.itemsize))
    with write_errors(unfinished), _locked(unfinished) as file:
        if not is_resumable:
            file.truncate()
            write_atomically(record, job.record(**details))
        done = _resume(file, _header(job, len(rows)), _ROW[job.output].itemsize, chunk)
        advance(done)
        for index, pixels in enumerate(digits.chunks(chunk, rows.start + done, rows.stop)):
            turned = orientation.turned(pixels)
            if index == 0 and (doubt := suspicion(turned)):
                note(f"{digits.name}: {doubt}")
            outputs = classifier.compute(turned)
            answers = outputs.probabilities if probabilities else outputs.labels.astype(np.uint8)
            file.write(answers.tobytes())
            file.flush()
            os.fsync(file.fileno())
            advance(len(outputs))
        write_atomically(record, job.record(**details, sha256=_sha256(unfinished)))
        publish(unfinished, output)
    return True


def _check_replaceable(path: Path, inputs: Iterable[Path]) -> None:
    """Raise if a file of answers at `path` would replace an input, a folder or a device."""
    with write_errors(path):
        if not path.exists():
            return
        if not path.is_file():
            raise FileWriteError(f"{path} is a folder or a device, and must be a file; {_ELSEWHERE}")
        for source in inputs:
            if source.exists() and source.samefile(path):
                raise FileWriteError(f"{source} is an input and would be overwritten; choose another OUTPUT")


def _read_record(record: Path, unfinished: Path, job: Job, details: dict[str, Any]) -> tuple[bool, str | None]:
    """Return True if the record is of the same job and details, and then the SHA-256 of its answers if complete."""
    header, digest, is_resumable = b"", None, False
    if record.exists():
        try:
            earlier, found = Job.of_record(read_whole(record, limit=_RECORD_LIMIT, wanted=_ELSEWHERE))
            start, stop = map(int, found["rows"])
            header = _header(earlier, stop - start)
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise FileWriteError(f"{record} was not written by mnist-score; {_ELSEWHERE}") from error
        digest = found.pop("sha256", None)
        is_resumable = (earlier, found) == (job, details)
    if unfinished.exists():
        with write_errors(unfinished), unfinished.open("rb") as file:
            beginning = file.read(max(len(header), 1))
        if not header.startswith(beginning):  # a kill may have left less than a header
            raise FileWriteError(f"{unfinished} was not written by mnist-score; {_ELSEWHERE}")
    return is_resumable, digest if is_resumable else None


@contextlib.contextmanager
def _locked(unfinished: Path) -> Iterator[BinaryIO]:
    """Open the unfinished answers, new or begun, and lock it against other runs (where there is flock)."""
    with os.fdopen(os.open(unfinished, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.samestat(unfinished.stat(), os.fstat(file.fileno()))
        except (BlockingIOError, FileNotFoundError):  # another run writes it, or published it a moment ago
            is_ours = False
        if not is_ours:
            raise FileWriteError(f"another run is writing {unfinished}; wait for its end, or choose another OUTPUT")
        yield file


def _resume(file: BinaryIO, header: bytes, row_bytes: int, chunk: int) -> int:
    """Cut unfinished answers after the last chunk that is surely on the disk, write their header, and count their rows.

    A power cut can leave zeros in place of the chunk that was being written, whole or in part.
    """
    size = os.fstat(file.fileno()).st_size
    rows = max(0, size - len(header)) // row_bytes if file.read(len(header)) == header else 0
    kept = max(0, rows - 1) // chunk * chunk
    file.seek(0)
    file.write(header)
    file.seek(kept * row_bytes, os.SEEK_CUR)
    file.truncate()
    return kept


def _header(job: Job, count: int) -> bytes:
    """Encode the header of a .npy of `count` answers."""
    row, header = _ROW[job.output], io.BytesIO()
    fields = {"descr": row.base.str, "fortran_order": False, "shape": (count, *row.shape)}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
