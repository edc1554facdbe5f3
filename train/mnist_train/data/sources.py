"""What `--data` names: the bundled digits, a download, a file of arrays, or a folder of them."""

import gzip
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import HEIGHT, WIDTH, as_digits, as_intensities
from mnist_runtime.errors import DigitError, FileMissingError
from mnist_runtime.io.npy import Npy
from mnist_train.data.bundled import DIGESTS, SPLITS, Split, load_split
from mnist_train.data.mapped import Mapped, MappedSplit
from mnist_train.data.unpickle import load_arrays, read_stream
from mnist_train.errors import DataError

LAB_URL = "https://github.com/pytorch/tutorials/raw/main/_static/mnist.pkl.gz"
"""Address of the lab's file, for `--data lab`."""

_WANTED = "give bundled, lab, a URL, a .pkl.gz, a .npz, or a folder of IDX or .npy files"
_UNPACKED_LIMIT = 2**32  # bytes; larger data belongs in .npy files, which are mapped
_HELD_OUT = 6  # the last 1/6 of the training digits, if none are given to validate on: MNIST's 10,000 of 60,000


AnySplit = Split | MappedSplit


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


def open_source(source: str, *, sha256: str | None = None, checked: bool = False, **options: Any) -> Dataset:
    """Open the data set that `--data` names.

    Args:
        source: "bundled", "lab", an http(s) URL, or the path of a .pkl.gz, a .npz, or a folder of IDX files (raw or
            .gz) or of .npy files. Only .npy files are mapped; the others are read.
        sha256: SHA-256 of the file to download, in hex; without it, a URL must hold MNIST.
        checked: True if another process has checked the values of mapped files; only headers are read then.
        options: `limit` and `timeout` of `download.fetch`.

    Raises:
        DataError: the source does not hold digits with labels.
        DownloadError: the file cannot be downloaded.
        FileMissingError, FileReadError, DigitError: a file is missing, unreadable, or does not hold digits.
    """
    if source == "bundled":
        return Dataset(load_split("train"), load_split("valid"), load_split("test"), known=DIGESTS)
    if source == "lab" or re.match("https?://", source):
        return _open_file(fetch_source(source, sha256=sha256, **options))
    path = Path(source)
    if not path.exists():
        raise FileMissingError(f"{path} does not exist; {_WANTED}")
    return _open_folder(path, checked=checked) if path.is_dir() else _open_file(path)


def fetch_source(source: str, *, sha256: str | None = None, **options: Any) -> Path:
    """Download "lab" or a URL into the cache, unless it is there; return its path. Arguments as for `open_source`.

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
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"\x1f\x8b":
        return _from_pickle(path)
    if start == b"PK\x03\x04":
        return _from_npz(path)
    raise DataError(f"{path} is neither a .pkl.gz nor a .npz; {_WANTED}")


def _open_folder(folder: Path, *, checked: bool) -> Dataset:
    if (folder / "x_train.npy").exists():
        return _from_npy(folder, checked=checked)
    if _idx_path(folder, "train-images", 3).exists():
        return _from_idx(folder)
    raise DataError(f"{folder} holds neither x_train.npy nor train-images-idx3-ubyte; {_WANTED}")


def _from_pickle(path: Path) -> Dataset:
    try:
        with gzip.open(path, "rb") as file:
            value = load_arrays(file, str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole .gz file ({error}); download or copy it again") from error
    pairs = value if isinstance(value, tuple) else ()
    if not 2 <= len(pairs) <= 3 or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise DataError(f"{path} does not hold ((x_train, y_train), (x_valid, y_valid), ...) like the lab's file")
    names = zip(SPLITS, pairs, strict=False)
    return _assemble({f"{axis}_{name}": array for name, pair in names for axis, array in zip("xy", pair, strict=True)})


def _from_npz(path: Path) -> Dataset:
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = [f"{axis}_{name}.npy" for name in SPLITS for axis in "xy"]
            members = [member for member in archive.infolist() if member.filename in wanted]
            if sum(member.file_size for member in members) > _UNPACKED_LIMIT:
                raise DataError(f"{path} unpacks to more than {_UNPACKED_LIMIT >> 30} GiB; give a folder of .npy files")
            _require_pairs(path, [name.removesuffix(".npy") for name in archive.namelist()])
            arrays = {}
            for member in members:
                with archive.open(member) as stream:
                    npy = Npy.of_stream(stream, f"{member.filename} of {path}", member.file_size)
                    arrays[member.filename.removesuffix(".npy")] = npy.array()
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} is not a whole .npz file ({error}); download or copy it again") from error
    return _assemble(arrays)


def _require_pairs(path: Path, names: list[str]) -> None:
    """Images and labels to train on, and labels to all other images."""
    wanted = ["x_train", "y_train", *(f"y_{name}" for name in SPLITS if f"x_{name}" in names)]
    missing = next((name for name in wanted if name not in names), None)
    if missing:
        raise DataError(
            f"{path} holds {', '.join(names)}, and no {missing}; save digits as x_train and their labels as y_train, "
            "with np.savez"
        )


def _from_npy(folder: Path, *, checked: bool) -> Dataset:
    splits: dict[str, AnySplit] = {}
    for name in SPLITS:
        if name == "train" or (folder / f"x_{name}.npy").exists():
            images, labels = (Mapped.open(folder / f"{axis}_{name}.npy") for axis in "xy")
            if not checked:
                _check_mapped(images, labels)
            splits[name] = MappedSplit(images, labels)
    return _hold_out(splits)


def _check_mapped(images: Mapped, labels: Mapped) -> None:
    """Check all values before the first step, in one pass over the files, a window at a time."""
    try:
        as_digits(np.empty((0, *images.shape[1:]), images.dtype))
        if images.dtype == np.float32:
            for window in images.windows():
                as_digits(window)
    except DigitError as error:
        raise DataError(f"{images.path} does not hold digits: {error}") from error
    if images.dtype not in (np.uint8, np.float32):
        raise DataError(f"{images.path} holds {images.dtype}; mapped images are uint8 or float32, save them as either")
    _check_labels(labels.path, labels.dtype, labels.shape, len(images))
    for rows in labels.windows():
        _check_range(labels.path, rows)


def _from_idx(folder: Path) -> Dataset:
    files = {"train": "train", "test": "t10k"}
    arrays = {}
    for name, prefix in files.items():
        images, labels = _idx_path(folder, f"{prefix}-images", 3), _idx_path(folder, f"{prefix}-labels", 1)
        if name == "train" or images.exists():
            arrays[f"x_{name}"], arrays[f"y_{name}"] = _read_idx(images, 3), _read_idx(labels, 1)
    return _assemble(arrays)


def _idx_path(folder: Path, stem: str, ndim: int) -> Path:
    """Return the path under the spelling found: "-" or "." before idx, raw or .gz."""
    spellings = [folder / f"{stem}{dash}idx{ndim}-ubyte{end}" for dash in "-." for end in ("", ".gz")]
    return next((path for path in spellings if path.exists()), spellings[0])


def _read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes: 0, 0, 8, ndim, each dimension in 4 bytes, big-endian, then the values."""
    try:
        opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            data = read_stream(file, _UNPACKED_LIMIT, str(path)).getbuffer()
    except FileNotFoundError as error:
        raise FileMissingError(f"{path} does not exist; images and labels come in two files; give both") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); download or copy it again") from error
    head = 4 + 4 * ndim
    shape = tuple(np.frombuffer(bytes(data[4:head]).ljust(4 * ndim, b"\0"), ">u4").tolist())
    count = int(np.prod(shape, dtype=object))
    if data[:4] != bytes([0, 0, 8, ndim]) or len(data) != head + count:
        raise DataError(f"{path} is no whole IDX file of {ndim} dimensions of bytes; download or copy it again")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _assemble(arrays: Mapping[str, NDArray[Any]]) -> Dataset:
    """Check arrays named x_train, y_train, ... and make splits of them."""
    return _hold_out({name: _split(arrays, name) for name in SPLITS if name == "train" or f"x_{name}" in arrays})


def _hold_out(splits: dict[str, AnySplit]) -> Dataset:
    """Make a data set; if there are no digits to validate on, take the last of the training digits."""
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
    with suppress(DigitError):  # scaled by another number than 256: kept as floats
        digits = as_intensities(digits)
    _check_labels(f"y_{name}", labels.dtype, labels.shape, len(digits))
    _check_range(f"y_{name}", labels)
    images: NDArray[Any] = digits.reshape(-1, HEIGHT, WIDTH)
    # writeable, because torch.from_numpy warns of read-only arrays, such as those over a file's bytes
    return Split(np.require(images, requirements=["C", "W"]), np.require(labels, np.uint8, ["C", "W"]))


def _check_labels(name: object, dtype: np.dtype[Any], shape: tuple[int, ...], count: int) -> None:
    if dtype.kind not in "ui" or shape != (count,) or not count:
        raise DataError(f"{name} is {dtype} {shape}; labels are integers ({count},), exactly one per digit")


def _check_range(name: object, labels: NDArray[Any]) -> None:
    if labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{name} holds labels from {labels.min()} to {labels.max()}; labels are 0 to 9")
