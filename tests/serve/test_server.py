"""The process: its announcement, and that it loses no request when it stops."""

import json
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

INFER = "/v2/models/mnist/infer"


def test_the_log_announces_the_address_and_the_model(server, classifier):
    said = server.wait_for("listening")
    assert said["url"].startswith("http://127.0.0.1:")
    assert (said["model"], said["sha256"]) == ("mnist", classifier.digests)
    assert said["message"].endswith("to this machine alone (--host 0.0.0.0 opens it to others).")


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
    status, said = server.answer(accepted)
    assert (status, said["outputs"][2]["data"]) == (200, [7])
    assert server.wait() == 0


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
        """The statuses of one client's requests; it goes on until it is sent away."""
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


def test_a_port_in_use_is_one_sentence(server, run, home):
    port = server.address[1]
    result = run("mnist-serve", "--port", port, cwd=home)
    assert result.returncode == 1
    assert result.stderr.decode().splitlines()[-1] == (
        f"Error: cannot listen on 127.0.0.1 port {port} (Address already in use); give another --host or --port"
    )


def test_an_unknown_host_is_one_sentence(run, home):
    result = run("mnist-serve", "--host", "no.such.host.invalid", "--port", "0", cwd=home)
    assert result.returncode == 1
    assert result.stderr.decode().splitlines()[-1].startswith("Error: cannot listen on no.such.host.invalid port 0 (")
