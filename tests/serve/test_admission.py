"""What is admitted, counted and logged."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from mnist_serve.log import Log

INFER = "/v2/models/mnist/infer"


@pytest.fixture
def busy(serve, digits):
    """A server that answers two requests at a time, while it has two; and the function that lets them end."""
    server = serve("--max-concurrency", 2)
    body = json.dumps(server.document(digits[:1])).encode()
    held = [server.send(body, part=slice(-10)) for _ in range(2)]
    server.wait_for_in_flight(2)

    def release() -> list[bytes]:
        for connection in held:
            connection.sendall(body[-10:])
        return [connection.recv(15) for connection in held]

    yield server, release
    for connection in held:
        connection.close()


def test_beyond_the_most_at_a_time_clients_are_told_to_come_again(busy, digits):
    server, release = busy
    answer = server.infer(digits[:1])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"] == "2 requests are being answered, the most at a time; try again"
    assert server.metric("mnist_serve_requests_rejected_total", reason="busy") == 1
    assert server.metric("mnist_serve_requests_total", route="/v2/models/{model}/infer", status="503") == 1
    assert release() == [b"HTTP/1.1 200 OK"] * 2
    assert server.infer(digits[:1]).status_code == 200
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


def test_metrics_are_what_prometheus_reads(server, classifier):
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


def test_nobody_can_say_in_a_header_who_he_is(serve):
    server = serve()
    server.http.get("/v2", headers={"X-Forwarded-For": "1.1.1.1 GET /v2/secret 200 0.1 ms"})
    assert server.wait_for("request", path="/v2")["client"] == "127.0.0.1"


@pytest.mark.parametrize(("flags", "lines"), [([], 2), (["--no-access-log"], 0)])
def test_requests_are_logged_as_text_unless_told_not_to(home, flags, lines):
    command = Path(sys.executable).parent / "mnist-serve"
    process = subprocess.Popen([command, "--port", "0", *flags], stderr=subprocess.PIPE, cwd=home, text=True)
    chosen, announced = process.stderr.readline(), process.stderr.readline()
    url = re.search(r"http://127\.0\.0\.1:\d+", announced)[0]
    httpx.get(f"{url}/v2/health/live")
    httpx.get(f"{url}/a%1b%5B31m")
    process.terminate()
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert chosen == "Using the bundled model (no artifacts/mnist.onnx here).\n"
    assert announced.endswith(", to this machine alone (--host 0.0.0.0 opens it to others).\n")
    *requests, stopping, stopped = log.splitlines()
    assert len(requests) == lines
    assert (stopping, stopped) == ("Stopping; requests still being answered: 0.", "Stopped.")
    if lines:
        assert re.fullmatch(r"\S+Z 127\.0\.0\.1 GET /v2/health/live 200 \d+\.\d ms", requests[0])
        assert r'"/a\u001b[31m" 404' in requests[1]


def test_a_log_that_nobody_reads_any_more_is_no_error():
    """It would end the server while it stops, and with it the requests that it had accepted."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = io.TextIOWrapper(io.FileIO(writer, "w"))
    log = Log(stream)
    log.say("stopping", "Stopping.")
    log.request("127.0.0.1", "GET", "/", 200, 0.001)
    with contextlib.suppress(BrokenPipeError):
        stream.close()
