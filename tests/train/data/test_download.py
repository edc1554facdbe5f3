"""Downloads from a real server, with the faults that servers have."""

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mnist_runtime.errors import FileWriteError
from mnist_train.checkpoint import load
from mnist_train.data.download import cache_folder, fetch
from mnist_train.data.sources import fetch_source, open_source
from mnist_train.errors import DataError, DownloadError
from mnist_train.run import TrainingRun
from mnist_train.settings import TrainingSettings

BIN = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MNIST_EDGE_CACHE", str(folder))
    return folder


def left_in(cache: Path) -> list[str]:
    """Return the names of the files in the cache without locks."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")


def accept(path: Path) -> None:
    """Accept any content."""


def test_the_labs_file_holds_the_bundled_digits(server):
    fetched, bundled = open_source(server.url), open_source("bundled")
    assert fetched.digests() == bundled.digests()
    np.testing.assert_array_equal(fetched.train.images, bundled.train.images)


def test_a_cached_file_is_not_downloaded_again(server, cache):
    first = fetch_source(server.url)
    assert fetch_source(server.url) == first
    assert len(server.faults.requests) == 1
    assert left_in(cache) == ["mnist.pkl.gz"]


@pytest.mark.parametrize("fault", ["drop", "stall", "drop before the answer", "503", "redirect", "claims more"])
def test_a_download_that_fails_once_is_tried_again(server, cache, fault):
    server.faults.plan = [fault]
    path = fetch(server.url, verify=accept, timeout=2)
    assert path.read_bytes() == server.faults.content
    assert left_in(cache) == ["mnist.pkl.gz"]


def test_a_download_is_retried_only_as_often_as_stated(server, monkeypatch):
    monkeypatch.setattr("mnist_train.data.download.RETRIES", 1)
    server.faults.plan = ["503"] * 3
    with pytest.raises(DownloadError, match="answers 503"):
        fetch(server.url, verify=accept)
    assert len(server.faults.requests) == 2


def test_files_that_a_killed_process_left_are_removed(server, cache):
    server.faults.plan = ["stall"]
    script = f"from mnist_train.data.download import fetch\nfetch({server.url!r}, verify=print)"
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        assert server.faults.stalled.wait(60)
        process.kill()
    assert left_in(cache) not in ([], ["mnist.pkl.gz"])
    fetch_source(server.url)
    assert left_in(cache) == ["mnist.pkl.gz"]


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (["404"], "404 Not Found"),
        (["503"] * 10, "503"),
        (["drop"] * 10, "cannot be downloaded"),
        (["drop before the answer"] * 10, "cannot be downloaded"),
        (["claims more"] * 10, "cannot be downloaded"),
        (["claims less"], "is cut short or damaged"),
        (["HTML"], "web page"),
        (["redirect for ever"] * 10, "redirects"),
        (["302 to nowhere"], "cannot be downloaded"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_failed_download_is_one_sentence_that_names_the_bundled_digits(server, cache, plan, sentence, monkeypatch):
    monkeypatch.setattr("mnist_train.data.download.RETRIES", 0)
    server.faults.plan = plan
    with pytest.raises(DownloadError, match=sentence) as caught:
        fetch_source(server.url)
    assert "\n" not in str(caught.value)
    assert "--data bundled" in str(caught.value)
    assert left_in(cache) == []


def test_a_refused_connection_names_the_bundled_digits(monkeypatch):
    monkeypatch.setattr("mnist_train.data.download.RETRIES", 0)
    with pytest.raises(DownloadError, match=r"refused.*--data bundled"):
        fetch_source("http://127.0.0.1:1/mnist.pkl.gz")


@pytest.mark.parametrize("plan", [[], ["claims more"]])
def test_a_download_larger_than_the_limit_is_stopped(server, cache, plan):
    server.faults.plan = plan
    with pytest.raises(DownloadError, match=r"larger than the limit of 1,000,000 bytes"):
        fetch_source(server.url, limit=1_000_000)
    assert left_in(cache) == []


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_the_record_of_a_run_holds_no_secret_of_a_signed_url(server, cache, test_split, tmp_path):
    server.faults.content = npz(x_train=test_split.images[:60], y_train=test_split.labels[:60])
    digest = hashlib.sha256(server.faults.content).hexdigest()
    source = f"{server.url}?X-Amz-Signature=secret"
    settings = TrainingSettings(data=source, sha256=digest, epochs=1, device="cpu", output_dir=str(tmp_path))
    TrainingRun(settings, echo=lambda _: None).train()
    assert server.faults.requests[-1].endswith("?X-Amz-Signature=secret")
    assert load(tmp_path / "mnist.safetensors").record["data"]["name"] == server.url.rpartition("/")[2]


def test_other_digits_than_mnists_need_their_sha256(server, cache, test_split):
    other = npz(x_train=test_split.images[:60], y_train=test_split.labels[:60])
    server.faults.content = other
    with pytest.raises(DownloadError, match=r"differs from MNIST.*--sha256"):
        open_source(server.url)
    assert left_in(cache) == []
    found = open_source(server.url, sha256=hashlib.sha256(other).hexdigest())
    assert (len(found.train), len(found.valid), found.test) == (50, 10, None)
    with pytest.raises(DownloadError, match="SHA-256"):
        open_source(server.url, sha256="0" * 64)


def test_a_wrong_sha256_keeps_nothing(server, cache):
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch_source(server.url, sha256="0" * 64)
    assert left_in(cache) == []


def test_two_processes_download_a_file_once(server, run):
    command = [BIN / "mnist-data", "fetch", server.url]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    outcomes = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outcomes
    assert outcomes[0][0] == outcomes[1][0]
    assert len(server.faults.requests) == 1


def test_the_command_reports_a_failed_download_in_one_line(server, run, cache):
    server.faults.plan = ["404"]
    result = run("mnist-train", "--data", server.url, "--output-dir", cache, env={"MNIST_EDGE_CACHE": str(cache)})
    assert result.returncode == 1
    assert result.stderr.startswith(b"Error: ")
    assert result.stderr.count(b"\n") == 1
    assert b"--data bundled" in result.stderr


def test_a_cache_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MNIST_EDGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="MNIST_EDGE_CACHE"):
        fetch("http://127.0.0.1:1/x", verify=accept)


def test_the_cache_lies_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("MNIST_EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mnist-edge" or sys.platform != "linux"


def test_a_gzip_bomb_is_stopped_at_the_limit(tmp_path, monkeypatch):
    import gzip

    monkeypatch.setattr("mnist_train.data.unpickle.LIMIT", 2**20)
    bomb = tmp_path / "bomb.pkl.gz"
    bomb.write_bytes(gzip.compress(b"\0" * 2**24))
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        open_source(str(bomb))


def test_an_npz_that_claims_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mnist_train.data.sources._UNPACKED_LIMIT", 2**20)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", b"\0" * 2**24)
    with pytest.raises(DataError, match="unpacks to more"):
        open_source(str(tmp_path / "bomb.npz"))


def test_a_table_that_unpacks_to_too_much_is_stopped_at_the_limit(tmp_path, monkeypatch):
    import gzip

    monkeypatch.setattr("mnist_train.data.sources._UNPACKED_LIMIT", 2**20)
    monkeypatch.setattr("mnist_train.data.sources._ROWS", 1000)
    row = b"7," + b",".join([b"0"] * 784) + b"\n"
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(row * 3000 + b"never read\n"))
    with pytest.raises(DataError, match="unpacks to more"):
        open_source(str(tmp_path / "bomb.csv.gz"))


def test_without_a_home_folder_the_cache_must_be_named(monkeypatch):
    def is_unknown(uid: int):
        raise KeyError(uid)

    for name in ("MNIST_EDGE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", is_unknown)  # as in a container that runs as any number
    with pytest.raises(FileWriteError, match=r"no folder for downloads \(.*set MNIST_EDGE_CACHE"):
        cache_folder()
