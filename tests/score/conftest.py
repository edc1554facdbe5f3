"""Fixtures of the tests that need no Ray: real digits, shards of them, and the plain runtime."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnist_runtime import Classifier
from mnist_train.data.bundled import load_split


@pytest.fixture(autouse=True)
def named_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the model, because mnist-score chooses none: the linear one, which is fast."""
    monkeypatch.setenv("MNIST_MODEL", "linear")


@pytest.fixture(scope="session")
def run(run: Callable[..., "subprocess.CompletedProcess[bytes]"]) -> Callable[..., Any]:
    """Run a command with the model named in its environment."""

    def run_named(command: str, *args: object, env: Mapping[str, str] | None = None, **options: object) -> Any:
        return run(command, *args, env={"MNIST_MODEL": "linear", **(env or {})}, **options)

    return run_named


@pytest.fixture(scope="session")
def real() -> np.ndarray:
    """All 70,000 digits of MNIST, uint8 `[70000, 28, 28]`."""
    return np.concatenate([load_split(name).images for name in ("train", "valid", "test")])


@pytest.fixture(scope="session")
def shifted(real) -> Callable[[int], np.ndarray]:
    """Function that moves the 70,000 digits by the k-th of 49 shifts of up to 3 pixels, uint8 `[70000, 784]`."""
    return lambda k: np.roll(real, (k % 7 - 3, k // 7 % 7 - 3), axis=(1, 2)).reshape(-1, 784)


@pytest.fixture(scope="session")
def column() -> Callable[..., pa.Array]:
    """Digits, uint8 `[n, 784]`, as a Parquet column of one of the accepted types."""

    def column(digits: np.ndarray, kind: pa.DataType | None = None) -> pa.Array:
        flat = np.ascontiguousarray(digits).reshape(-1)
        if kind is not None and pa.types.is_binary(kind):
            return column(digits).cast(kind)
        if kind is not None and pa.types.is_list(kind) and pa.types.is_list(kind.value_type):
            rows = pa.FixedSizeListArray.from_arrays(pa.array(flat), 28)
            return pa.FixedSizeListArray.from_arrays(rows, 28).cast(kind)
        if kind is None or pa.types.is_fixed_size_binary(kind):
            return pa.FixedSizeBinaryArray.from_buffers(pa.binary(784), len(digits), [None, pa.py_buffer(flat)])
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), 784).cast(kind)

    return column


@pytest.fixture(scope="session")
def write_shard(column) -> Callable[..., None]:
    """Write a Parquet shard of digits that are numbered from `first`."""

    def write(path: Path, digits: np.ndarray, first: int = 0, **options: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"number": pa.array(range(first, first + len(digits))), "pixels": column(digits)})
        pq.write_table(
            table, path, **{"use_dictionary": False, "compression": "lz4", "row_group_size": 20_000, **options}
        )

    return write


@pytest.fixture(scope="session")
def plain() -> Classifier:
    """The plain runtime as reference, with the linear model, which answers a million digits in seconds."""
    return Classifier("linear")
