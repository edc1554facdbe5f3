"""Downloads, by pooch: retried, limited in size, verified before they get their final name, and cached."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pooch
import requests
from filelock import FileLock
from platformdirs import user_cache_path
from tqdm import tqdm

from mnist_runtime import __version__
from mnist_runtime.errors import FileWriteError, MnistRuntimeError, first_line
from mnist_train.errors import DownloadError

LIMIT = 2**30
"""Largest download in bytes: 64 times the lab's file."""
TIMEOUT = 30.0
"""Seconds a server may take to connect, or between two reads of its answer."""
RETRIES = 3
"""Further attempts at a download that broke off, after pauses of 1, 2 and 3 seconds."""

_CHUNK = 2**16  # bytes
_REMEDY = "check the address and the network, or use --data bundled, which needs none"


def cache_folder() -> Path:
    """Return the folder of downloads: MNIST_EDGE_CACHE, or `mnist-edge` in the user's cache folder.

    Raises:
        FileWriteError: the user has no home folder.
    """
    if chosen := os.environ.get("MNIST_EDGE_CACHE"):
        return Path(chosen)
    try:
        return user_cache_path("mnist-edge")
    except RuntimeError as error:
        raise FileWriteError(f"there is no folder for downloads ({error}); set MNIST_EDGE_CACHE") from error


def fetch(
    url: str,
    *,
    verify: Callable[[Path], object],
    sha256: str | None = None,
    limit: int = LIMIT,
    timeout: float = TIMEOUT,
) -> Path:
    """Download the file at `url` into the cache, unless it is there; return its path.

    Processes that want the same file wait for the first to download it. A terminal shows a progress bar.

    Args:
        url: Address, http or https.
        verify: Called with the path of a complete download; raises a MnistRuntimeError to refuse it.
        sha256: SHA-256 of the file in hex, if known.
        limit: Largest size in bytes.
        timeout: Seconds the server may take to connect, or between two reads of its answer.

    Raises:
        DownloadError: the file cannot be downloaded, or is refused.
        FileWriteError: the cache cannot be written.
    """
    folder = cache_folder() / hashlib.sha256(url.encode()).hexdigest()[:16]
    name = Path(urlsplit(url).path).name or "data"
    pooch.get_logger().setLevel("ERROR")  # pooch announces every attempt
    cache = pooch.create(folder, base_url="", registry={name: sha256}, urls={name: url}, retry_if_failed=RETRIES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{name}.lock"):
            for leftover in folder.glob("tmp*"):  # of a process that was killed
                leftover.unlink()
            return Path(cache.fetch(name, downloader=_Downloader(verify, sha256, limit, timeout)))
    except requests.RequestException as error:
        raise _failure(url, error) from error
    except MnistRuntimeError:
        raise
    except OSError as error:
        raise FileWriteError(f"cannot write in {folder} ({error.strerror}); set MNIST_EDGE_CACHE") from error


@dataclass(frozen=True)
class _Downloader:
    """A downloader for pooch, which retries the errors of requests but not DownloadError."""

    verify: Callable[[Path], object]
    sha256: str | None
    limit: int
    timeout: float

    def __call__(self, url: str, path: str, _: object) -> None:
        """Download `url` to `path` and check it."""
        try:
            with Path(path).open("wb") as file:
                self._receive(url, file)
                file.flush()
                os.fsync(file.fileno())
        except (requests.RequestException, ValueError) as error:
            if _may_pass(error):
                raise
            raise _failure(url, error) from error
        found = pooch.file_hash(path)
        if self.sha256 and found != self.sha256.lower():
            raise DownloadError(f"{url} has the SHA-256 {found}, not the one given; check both, nothing was kept")
        try:
            self.verify(Path(path))
        except MnistRuntimeError as error:
            raise DownloadError(f"the file at {url} is not usable: {error}; or use --data bundled") from error

    def _receive(self, url: str, file: BinaryIO) -> None:
        def check_head(response: requests.Response, *_: object, **__: object) -> None:
            if response.status_code >= 400:
                response.close()  # because pooch raises for the status and leaves the connection open
            elif response.status_code == requests.codes.ok and (refusal := self._refusal(url, response)):
                response.close()
                raise DownloadError(refusal)

        # pooch sets the total. Until then it must not be 0 or None, because pooch tests the bar's truth value.
        with tqdm(
            desc="Downloading", total=1, unit="B", unit_scale=True, unit_divisor=1024, leave=False, disable=None
        ) as progress:
            pooch.HTTPDownloader(
                progressbar=progress,
                chunk_size=_CHUNK,
                timeout=self.timeout,
                headers={"Accept-Encoding": "identity", "User-Agent": f"mnist-edge/{__version__}"},
                hooks={"response": check_head},
            )(url, _LimitedFile(file, self.limit, url), None)

    def _refusal(self, url: str, response: requests.Response) -> str | None:
        if response.headers.get("Content-Type", "").startswith("text/html"):
            return f"{url} is a web page, not a data file; {_REMEDY}"
        if url.startswith("https:") and not response.url.startswith("https:"):
            return f"{url} redirects to {response.url}, which is not encrypted; {_REMEDY}"
        length = response.headers.get("Content-Length", "")
        return _too_large(url, self.limit) if length.isdecimal() and int(length) > self.limit else None


@dataclass
class _LimitedFile:
    """A file that accepts at most `limit` bytes from `url`."""

    file: BinaryIO
    limit: int
    url: str

    def write(self, data: bytes) -> int:
        """Write `data`, or raise DownloadError."""
        if self.file.tell() + len(data) > self.limit:
            raise DownloadError(_too_large(self.url, self.limit))
        return self.file.write(data)

    def flush(self) -> None:
        """Do nothing: pooch flushes after every chunk."""


def _too_large(url: str, limit: int) -> str:
    return f"{url} is larger than the limit of {limit:,} bytes; raise it with mnist-data fetch --limit"


def _may_pass(error: Exception) -> bool:
    """Return True for broken connections, timeouts and server errors, because another attempt may succeed."""
    if isinstance(error, requests.HTTPError):
        return error.response.status_code >= 500
    return isinstance(error, (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError))


def _failure(url: str, error: Exception) -> DownloadError:
    """Return the error with the innermost reason, because requests and urllib3 wrap it several times."""
    if isinstance(error, requests.HTTPError):
        return DownloadError(f"{url} answers {error.response.status_code} {error.response.reason}; {_REMEDY}")
    inner: Exception | None = error
    while inner:
        error, reasons = inner, (getattr(inner, "reason", None), *inner.args)
        inner = next((reason for reason in reasons if isinstance(reason, Exception)), None)
    return DownloadError(f"{url} cannot be downloaded ({first_line(error).rsplit(': ', 1)[-1]}); {_REMEDY}")
