"""Batches: every digit once per epoch, in an order that the seed determines, from memory and from disk."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mnist_runtime.errors import DigitError
from mnist_train.data import batches as room
from mnist_train.data.batches import Batches, InMemory, OnDisk
from mnist_train.data.bundled import Split
from mnist_train.data.disk import DiskArray

CPU = torch.device("cpu")
COUNT = 5000


@pytest.fixture(scope="module")
def split(train_split: Split) -> Split:
    return train_split.part(0, COUNT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, split: Split) -> Path:
    folder = tmp_path_factory.mktemp("npy")
    np.save(folder / "x.npy", split.images)
    np.save(folder / "y.npy", split.labels)
    return folder


@pytest.fixture
def make(folder, split, monkeypatch):
    """Make batches in memory or on disk, in many small blocks."""
    monkeypatch.setattr(room, "_BLOCK_BYTES", 784 * 128)
    monkeypatch.setattr(room, "_BUFFER_BYTES", 4 * 784 * 128)

    def make(kind: type[Batches], shuffle: int | None = None) -> Batches:
        if kind is InMemory:
            return InMemory(*split.tensors(), shuffle)
        return OnDisk(DiskArray.open(folder / "x.npy"), DiskArray.open(folder / "y.npy"), CPU, shuffle)

    return make


def whole(batches: Batches, number: int = 1, size: int = 64, start: int = 0):
    parts = list(batches.epoch(number, size, start))
    assert all(len(x) == size for x, _ in parts[:-1])
    x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return x, y


def rows(x: torch.Tensor) -> list[bytes]:
    return sorted(row.numpy().tobytes() for row in x)


KINDS = pytest.mark.parametrize("kind", [InMemory, OnDisk])


@KINDS
def test_without_a_shuffle_digits_come_in_file_order(make, kind, split):
    x, y = whole(make(kind))
    wanted = split.tensors()
    assert torch.equal(x, wanted[0])
    assert torch.equal(y, wanted[1])


@KINDS
@pytest.mark.parametrize("size", [1, 64, 777, 10_000])
def test_a_shuffled_epoch_has_every_digit_once_with_its_label(make, kind, size):
    x, y = whole(make(kind, shuffle=0), size=size)
    plain_x, plain_y = whole(make(kind))
    assert not torch.equal(x, plain_x)
    label_of = {row.numpy().tobytes(): int(label) for row, label in zip(plain_x, plain_y, strict=True)}
    assert rows(x) == rows(plain_x)
    assert all(label_of[row.numpy().tobytes()] == label for row, label in zip(x, y.tolist(), strict=True))


@KINDS
def test_the_seed_fixes_the_order_and_every_epoch_has_its_own(make, kind):
    first, again = (whole(make(kind, shuffle=5))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, whole(make(kind, shuffle=6))[0])
    assert not torch.equal(first, whole(make(kind, shuffle=5), number=2)[0])


@KINDS
@pytest.mark.parametrize("shuffle", [None, 3])
def test_an_epoch_can_start_at_any_batch(make, kind, shuffle):
    x, y = whole(make(kind, shuffle))
    for start in (0, 1, 7, 8, 9, 77, math.ceil(COUNT / 64) - 1):
        rest_x, rest_y = whole(make(kind, shuffle), start=start)
        assert torch.equal(rest_x, x[start * 64 :])
        assert torch.equal(rest_y, y[start * 64 :])


def test_a_shuffle_on_disk_reads_whole_blocks_only(make, monkeypatch):
    batches = make(OnDisk, shuffle=0)
    reads: list[tuple[int, int]] = []
    original = DiskArray.rows

    def rows(self: DiskArray, first: int, stop: int):
        if len(self.shape) == 3:
            reads.append((first, stop))
        return original(self, first, stop)

    monkeypatch.setattr(DiskArray, "rows", rows)
    whole(batches)
    assert sorted(reads) == [(first, min(first + 128, COUNT)) for first in range(0, COUNT, 128)]
    assert reads != sorted(reads)


def test_float_images_are_not_scaled(folder, tmp_path, train_split):
    pixels = train_split.images[:100].reshape(100, 784) / np.float32(255)
    np.save(tmp_path / "x.npy", pixels)
    np.save(tmp_path / "y.npy", train_split.labels[:100].astype(np.int64))
    x, y = whole(OnDisk(DiskArray.open(tmp_path / "x.npy"), DiskArray.open(tmp_path / "y.npy"), CPU))
    np.testing.assert_array_equal(x.numpy(), pixels)
    assert y.dtype == torch.int64


def test_a_part_and_its_digest_cover_its_rows_only(folder, train_split):
    import hashlib

    part = DiskArray.open(folder / "x.npy").part(10, 30)
    np.testing.assert_array_equal(part.rows(0, 20), train_split.images[10:30])
    assert part.sha256() == hashlib.sha256(train_split.images[10:30].tobytes()).hexdigest()


def test_an_array_in_fortran_order_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(np.zeros((5, 784), np.uint8)))
    with pytest.raises(DigitError, match="Fortran order"):
        DiskArray.open(tmp_path / "x.npy")
