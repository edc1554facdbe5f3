"""The rows of a shard, batch by batch: pixels for the classifier, and the other columns, which are copied."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mnist_runtime.digits import HEIGHT, PIXELS, UPRIGHT, WIDTH, Intensities, Orientation, Pixels, as_digits
from mnist_runtime.errors import DigitError, FileReadError, first_line, printable
from mnist_runtime.io.arrays import StoredArray
from mnist_runtime.io.formats import recognise
from mnist_score.storage import Place

BATCH = 4096
"""Digits per batch: 3 MiB of uint8."""

COLUMNS = ("pixels", "image")
"""Names of the column of digits in a Parquet shard: ours, and that of Hugging Face's data sets."""

_BUFFER = 2**23  # bytes of a column per read, so that memory does not grow with the size of row groups
_PICTURES = 64  # rows per batch of pictures, each of which may take megabytes
_SHOWN = 3  # names of columns in a sentence
_WANTED = f"pictures, {PIXELS} bytes or a list of {PIXELS} numbers per row"

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
def open_rows(folder: Place, name: str, orientation: Orientation = UPRIGHT) -> Iterator[Rows]:
    """Open the shard `name` of `folder`; at most a batch, or a compressed page, is in memory.

    Arrays, and pictures of 28x28, are turned by `orientation`.

    Raises:
        FileMissingError: the shard does not exist.
        DigitError: the shard holds no digits; a batch may raise this too.
        OSError, ArrowException: the shard is damaged; a damaged batch raises FileReadError.
    """
    with folder.open(name) as file:
        if name.endswith(".npy"):
            array = StoredArray.of_stream(file, name, file.size())
            count = len(array)
            batches: Batches = ((orientation.turned(digits), []) for digits in array.chunks(BATCH))
            yield Rows(count, pa.schema([]), _reading(batches, name))
            return
        with pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True) as parquet:
            yield _of_parquet(parquet, name, orientation)


def _reading(batches: Batches, name: str) -> Batches:
    """Translate errors into FileReadError, because the caller takes an OSError for one of writing the answers."""
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise FileReadError(
            f"{name} cannot be read ({first_line(error)}); fix it, and the next run tries it again"
        ) from error


def _of_parquet(parquet: pq.ParquetFile, name: str, orientation: Orientation) -> Rows:
    schema = parquet.schema_arrow
    at = _column(schema, name)
    kind = schema.field(at).type
    is_picture = pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    count = _PICTURES if is_picture else BATCH

    def batches() -> Batches:
        for batch in parquet.iter_batches(count, use_threads=False):
            columns = batch.columns
            yield _pixels(columns.pop(at), f"{name}:{schema.names[at]}", orientation), columns

    rest = schema.remove(at).remove_metadata()
    if "label" in rest.names and "true_label" not in rest.names:  # the answers have a column label
        rest = rest.set(rest.get_field_index("label"), rest.field("label").with_name("true_label"))
    return Rows(parquet.metadata.num_rows, rest, _reading(batches(), name))


def _column(schema: pa.Schema, name: str) -> int:
    """Return the index of the column of digits."""
    found = next((column for column in COLUMNS if column in schema.names), COLUMNS[0])
    if (count := schema.names.count(found)) != 1:
        shown = ", ".join(schema.names[:_SHOWN]) + (", ..." if len(schema.names) > _SHOWN else "")
        has = f"{count} columns" if count else "no column"
        raise DigitError(
            f"{name} has {has} {found} among its {len(schema.names):,} ({printable(shown)}); give each row one column "
            f"{COLUMNS[0]} that holds a digit: {_WANTED}"
        )
    return int(schema.get_field_index(found))


def _pixels(column: pa.Array, name: str, orientation: Orientation) -> Intensities | Pixels:
    """Check a column of digits, and return them, turned, as uint8 or float32 `[n, 784]`."""
    if isinstance(column, pa.ExtensionArray):  # such as tensors of 28x28, which are stored as lists
        column = column.storage
    if pa.types.is_struct(column.type) and "bytes" in column.type.names:  # Hugging Face's Image: {bytes, path}
        column = column.field("bytes")
    kind = column.type
    if column.null_count:
        raise DigitError(f"{name} has {column.null_count:,} rows that are null; drop them")
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == PIXELS:
        flat = column.buffers()[1]
        digits = np.frombuffer(flat or b"", np.uint8, len(column) * PIXELS, column.offset * PIXELS)
        return orientation.turned(digits.reshape(-1, PIXELS))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        each = [_of_bytes(value.as_py(), name, orientation) for value in column]
        return np.concatenate([np.empty((0, PIXELS), np.uint8), *each])
    values, size = _flattened(column, name)
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)) or values.type == kind:
        raise DigitError(f"{name} is of type {kind}, and {_WANTED} is wanted; convert it")
    if size != PIXELS:
        raise DigitError(f"{name} has a row of {size:,} values, and a digit has {PIXELS}; fix or drop that row")
    if values.null_count:
        raise DigitError(f"{name} has {values.null_count:,} pixels that are null; fix or drop those rows")
    try:
        return orientation.turned(as_digits(values.to_numpy().reshape(-1, PIXELS)))
    except DigitError as error:
        raise DigitError(f"{name}: {error}") from error


def _of_bytes(data: bytes, name: str, orientation: Orientation) -> Intensities | Pixels:
    """Read 784 raw intensities, or a picture, as uint8 `[1, 784]`; the pixels of a 28x28 picture are intensities."""
    if len(data) == PIXELS and recognise(data) != "image":
        return orientation.turned(np.frombuffer(data, np.uint8).reshape(1, PIXELS))
    from mnist_runtime.io.images import normalise
    from mnist_runtime.io.images.decode import decode

    grey = decode(data, name)
    if grey.shape == (HEIGHT, WIDTH):
        return orientation.turned(grey.reshape(1, PIXELS))
    return normalise(grey, name).reshape(1, PIXELS)


def _flattened(column: pa.Array, name: str) -> tuple[pa.Array, int]:
    """Return the values of lists, nested or not, and the number of values per row."""
    size, rows = 1, len(column)
    while isinstance(column.type, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        lengths = pc.min_max(pc.list_value_length(column)).as_py()
        if len(column) and lengths["min"] != lengths["max"]:
            odd = lengths["min"] if lengths["min"] != PIXELS else lengths["max"]
            raise DigitError(f"{name} has a row of {odd:,} values, and a digit has {PIXELS}; fix or drop that row")
        size *= lengths["min"] or 0
        column = column.flatten()
    return column, size if rows else PIXELS
