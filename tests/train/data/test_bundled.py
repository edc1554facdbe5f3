"""MNIST as it comes with the package."""

import hashlib

import numpy as np
import pytest
import torch

from mnist_train.data.bundled import BUNDLED, DIGESTS, SPLITS, load_split
from mnist_train.errors import DataError


@pytest.mark.parametrize(("name", "count"), [("train", 50_000), ("valid", 10_000), ("test", 10_000)])
def test_the_labs_split_is_complete(name, count):
    split = load_split(name)
    assert len(split) == count
    assert (split.images.shape, split.images.dtype) == ((count, 28, 28), np.uint8)
    assert (split.labels.shape, split.labels.dtype) == ((count,), np.uint8)
    assert set(split.labels.tolist()) == set(range(10))


def test_tensors_have_the_labs_values_and_dtypes(validation):
    pixels, labels = validation.tensors()
    assert (pixels.shape, pixels.dtype) == ((10_000, 784), torch.float32)
    assert (labels.shape, labels.dtype) == ((10_000,), torch.int64)
    assert pixels.max() == 0.99609375
    assert torch.equal(pixels * 256, torch.from_numpy(validation.images).reshape(-1, 784).float())


def altered(path, change) -> None:
    with np.load(BUNDLED) as arrays:
        content = {key: arrays[key] for key in arrays if "train" not in key}
    change(content)
    np.savez(path, **content)


def test_a_changed_pixel_is_refused(tmp_path):
    def change(content):
        content["x_test"][5000, 14, 14] ^= 1

    altered(tmp_path / "mnist.npz", change)
    assert len(load_split("valid", tmp_path / "mnist.npz")) == 10_000
    with pytest.raises(DataError, match=r"x_test in .*mnist.npz differs from MNIST"):
        load_split("test", tmp_path / "mnist.npz")


def test_a_missing_array_is_refused(tmp_path):
    altered(tmp_path / "mnist.npz", lambda content: content.pop("y_valid"))
    with pytest.raises(DataError, match="y_valid"):
        load_split("valid", tmp_path / "mnist.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"<html>"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(DataError, match="install mnist-edge again"):
        load_split("test", tmp_path / "mnist.npz")


def test_the_digests_are_those_of_the_arrays_bytes():
    for name in SPLITS:
        assert hashlib.sha256(load_split(name).labels.tobytes()).hexdigest() == DIGESTS[f"y_{name}"]
