"""Files of labels, in every format."""

import gzip
import io
import struct

import numpy as np
import pytest

from mnist_runtime.errors import DigitError, FileReadError
from mnist_runtime.io.labels import read_labels


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


IDX = struct.pack(">4BI", 0, 0, 8, 1, 3) + bytes([7, 2, 1])


@pytest.mark.parametrize("data", [npy(np.array([7, 2, 1])), npy(np.array([7, 2, 1], np.uint8)), IDX, b"7\n2\n1\n"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_labels_come_in_every_format(tmp_path, data, pack):
    (tmp_path / "y").write_bytes(pack(data))
    labels = read_labels(tmp_path / "y")
    assert (labels.dtype, labels.tolist()) == (np.int64, [7, 2, 1])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (npy(np.array(["7", "2"])), "holds <U1 and no numbers.*labels are whole numbers 0-9: give y.astype"),
        (npy(np.eye(10)), r"labels are whole numbers 0-9 of shape \(N,\); give y.argmax\(axis=1\)"),
        (npy(np.array([0.5])), r"labels are whole numbers 0-9 of shape \(N,\); convert with y.astype"),
        (npy(np.array([10])), "reaches from 10 to 10, and labels lie within 0-9"),
        (b"-1\n", "reaches from -1 to -1"),
        (b"PAR1\x15", "holds no labels; give labels as .npy, IDX, CSV"),
        (b"", "holds no labels"),
    ],
)
def test_other_files_are_refused_as_labels(tmp_path, data, sentence):
    (tmp_path / "y").write_bytes(data)
    with pytest.raises(DigitError, match=sentence):
        read_labels(tmp_path / "y")


def test_a_folder_is_refused_as_labels(tmp_path):
    with pytest.raises(FileReadError, match="give labels as"):
        read_labels(tmp_path)
