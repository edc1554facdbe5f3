"""Publishing: the files of one export appear in a folder together, or the manifest says that they did not.

All paths are checked and all files staged first, so that an obstacle or a full disk changes nothing. Then
manifest.json is replaced by one marked `incomplete`, which every reader refuses; the files are renamed into place,
obsolete files are removed, and the new manifest is written last. A process that is killed in between leaves the old
files, the new files, or a manifest marked `incomplete`. A lock admits one exporter to a folder at a time.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mnist_export.errors import BusyError
from mnist_runtime.errors import FileReadError, FileWriteError, IntegrityError, ManifestError
from mnist_runtime.io.files import ensure_writable, staged, sweep, write_atomically, write_errors
from mnist_runtime.model.manifest import MANIFEST_SCHEMA, NAME, Manifest, is_below, read_manifest

LOCK = ".mnist-export.lock"
_TIMEOUT = 60.0  # seconds to wait for another exporter; publishing takes some hundredths of a second


@dataclass(frozen=True)
class File:
    """One file to publish."""

    name: str
    """Path within the folder, with "/"."""
    data: bytes
    record: Mapping[str, Any]
    """Entry of the manifest, without sha256 and size: format, input, parity..."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes, in hex."""
        return hashlib.sha256(self.data).hexdigest()


def publish(folder: str | os.PathLike[str], made_from: Mapping[str, Any], files: Iterable[File]) -> Manifest:
    """Publish `files` into `folder`, and keep the files of an earlier export that was made from the same checkpoint.

    Args:
        folder: Folder of the files and their manifest, made if missing.
        made_from: Fields of the manifest that all files share: at least `checkpoint`, with its `sha256`. Files of an
            earlier export stay listed if their fields are equal and their bytes intact; the others are removed.
        files: New files; an earlier file of the same name is replaced.

    Returns:
        The new manifest of the folder.

    Raises:
        FileWriteError: a file cannot be written, for example because a folder or a link out of `folder` is in its
            place; the sentence names the file.
        BusyError: another exporter has been publishing into `folder` for a minute.
    """
    folder = Path(folder)
    ensure_writable(folder)
    new = {file.name: file for file in files}
    records = {file.name: {**file.record, "sha256": file.sha256, "size": len(file.data)} for file in new.values()}
    with _alone(folder), ExitStack() as stack:
        before = _manifest_before(folder)
        known = before.document["files"] if before else {}
        kept = _kept(before, made_from) if before else {}
        old = [name for name in [NAME, *known] if is_below(folder, folder / name)]
        _check_places(folder, old, new)
        commits = [stack.enter_context(staged(folder / file.name, file.data)) for file in new.values()]
        _write(folder, {**made_from, "incomplete": True, "files": {**known, **records}})
        for commit in commits:
            commit()
        _sweep(folder, [*old, *new], keep={NAME, *kept, *new})
        _write(folder, {**made_from, "files": {**kept, **records}})
    return read_manifest(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other exporter is publishing into `folder`, and make others wait during the block."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=_TIMEOUT)
    except Timeout as error:
        raise BusyError(f"another mnist-export is publishing into {folder}; try again when it has ended") from error
    except OSError as error:
        raise FileWriteError(f"cannot lock {folder} ({error.strerror}); choose another folder") from error
    try:
        yield
    finally:
        lock.release()


def _manifest_before(folder: Path) -> Manifest | None:
    """Return the manifest of `folder`, complete or not; None if there is none that can be read."""
    try:
        return read_manifest(folder, interrupted=True)
    except (FileReadError, ManifestError):
        return None


def _kept(before: Manifest, made_from: Mapping[str, Any]) -> dict[str, Any]:
    """Return the records of the intact files of an earlier, complete export if it was made from the same."""
    records = dict(before.document)
    listed, _ = records.pop("files"), records.pop("schema")
    return {name: listed[name] for name in before.files if _is_intact(before, name)} if records == made_from else {}


def _is_intact(manifest: Manifest, name: str) -> bool:
    try:
        manifest.read(name)
    except (FileReadError, IntegrityError):
        return False
    return True


def _check_places(folder: Path, old: Iterable[str], new: Iterable[str]) -> None:
    """Check that `old` files can be removed from `folder` and `new` files written, before anything is changed.

    Raises:
        FileWriteError: a folder is in the place of a file, or a link leads out of `folder`.
    """
    for path in (folder / name for name in (*old, *new)):
        if path.is_dir() and not path.is_symlink():
            raise FileWriteError(f"cannot write {path}, because it is a folder; remove it, or choose another folder")
        if not is_below(folder, path):
            raise FileWriteError(f"cannot write {path}, because {path.parent} is a link out of {folder}; remove it")


def _sweep(folder: Path, names: Iterable[str], *, keep: Container[str]) -> None:
    """Remove the files of `names` that are not in `keep`, and the temporary files that killed exporters left."""
    for path in (folder / name for name in names):
        sweep(path)
        if path.relative_to(folder).as_posix() not in keep:
            with write_errors(path), contextlib.suppress(NotADirectoryError):
                path.unlink(missing_ok=True)


def _write(folder: Path, document: Mapping[str, Any]) -> None:
    text = json.dumps({"schema": MANIFEST_SCHEMA, **document}, indent=2, sort_keys=True) + "\n"
    write_atomically(folder / NAME, text.encode())
