"""The log: its lines, and a server that no reader of its log can stall."""

import json
import logging
import os
import signal
import socket
import subprocess
import threading
from urllib.parse import urlsplit

import httpx
import pytest

from mnist_serve import log

PIPE = 1000
"""Number of requests whose lines exceed a pipe of 64 KiB."""


@pytest.fixture
def stalled(home, command):
    """A server whose standard error is a pipe that nobody reads once it listens, and its URL."""
    arguments = [command, "--port", "0", "--log-format", "json"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, cwd=home, bufsize=0) as process:
        url = next(line["url"] for line in map(json.loads, process.stderr) if line["event"] == "listening")
        yield process, url
        process.kill()


def send_many(url: str, count: int) -> None:
    """Send pipelined requests, and wait for all of their responses."""
    request = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    last = request.replace(b"Host: x", b"Host: x\r\nConnection: close")
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        sending = threading.Thread(target=connection.sendall, args=[request * (count - 1) + last])
        sending.start()
        received = b"".join(iter(lambda: connection.recv(2**16), b""))
        sending.join()
    assert received.count(b"HTTP/1.1 200 OK") == count


def test_a_log_that_nobody_reads_stops_neither_requests_nor_sigterm(stalled):
    process, url = stalled
    send_many(url, log.CAPACITY + PIPE)
    assert httpx.get(f"{url}/v2/health/ready", timeout=60).json() == {"ready": True}
    metrics = httpx.get(f"{url}/metrics", timeout=60).text
    dropped = next(line for line in metrics.splitlines() if line.startswith("mnist_serve_log_lines_dropped_total "))
    assert float(dropped.split()[1]) > 0
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_two_sigterms_end_a_server_whose_log_nobody_reads_and_whose_client_never_ends(stalled):
    process, url = stalled
    send_many(url, PIPE)
    address = urlsplit(url)
    with (
        socket.create_connection((address.hostname, address.port), timeout=60) as connection,
        httpx.Client(base_url=url, timeout=60, trust_env=False) as http,
    ):
        connection.sendall(b"POST /v2/models/mnist/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        while "in_flight 1.0" not in http.get("/metrics").text:
            pass
        process.send_signal(signal.SIGTERM)
        while http.get("/v2/health/ready").status_code != 503:
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1


def test_a_log_whose_reader_has_closed_it_stops_neither_requests_nor_sigterm(stalled):
    process, url = stalled
    process.stderr.close()
    send_many(url, 100)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_no_line_is_lost_while_somebody_reads(serve):
    server = serve()
    send_many(server.url, 5000)
    assert server.metric("mnist_serve_log_lines_dropped_total") == 0
    assert server.stop() == 0
    assert len([line for line in server.requests() if line["path"] == "/v2/health/live"]) == 5000


def lines(log_format: str, *, requests: bool, monkeypatch) -> list[str]:
    """Return the lines of an event, a request and a failure of uvicorn."""
    reader, writer = os.pipe()
    names = ("mnist_serve", "mnist_serve.request", "uvicorn.error")
    before = {logger: (logger.level, logger.propagate) for logger in map(logging.getLogger, names)}
    with os.fdopen(writer, "w") as stream, os.fdopen(reader) as output:
        monkeypatch.setattr("sys.stderr", stream)
        with log.logging_to_stderr(log_format, requests=requests) as queue:
            log.log_event("stopping", "Stopping.", in_flight=3)
            log.log_request("127.0.0.1", "GET", "/a b", 200, 0.0015)
            try:
                int("a mistake")
            except ValueError:
                logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
        for logger, (level, propagate) in before.items():
            logger.removeHandler(queue)
            logger.setLevel(level)
            logger.propagate = propagate
        stream.close()
        return output.read().splitlines()


def test_json_lines_have_time_event_and_facts(monkeypatch):
    event, request, error = map(json.loads, lines("json", requests=True, monkeypatch=monkeypatch))
    assert list(event) == ["time", "event", "message", "in_flight"]
    assert (event["event"], event["message"], event["in_flight"]) == ("stopping", "Stopping.", 3)
    assert list(request) == ["time", "event", "client", "method", "path", "status", "duration_ms"]
    assert list(request.values())[1:] == ["request", "127.0.0.1", "GET", "/a b", 200, 1.5]
    assert error["event"] == "error"
    assert error["message"].startswith("Exception in ASGI application\nTraceback")
    assert error["message"].endswith("'a mistake'")


def test_text_lines_are_the_message_and_for_requests_the_time_before_it(monkeypatch):
    event, request, *error = lines("text", requests=True, monkeypatch=monkeypatch)
    assert event == "Stopping."
    assert request.partition("Z ")[2] == '127.0.0.1 GET "/a b" 200 1.5 ms'
    assert error[0] == "Exception in ASGI application"


def test_requests_can_be_left_out(monkeypatch):
    events = [json.loads(line)["event"] for line in lines("json", requests=False, monkeypatch=monkeypatch)]
    assert events == ["stopping", "error"]
