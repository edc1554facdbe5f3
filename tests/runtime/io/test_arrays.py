"""Reading .npy and IDX files without trust."""

import gzip
import io
import os
import pickle
import struct

import numpy as np
import pytest

from mnist_runtime.digits import as_digits
from mnist_runtime.errors import DigitError, FileMissingError, MnistRuntimeError
from mnist_runtime.io.arrays import OtherArrayError, StoredArray


def npy(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def header(text: str) -> bytes:
    padded = text.encode() + b" " * (118 - len(text) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


@pytest.fixture(params=["file", "stream"])
def read(request, tmp_path):
    """Function that reads the array in some bytes, from a file or from a stream."""

    def read_file(data: bytes):
        path = tmp_path / "digit.npy"
        path.write_bytes(data)
        return StoredArray.open(path).array()

    return (
        read_file
        if request.param == "file"
        else lambda data: StoredArray.of_stream(io.BytesIO(data), "digit.npy").array()
    )


def test_a_saved_array_is_read_back(read, test_split):
    assert np.array_equal(read(npy(test_split.images[:7])), test_split.images[:7])


def test_fortran_order_is_refused_with_advice(read, test_split):
    with pytest.raises(DigitError, match=r"is in Fortran order; .*np\.ascontiguousarray") as refusal:
        read(npy(np.asfortranarray(test_split.images[:7])))
    assert not isinstance(refusal.value, OtherArrayError)
    with pytest.raises(OtherArrayError, match=r"the shape is \(3, 4\)"):
        read(npy(np.asfortranarray(np.eye(3, 4))))


def test_format_version_2_is_read_too(read, test_split):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, test_split.images[:2], version=(2, 0))
    assert np.array_equal(read(buffer.getvalue()), test_split.images[:2])


def test_an_empty_batch_is_read(read):
    assert read(npy(np.empty((0, 28, 28), np.uint8))).shape == (0, 28, 28)


@pytest.fixture(params=["file", "stream", "stream of known size"])
def digits_of(request, tmp_path):
    """Function that opens the array in some bytes, as a file, a stream, or a stream of known size."""

    def open_(data: bytes) -> StoredArray:
        if request.param == "file":
            (tmp_path / "digits.npy").write_bytes(data)
            return StoredArray.open(tmp_path / "digits.npy")
        return StoredArray.of_stream(io.BytesIO(data), "digits.npy", len(data) if "known" in request.param else None)

    return open_


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float64"])
def test_digits_are_read_in_checked_chunks(digits_of, test_split, dtype):
    array = test_split.images[:10].astype(dtype) / (256 if dtype == "float64" else 1)
    digits = digits_of(npy(array.astype(dtype)))
    assert len(digits) == 10
    chunks = list(digits.chunks(4))
    assert [chunk.shape for chunk in chunks] == [(4, 784), (4, 784), (2, 784)]
    assert chunks[0].dtype == np.float32 if dtype == "float64" else np.uint8
    assert np.array_equal(np.concatenate(chunks), as_digits(array.astype(dtype)))


def test_invalid_values_are_refused_once_their_chunk_is_read(digits_of):
    array = np.zeros((6, 784))
    array[5, 3] = 2
    chunks = digits_of(npy(array)).chunks(4)
    assert len(next(chunks)) == 4
    with pytest.raises(DigitError, match="these reach 2"):
        next(chunks)


def test_other_arrays_are_refused_by_their_header(digits_of):
    with pytest.raises(OtherArrayError, match=r"digits.npy: the shape is \(2, 32, 32\)"):
        len(digits_of(npy(np.zeros((2, 32, 32), np.uint8))))
    with pytest.raises(OtherArrayError, match=r"digits.npy: the dtype is complex64"):
        next(digits_of(npy(np.zeros((2, 784), np.complex64))).chunks(4))


def test_a_range_of_digits_is_read(tmp_path, test_split):
    np.save(tmp_path / "digits.npy", test_split.images)
    rows = StoredArray.open(tmp_path / "digits.npy").chunks(9, 7000, 7003)
    assert np.array_equal(next(rows), test_split.images[7000:7003].reshape(3, 784))


def test_a_stream_shorter_than_its_header_claims_is_refused(test_split):
    data = npy(test_split.images[:10])
    with pytest.raises(DigitError, match=r"digits.npy is cut short by 1 bytes"):
        StoredArray.of_stream(io.BytesIO(data), "digits.npy", len(data) - 1)
    chunks = StoredArray.of_stream(io.BytesIO(data[:-1]), "digits.npy").chunks(4)
    assert [len(next(chunks)), len(next(chunks))] == [4, 4]
    with pytest.raises(DigitError, match=r"digits.npy is cut short by 1 bytes"):
        next(chunks)


class Hostile:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize(
    ("encode", "sentence"),
    [
        (lambda hostile: npy(np.array([hostile], object), allow_pickle=True), "pickle"),
        (pickle.dumps, r"not a \.npy file"),
    ],
)
def test_a_pickle_is_refused_and_never_run(read, tmp_path, encode, sentence):
    data = encode(Hostile(tmp_path / "ran"))
    with pytest.raises(DigitError, match=sentence):
        read(data)
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
def test_a_false_header_is_refused(read, claim):
    with pytest.raises(DigitError):
        read(header(claim) + bytes(784))


def test_an_unknown_format_version_is_refused(read):
    with pytest.raises(DigitError, match=r"\(9, 0\)"):
        read(b"\x93NUMPY\x09\x00" + bytes(200))


def test_a_missing_file_is_a_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.npy does not exist") as refusal:
        StoredArray.open(tmp_path / "absent.npy")
    assert isinstance(refusal.value, FileMissingError)


def test_an_array_over_the_limit_is_refused(read, monkeypatch, test_split):
    monkeypatch.setattr("mnist_runtime.io.arrays._ARRAY_LIMIT", 500)
    with pytest.raises(DigitError, match=r"save it in smaller files"):
        read(npy(test_split.images[0]))


def idx(array: np.ndarray, code: int = 8) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def test_idx_files_are_read_too(read, digits_of, test_split):
    assert np.array_equal(read(idx(test_split.images[:7])), test_split.images[:7])
    assert np.array_equal(read(idx(test_split.labels[:7])), test_split.labels[:7])
    floats = (test_split.images[:7] / 256).astype(">f4")
    assert np.array_equal(np.concatenate(list(digits_of(idx(floats, 13)).chunks(4))), floats.reshape(7, 784))


def test_idx_cut_anywhere_or_with_a_false_header_is_refused(read, test_split):
    whole = idx(test_split.images[:2])
    for kept in (1, 3, 4, 7, 8, 12, 15, 16, 17, len(whole) - 1):
        with pytest.raises(DigitError):
            read(whole[:kept])
    for header in (b"\0\0\x08\x00", b"\0\0\x07\x03", b"\0\0\x08\x03" + b"\xff" * 12, b"\0\0\x08\xff" + b"\xff" * 1020):
        with pytest.raises(DigitError):
            read(header + bytes(784))


@pytest.mark.parametrize("write", [npy, idx])
def test_a_gzipped_file_of_one_or_more_members_is_read_from_any_digit(tmp_path, test_split, write):
    data = write(test_split.images[:100])
    (tmp_path / "digits.gz").write_bytes(gzip.compress(data[:5000]) + gzip.compress(data[5000:]))
    array = StoredArray.open(tmp_path / "digits.gz")
    assert np.array_equal(array.array(), test_split.images[:100])
    assert np.array_equal(next(array.chunks(9, 70, 73)), test_split.images[70:73].reshape(3, 784))


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:200] + b"\xff" * 9 + data[209:]])
def test_a_damaged_gzip_is_refused(tmp_path, test_split, damage):
    (tmp_path / "digits.gz").write_bytes(damage(gzip.compress(npy(test_split.images[:100]))))
    with pytest.raises(MnistRuntimeError, match=r"digits\.gz"):
        StoredArray.open(tmp_path / "digits.gz").array()
