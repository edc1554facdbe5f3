"""The rows of a shard, batch by batch: pixels for the classifier, and the other columns, which are copied."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mnist_runtime.digits import PIXELS, Intensities, Pixels
from mnist_runtime.errors import DigitError, FileReadError, first_line
from mnist_runtime.io.npy import Npy
from mnist_score.storage import Place

BATCH = 4096
"""Digits per batch: 3 MiB of uint8."""

COLUMN = "pixels"
"""Name of the column of digits in a Parquet shard."""

_BUFFER = 2**23  # bytes of a column per read, so that memory does not grow with the size of row groups
_WANTED = f"fixed_size_binary({PIXELS}) or a list of {PIXELS} uint8"

Batches: TypeAlias = Iterator[tuple[Intensities | Pixels, list[pa.Array]]]


@dataclass(frozen=True)
class Rows:
    """Contents of a shard."""

    count: int
    """Number of digits."""
    schema: pa.Schema
    """Schema of the columns other than the pixels."""
    batches: Batches
    """Checked digits, uint8 or float32 `[n, 784]`, and the other columns, at most `BATCH` rows at a time, in order."""


@contextlib.contextmanager
def open_rows(folder: Place, name: str) -> Iterator[Rows]:
    """Open the shard `name` of `folder`; at most a batch, or a compressed page, is in memory.

    Raises:
        FileMissingError: the shard does not exist.
        DigitError: the shard holds no digits; a batch may raise this too.
        OSError, ArrowException: the shard is damaged; a batch raises FileReadError.
    """
    with folder.open(name) as file:
        if name.endswith(".npy"):
            npy = Npy.of_stream(file, name, file.size())
            count = len(npy)
            yield Rows(count, pa.schema([]), _reading(((digits, []) for digits in npy.chunks(BATCH)), name))
            return
        with pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True) as parquet:
            yield _of_parquet(parquet, name)


def _reading(batches: Batches, name: str) -> Batches:
    """Pass batches on; name the shard in errors, which would be taken for errors of writing the answers."""
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise FileReadError(
            f"{name} cannot be read ({first_line(error)}); fix it, and the next run tries it again"
        ) from error


def _of_parquet(parquet: pq.ParquetFile, name: str) -> Rows:
    schema = parquet.schema_arrow
    if (count := schema.names.count(COLUMN)) != 1:
        found = f"{count} columns" if count else "no column"
        raise DigitError(
            f"{name} has {found} {COLUMN} ({', '.join(schema.names)}); give the column of the digits that name"
        )
    at = schema.get_field_index(COLUMN)

    def batches() -> Batches:
        for batch in parquet.iter_batches(BATCH, use_threads=False):
            columns = batch.columns
            yield _pixels(columns.pop(at), name), columns

    return Rows(parquet.metadata.num_rows, schema.remove(at).remove_metadata(), _reading(batches(), name))


def _pixels(column: pa.Array, name: str) -> Intensities:
    """View a column of digits as uint8 `[n, 784]`."""
    if isinstance(column, pa.ExtensionArray):  # such as tensors of 28x28, which are stored as lists
        column = column.storage
    kind = column.type
    if column.null_count:
        raise DigitError(f"{name} has {column.null_count:,} rows whose {COLUMN} are null; drop them")
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == PIXELS:
        flat = column.buffers()[1]
        return np.frombuffer(flat or b"", np.uint8, len(column) * PIXELS, column.offset * PIXELS).reshape(-1, PIXELS)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or kind.value_type != pa.uint8():
        raise DigitError(f"{name} has {COLUMN} of type {kind}, and {_WANTED} is wanted; convert them")
    lengths = pc.min_max(pc.list_value_length(column)).as_py()
    if len(column) and set(lengths.values()) != {PIXELS}:
        odd = lengths["min"] if lengths["min"] != PIXELS else lengths["max"]
        raise DigitError(f"{name} has a row of {odd:,} {COLUMN}, and a digit has {PIXELS}; fix or drop that row")
    values = column.flatten()
    if values.null_count:
        raise DigitError(f"{name} has {values.null_count:,} {COLUMN} that are null; fix or drop those rows")
    digits: Intensities = values.to_numpy().reshape(-1, PIXELS)
    return digits
