"""Files on the filesystems that PyArrow reaches, as Ray does: the local disk, a shared mount, s3://, gs://, hdfs://."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
from pyarrow import fs

from mnist_runtime.errors import FileMissingError, FileReadError, FileWriteError, MnistRuntimeError, first_line
from mnist_runtime.io.files import publish

_TEMPORARY = ".mnist-score.tmp"


@dataclass(frozen=True)
class Place:
    """A file or folder that may exist or not; files below it are named by relative paths with "/".

    Methods that read raise FileReadError, or FileMissingError; methods that write raise FileWriteError.
    """

    filesystem: fs.FileSystem
    path: str
    """Absolute path, in the filesystem's own notation."""

    @classmethod
    def at(cls, given: str) -> Self:
        """Return the place that a path or URI of the command line names."""
        try:
            filesystem, path = fs.FileSystem.from_uri(given if "://" in given else str(Path(given).resolve()))
        except (pa.ArrowException, OSError, ImportError, ValueError, RuntimeError) as error:  # resolve's, of a loop
            raise FileReadError(
                f"{given} cannot be reached ({first_line(error)}); give a path, or a URI such as s3://bucket/digits"
            ) from error
        return cls(filesystem, path.rstrip("/") or "/")

    @property
    def name(self) -> str:
        """Name of the place in records, `kind://path`, without a URI's credentials and options."""
        return f"{self.filesystem.type_name}://{self.path}"

    @property
    def is_local(self) -> bool:
        """True if the place is on the local disk, or on a mounted file system."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def parent(self) -> "Place":
        """Folder of the place."""
        return Place(self.filesystem, self.path.rpartition("/")[0])

    def file(self, name: str) -> str:
        """Return the path of a file below the place."""
        return f"{self.path}/{name}"

    def overlaps(self, other: "Place") -> bool:
        """Return True if one place is the other, or lies below it."""
        ours, theirs = f"{self.path}/", f"{other.path}/"
        return self.filesystem == other.filesystem and (ours.startswith(theirs) or theirs.startswith(ours))

    def info(self) -> fs.FileInfo:
        """Return the type and size of the place itself."""
        try:
            return self.filesystem.get_file_info(self.path)
        except (pa.ArrowException, OSError) as error:
            raise FileReadError(f"{self.path} cannot be read ({first_line(error)}); check the path") from error

    def entries(self) -> dict[str, fs.FileInfo]:
        """Return everything below the place by its name, sorted; nothing if the place does not exist."""
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=True)
        try:
            found = sorted(self.filesystem.get_file_info(selector), key=lambda info: info.path)
            return {info.path[len(self.path) :].lstrip("/"): info for info in found}
        except UnicodeDecodeError as error:
            raise FileReadError(f"{self.path} holds {error.object!r}, whose name is not UTF-8; rename it") from error
        except (pa.ArrowException, OSError) as error:
            raise FileReadError(f"{self.path} cannot be listed ({first_line(error)}); give a folder") from error

    def files(self) -> list[str]:
        """Return the names of all files below the place, sorted."""
        return [name for name, info in self.entries().items() if info.is_file]

    def open(self, name: str) -> pa.NativeFile:
        """Open a file below the place for random access."""
        try:
            return self.filesystem.open_input_file(self.file(name))
        except FileNotFoundError as error:
            raise FileMissingError(
                f"{self.file(name)} does not exist (any more, or on this node); all nodes must share this folder"
            ) from error

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[pa.NativeFile]:
        """Write a file below the place that appears whole or not at all, under a temporary name until then.

        On the local disk the file is fsynced and renamed. An object store has no rename: the finished object is copied
        to its name, where it appears whole, and the temporary object is deleted. OSErrors of the block become
        FileWriteError.
        """
        folder = self.file(name).rpartition("/")[0]
        temporary = f"{folder}/.{os.urandom(8).hex()}{_TEMPORARY}"  # without `name`, which may have the largest length
        try:
            with _write_errors(self.file(name)):
                self.filesystem.create_dir(folder, recursive=True)
                with self.filesystem.open_output_stream(temporary) as sink:
                    yield sink
                if self.is_local:
                    publish(Path(temporary), Path(self.file(name)))
                else:
                    self.filesystem.move(temporary, self.file(name))
        except BaseException:
            with contextlib.suppress(OSError, pa.ArrowException):
                self.filesystem.delete_file(temporary)
            raise

    def create(self) -> None:
        """Create the place as a folder if it does not exist, and check that it can be written."""
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
        """Delete a file below the place, unless somebody else has."""
        with _write_errors(self.file(name)), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.file(name))


@contextlib.contextmanager
def _write_errors(path: str) -> Iterator[None]:
    try:
        yield
    except MnistRuntimeError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise FileWriteError(f"cannot write {path} ({first_line(error)}); choose another place for it") from error


def is_temporary(name: str) -> bool:
    """Return True if `name` is that of an unfinished file, which a killed run may have left."""
    return name.endswith(_TEMPORARY)
