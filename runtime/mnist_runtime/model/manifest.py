"""manifest.json: the files that one export published into a folder, with their SHA-256.

`mnist-export` writes the manifest last; until then, one with the field `incomplete` is in its place. Readers refuse an
incomplete manifest, and every file whose bytes differ from those listed. File names are relative paths with "/" that
cannot leave the folder, not even through a symbolic link to another folder.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mnist_runtime.errors import IntegrityError, ManifestError
from mnist_runtime.io.files import read_whole

NAME = "manifest.json"
"""File name of the manifest."""

MANIFEST_SCHEMA = 1
"""Version of the layout; a manifest with another one is refused."""

SIZE_LIMIT = 2**22
"""Largest manifest in bytes, 4 MiB; one that lists every format takes less than 20 KB."""

_SHA256 = re.compile("[0-9a-f]{64}")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
"""A relative path whose every part begins with a letter, a digit or "_": no "..", no root, no drive, no hidden file."""

_EXPORT_AGAIN = "export again with mnist-export"


@dataclass(frozen=True)
class Entry:
    """One published file."""

    file: str
    """Path within the folder, with "/"."""
    format: str
    """Format of the export: "onnx", "onnx-uint8", "torchscript"..."""
    sha256: str
    """SHA-256 of the file, in hex."""
    size: int
    """Size in bytes."""
    input_dtype: str | None
    """dtype of the model's input `pixels`, "float32" or "uint8"; None for a file that is not a model."""

    @classmethod
    def from_record(cls, file: str, record: Mapping[str, Any]) -> Self:
        """Check the record of `file` in a manifest.

        Raises:
            ValueError, TypeError, KeyError: the record is malformed.
        """
        dtype = record["input"] and record["input"]["dtype"]
        entry = cls(file, record["format"], _digest(record), record["size"], dtype)
        if not _PLAIN.fullmatch(file):
            raise ValueError(f"{file!r} is not a plain name within the folder")
        if not isinstance(entry.format, str) or entry.input_dtype not in {"float32", "uint8", None}:
            raise ValueError(f"the format or input of {file} is unknown")
        if type(entry.size) is not int or entry.size < 1:
            raise ValueError(f"the size of {file} is {entry.size!r}")
        return entry


@dataclass(frozen=True)
class Manifest:
    """Files that one export published into `folder`."""

    folder: Path
    checkpoint: str
    """SHA-256 of the checkpoint that all files were made from, in hex."""
    files: Mapping[str, Entry]
    """Files by their path within the folder."""
    document: Mapping[str, Any]
    """Parsed JSON of the manifest, which also names the tools and each file's parity at export."""

    def read(self, file: str) -> bytes:
        """Return the bytes of a listed file, unchanged since they were published.

        Raises:
            FileMissingError, FileReadError: it is not there, or cannot be read.
            IntegrityError: its size or SHA-256 is not the one listed, or a symbolic link leads out of the folder.
        """
        entry, path = self.files[file], self.folder / file
        if not is_below(self.folder, path):
            raise IntegrityError(f"{path.parent} is a link out of {self.folder}, and is not followed; {_EXPORT_AGAIN}")
        wanted = f"{NAME} lists it; {_EXPORT_AGAIN}"
        try:
            size = path.stat().st_size
        except OSError:
            size = entry.size  # read_whole raises the right error
        if size == entry.size:
            data = read_whole(path, limit=entry.size, wanted=wanted)
            if hashlib.sha256(data).hexdigest() == entry.sha256:
                return data
        raise IntegrityError(
            f"{path} is not the file that {NAME} lists (its SHA-256 or size differs): it was damaged, or an export was "
            f"interrupted; {_EXPORT_AGAIN}"
        )

    def find(self, format_: str) -> Entry | None:
        """Return the first file of a format ("onnx", "onnx-uint8", ...), or None if none was published."""
        return next((entry for entry in self.files.values() if entry.format == format_), None)


def is_below(folder: Path, path: Path) -> bool:
    """Return False if a symbolic link to another folder leads from `folder` to the folder of `path`."""
    return Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(folder))


def read_manifest(folder: str | os.PathLike[str], *, interrupted: bool = False) -> Manifest:
    """Read the manifest.json of `folder`. The files it lists are checked when they are read.

    Args:
        folder: Folder written by `mnist-export`.
        interrupted: Also accept the manifest of an interrupted export, which lists the files that may be there.

    Raises:
        FileMissingError, FileReadError: there is none, or it cannot be read.
        ManifestError: it is damaged, not ours, or of another schema.
    """
    path = Path(folder) / NAME
    data = read_whole(path, limit=SIZE_LIMIT, wanted="give a folder that mnist-export wrote")
    with _refusal(path):
        document = json.loads(data)
        schema, incomplete = document["schema"], document.get("incomplete", False)
    if incomplete and not interrupted:
        raise ManifestError(f"an export into {folder} was interrupted; {_EXPORT_AGAIN}")
    if schema != MANIFEST_SCHEMA:
        raise ManifestError(
            f"{path} has schema {schema!r}, and this version reads {MANIFEST_SCHEMA}; install the mnist-runtime that "
            f"goes with it, or {_EXPORT_AGAIN}"
        )
    with _refusal(path):
        files = {file: Entry.from_record(file, record) for file, record in sorted(document["files"].items())}
        return Manifest(Path(folder), _digest(document["checkpoint"]), files, document)


@contextlib.contextmanager
def _refusal(path: Path) -> Iterator[None]:
    """Translate the exceptions of a malformed document into ManifestError."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ManifestError(f"{path} is not a manifest of mnist-export ({reason}); {_EXPORT_AGAIN}") from error


def _digest(record: Mapping[str, Any]) -> str:
    digest = record["sha256"]
    if not _SHA256.fullmatch(digest):
        raise ValueError(f"{digest!r} is not a SHA-256")
    return str(digest)
