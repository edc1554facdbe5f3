"""Bad input: any bytes give an answer or one of our errors, in bounded memory, and no pickle runs."""

import base64
import importlib.util
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mnist_runtime import Classifier, DigitError, MnistRuntimeError
from mnist_runtime.infer.inputs import Reading, chunks
from mnist_runtime.io.arrays import StoredArray
from mnist_runtime.model.comparison import Reference

CLASSIFIER = Classifier()
PROGRAM = Path(__file__).with_name("fuzz.py")

bounded = pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded with Linux's RLIMIT_AS and /proc")


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    """fuzz.py beside this file, as a module."""
    spec = importlib.util.spec_from_file_location("fuzz", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@bounded
def test_damaged_files_raise_only_our_errors_in_bounded_memory(tmp_path):
    command = [sys.executable, PROGRAM, "910"]  # 70 of each kind
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=110, check=False)
    assert result.returncode == 0, result.stderr.decode()[-2000:]
    assert b"DigitError" in result.stdout
    assert b"ArtifactError" in result.stdout
    assert b"Warning" not in result.stderr  # notes on suspicious arrays may be there
    assert not list(tmp_path.iterdir())


ANYTHING = st.one_of(
    npst.arrays(
        npst.scalar_dtypes(),
        st.one_of(st.sampled_from([(784,), (28, 28), (2, 784), (1, 1, 28, 28), (0, 784)]), npst.array_shapes()),
    ),
    st.lists(st.floats()),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(ANYTHING)
def test_any_object_is_answered_or_refused(thing):
    try:
        logits = CLASSIFIER.decision_function(thing)
    except MnistRuntimeError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert logits.shape == (np.asarray(thing).size // 784, 10)
        assert np.isfinite(logits).all()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=300).map(lambda rest: b"\x93NUMPY\x01\x00" + rest) | st.binary(max_size=100))
def test_any_bytes_are_a_npy_or_refused(data):
    try:
        StoredArray.of_stream(io.BytesIO(data), "stream").array()
    except DigitError as error:
        assert "\n" not in str(error)  # noqa: PT017


def claim(shape: str, descr: str = "|u1") -> bytes:
    """Return a .npy that ends after its header."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


def archive(member: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        for name in ("digits", "logits", "tolerance", "certified"):
            members.writestr(f"{name}.npy", member)
    return file.getvalue()


READERS = {
    "file": lambda data, path: StoredArray.open(path),
    "array": lambda data, path: StoredArray.of_stream(io.BytesIO(data), "stream").array(),
    "chunks": lambda data, path: list(StoredArray.of_stream(io.BytesIO(data), "stream").chunks(4096)),
    "mnist-infer": lambda data, path: list(chunks(str(path), Reading())),
    "npz": lambda data, path: path.write_bytes(archive(data)) and list(chunks(str(path), Reading())),
    "golden digits": lambda data, path: Reference.from_text(base64.b64encode(archive(data)).decode()),
}


@bounded
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("shape", ["(1000000000000, 784)", "(1000000000000, 28, 28)", "(9223372036854775807, 784)"])
def test_a_header_that_claims_a_trillion_rows_is_refused_before_allocation(fuzz, tmp_path, reader, shape):
    data, path = claim(shape), tmp_path / "huge.npy"
    path.write_bytes(data)
    with fuzz.bounded_memory(64 * 2**20), pytest.raises(ValueError, match=r".") as refusal:
        READERS[reader](data, path)
    assert not fuzz.ran_out_of_memory(refusal.value)


@bounded
@pytest.mark.parametrize("reader", READERS)
def test_a_header_that_claims_to_be_large_is_refused_before_allocation(fuzz, tmp_path, reader):
    path, size = tmp_path / "huge.npy", 2**27
    start = b"\x93NUMPY\x02\x00" + (size - 12).to_bytes(4, "little")
    path.write_bytes(start)
    with path.open("r+b") as file:
        file.truncate(size)  # sparse
    with fuzz.bounded_memory(64 * 2**20), pytest.raises(ValueError, match="claims more than") as refusal:
        READERS[reader](start, path)
    assert not fuzz.ran_out_of_memory(refusal.value)


@bounded
def test_the_bound_on_memory_holds_and_is_found_behind_our_errors(fuzz, tmp_path):
    with fuzz.bounded_memory(64 * 2**20), pytest.raises(MemoryError):
        bytearray(2**27)
    with fuzz.bounded_memory(2**20):
        assert not fuzz.ran_out_of_memory(ValueError())
        error = DigitError("too large")
        error.__cause__ = MemoryError()
        assert fuzz.ran_out_of_memory(error)
