"""ZIP archives of arrays (.npz) or pictures; damage of any kind raises one error."""

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO
from zipfile import ZipFile

from mnist_runtime.errors import DigitError, MnistRuntimeError, first_line


@contextlib.contextmanager
def unzipped(file: BinaryIO | str | os.PathLike[str], name: str) -> Iterator[ZipFile]:
    """Open an archive; `name` is for errors.

    Raises:
        DigitError: it is damaged, encrypted, or compressed by a method that this Python lacks.
    """
    try:
        with ZipFile(file) as archive:
            yield archive
    except (MnistRuntimeError, MemoryError):
        raise
    except Exception as error:  # damage makes zipfile and its decompressors raise anything
        raise DigitError(
            f"{name} is not a .zip or .npz file that can be read ({first_line(error)}); copy or save it again"
        ) from error
