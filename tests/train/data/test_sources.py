"""Data sources: every format of the same digits gives the same data set, and anything else is refused in a sentence."""

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from mnist_runtime.errors import DigitError, FileReadError, MnistRuntimeError
from mnist_train.data.bundled import DIGESTS
from mnist_train.data.sources import open_source
from mnist_train.errors import DataError


def write_idx(path: Path, array: np.ndarray) -> None:
    data = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)


@pytest.fixture(scope="module")
def sixty_thousand(train_split, validation):
    images = np.concatenate([train_split.images, validation.images])
    return images, np.concatenate([train_split.labels, validation.labels])


@pytest.mark.parametrize("spelling", ["-idx{}-ubyte", ".idx{}-ubyte", "-idx{}-ubyte.gz"])
def test_the_canonical_idx_files_are_the_bundled_digits(tmp_path, sixty_thousand, test_split, spelling):
    for prefix, images, labels in (("train", *sixty_thousand), ("t10k", test_split.images, test_split.labels)):
        write_idx(tmp_path / f"{prefix}-images{spelling.format(3)}", images)
        write_idx(tmp_path / f"{prefix}-labels{spelling.format(1)}", labels)
    assert open_source(str(tmp_path)).digests() == DIGESTS


def test_the_npz_of_keras_is_split_as_in_the_lab(tmp_path, sixty_thousand, test_split):
    arrays = dict(zip(("x_train", "y_train"), sixty_thousand, strict=True))
    np.savez(tmp_path / "mnist.npz", **arrays, x_test=test_split.images, y_test=test_split.labels)
    assert open_source(str(tmp_path / "mnist.npz")).digests() == DIGESTS


def test_a_folder_of_npy_stays_on_disk_and_has_the_same_digits(tmp_path, sixty_thousand, test_split):
    images, labels = sixty_thousand
    for name, array in {
        "x_train": images,
        "y_train": labels,
        "x_test": test_split.images,
        "y_test": test_split.labels,
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
    assert open_source(str(tmp_path)).digests() == DIGESTS


def test_pixels_scaled_by_255_are_kept(tmp_path, test_split):
    scaled = test_split.images[:60].reshape(60, 784) / np.float32(255)
    np.savez(tmp_path / "x.npz", x_train=scaled, y_train=test_split.labels[:60])
    data = open_source(str(tmp_path / "x.npz"))
    assert data.train.images.dtype == np.float32
    np.testing.assert_array_equal(data.train.tensors()[0].numpy(), scaled[:50])


IMAGES, LABELS = np.zeros((12, 28, 28), np.uint8), np.arange(12, dtype=np.uint8) % 10

WRONG = {
    "images of 32 by 32": ({"x_train": np.zeros((12, 32, 32), np.uint8)}, "does not hold digits: the shape"),
    "NaN": ({"x_train": np.full((12, 784), np.nan, np.float32)}, "NaN"),
    "0 to 255 as floats": ({"x_train": np.full((12, 784), 255.0, np.float32)}, "divide 0-255"),
    "label 10": ({"y_train": np.full(12, 10)}, "labels from 10 to 10"),
    "label -1": ({"y_train": np.full(12, -1)}, "labels from -1"),
    "too few labels": ({"y_train": LABELS[:5]}, r"\(5,\).*exactly one per digit"),
    "labels as columns": ({"y_train": np.eye(10)[LABELS].astype(int)}, r"; save y\.argmax\(1\)"),
    "labels as floats": ({"y_train": LABELS.astype(float)}, "labels are integers"),
    "labels as text": ({"y_train": LABELS.astype(str)}, "holds <U3 and no numbers"),
    "no labels": ({"y_train": None}, "y_train"),
    "no digits": ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, "exactly one per digit|no rows"),
    "too few to hold some out": ({"x_train": IMAGES[:3], "y_train": LABELS[:3]}, "none to validate on"),
}


@pytest.mark.parametrize("form", ["npz", "npy"])
@pytest.mark.parametrize(("change", "sentence"), WRONG.values(), ids=list(WRONG))
def test_arrays_that_are_no_digits_with_labels_are_refused(tmp_path, change, sentence, form):
    arrays = {"x_train": IMAGES, "y_train": LABELS} | change
    arrays = {name: array for name, array in arrays.items() if array is not None}
    if form == "npz":
        source = tmp_path / "digits.npz"
        np.savez(source, **arrays)
    else:
        source = tmp_path
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(MnistRuntimeError, match=sentence) as caught:
        open_source(str(source))
    assert "\n" not in str(caught.value)


def test_images_on_disk_of_another_dtype_are_refused(tmp_path):
    np.save(tmp_path / "x_train.npy", IMAGES.astype(np.float64))
    np.save(tmp_path / "y_train.npy", LABELS)
    with pytest.raises(DataError, match="float64; images that stay on disk are uint8 or float32"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x1f\x8bno gzip", b"PK\x03\x04no zip", gzip.compress(b"no pickle", mtime=0)]
)
def test_files_of_other_kinds_are_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(MnistRuntimeError, match=re.escape(str(tmp_path / "file"))):
        open_source(str(tmp_path / "file"))


def test_a_pickle_of_other_arrays_is_refused(tmp_path):
    import pickle

    (tmp_path / "x.pkl.gz").write_bytes(gzip.compress(pickle.dumps((IMAGES, LABELS))))
    with pytest.raises(DataError, match="does not hold"):
        open_source(str(tmp_path / "x.pkl.gz"))


def test_every_cut_of_an_idx_file_is_refused(tmp_path):
    write_idx(tmp_path / "train-labels-idx1-ubyte", LABELS)
    path = tmp_path / "train-images-idx3-ubyte"
    write_idx(path, IMAGES)
    whole = path.read_bytes()
    for end in (0, 3, 4, 10, 15, 16, 17, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(DigitError, match=r"images-idx3-ubyte (is|has)"):
            open_source(str(tmp_path))
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    path.write_bytes(whole)
    with pytest.raises(FileNotFoundError, match="train-labels"):
        open_source(str(tmp_path))


def test_an_idx_header_that_claims_more_than_there_is_takes_no_memory(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3))
    with pytest.raises(DigitError, match="images-idx3-ubyte is"):
        open_source(str(tmp_path))


def test_a_truncated_gz_is_refused(tmp_path, lab_pickle):
    (tmp_path / "cut.pkl.gz").write_bytes(lab_pickle.read_bytes()[:100_000])
    with pytest.raises(FileReadError, match=r"cut\.pkl\.gz is cut short or damaged"):
        open_source(str(tmp_path / "cut.pkl.gz"))


def test_a_missing_source_says_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match="give bundled, lab, a URL"):
        open_source(str(tmp_path / "missing"))
    with pytest.raises(DataError, match=r"neither x_train.npy, train-images-idx3-ubyte nor train.csv"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["digits", "labels"], "holds digits, labels, and no x_train"),
        (["x_train"], "holds x_train, and no y_train"),
        (["x_train", "y_train", "x_test"], "holds x_train, y_train, x_test, and no y_test"),
    ],
)
def test_an_npz_with_a_missing_array_names_the_arrays_it_has(tmp_path, names, said):
    np.savez(tmp_path / "mine.npz", **{name: np.zeros(1, np.uint8) for name in names})
    with pytest.raises(DataError, match=f"mine.npz {said}; save digits as x_train"):
        open_source(str(tmp_path / "mine.npz"))


@pytest.mark.parametrize("below", ["MNIST/raw", "raw"])
def test_idx_files_are_found_in_torchvisions_root(tmp_path, below):
    (tmp_path / below).mkdir(parents=True)
    write_idx(tmp_path / below / "train-images-idx3-ubyte", IMAGES)
    write_idx(tmp_path / below / "train-labels-idx1-ubyte.gz", LABELS)
    assert len(open_source(str(tmp_path)).train) == 10


def test_idx_files_are_found_in_folders_of_the_same_name(tmp_path):
    for name, array in (("train-images.idx3-ubyte", IMAGES), ("train-labels.idx1-ubyte", LABELS)):
        above = tmp_path / name.replace(".", "-")
        above.mkdir()
        write_idx(above / name, array)
    assert len(open_source(str(tmp_path)).train) == 10


@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz"])
def test_a_csv_file_with_labels_is_a_data_set(tmp_path, test_split, name):
    images, labels = test_split.images[:60], test_split.labels[:60]
    rows = np.concatenate([labels[:, None], images.reshape(60, 784)], axis=1).tolist()
    text = "label," + ",".join(f"pixel{index}" for index in range(784)) + "\n"
    text += "".join(",".join(map(str, row)) + "\n" for row in rows)
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    data = open_source(str(tmp_path / name))
    assert np.array_equal(data.train.images, images[:50])
    assert np.array_equal(data.valid.labels, labels[50:])
    (tmp_path / "bare.csv").write_text("".join(",".join(map(str, row[1:])) + "\n" for row in rows))
    with pytest.raises(DataError, match="has no labels"):
        open_source(str(tmp_path / "bare.csv"))
    (tmp_path / name).rename(tmp_path / f"mnist_{name}")
    (tmp_path / "mnist_test.csv").write_text(text)
    assert open_source(str(tmp_path)).digests().items() > data.digests().items()
    (tmp_path / "mnist_test.csv").unlink()
    (tmp_path / "bare.csv").rename(tmp_path / "test.csv")
    assert open_source(str(tmp_path)).digests() == data.digests()


def test_a_file_truncated_during_training_is_an_error_and_no_crash(tmp_path):
    np.save(tmp_path / "x_train.npy", IMAGES)
    np.save(tmp_path / "y_train.npy", LABELS)
    data = open_source(str(tmp_path))
    with (tmp_path / "x_train.npy").open("r+b") as file:
        file.truncate(3000)
    with pytest.raises(DataError, match="has become shorter since it was opened"):
        data.train.images.rows(0, 10)
