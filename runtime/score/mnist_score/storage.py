"""Files wherever PyArrow's filesystems reach, as Ray's do: the local disk, a shared mount, s3://, gs://, hdfs://."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
from pyarrow import fs

from mnist_runtime.errors import FileMissingError, FileReadError, FileWriteError, MnistRuntimeError
from mnist_runtime.io.files import publish

_TEMPORARY = ".mnist-score.tmp"


@dataclass(frozen=True)
class Place:
    """A file or folder, which may be there or not; names of files within it are relative paths with "/"."""

    filesystem: fs.FileSystem
    path: str
    """Absolute, in the filesystem's own terms."""

    @classmethod
    def at(cls, given: str) -> Self:
        """The place that a path or URI of the command line names.

        Raises:
            FileReadError: there is no such kind of URI, or the filesystem cannot be reached.
        """
        try:
            filesystem, path = fs.FileSystem.from_uri(given if "://" in given else str(Path(given).resolve()))
        except (pa.ArrowException, OSError, ImportError, ValueError, RuntimeError) as error:  # resolve's, of a loop
            raise FileReadError(
                f"{given} cannot be reached ({reason(error)}); give a path, or a URI such as s3://bucket/digits"
            ) from error
        return cls(filesystem, path.rstrip("/") or "/")

    @property
    def name(self) -> str:
        """What it is called in records: its kind and path, and none of a URI's credentials and options."""
        return f"{self.filesystem.type_name}://{self.path}"

    @property
    def parent(self) -> "Place":
        """The folder that it lies in."""
        return Place(self.filesystem, self.path.rpartition("/")[0])

    def file(self, name: str) -> str:
        """The path of a file within it."""
        return f"{self.path}/{name}"

    def overlaps(self, other: "Place") -> bool:
        """Whether one is the other, or lies in it."""
        ours, theirs = f"{self.path}/", f"{other.path}/"
        return self.filesystem == other.filesystem and (ours.startswith(theirs) or theirs.startswith(ours))

    def info(self) -> fs.FileInfo:
        """What stands there.

        Raises:
            FileReadError: nobody can tell.
        """
        try:
            return self.filesystem.get_file_info(self.path)
        except (pa.ArrowException, OSError) as error:
            raise FileReadError(f"{self.path} cannot be read ({reason(error)}); see that it can be reached") from error

    def files(self) -> dict[str, fs.FileInfo]:
        """Every file below it by its name, sorted; none if it is not there.

        Raises:
            FileReadError: they cannot be listed.
        """
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=True)
        try:
            found = self.filesystem.get_file_info(selector)
            files = [info for info in found if info.is_file]
            return {info.path[len(self.path) :].lstrip("/"): info for info in sorted(files, key=lambda info: info.path)}
        except UnicodeDecodeError as error:
            raise FileReadError(f"{self.path} holds {error.object!r}, a name that is no UTF-8; rename it") from error
        except (pa.ArrowException, OSError) as error:
            raise FileReadError(f"{self.path} cannot be listed ({reason(error)}); give a folder") from error

    def broken_links(self) -> list[str]:
        """The names of links below it that lead nowhere, or back to a folder that they lie in; on a disk alone.

        `files` passes over the former, and follows the latter round and round.
        """
        if not isinstance(self.filesystem, fs.LocalFileSystem):
            return []
        below = (Path(folder, name) for folder, folders, names in os.walk(self.path) for name in folders + names)
        return [path.relative_to(self.path).as_posix() for path in below if path.is_symlink() and _is_broken(path)]

    def open(self, name: str) -> pa.NativeFile:
        """Open a file within it for reading at any place.

        Raises:
            FileMissingError: it is not there.
        """
        try:
            return self.filesystem.open_input_file(self.file(name))
        except FileNotFoundError as error:
            raise FileMissingError(f"{self.file(name)} is not there (any more, or on this node)") from error

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[pa.NativeFile]:
        """Write a file within it that appears whole or not at all, under a temporary name of its own until then.

        On the local disk it is fsynced and renamed. An object store has no rename: there the whole object is copied
        to its name, which appears at once, and the temporary one is deleted.

        Raises:
            FileWriteError: it cannot be written, which any OSError of the block is taken for that is none of ours.
        """
        folder = self.file(name).rpartition("/")[0]
        temporary = f"{folder}/.{os.urandom(8).hex()}{_TEMPORARY}"  # without the name, which may be of the longest
        try:
            with _write_errors(self.file(name)):
                self.filesystem.create_dir(folder, recursive=True)
                with self.filesystem.open_output_stream(temporary) as sink:
                    yield sink
                if isinstance(self.filesystem, fs.LocalFileSystem):
                    publish(Path(temporary), Path(self.file(name)))
                else:
                    self.filesystem.move(temporary, self.file(name))
        except BaseException:
            with contextlib.suppress(OSError, pa.ArrowException):
                self.filesystem.delete_file(temporary)
            raise

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file within it.

        Raises:
            FileWriteError: it cannot be written.
        """
        with self.writing(name) as sink:
            sink.write(data)

    def create(self) -> None:
        """Make it a folder that can be written, if it is none yet.

        Raises:
            FileWriteError: that cannot be done.
        """
        probe = f".{os.urandom(8).hex()}{_TEMPORARY}"
        with _write_errors(self.path):
            self.filesystem.create_dir(self.path, recursive=True)
            try:
                with self.filesystem.open_output_stream(self.file(probe)) as sink:
                    sink.write(b"can be written")
            finally:
                with contextlib.suppress(FileNotFoundError):
                    self.filesystem.delete_file(self.file(probe))

    def remove(self, name: str) -> None:
        """Delete a file within it, unless somebody else has.

        Raises:
            FileWriteError: it cannot be deleted.
        """
        with _write_errors(self.file(name)), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.file(name))


@contextlib.contextmanager
def _write_errors(path: str) -> Iterator[None]:
    try:
        yield
    except MnistRuntimeError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise FileWriteError(f"cannot write {path} ({reason(error)}); choose another place for it") from error


def _is_broken(link: Path) -> bool:
    return not link.exists() or link.parent.resolve().is_relative_to(link.resolve())


def is_temporary(name: str) -> bool:
    """Whether a run that was killed has left this file behind."""
    return name.endswith(_TEMPORARY)


def reason(error: BaseException) -> str:
    """What an exception says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
