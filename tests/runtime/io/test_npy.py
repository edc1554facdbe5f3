"""Reading .npy files without trust."""

import io
import os
import pickle

import numpy as np
import pytest

from mnist_runtime.errors import DigitError, FileMissingError, FileReadError
from mnist_runtime.io.npy import open_npy, read_npy, stream_digits


def npy(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def header(text: str) -> bytes:
    padded = text.encode() + b" " * (118 - len(text) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


@pytest.fixture(params=["file", "stream"])
def read(request, tmp_path):
    """Both ways in, for bytes."""

    def read_file(data: bytes):
        path = tmp_path / "digit.npy"
        path.write_bytes(data)
        return open_npy(path)

    return read_file if request.param == "file" else lambda data: read_npy(io.BytesIO(data), "digit.npy")


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_comes_back_as_it_was_saved(read, test_split, order):
    digits = np.asarray(test_split.images[:7], order=order)
    assert np.array_equal(read(npy(digits)), digits)


def test_format_version_2_is_read_too(read, test_split):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, test_split.images[:2], version=(2, 0))
    assert np.array_equal(read(buffer.getvalue()), test_split.images[:2])


def test_an_empty_batch_is_read(read):
    assert read(npy(np.empty((0, 28, 28), np.uint8))).shape == (0, 28, 28)


def test_a_file_is_mapped_and_not_loaded(tmp_path, test_split):
    np.save(tmp_path / "digits.npy", test_split.images)
    assert isinstance(open_npy(tmp_path / "digits.npy").base, np.memmap)


def test_a_stream_of_known_size_is_read_in_chunks(test_split):
    data = npy(test_split.images[:10])
    count, chunks = stream_digits(io.BytesIO(data), len(data), "digits.npy", 4)
    assert count == 10
    chunks = list(chunks)
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    assert np.array_equal(np.concatenate(chunks), test_split.images[:10].reshape(10, 784))


@pytest.mark.parametrize(
    ("array", "missing", "sentence"),
    [
        (np.zeros((2, 784), np.uint8), 1, "digits.npy is cut short by 1 bytes"),
        (np.zeros((2, 32, 32), np.uint8), 0, r"digits.npy: the shape is \(2, 32, 32\)"),
        (np.zeros((2, 784), np.uint8, order="F"), 0, "digits.npy is in Fortran order"),
    ],
)
def test_a_stream_that_is_no_digits_is_refused_by_its_header(array, missing, sentence):
    data = npy(array)
    with pytest.raises(DigitError, match=sentence):
        stream_digits(io.BytesIO(data), len(data) - missing, "digits.npy", 4)


def test_a_stream_that_ends_early_is_told(test_split):
    data = npy(test_split.images[:10])
    _, chunks = stream_digits(io.BytesIO(data[:-1]), len(data), "digits.npy", 4)
    with pytest.raises(DigitError, match=r"digits.npy was cut short while it was read"):
        list(chunks)


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_pickle_in_a_npy_is_refused_and_never_run(read, tmp_path):
    data = npy(np.array([Hostile(tmp_path / "ran")], object), allow_pickle=True)
    with pytest.raises(DigitError, match="pickle"):
        read(data)
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_is_refused_and_never_run(read, tmp_path):
    with pytest.raises(DigitError, match=r"not a \.npy file"):
        read(pickle.dumps(Hostile(tmp_path / "ran")))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0, 1, 6, 9, 40, 127, 128, 500, 911])
def test_a_file_cut_anywhere_is_refused(read, test_split, kept):
    data = npy(test_split.images[0])
    assert len(data) == 912
    with pytest.raises(DigitError):
        read(data[:kept])


@pytest.mark.parametrize(
    "claim",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 784), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 99999999999999999999), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-784,), }",
        "{'descr': '|S0', 'fortran_order': False, 'shape': (784,), }",
        "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (0, 784), }",
        "{'descr': '|u1', 'fortran_order': False}",
        "{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (1,)}",
        "((((((((((((((((((((((((((((((((((((((((((",
    ],
)
def test_a_header_that_lies_is_refused(read, claim):
    with pytest.raises(DigitError):
        read(header(claim) + bytes(784))


def test_an_unknown_format_version_is_refused(read):
    with pytest.raises(DigitError, match=r"\(9, 0\)"):
        read(b"\x93NUMPY\x09\x00" + bytes(200))


def test_a_missing_file_is_a_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.npy does not exist") as refusal:
        open_npy(tmp_path / "absent.npy")
    assert isinstance(refusal.value, FileMissingError)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileReadError, match="is a folder"):
        open_npy(tmp_path)


def test_a_name_too_long_for_the_system_is_refused(tmp_path):
    with pytest.raises(FileReadError, match="cannot be read"):
        open_npy(tmp_path / ("x" * 300))


def test_a_stream_over_the_limit_is_refused(monkeypatch, test_split):
    monkeypatch.setattr("mnist_runtime.io.npy._STREAM_LIMIT", 500)
    with pytest.raises(DigitError, match=r"save it to a .npy file"):
        read_npy(io.BytesIO(npy(test_split.images[0])), "standard input")
