"""Admission, metrics, the access log, and deadlines on any ASGI server."""

import asyncio
import gc
import json
import math
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mnist_serve import Limits, ServedModel, create_app
from mnist_serve.errors import SlowReaderError

INFER = "/v2/models/mnist/infer"


@pytest.fixture
def busy(serve, digits):
    """A server at its limit of two concurrent requests, whose clients do not read, and a function that reads."""
    server = serve("--max-concurrency", 2)
    body = json.dumps(server.document(np.tile(digits, (40, 1)))).encode()
    held = [server.connect() for _ in range(2)]
    for connection in held:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.send(body, "Connection: close", connection=connection)
    server.wait_for_in_flight(2)
    server.wait_for_metric("mnist_serve_batch_digits_count", 2)  # no body is still on its way

    def release() -> list[int]:
        for connection in held:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        return [server.answer(connection)[0] for connection in held]

    yield server, release
    for connection in held:
        connection.close()


def test_requests_beyond_the_limit_get_503_and_may_retry(busy, digits):
    server, release = busy
    answer = server.infer(digits[:1])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"] == "the server is at its limit of 2 concurrent requests; try again"
    assert server.metric("mnist_serve_requests_rejected_total", reason="busy") == 1
    assert server.metric("mnist_serve_requests_total", route="/v2/models/{model}/infer", status="503") == 1
    assert release() == [200, 200]
    assert server.infer(digits[:1]).status_code == 200
    assert server.metric("mnist_serve_requests_in_flight") == 0


def test_the_oldest_unfinished_request_makes_room_for_others(serve, digits):
    server = serve("--max-concurrency", 2)
    body = json.dumps(server.document(digits[:1])).encode()
    with server.send(body, part=slice(-10)) as oldest:
        server.wait_for_in_flight(1)
        with server.send(body, part=slice(-10)) as other:
            server.wait_for_in_flight(2)
            assert server.infer(digits[:1]).status_code == 200
            assert oldest.recv(12) == b"HTTP/1.1 503"
            other.sendall(body[-10:])
            assert other.recv(12) == b"HTTP/1.1 200"
        oldest.sendall(body[-10:])
        oldest.shutdown(socket.SHUT_WR)
        assert b"and this body was still on its way; try again" in b"".join(iter(lambda: oldest.recv(4096), b""))
    assert server.metric("mnist_serve_requests_rejected_total", reason="busy") == 1
    assert server.metric("mnist_serve_requests_in_flight") == 0


def test_a_busy_server_still_answers_probes_and_metadata(busy):
    server, _ = busy
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/mnist", "/metrics"):
        assert server.http.get(path).status_code == 200


def test_requests_are_counted_by_route_and_status(serve, digits):
    server = serve()
    for _ in range(3):
        server.infer(digits[:2])
    server.infer(np.full((1, 784), 7, np.float32))
    server.http.get("/v2/models/mnist/versions/1")
    server.http.get("/" + "x" * 50)
    route = "/v2/models/{model}/infer"
    assert server.metric("mnist_serve_requests_total", route=route, status="200") == 3
    assert server.metric("mnist_serve_requests_total", route=route, status="400") == 1
    assert server.metric("mnist_serve_requests_total", route="/v2/models/{model}", status="200") == 1
    assert server.metric("mnist_serve_requests_total", route="other", status="404") == 1
    assert server.metric("mnist_serve_request_duration_seconds_count", route=route) == 4
    assert server.metric("mnist_serve_batch_digits_sum") == 6
    assert server.metric("mnist_serve_batch_digits_bucket", le="2.0") == 3


def test_prometheus_can_parse_the_metrics(server, classifier):
    from prometheus_client.parser import text_string_to_metric_families

    answer = server.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert {"mnist_serve_requests", "mnist_serve_request_duration_seconds", "mnist_serve_batch_digits"} <= set(families)
    assert families["mnist_serve_model_info"].samples[0].labels == {
        "name": "mnist",
        "sha256": " ".join(classifier.digests),
    }


def test_every_request_is_logged_as_json(serve, digits):
    server = serve()
    server.infer(digits[:1])
    server.http.get("/a%20b%0Ac%22")
    line = server.wait_for("request", status=200)
    assert (line["client"], line["method"], line["path"]) == ("127.0.0.1", "POST", INFER)
    assert 0 < line["duration_ms"] < 60_000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert server.wait_for("request", status=404)["path"] == '/a b\nc"'


def test_a_header_cannot_forge_the_clients_address(serve):
    server = serve()
    server.http.get("/v2", headers={"X-Forwarded-For": "1.1.1.1 GET /v2/secret 200 0.1 ms"})
    assert server.wait_for("request", path="/v2")["client"] == "127.0.0.1"


@pytest.mark.parametrize(("flags", "lines"), [([], 2), (["--no-access-log"], 0)])
def test_requests_are_logged_as_text_unless_switched_off(home, flags, lines):
    command = Path(sys.executable).parent / "mnist-serve"
    process = subprocess.Popen([command, "--port", "0", *flags], stderr=subprocess.PIPE, cwd=home, text=True)
    chosen, announced = process.stderr.readline(), process.stderr.readline()
    url = re.search(r"http://127\.0\.0\.1:\d+", announced)[0]
    httpx.get(f"{url}/v2/health/live", timeout=60)
    httpx.get(f"{url}/a%1b%5B31m", timeout=60)
    process.terminate()
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert chosen.startswith("Using the bundled model cnn (no artifacts/mnist.onnx here): it read 99.50%")
    assert announced.endswith(", to this machine alone (--host 0.0.0.0 opens it to others).\n")
    *requests, stopping, stopped = log.splitlines()
    assert len(requests) == lines
    assert (stopping, stopped) == ("Stopping; requests still being answered: 0.", "Stopped.")
    if lines:
        assert re.fullmatch(r"\S+Z 127\.0\.0\.1 GET /v2/health/live 200 \d+\.\d ms", requests[0])
        assert r'"/a\u001b[31m" 404' in requests[1]


class Exchange:
    """An ASGI server of one request, whose client sends a part of the body and reads a part of the response."""

    def __init__(self, body: list[dict], reads: float = math.inf) -> None:
        self._body = iter(body)
        self._reads = reads
        self.sent: list[dict] = []

    async def receive(self):
        message = next(self._body, None)
        return message or await asyncio.Event().wait()

    async def send(self, message):
        if len(self.sent) >= self._reads:
            await asyncio.Event().wait()
        self.sent.append(message)

    def run(self, app, path: str, method: str = "POST") -> None:
        scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "root_path": ""}
        asyncio.run(app(scope, self.receive, self.send))

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


@pytest.fixture
def app(classifier):
    """An application for any ASGI server, with a timeout of 50 ms and a route whose response has 1 MB."""

    async def large(_: Request) -> Response:
        return Response(bytes(10**6))

    limits = Limits(timeout=0.05)
    return create_app(ServedModel(classifier), limits=limits, routes=[Route("/large", large)])


def test_a_body_that_does_not_arrive_is_a_408_on_any_asgi_server(app):
    exchange = Exchange([{"type": "http.request", "body": b"{", "more_body": True}])
    exchange.run(app, INFER)
    start, *_ = exchange.sent
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]
    assert json.loads(exchange.body) == {
        "error": "the request did not arrive within 0.05 seconds; send it faster, or send less"
    }
    assert b'requests_total{route="/v2/models/{model}/infer",status="408"} 1.0' in app.metrics.text()
    assert app.gate.in_flight == 0


@pytest.mark.parametrize("values", [200_000, 500])
def test_a_refused_body_is_freed_before_the_response_is_sent(app, values):
    """A large body is parsed in a thread, a small one in the event loop."""
    data = "[" + ",".join(["1.5"] * values) + "]"
    body = f'{{"inputs":[{{"name":"pixels","datatype":"FP32","shape":[1,784],"data":{data}}}]}}'.encode()
    held = []

    class Watched(Exchange):
        async def send(self, message):
            held.extend(each for each in gc.get_objects() if type(each) is list and each[:2] == [1.5, 1.5])
            await super().send(message)

    exchange = Watched([{"type": "http.request", "body": body}])
    gc.collect()
    gc.disable()
    try:
        exchange.run(app, INFER)
    finally:
        gc.enable()
    assert exchange.sent[0]["status"] == 400
    assert not held


@pytest.mark.parametrize("reads", [0, 1, 2, 5])
def test_a_client_that_stops_reading_is_an_error_on_any_asgi_server(app, reads):
    exchange = Exchange([{"type": "http.request"}], reads)
    with pytest.raises(SlowReaderError, match=r"did not read its response for 0\.05 seconds"):
        exchange.run(app, "/large", "GET")
    assert len(exchange.sent) == reads


def test_a_large_response_is_sent_piece_by_piece(app):
    exchange = Exchange([{"type": "http.request"}])
    exchange.run(app, "/large", "GET")
    pieces = exchange.sent[1:]
    assert exchange.body == bytes(10**6)
    assert max(len(piece["body"]) for piece in pieces) == 2**16
    assert [piece.get("more_body", False) for piece in pieces] == [True] * (len(pieces) - 1) + [False]
