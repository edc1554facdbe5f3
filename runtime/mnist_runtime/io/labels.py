"""Files of labels: .npy, IDX, CSV or one label per line of text, gzipped or not."""

import os

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import CLASSES
from mnist_runtime.errors import DigitError
from mnist_runtime.io.arrays import OtherArrayError, StoredArray
from mnist_runtime.io.files import decompressed, open_regular
from mnist_runtime.io.formats import recognise
from mnist_runtime.io.tables import StoredTable

_WANTED = "give labels as .npy, IDX, CSV, or one per line of text"


def read_labels(path: str | os.PathLike[str]) -> NDArray[np.int64]:
    """Read true labels, whole numbers 0-9 `[N]`, as int64.

    Raises:
        FileMissingError, FileReadError: the file is missing, or cannot be read.
        DigitError: it holds no labels.
    """
    with open_regular(path, _WANTED) as file:
        stream = decompressed(file)
        kind = recognise(stream.peek())
        if kind == "text":
            labels = StoredTable(stream, str(path)).labels()
        elif kind == "array":
            try:
                labels = _of_array(StoredArray.of_stream(stream, str(path)))
            except OtherArrayError as error:
                raise DigitError(f"{error}; labels are whole numbers 0-9: give y.astype(np.uint8)") from error
        else:
            raise DigitError(f"{path} holds no labels; {_WANTED}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(CLASSES)):
        raise DigitError(f"{path} reaches from {labels.min()} to {labels.max()}, and labels lie within 0-9")
    return labels


def _of_array(array: StoredArray) -> NDArray[np.int64]:
    if len(array.shape) == 1 and array.dtype.kind in "ui":
        return array.array().astype(np.int64)
    advice = "give y.argmax(axis=1)" if array.shape[1:] == (len(CLASSES),) else "convert with y.astype(np.uint8)"
    raise DigitError(
        f"{array.name} holds {array.dtype} {array.shape}, and labels are whole numbers 0-9 of shape (N,); {advice}"
    )
