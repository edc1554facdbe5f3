"""Tables of digits and labels in text."""

import io

import numpy as np
import pytest

from mnist_runtime.errors import DigitError
from mnist_runtime.io.tables import StoredTable


def table(text: str | bytes) -> StoredTable:
    return StoredTable(io.BytesIO(text.encode() if isinstance(text, str) else text), "digits.csv")


def csv(*columns: np.ndarray, header: str = "", field: str = "{}") -> str:
    rows = np.concatenate([column.reshape(len(column), -1) for column in columns], axis=1)
    return header + "".join(",".join(map(field.format, row)) + "\n" for row in rows.tolist())


PIXELS = ",".join(f"pixel{index}" for index in range(784))


@pytest.mark.parametrize("place", [0, 784, None])
@pytest.mark.parametrize("field", ["{}", "{}.0", '"{}"'])
def test_digits_are_read_with_the_labels_that_a_header_names(test_split, place, field):
    images, labels = test_split.images[:10].reshape(10, 784), test_split.labels[:10]
    columns = {0: (labels, images), 784: (images, labels), None: (images,)}[place]
    header = {0: f"Label,{PIXELS}\n", 784: f"{PIXELS},class\n", None: f"{PIXELS}\r\n"}[place]
    read = list(table(csv(*columns, header="\ufeff" + header, field=field)).chunks(4))
    assert [len(digits) for digits, _ in read] == [4, 4, 2]
    assert np.array_equal(np.concatenate([digits for digits, _ in read]), images)
    assert read[0][0].dtype == np.uint8
    if place is not None:
        assert np.array_equal(np.concatenate([found for _, found in read]), labels)


def test_without_a_header_785_columns_begin_with_the_label(test_split):
    images, labels = test_split.images[:3].reshape(3, 784), test_split.labels[:3]
    ((digits, found),) = table(csv(labels, images)).chunks(9)
    assert np.array_equal(digits, images)
    assert np.array_equal(found, labels)
    ((digits, found),) = table(csv(images / 256)).chunks(9)
    assert np.array_equal(digits, images / np.float32(256))
    assert found is None


@pytest.mark.parametrize("text", ["7\n2\n1", "label\n7\n2\n1\n", "ImageId,Label\n1,7\n2,2\n3,1\n", "7.0\n2.0\n\n1.0\n"])
def test_labels_are_read_alone_or_by_the_name_of_their_column(text):
    assert table(text).labels().tolist() == [7, 2, 1]


@pytest.mark.parametrize(
    ("read", "text", "sentence"),
    [
        ("digits", "{}", "its first line has 1 value, separated by commas, and a digit has 784"),
        ("digits", f"id,{PIXELS}\n", "its first line has 785 values"),
        ("digits", f"{PIXELS}\n" + ",".join(["300"] * 784), "integers must lie within 0-255"),
        ("digits", f"{PIXELS}\n" + ",".join(["0"] * 783 + ["x"]), "below row 0: could not convert string 'x'"),
        ("digits", f"{PIXELS}\n" + ",".join(["0"] * 783 + ["9" * 40]), "is not a table of numbers"),
        ("digits", f"{PIXELS}\n0,0", "has rows of 784 and of 2 values"),
        ("digits", "\n".join([PIXELS, ",".join(["0"] * 784), "0,0"]), "from 784 to 2 at row 2); fix or drop that row"),
        ("labels", "1,7\n2,2\n", "has 2 columns; give the labels' column the header"),
        ("labels", "7\nseven\n", "is not a table of numbers"),
        ("labels", "7\n1.5\n", "labels that are not whole numbers"),
        ("labels", "7\nnan\n", "is not a table of numbers"),
        ("labels", "7.0\nnan\n", "labels that are not whole numbers"),
        ("labels", "7\n" + "1" * 70_000, "a line of more than 65,536 bytes"),
        ("labels", b"7\n\xff\n", "is not a table of numbers"),
    ],
)
def test_other_tables_are_refused_in_one_sentence(read, text, sentence):
    with pytest.raises(DigitError) as refusal:
        list(table(text).chunks(9)) if read == "digits" else table(text).labels()
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_header_of_a_pandas_table_without_names_is_no_digit(test_split):
    images = test_split.images[:3].reshape(3, 784)
    ((digits, _),) = table(csv(images, header=",".join(map(str, range(784))) + "\n")).chunks(9)
    assert np.array_equal(digits, images)


def test_labels_are_read_up_to_a_limit(monkeypatch):
    monkeypatch.setattr("mnist_runtime.io.tables._LABEL_LIMIT", 9)
    monkeypatch.setattr("mnist_runtime.io.tables._ROWS", 4)
    assert len(table("7\n" * 9).labels()) == 9
    with pytest.raises(DigitError, match="has more than 9 labels"):
        table("7\n" * 12 + "never read\n").labels()


def test_a_table_without_rows_has_no_digits():
    assert list(table(PIXELS).chunks(9)) == []
    assert table("label\n").labels().tolist() == []
