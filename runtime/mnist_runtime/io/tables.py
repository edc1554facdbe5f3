"""Tables of numbers as text (CSV): one digit per row, its label, or both.

Kaggle's files are `label,pixel0,...` or `pixel0,...` with a header; others are a label and 784 pixels without one.
"""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import PIXELS, Intensities, Pixels, as_digits
from mnist_runtime.errors import DigitError, first_line

_LINE_LIMIT = 2**16  # bytes; a label and 784 floats of 17 digits take 16,000
_ROWS = 2**16  # of labels, read at a time
_LABEL_LIMIT = 2**27  # labels; they take 1 GiB, and a gzipped megabyte can hold a billion
_LARGE = 2**31  # more than any label or intensity, and less than int64 holds
_LABELS = frozenset(["label", "labels", "class", "target", "digit", "y"])
"""Names of a column of labels, in lower case."""

_NUMBERED = [str(column) for column in range(PIXELS)]
"""Header that pandas gives columns without names."""


class StoredTable:
    """Rows of numbers of a text stream, which are read once."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        """Read the first line of `stream`, which is a header unless it consists of numbers; `name` is for errors.

        Raises:
            DigitError: the first line is not text, or too long.
        """
        self.name = name
        """Name of the stream, for errors."""
        self._lines = _lines(stream, name)
        first = next(self._lines, "")
        fields = [field.strip().strip("\"'").lower() for field in first.split(",")]
        self._columns = len(fields)
        self._label = next((index for index, field in enumerate(fields) if field in _LABELS), None)
        if all(map(_is_number, fields)) and fields != _NUMBERED:
            self._lines = chain([first], self._lines)
            self._label = 0 if self._columns == PIXELS + 1 else None
        if self._columns == 1:
            self._label = 0

    def chunks(self, count: int) -> Iterator[tuple[Intensities | Pixels, NDArray[np.int64] | None]]:
        """Read digits, checked by `as_digits`, with their labels if there are any, int64 `[n]`; `count` at a time.

        Raises:
            DigitError: a row is not 784 pixels of a digit, and perhaps its label.
        """
        if self._columns - (self._label is not None) != PIXELS:
            values = "1 value" if self._columns == 1 else f"{self._columns:,} values"
            raise DigitError(
                f"{self.name} is no table of digits: its first line has {values}, separated by commas, and "
                f'a digit has {PIXELS}, or a label and {PIXELS}; give the labels\' column the header "label"'
            )
        for rows in self._rows(count):
            if self._label is None:
                yield _digits(rows), None
            else:
                yield _digits(np.delete(rows, self._label, axis=1)), as_whole(rows[:, self._label], self.name)

    def labels(self) -> NDArray[np.int64]:
        """Read the labels alone: the only column, or the one whose header is in `_LABELS`.

        Raises:
            DigitError: there is no such column, the values are not whole numbers, or there are too many.
        """
        if self._label is None:
            raise DigitError(f'{self.name} has {self._columns:,} columns; give the labels\' column the header "label"')
        parts, count = [np.empty(0, np.int64)], 0
        for rows in self._rows(_ROWS):
            count += len(rows)
            if count > _LABEL_LIMIT:
                raise DigitError(
                    f"{self.name} has more than {_LABEL_LIMIT:,} labels; save them as .npy in smaller files"
                )
            parts.append(as_whole(rows[:, self._label], self.name))
        return np.concatenate(parts)

    def _rows(self, count: int) -> Iterator[NDArray[Any]]:
        """Parse at most `count` lines at a time: float64 if one has a decimal point, int64 otherwise."""
        start = 0
        while lines := list(islice(self._lines, count)):
            kind = np.float64 if any("." in line for line in lines) else np.int64
            try:
                rows = np.loadtxt(lines, kind, comments=None, delimiter=",", quotechar='"', ndmin=2)
            except (ValueError, OverflowError) as error:
                why, _, _ = first_line(error).partition("; use `usecols`")  # advice for callers of NumPy
                raise DigitError(
                    f"{self.name} is not a table of numbers (below row {start:,}: {why}); fix or drop that row"
                ) from error
            if rows.shape[1] != self._columns:
                raise DigitError(f"{self.name} has rows of {self._columns:,} and of {rows.shape[1]:,} values")
            yield rows
            start += len(lines)


def as_whole(values: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Return whole numbers, which may be written as floats, as int64.

    Raises:
        DigitError: a value is not whole.
    """
    if not ((np.floor(values) == values) & (np.abs(values) < _LARGE)).all():
        raise DigitError(f"{name} holds labels that are not whole numbers; labels are 0 to 9")
    return values.astype(np.int64)


def _digits(rows: NDArray[Any]) -> Intensities | Pixels:
    """Check digits; intensities 0 to 255 may be written as 84.0."""
    if rows.dtype == np.float64 and 1 < rows.max() < _LARGE and np.array_equal(rows, np.floor(rows)):
        rows = rows.astype(np.int64)
    return as_digits(rows)


def _lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """Read the lines that are not blank."""
    while line := stream.readline(_LINE_LIMIT):
        if len(line) == _LINE_LIMIT:
            raise DigitError(f"{name} has a line of more than {_LINE_LIMIT:,} bytes, and a digit takes fewer")
        try:
            text = line.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise DigitError(f"{name} is not a table of numbers ({error}); save it as CSV in UTF-8") from error
        if text:
            yield text


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
