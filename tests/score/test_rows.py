"""Rows of shards: every layout of pixels is read, and shards without digits are refused."""

import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mnist_runtime import DigitError, FileMissingError
from mnist_runtime.digits import Orientation
from mnist_score.rows import BATCH, open_rows
from mnist_score.storage import Place


@pytest.fixture
def folder(tmp_path):
    return Place.at(str(tmp_path))


def read(folder, name):
    with open_rows(folder, name) as rows:
        pixels, columns = zip(*rows.batches, strict=True)
        return rows, np.concatenate(pixels), columns


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.binary(784), pa.list_(pa.uint8()), pa.large_list(pa.uint8()), pa.list_(pa.uint8(), 784)),
        *(pa.binary(), pa.list_(pa.int64()), pa.list_(pa.list_(pa.int32()))),
    ],
    ids=["fixed_size_binary", "list", "large_list", "fixed_size_list", "binary", "list_int64", "nested"],
)
def test_every_layout_of_pixels_is_read_with_the_columns_beside_them(folder, tmp_path, real, kind, column):
    digits = real[:5000].reshape(-1, 784)
    table = pa.table({"name": [str(i) for i in range(5000)], "pixels": column(digits, kind), "year": range(5000)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3000)
    rows, pixels, columns = read(folder, "a.parquet")
    assert rows.count == 5000
    assert rows.schema.names == ["name", "year"]
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, digits)
    assert max(len(names) for names, _ in columns) <= BATCH
    assert [name for names, _ in columns for name in names.to_pylist()] == table["name"].to_pylist()


def test_tensors_of_ray_and_arrow_are_read(folder, tmp_path, real):
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(real[:100]))
    pq.write_table(pa.table({"pixels": tensors}), tmp_path / "a.parquet")
    assert np.array_equal(read(folder, "a.parquet")[1], real[:100].reshape(-1, 784))


def png(digit):
    file = io.BytesIO()
    Image.fromarray(digit).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_pictures_which_may_be_large_are_read_few_at_a_time(folder, tmp_path, real, kind):
    pq.write_table(pa.table({"image": pa.array(map(png, real[:200]), kind)}), tmp_path / "a.parquet")
    with open_rows(folder, "a.parquet") as rows:
        assert [len(pixels) for pixels, _ in rows.batches] == [64, 64, 64, 8]


def test_the_pictures_of_hugging_face_are_read_and_keep_their_label(folder, tmp_path, real):
    pictures = [{"bytes": png(digit), "path": None} for digit in real[:200]]
    pq.write_table(pa.table({"image": pictures, "label": list(range(200))}), tmp_path / "a.parquet")
    rows, pixels, columns = read(folder, "a.parquet")
    assert rows.schema.names == ["true_label"]
    assert np.array_equal(pixels, real[:200].reshape(200, 784))
    assert [label for (labels,) in columns for label in labels.to_pylist()] == list(range(200))


@pytest.mark.parametrize("shape", [(-1, 784), (-1, 28, 28), (-1, 1, 28, 28)])
@pytest.mark.parametrize("scale", [None, 256], ids=["uint8", "float32"])
def test_an_npy_is_read_in_any_shape_and_dtype_of_digits(folder, tmp_path, real, shape, scale):
    digits = real[:5000].reshape(shape)
    np.save(tmp_path / "a.npy", digits if scale is None else (digits / np.float32(scale)).astype(np.float32))
    rows, pixels, columns = read(folder, "a.npy")
    assert rows.count == 5000
    assert rows.schema.names == []
    assert set(map(len, columns)) == {0}
    assert np.array_equal(pixels * (scale or 1), digits.reshape(-1, 784))


def test_arrays_and_pictures_of_28_by_28_are_turned(folder, tmp_path, real, column):
    digits, pictures = real[:200].reshape(-1, 784), []
    turned = 255 - real[:200].transpose(0, 2, 1)
    for digit in turned:
        file = io.BytesIO()
        Image.fromarray(digit).save(file, "png")
        pictures.append(file.getvalue())
    flat = np.ascontiguousarray(turned).reshape(-1, 784)
    kinds = [pa.binary(784), pa.binary(), pa.list_(pa.int64())]
    for cells in (pictures, *(column(flat, kind) for kind in kinds)):
        pq.write_table(pa.table({"pixels": cells}), tmp_path / "a.parquet")
        with open_rows(folder, "a.parquet", Orientation(invert=True, transpose=True)) as rows:
            assert np.array_equal(np.concatenate([pixels for pixels, _ in rows.batches]), digits)
    np.save(tmp_path / "a.npy", turned)
    with open_rows(folder, "a.npy", Orientation(invert=True, transpose=True)) as rows:
        assert np.array_equal(np.concatenate([pixels for pixels, _ in rows.batches]), digits)


def parquet(**columns) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


BLANK = [0] * 784
TWICE = parquet(pixels=[1], pixel5=[2]).replace(b"pixel5", b"pixels")


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        (
            "a.parquet",
            parquet(picture=[1], label=[2]),
            "a.parquet has no column pixels among its 2 (picture, label); give",
        ),
        ("a.parquet", parquet(image=[1], label=[2]), "a.parquet:image is of type int64, and pictures, 784 bytes or"),
        ("a.parquet", TWICE, "a.parquet has 2 columns pixels among its 2 (pixels, pixels); give"),
        (
            "a.parquet",
            parquet(**{f"pixel{index}": [0] for index in range(784)}),
            "a.parquet has no column pixels among its 784 (pixel0, pixel1, pixel2, ...); give each row",
        ),
        (
            "a.parquet",
            parquet(pixels=["seven"]),
            "pixels is of type string, and pictures, 784 bytes or a list of 784 numbers per row is wanted",
        ),
        ("a.parquet", parquet(pixels=pa.array([b"x"], pa.binary(1))), "pixels is of type fixed_size_binary[1]"),
        ("a.parquet", parquet(pixels=[[7.5] * 784]), "floats must lie within [0, 1]"),
        ("a.parquet", parquet(pixels=[[300] * 784]), "integers must lie within 0-255"),
        ("a.parquet", parquet(pixels=[["x"] * 784]), "pixels is of type list<element: string>"),
        ("a.parquet", parquet(pixels=pa.array([[], []], pa.list_(pa.uint8()))), "a row of 0 values, and"),
        ("a.parquet", parquet(image=[{"bytes": b"no picture", "path": "x"}]), "a.parquet:image"),
        ("a.parquet", parquet(image=[{"bytes": None, "path": "x"}]), "1 rows that are null"),
        ("a.parquet", parquet(pixels=pa.array([BLANK, None], pa.list_(pa.uint8()))), "1 rows that are null"),
        ("a.parquet", parquet(pixels=pa.array([BLANK, BLANK[1:]], pa.list_(pa.uint8()))), "a row of 783 values, and"),
        ("a.parquet", parquet(pixels=pa.array([BLANK, [0, *BLANK]], pa.list_(pa.uint8()))), "a row of 785 values, "),
        ("a.parquet", parquet(pixels=pa.array([[None, *BLANK[1:]]], pa.list_(pa.uint8()))), "1 pixels that are null"),
        ("a.npy", npy(np.zeros((2, 32, 32), np.uint8)), "the shape is (2, 32, 32), and digits are"),
        ("a.npy", npy(np.zeros((2, 784), np.uint8))[:-1], "cut short by 1 bytes"),
        ("a.npy", npy(np.zeros((2, 784), np.uint8, order="F")), "in Fortran order; save it again"),
        ("a.npy", npy(np.array([{}], object)), "pickled Python objects, which are never loaded"),
        ("a.npy", b"no array", "is not a .npy file"),
    ],
)
def test_shards_without_digits_are_refused_in_one_sentence(folder, tmp_path, name, data, sentence):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DigitError, match=re.escape(sentence)) as refusal:
        read(folder, name)
    assert str(refusal.value).startswith("a.")
    assert "\n" not in str(refusal.value)


def test_a_shard_that_does_not_exist_is_named_by_its_path(folder, tmp_path):
    with pytest.raises(FileMissingError, match=re.escape(f"{tmp_path}/a.npy does not exist")):
        read(folder, "a.npy")


@pytest.mark.parametrize("name", ["a.parquet", "a.npy"])
def test_an_empty_shard_has_no_batches(folder, tmp_path, name):
    none = pa.array([], pa.binary(784))
    (tmp_path / name).write_bytes(npy(np.empty((0, 784), np.uint8)) if name == "a.npy" else parquet(pixels=none))
    with open_rows(folder, name) as rows:
        assert rows.count == 0
        assert sum(len(pixels) for pixels, _ in rows.batches) == 0


def test_an_npy_that_shrinks_while_it_is_read_is_refused(folder, tmp_path, real):
    np.save(tmp_path / "a.npy", real[:10_000])
    with open_rows(folder, "a.npy") as rows:
        next(rows.batches)
        with (tmp_path / "a.npy").open("r+b") as file:
            file.truncate(5000 * 784)
        with pytest.raises(DigitError, match="is cut short by"):
            list(rows.batches)
