"""mnist-serve as a real process on a free port of its own choice, and its log, read line by line."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from mnist_runtime import Classifier

COMMAND = Path(sys.executable).parent / "mnist-serve"
WAIT = 60.0
"""Seconds that a test waits for something that takes milliseconds, because a machine may be slow."""


class Server:
    """One running mnist-serve."""

    def __init__(self, *args: object, home: Path, env: dict[str, str] | None = None) -> None:
        clean = {key: value for key, value in os.environ.items() if key not in {"MNIST_MODEL", "NO_COLOR"}}
        words = [COMMAND, "--port", "0", "--log-format", "json", *map(str, args)]
        self.process = subprocess.Popen(
            words, stderr=subprocess.PIPE, cwd=home, env={**clean, "HOME": str(home), **(env or {})}
        )
        self.log: list[dict[str, Any]] = []
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self.wait_for("listening")["url"]
        self.address = urlsplit(self.url).hostname, urlsplit(self.url).port
        # A connection that has been idle for longer is not used again, because a hasty server may just be closing it.
        limits = httpx.Limits(keepalive_expiry=0.1)
        self.http = httpx.Client(base_url=self.url, timeout=WAIT, trust_env=False, limits=limits)

    def _read(self) -> None:
        for line in self.process.stderr:
            with self._came:
                self.log.append(json.loads(line))
                self._came.notify_all()
        with self._came:
            self.log.append({"event": "end of log"})
            self._came.notify_all()

    def wait_for(self, event: str, **facts: object) -> dict[str, Any]:
        """Return the first line of the log with `event` and these facts, once it is there."""

        def found() -> dict[str, Any] | None:
            wanted = {"event": event, **facts}
            return next((line for line in self.log if wanted.items() <= line.items()), None)

        with self._came:
            self._came.wait_for(lambda: found() or self.log[-1:] == [{"event": "end of log"}], WAIT)
            line = found()
        assert line, f"no {event} {facts} in {self.log}"
        return line

    def requests(self) -> list[dict[str, Any]]:
        """Return the access log."""
        return [line for line in self.log if line["event"] == "request"]

    def metric(self, name: str, /, **labels: str) -> float:
        """Return one value of /metrics, 0 if it is missing."""
        wanted = "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}" if labels else ""
        for line in self.http.get("/metrics").text.splitlines():
            key, _, value = line.rpartition(" ")
            if key == name + wanted:
                return float(value)
        return 0.0

    def wait_for_metric(self, name: str, value: float) -> None:
        """Wait until a metric has that value."""
        start = time.monotonic()
        while (seen := self.metric(name)) != value:
            assert time.monotonic() < start + WAIT, f"{name} is {seen} and never became {value}"

    def wait_for_in_flight(self, count: int) -> None:
        """Wait until that many requests are being answered."""
        self.wait_for_metric("mnist_serve_requests_in_flight", count)

    def connect(self) -> socket.socket:
        """Open a bare connection."""
        return socket.create_connection(self.address, timeout=WAIT)

    def infer(self, digits: np.ndarray, **extra: Any) -> httpx.Response:
        """Send `[N, 784]` as JSON."""
        return self.http.post("/v2/models/mnist/infer", json={**self.document(digits), **extra})

    @staticmethod
    def document(digits: np.ndarray) -> dict[str, Any]:
        """Return an inference request as a JSON document."""
        datatype = "UINT8" if digits.dtype == np.uint8 else "FP32"
        data = digits.ravel().tolist()
        return {"inputs": [{"name": "pixels", "datatype": datatype, "shape": list(digits.shape), "data": data}]}

    def send(
        self, body: bytes, *headers: str, part: slice = slice(None), connection: socket.socket | None = None
    ) -> socket.socket:
        """Send a POST of `body` to the model, or a part of it, on a bare connection, and return the connection."""
        head = ["POST /v2/models/mnist/infer HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
        connection = connection or self.connect()
        connection.sendall(("\r\n".join([*head, "", ""]).encode() + body)[part])
        return connection

    @staticmethod
    def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
        """Return status and JSON of the response on a bare connection that the server then closes."""
        with connection:
            head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(sig)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(WAIT)
        self._reader.join(WAIT)
        return status

    def close(self) -> None:
        self.http.close()
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:  # a test has sent half a request
            self.process.kill()
        self.wait()
        self.process.stderr.close()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder and HOME without any artifacts."""
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="session")
def command() -> Path:
    """The command mnist-serve."""
    return COMMAND


@pytest.fixture(scope="session")
def server(home: Path) -> Iterator[Server]:
    """The bundled model, served with the defaults; tests leave it running."""
    started = Server(home=home)
    yield started
    started.close()


def _servers(home: Path) -> Iterator[Callable[..., Server]]:
    """Yield a function that starts servers; stop those that still run at the end."""
    started: list[Server] = []

    def start(*args: object, **options: Any) -> Server:
        started.append(Server(*args, home=home, **options))
        return started[-1]

    yield start
    for each in started:
        each.close()


serve = pytest.fixture(_servers)
serve_module = pytest.fixture(_servers, scope="module")


@pytest.fixture(scope="session")
def digits(test_split) -> np.ndarray:
    """Real digits, uint8 `[100, 784]`."""
    return np.asarray(test_split.images[:100], np.uint8).reshape(100, 784)


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    return Classifier()
