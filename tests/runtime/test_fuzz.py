"""Bad input: whatever the bytes, one of our errors or an answer, in bounded memory, and no pickle runs."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mnist_runtime import Classifier, DigitError, MnistRuntimeError
from mnist_runtime.npy import NpyFile, open_npy, read_npy

CLASSIFIER = Classifier()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded with Linux's /proc")
def test_damaged_files_raise_our_errors_only_in_bounded_memory():
    program = Path(__file__).with_name("fuzz.py")
    result = subprocess.run([sys.executable, program, "600"], capture_output=True, timeout=110, check=False)
    assert result.returncode == 0, result.stderr.decode()[-2000:]
    assert b"DigitError" in result.stdout


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
        read_npy(io.BytesIO(data), "stream")
    except DigitError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("shape", ["(1000000000000, 784)", "(1000000000000, 28, 28)", "(9223372036854775807, 784)"])
def test_a_file_that_claims_a_million_million_rows_is_refused_before_allocation(tmp_path, shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "huge.npy").write_bytes(data)
    for refuse in (open_npy, NpyFile.open):
        with pytest.raises(DigitError):
            refuse(tmp_path / "huge.npy")
    with pytest.raises(DigitError):
        read_npy(io.BytesIO(data), "stream")
