"""Fixtures of the training room's tests: the lab's file, made of the bundled digits, and a server with faults."""

import contextlib
import gzip
import http.server
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from mnist_train.data.bundled import SPLITS, Split, load_split


@pytest.fixture(scope="session")
def lab_pickle(make_once: Callable[..., Path]) -> Path:
    """The lab's mnist.pkl.gz, complete: gzip around a pickle of float32 images and int64 labels."""

    def pickle_splits(folder: Path) -> None:
        arrays = tuple(
            (split.images.reshape(-1, 784).astype(np.float32) / np.float32(256), split.labels.astype(np.int64))
            for split in map(load_split, SPLITS)
        )
        with gzip.GzipFile(folder / "mnist.pkl.gz", "wb", compresslevel=1) as file:
            pickle.dump(arrays, file, protocol=2)

    return make_once("lab", pickle_splits) / "mnist.pkl.gz"


@pytest.fixture(scope="session")
def train_split() -> Split:
    """The 50,000 digits that training sees."""
    return load_split("train")


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory, train_split: Split, validation: Split) -> Path:
    """2,000 real digits as .npz: 32 steps of 64 an epoch."""
    path = tmp_path_factory.mktemp("few") / "few.npz"
    np.savez(
        path,
        x_train=train_split.images[:2000],
        y_train=train_split.labels[:2000],
        x_valid=validation.images[:500],
        y_valid=validation.labels[:500],
    )
    return path


class Faults:
    """Faults of the server, one per request, and the requests that it received."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.plan: list[str] = []
        self.requests: list[str] = []
        """Path of each GET."""
        self.stalled = threading.Event()
        """Set once half an answer has been sent."""


class FaultyHandler(http.server.BaseHTTPRequestHandler):
    """A handler that serves `faults.content` at every path, with the next fault of `faults.plan`."""

    protocol_version = "HTTP/1.1"
    faults: Faults

    def do_GET(self) -> None:
        faults = self.faults
        faults.requests.append(self.path)
        fault = faults.plan.pop(0) if faults.plan else ""
        self.close_connection = True
        match fault:
            case "drop before the answer":
                return
            case "503" | "404":
                self.send_error(int(fault))
                return
            case "redirect":
                self.answer(302, b"", Location="/elsewhere.pkl.gz")
                return
            case "redirect for ever":
                faults.plan.append(fault)
                self.answer(302, b"", Location="/elsewhere.pkl.gz")
                return
            case "HTML":
                self.answer(200, b"<!doctype html><h1>Please log in</h1>", **{"Content-Type": "text/html"})
                return
            case "302 to nowhere":
                self.answer(302, b"", Location="http://[")
                return
        body = faults.content
        length = {"claims more": len(body) + 1000, "claims less": len(body) - 1000}.get(fault, len(body))
        sent = {"drop": len(body) // 3, "stall": len(body) // 2, "claims less": len(body) - 1000}.get(fault, len(body))
        self.answer(200, body[:sent], length=length)
        if fault == "stall":
            faults.stalled.set()
            self.server.released.wait(30)  # until the test is over; the client times out long before

    def answer(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may have seen enough
            self.wfile.write(body)
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Print no log."""


@dataclass
class FaultyServer:
    url: str
    faults: Faults


@pytest.fixture
def server(lab_pickle: Path) -> Iterator[FaultyServer]:
    """Serve the lab's file by a real HTTP server on this machine, with the faults of its plan."""
    faults = Faults(lab_pickle.read_bytes())
    handler = type("Handler", (FaultyHandler,), {"faults": faults})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        http_server.daemon_threads = True
        http_server.released = threading.Event()
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield FaultyServer(f"http://127.0.0.1:{http_server.server_port}/mnist.pkl.gz", faults)
        http_server.released.set()
        http_server.shutdown()


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and CUDA where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    return torch.device(request.param)
