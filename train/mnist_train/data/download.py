"""Downloads over a network that fails: retried, resumed, limited, checked, cached, and never made twice."""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from filelock import FileLock
from platformdirs import user_cache_path
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from mnist_runtime import __version__
from mnist_runtime.errors import FileWriteError, MnistRuntimeError
from mnist_train.errors import DownloadError

ATTEMPTS = 5
"""Connections made for one file before giving up, and answers of 5xx taken for each."""
LIMIT = 2**30
"""Bytes that a download may have: 64 times the lab's file."""
TIMEOUT = 30.0
"""Seconds that a server may be silent."""

_BACKOFF = 0.2  # seconds, doubled at every attempt
_CONNECT_TIMEOUT = 10.0
_CHUNK = 2**18
_WAY_OUT = "check the address and the network, or use --data bundled, which needs none"

Progress = Callable[[int, int | None], object]
"""Called with the bytes that are there, and the bytes that there will be if the server says."""


@contextmanager
def byte_bar() -> Iterator[Progress]:
    """A progress bar of bytes on a terminal's stderr, drawn when the first bytes come."""
    from tqdm import tqdm

    bar: Any = None

    def show(have: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:
            quiet = not sys.stderr.isatty()
            bar = tqdm(desc="Downloading", unit="B", unit_scale=True, unit_divisor=1024, leave=False, disable=quiet)
        bar.total = total
        bar.update(have - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def cache_folder() -> Path:
    """Where downloads are kept: MNIST_EDGE_CACHE, or `mnist-edge` in the user's cache folder."""
    chosen = os.environ.get("MNIST_EDGE_CACHE")
    return Path(chosen) if chosen else user_cache_path("mnist-edge")


def fetch(
    url: str,
    *,
    verify: Callable[[Path], object],
    sha256: str | None = None,
    limit: int = LIMIT,
    timeout: float = TIMEOUT,
    progress: Progress = lambda *_: None,
) -> Path:
    """Return the path of the file at `url`, from the cache if it is there; one process at a time fetches it.

    A broken connection is taken up where it broke; what was fetched so far is kept for the next call too. The file
    gets its name when it is whole and `verify` has not raised.

    Args:
        url: Of http or https.
        verify: Raises a MnistRuntimeError when the file at the path it is given is not what was wanted.
        sha256: Of the file, in hex, if it is known.
        limit: Largest size, in bytes.
        timeout: Seconds that the server may be silent.
        progress: Called as bytes come in.

    Raises:
        DownloadError: the file cannot be had, or is not what was wanted.
        FileWriteError: the cache cannot be written.
    """
    path = cache_folder() / hashlib.sha256(url.encode()).hexdigest()[:16] / (Path(urlsplit(url).path).name or "data")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                _fetch_to(path, url, verify, sha256, _Download(url, path, limit, timeout, progress))
            elif sha256:
                _require(path, url, sha256)
    except requests.RequestException as error:
        raise DownloadError(f"{url} cannot be fetched ({_reason(error)}); {_WAY_OUT}") from error
    except MnistRuntimeError:
        raise
    except OSError as error:
        raise FileWriteError(f"cannot write in {path.parent} ({error.strerror}); set MNIST_EDGE_CACHE") from error
    return path


def _fetch_to(
    path: Path, url: str, verify: Callable[[Path], object], sha256: str | None, download: "_Download"
) -> None:
    download.run()
    try:
        if sha256:
            _require(download.part, url, sha256)
        verify(download.part)
    except MnistRuntimeError as error:
        download.discard()
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"what {url} sent is not usable: {error}; or use --data bundled") from error
    download.part.replace(path)
    download.discard()


class _Download:
    """One file on its way: `part` holds what has come, beside it the name the server gave to that version."""

    def __init__(self, url: str, path: Path, limit: int, timeout: float, progress: Progress) -> None:
        self.url = url
        self.part = path.with_name(f".{path.name}.part")
        self._version = path.with_name(f".{path.name}.version")
        self._limit = limit
        self._timeout = (_CONNECT_TIMEOUT, timeout)
        self._progress = progress

    def run(self) -> None:
        """Fetch until the file is whole; a broken connection is made again."""
        with requests.Session() as session:
            retry = Retry(
                ATTEMPTS,
                redirect=5,
                backoff_factor=_BACKOFF,
                status_forcelist=range(500, 600),
                allowed_methods=["GET"],
                respect_retry_after_header=False,
            )
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=retry))
            session.max_redirects = 5
            for attempt in range(ATTEMPTS):
                try:
                    self._receive(session)
                except HTTPError as error:  # the body broke off; urllib3 has retried what came before it
                    if attempt == ATTEMPTS - 1:
                        raise DownloadError(f"{self.url} cannot be fetched ({_reason(error)}); {_WAY_OUT}") from error
                    time.sleep(_BACKOFF * 2**attempt)
                else:
                    return

    def discard(self) -> None:
        """Forget what has come."""
        self.part.unlink(missing_ok=True)
        self._version.unlink(missing_ok=True)

    def _receive(self, session: requests.Session) -> None:
        """Make one connection and append what it brings."""
        headers = {"Accept-Encoding": "identity", "User-Agent": f"mnist-edge/{__version__}"}
        have = self._have()
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": self._version.read_text()}
        with session.get(self.url, headers=headers, stream=True, timeout=self._timeout) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                self.discard()
                raise DownloadError(f"{self.url} changed or ended early while it was fetched; run the command again")
            response.raise_for_status()
            self._refuse_pages(response)
            resumed = response.status_code == requests.codes.partial_content
            have = have if resumed else 0
            length = response.headers.get("Content-Length", "")
            total = have + int(length) if length.isdecimal() else None
            self._check_size(total or 0)
            version = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if not resumed and version and not version.startswith("W/"):
                self._version.write_text(version)
            with self.part.open("ab" if resumed else "wb") as file:
                for chunk in response.raw.stream(_CHUNK, decode_content=False):
                    file.write(chunk)
                    have += len(chunk)
                    self._check_size(have)
                    self._progress(have, total)
                file.flush()
                os.fsync(file.fileno())

    def _have(self) -> int:
        """Bytes to go on from: what has come of a version that the server gave a name to."""
        return self.part.stat().st_size if self.part.exists() and self._version.exists() else 0

    def _refuse_pages(self, response: requests.Response) -> None:
        kind = response.headers.get("Content-Type", "")
        if kind.startswith("text/html"):
            raise DownloadError(f"{self.url} answers with a web page, not with a file of data; {_WAY_OUT}")
        if urlsplit(self.url).scheme == "https" and urlsplit(response.url).scheme != "https":
            raise DownloadError(f"{self.url} redirects to {response.url}, which is not encrypted; {_WAY_OUT}")

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            self.discard()
            raise DownloadError(
                f"{self.url} is larger than the limit of {self._limit:,} bytes; "
                "if you want it, raise the limit with mnist-data fetch --limit"
            )


def _require(path: Path, url: str, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise DownloadError(f"{url} has the SHA-256 {found}, not the one given; check both, nothing was kept")


def _reason(error: BaseException) -> str:
    """The innermost reason, in a line."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    while (inner := getattr(error, "reason", None) or next(iter(error.args), None)) and isinstance(inner, Exception):
        error = inner
    return " ".join(str(error).split()).rsplit(": ", 1)[-1] or type(error).__name__
