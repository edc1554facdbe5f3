"""What `--data` names: the bundled digits, a download, a file of arrays, or a folder of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import CLASSES, HEIGHT, WIDTH, as_digits, as_intensities, as_pixels
from mnist_runtime.errors import DigitError, FileMissingError, printable
from mnist_runtime.io.arrays import StoredArray
from mnist_runtime.io.files import decompressed, open_regular
from mnist_runtime.io.formats import recognise
from mnist_runtime.io.labels import read_labels
from mnist_runtime.io.tables import StoredTable
from mnist_runtime.io.zips import unzipped
from mnist_train.data.bundled import DIGESTS, SPLITS, Split, load_split
from mnist_train.data.disk import DiskArray, DiskSplit
from mnist_train.data.unpickle import load_arrays
from mnist_train.errors import DataError

LAB_URL = "https://github.com/pytorch/tutorials/raw/main/_static/mnist.pkl.gz"
"""Address of the lab's file, for `--data lab`."""

_WANTED = "give bundled, lab, a URL, a .pkl.gz, a .npz, a .csv, or a folder of IDX, .npy or .csv files"
_UNPACKED_LIMIT = 2**32  # bytes; larger data belongs in a folder of .npy files, which stay on disk
_ROWS = 2**14  # of a table, parsed at a time
_HELD_OUT = 6  # the last 1/6 of the training digits, if none are given to validate on: MNIST's 10,000 of 60,000


AnySplit = Split | DiskSplit


@dataclass(frozen=True)
class Dataset:
    """Digits to train on, to validate on and, where there are any, to test on."""

    train: AnySplit
    valid: AnySplit
    test: AnySplit | None
    known: Mapping[str, str] | None = None
    """Digests of the arrays, if they have been checked already."""

    def digests(self) -> Mapping[str, str]:
        """Return the SHA-256 of every array in hex, by name: x_train, y_train, ..."""
        if self.known is not None:
            return self.known
        splits = ((name, getattr(self, name)) for name in SPLITS)
        return {
            f"{axis}_{name}": digest
            for name, split in splits
            if split is not None
            for axis, digest in zip("xy", split.digests(), strict=True)
        }


def open_source(source: str, *, sha256: str | None = None, checked: bool = False) -> Dataset:
    """Open the data set that `--data` names.

    Args:
        source: "bundled", "lab", an http(s) URL, or the path of a .pkl.gz, a .npz, a .csv (or .csv.gz), or a folder of
            IDX files, of .csv files (both raw or .gz) or of .npy files. A folder of .npy files stays on disk; the
            others are read.
        sha256: SHA-256 of the file to download, in hex; without it, a URL must hold MNIST.
        checked: True if another process checks the values of files that stay on disk; only headers are read then.

    Raises:
        DataError: the source does not hold digits with labels.
        DownloadError: the file cannot be downloaded.
        FileMissingError, FileReadError, DigitError: a file is missing, unreadable, or does not hold digits.
    """
    if source == "bundled":
        return Dataset(load_split("train"), load_split("valid"), load_split("test"), known=DIGESTS)
    if source == "lab" or re.match("https?://", source):
        return _open_file(fetch_source(source, sha256=sha256))
    path = Path(source)
    if not path.exists():
        raise FileMissingError(f"{path} does not exist; {_WANTED}")
    return _open_folder(path, checked=checked) if path.is_dir() else _open_file(path)


def fetch_source(source: str, *, sha256: str | None = None, **options: Any) -> Path:
    """Download "lab" or a URL into the cache, unless it is there; return its path.

    Args:
        source: "lab", or an http(s) URL.
        sha256: SHA-256 of the file, in hex; without it, a URL must hold MNIST.
        options: `limit` and `timeout` of `download.fetch`.

    Raises:
        DataError: `source` is neither.
        DownloadError: the file cannot be downloaded, or holds other digits than MNIST.
    """
    from mnist_train.data.download import fetch

    url = LAB_URL if source == "lab" else source
    if not re.match("https?://", url):
        raise DataError(f"{source} is neither lab nor an http or https URL; give a file of this machine to --data")
    return fetch(url, verify=_open_file if sha256 else _require_mnist, sha256=sha256, **options)


def _require_mnist(path: Path) -> None:
    found = _open_file(path).digests()
    for name, digest in found.items():
        if digest != DIGESTS[name]:
            raise DataError(f"{name} differs from MNIST; if you trust the file, give its --sha256")


def _open_file(path: Path) -> Dataset:
    with open_regular(path, _WANTED) as file:
        kind = recognise(file.peek())
        if kind == "zip":
            return _from_npz(file, path)
        stream = decompressed(file)
        if recognise(stream.peek()) == "text" and ".csv" in path.suffixes:
            return _assemble(_read_table(stream, path, "train"))
        if stream is not file:
            return _from_pickle(stream, path)
    raise DataError(f"{path} is neither a .pkl.gz, a .npz nor a .csv; {_WANTED}")


def _open_folder(folder: Path, *, checked: bool) -> Dataset:
    if (folder / "x_train.npy").exists():
        return _from_npy(folder, checked=checked)
    for below in (folder, folder / "raw", folder / "MNIST" / "raw"):  # torchvision's root holds MNIST/raw
        if _idx_path(below, "train-images", 3).exists():
            return _from_idx(below)
    if _csv_path(folder, "train").exists():
        return _from_csv(folder)
    raise DataError(f"{folder} holds neither x_train.npy, train-images-idx3-ubyte nor train.csv; {_WANTED}")


def _from_pickle(stream: BufferedReader, path: Path) -> Dataset:
    value = load_arrays(stream, str(path))
    pairs = value if isinstance(value, tuple) else ()
    if not 2 <= len(pairs) <= 3 or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise DataError(f"{path} does not hold ((x_train, y_train), (x_valid, y_valid), ...) like the lab's file")
    names = zip(SPLITS, pairs, strict=False)
    return _assemble({f"{axis}_{name}": array for name, pair in names for axis, array in zip("xy", pair, strict=True)})


def _from_csv(folder: Path) -> Dataset:
    arrays: dict[str, NDArray[Any]] = {}
    for split in ("train", "test"):
        if (path := _csv_path(folder, split)).exists():
            with open_regular(path, _WANTED) as file:
                arrays |= _read_table(decompressed(file), path, split)
    return _assemble(arrays)


def _read_table(stream: BufferedReader, path: Path, split: str) -> dict[str, NDArray[Any]]:
    """Return a table as x_`split` and y_`split`; nothing of a test table without labels, such as Kaggle's."""
    images, labels, size = [], [], 0
    for digits, some_labels in StoredTable(stream, str(path)).chunks(_ROWS):
        if some_labels is None:
            break
        images.append(digits)
        labels.append(some_labels)
        size += digits.nbytes
        if size > _UNPACKED_LIMIT:
            raise DataError(f"{path} unpacks to more than {_UNPACKED_LIMIT >> 30} GiB; give a folder of .npy files")
    if not labels and split == "train":
        raise DataError(f"{path} has no labels; give a label and 784 pixels in each row")
    return {f"x_{split}": np.concatenate(images), f"y_{split}": np.concatenate(labels)} if labels else {}


def _from_npz(file: BufferedReader, path: Path) -> Dataset:
    with unzipped(file, str(path)) as archive:
        wanted = [f"{axis}_{name}.npy" for name in SPLITS for axis in "xy"]
        members = [member for member in archive.infolist() if member.filename in wanted]
        if sum(member.file_size for member in members) > _UNPACKED_LIMIT:
            raise DataError(f"{path} unpacks to more than {_UNPACKED_LIMIT >> 30} GiB; give a folder of .npy files")
        _require_pairs(path, [name.removesuffix(".npy") for name in archive.namelist()])
        arrays = {}
        for member in members:
            with archive.open(member) as stream:
                array = StoredArray.of_stream(stream, f"{member.filename} of {path}", member.file_size)
                arrays[member.filename.removesuffix(".npy")] = array.array()
    return _assemble(arrays)


def _require_pairs(path: Path, names: list[str]) -> None:
    """Raise unless there are images and labels to train on, and labels for all other images."""
    wanted = ["x_train", "y_train", *(f"y_{name}" for name in SPLITS if f"x_{name}" in names)]
    missing = next((name for name in wanted if name not in names), None)
    if missing:
        raise DataError(
            f"{path} holds {printable(', '.join(names))}, and no {missing}; save digits as x_train and their labels as "
            "y_train, with np.savez"
        )


def _from_npy(folder: Path, *, checked: bool) -> Dataset:
    splits: dict[str, AnySplit] = {}
    for name in SPLITS:
        if name == "train" or (folder / f"x_{name}.npy").exists():
            images, labels = (DiskArray.open(folder / f"{axis}_{name}.npy") for axis in "xy")
            if not checked:
                _check_arrays(images, labels)
            splits[name] = DiskSplit(images, labels)
    return _hold_out(splits)


def _check_arrays(images: DiskArray, labels: DiskArray) -> None:
    """Check all values before the first step, in one pass over the files, a window at a time."""
    try:
        as_digits(np.empty((0, *images.shape[1:]), images.dtype))
        if images.dtype == np.float32:
            for window in images.windows():
                as_digits(window)
    except DigitError as error:
        raise DataError(f"{images.path} does not hold digits: {error}") from error
    if images.dtype not in (np.uint8, np.float32):
        raise DataError(
            f"{images.path} holds {images.dtype}; images that stay on disk are uint8 or float32; save them as either"
        )
    _check_labels(labels.path, labels.dtype, labels.shape, len(images))
    for rows in labels.windows():
        _check_range(labels.path, rows)


def _from_idx(folder: Path) -> Dataset:
    arrays = {}
    for name, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = _idx_path(folder, f"{prefix}-images", 3), _idx_path(folder, f"{prefix}-labels", 1)
        if name == "train" or images.exists():
            arrays[f"x_{name}"], arrays[f"y_{name}"] = StoredArray.open(images).array(), read_labels(labels)
    return _assemble(arrays)


def _idx_path(folder: Path, stem: str, ndim: int) -> Path:
    """Return the path in the spelling that exists: "-" or "." before idx, raw or .gz, or in a folder of that name."""
    names = [f"{stem}{dash}idx{ndim}-ubyte{end}" for dash in "-." for end in ("", ".gz")]
    spellings = [folder / name for name in names] + [folder / above / name for above in names for name in names]
    return next((path for path in spellings if path.is_file()), spellings[0])


def _csv_path(folder: Path, name: str) -> Path:
    """Return the path in the spelling that exists: with or without mnist_ before the name, raw or .gz."""
    spellings = [folder / f"{prefix}{name}.csv{end}" for prefix in ("", "mnist_") for end in ("", ".gz")]
    return next((path for path in spellings if path.is_file()), spellings[0])


def _assemble(arrays: Mapping[str, NDArray[Any]]) -> Dataset:
    """Make a data set of arrays named x_train, y_train, ..., checked."""
    return _hold_out({name: _split(arrays, name) for name in SPLITS if name == "train" or f"x_{name}" in arrays})


def _hold_out(splits: dict[str, AnySplit]) -> Dataset:
    """Make a data set; without digits to validate on, hold out the last of the training digits."""
    train, valid = splits["train"], splits.get("valid")
    if valid is None:
        count = len(train)
        if count < _HELD_OUT:
            raise DataError(f"there are {count} digits to train on and none to validate on; give x_valid and y_valid")
        cut = count - count // _HELD_OUT
        train, valid = train.part(0, cut), train.part(cut, count)
    return Dataset(train, valid, splits.get("test"))


def _split(arrays: Mapping[str, NDArray[Any]], name: str) -> Split:
    pixels, labels = arrays[f"x_{name}"], arrays[f"y_{name}"]
    try:
        digits = as_digits(pixels)
    except DigitError as error:
        raise DataError(f"x_{name} does not hold digits: {error}") from error
    intensities = as_intensities(digits)
    if np.array_equal(as_pixels(intensities), as_pixels(digits)):  # otherwise they were scaled by another number
        digits = intensities
    _check_labels(f"y_{name}", labels.dtype, labels.shape, len(digits))
    _check_range(f"y_{name}", labels)
    images: NDArray[Any] = digits.reshape(-1, HEIGHT, WIDTH)
    # writeable, because torch.from_numpy warns of read-only arrays, such as those over a file's bytes
    return Split(np.require(images, requirements=["C", "W"]), np.require(labels, np.uint8, ["C", "W"]))


def _check_labels(name: object, dtype: np.dtype[Any], shape: tuple[int, ...], count: int) -> None:
    if dtype.kind not in "ui" or shape != (count,) or not count:
        known = {(count, len(CLASSES)): "; save y.argmax(1)", (count, 1): "; save y.reshape(-1)"}
        advice = next((advice for wrong, advice in known.items() if wrong == shape), "")
        raise DataError(f"{name} is {dtype} {shape}; labels are integers ({count},), exactly one per digit{advice}")


def _check_range(name: object, labels: NDArray[Any]) -> None:
    if labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{name} holds labels from {labels.min()} to {labels.max()}; labels are 0 to 9")
