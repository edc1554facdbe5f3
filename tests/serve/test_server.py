"""The server's process: its announcement, and its end, which loses no request."""

import json
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

INFER = "/v2/models/mnist/infer"


def test_the_log_announces_the_address_and_the_model(server, classifier):
    event = server.wait_for("listening")
    assert event["url"].startswith("http://127.0.0.1:")
    assert (event["model"], event["sha256"]) == ("mnist", classifier.digests)
    assert event["message"].endswith("to this machine alone (--host 0.0.0.0 opens it to others).")


def test_the_server_listens_on_loopback_by_default(serve):
    assert "other machines too" in serve("--host", "0.0.0.0").wait_for("listening")["message"]


def test_the_server_listens_on_ipv6(serve):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = serve("--host", "::1")
    assert server.url.startswith("http://[::1]:")
    assert server.http.get("/v2/health/ready").status_code == 200


def test_the_server_listens_on_a_unix_socket_and_removes_it(serve, home, tmp_path, digits):
    path = tmp_path / "mnist.sock"
    with socket.socket(socket.AF_UNIX) as left_by_a_killed_server:
        left_by_a_killed_server.bind(str(path))
    server = serve("--uds", path)
    assert server.url == f"unix:{path}"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://x", timeout=60) as http:
        answer = http.post(INFER, json=server.document(digits[:1]))
    assert answer.json()["outputs"][2]["data"] == [7]
    assert server.wait_for("request", status=200)["client"] == "-"
    second = subprocess.run(
        [server.process.args[0], "--uds", path], capture_output=True, cwd=home, text=True, check=False
    )
    assert second.returncode == 1
    assert second.stderr.endswith(f"Error: cannot listen on {path} (Address already in use); give another --uds\n")
    assert server.stop() == 0
    assert not path.exists()


def test_an_impossible_unix_socket_is_refused_in_one_sentence(run, home, tmp_path):
    (tmp_path / "file").write_text("no socket")
    for path in (tmp_path / "file", tmp_path / "absent" / "socket", tmp_path / ("x" * 200)):
        result = run("mnist-serve", "--uds", path, cwd=home)
        assert result.returncode == 1
        assert result.stderr.decode().splitlines()[-1].startswith(f"Error: cannot listen on {path} (")
    assert (tmp_path / "file").read_text() == "no socket"


def test_an_invalid_host_name_is_refused_in_one_sentence(run, home):
    result = run("mnist-serve", "--host", "a..b", cwd=home)
    assert result.returncode == 1
    *_, last = result.stderr.decode().splitlines()
    assert last == "Error: cannot listen on a..b, because that is no host name; give another --host"


def test_only_pages_of_the_named_origins_may_read_answers(serve, digits):
    server = serve("--cors-origin", "https://example.org", "--cors-origin", "http://localhost:3000")
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "inference-header-content-length",
    }
    for origin, allowed in (("https://example.org", True), ("http://localhost:3000", True), ("http://else.org", False)):
        preflight = server.http.options(INFER, headers={"Origin": origin, **asked})
        assert preflight.status_code == (200 if allowed else 400)
        for document in (server.document(digits[:1]), {}):
            answer = server.http.post(INFER, json=document, headers={"Origin": origin})
            assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
            assert answer.headers["access-control-expose-headers"] == "Inference-Header-Content-Length"


def test_no_page_of_another_origin_may_read_answers_by_default(server, digits):
    answer = server.http.post(INFER, json=server.document(digits[:1]), headers={"Origin": "https://example.org"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_with_status_0(serve, digits, sig):
    server = serve()
    assert server.infer(digits[:1]).status_code == 200  # and the connection stays open
    assert server.stop(sig) == 0
    assert [line["event"] for line in server.log[-3:]] == ["stopping", "stopped", "end of log"]


def test_a_stopping_server_is_live_but_not_ready_and_finishes_accepted_requests(serve, digits):
    server = serve()
    body = json.dumps(server.document(digits[:1])).encode()
    accepted = server.send(body, part=slice(-10))
    server.wait_for_in_flight(1)
    server.process.send_signal(signal.SIGTERM)
    server.wait_for("stopping", in_flight=1)
    assert server.http.get("/v2/health/live").status_code == 200
    not_ready = server.http.get("/v2/health/ready")
    assert (not_ready.status_code, not_ready.json()) == (503, {"ready": False})
    not_ready = server.http.get("/v2/models/mnist/ready")
    assert (not_ready.status_code, not_ready.json()) == (503, {"name": "mnist", "ready": False})
    for refused in (server.infer(digits[:1]), server.http.post(INFER, content=bytes(6_000_000))):
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"] == "the server is stopping; send this request to another server"
    accepted.sendall(body[-10:])
    status, answer = server.answer(accepted)
    assert (status, answer["outputs"][2]["data"]) == (200, [7])
    assert server.wait() == 0


FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


@pytest.mark.skipif(not FAKETIME, reason="needs libfaketime")
@pytest.mark.parametrize("jump", ["+1d", "-1d"])
@pytest.mark.parametrize(("timeout", "status"), [(60, 200), (1, 408)])
def test_a_jump_of_the_clock_moves_no_deadline(serve, digits, tmp_path, jump, timeout, status):
    clock = tmp_path / "clock"
    clock.write_text("+0")
    env = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    server = serve("--timeout", timeout, env={**env, "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
    body = json.dumps(server.document(digits[:1])).encode()
    with server.send(body, part=slice(-10)) as half:
        server.wait_for_in_flight(1)
        server.wait_for("request")  # logged before the clock jumps
        clock.write_text(jump)
        half.sendall(body[-10:] if status == 200 else b"")
        assert half.recv(12) == b"HTTP/1.1 %d" % status
        server.wait_for("request", status=status, method="POST")
    times = [line["time"][:10] for line in server.requests()]
    assert times[0] != times[-1]
    assert server.stop() == 0


def test_a_second_signal_stops_the_server_at_once(serve, digits):
    server = serve()
    held = server.send(json.dumps(server.document(digits[:1])).encode(), part=slice(-10))
    server.wait_for_in_flight(1)
    server.process.send_signal(signal.SIGTERM)
    server.wait_for("stopping")
    assert server.stop() == 1
    held.close()


def test_under_load_no_accepted_request_is_lost(serve, classifier, digits):
    """Every request in the log was answered correctly."""
    server = serve()
    expected = classifier.predict(digits).tolist()
    enough = threading.Event()

    def ask(client: int) -> list[int]:
        """Send requests until nobody listens any more, and return their statuses."""
        statuses: list[int] = []
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
            while True:
                row = (client + len(statuses)) % 100
                try:
                    answer = http.post(INFER, json=server.document(digits[row : row + 1]))
                except httpx.TransportError:  # nobody listens any more
                    return statuses
                statuses.append(answer.status_code)
                if answer.status_code == 200:
                    assert answer.json()["outputs"][2]["data"] == [expected[row]]
                if len(statuses) == 20:
                    enough.set()

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask, client) for client in range(8)]
        assert enough.wait(60)
        assert server.stop() == 0
        answered = [status for each in asked for status in each.result()]
    assert set(answered) <= {200, 503}
    logged = [line["status"] for line in server.requests()]
    assert {status: logged.count(status) for status in {200, *logged}} == {
        status: answered.count(status) for status in {200, *answered}
    }


def test_a_port_in_use_is_refused_in_one_sentence(server, run, home):
    port = server.address[1]
    result = run("mnist-serve", "--port", port, cwd=home)
    assert result.returncode == 1
    assert result.stderr.decode().splitlines()[-1] == (
        f"Error: cannot listen on 127.0.0.1 port {port} (Address already in use); give another --host or --port"
    )


def test_an_unknown_host_is_refused_in_one_sentence(run, home):
    result = run("mnist-serve", "--host", "no.such.host.invalid", "--port", "0", cwd=home)
    assert result.returncode == 1
    assert result.stderr.decode().splitlines()[-1].startswith("Error: cannot listen on no.such.host.invalid port 0 (")
