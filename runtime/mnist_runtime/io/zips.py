"""ZIP archives, of arrays (.npz) or of pictures, whose damage is told in one sentence."""

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
        DigitError: it is damaged, encrypted, or compressed in a way that this Python does not know.
    """
    try:
        with ZipFile(file) as archive:
            yield archive
    except MnistRuntimeError:
        raise
    except Exception as error:  # zipfile and its decompressors raise whatever their parsing ran into
        raise DigitError(
            f"{name} is not a .zip or .npz file that can be read ({first_line(error)}); copy or save it again"
        ) from error
