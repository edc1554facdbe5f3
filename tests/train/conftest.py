"""What the training room's tests share: the lab's file made from the bundled digits, and a server that misbehaves."""

import gzip
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from mnist_train.data import SPLITS, Split, load_split

# Two test processes on two cores: a second thread each would wait for the other's. Processes they start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def lab_pickle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's mnist.pkl.gz, complete: gzip around a pickle of float32 images and int64 labels."""
    splits = [load_split(name) for name in SPLITS]
    arrays = tuple(
        (split.images.reshape(-1, 784).astype(np.float32) / np.float32(256), split.labels.astype(np.int64))
        for split in splits
    )
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as file:
        pickle.dump(arrays, file, protocol=2)
    path = tmp_path_factory.mktemp("lab") / "mnist.pkl.gz"
    path.write_bytes(buffer.getvalue())
    return path


@pytest.fixture(scope="session")
def train_split() -> Split:
    """The 50,000 digits that training sees."""
    return load_split("train")
