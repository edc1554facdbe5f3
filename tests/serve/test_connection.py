"""Slow clients, endless heads and bytes that are not HTTP, none of which can stall the server."""

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from http.client import parse_headers
from types import SimpleNamespace

import numpy as np
import pytest

from mnist_serve.connection import MAX_HEAD, check_deadlines

TIMEOUT = 0.5
"""Timeout of `hasty` in seconds."""

LONGER = 2.0
"""Timeout of `patient` in seconds, which a busy machine holds no client up for."""


@pytest.fixture(scope="module")
def hasty(serve_module):
    """A server with a timeout of half a second."""
    return serve_module("--timeout", TIMEOUT)


@pytest.fixture(scope="module")
def patient(serve_module):
    """A server for clients that must not pause for its timeout."""
    return serve_module("--timeout", LONGER)


def test_a_head_that_does_not_arrive_gets_408(hasty):
    connection = hasty.connect()
    connection.sendall(b"POST /v2/models/mnist/infer HTTP/1.1\r\nHost: x\r\n")
    status, answer = hasty.answer(connection)
    assert status == 408
    assert answer["error"] == "the request did not arrive within 0.5 seconds; send it faster, or send less"


def test_a_silent_client_is_disconnected(hasty):
    with hasty.connect() as connection:
        assert connection.recv(100) == b""


def test_a_stalled_server_closes_no_connections():
    """Requests may have arrived in time, and may still be unread."""
    checked = []

    async def stall() -> None:
        connection = SimpleNamespace(check=checked.append)
        checking = asyncio.create_task(check_deadlines([connection], 0.01))
        for _ in range(10):
            await asyncio.sleep(0)
            time.sleep(0.03)  # holds up the event loop
        assert checked == []
        while not checked:
            await asyncio.sleep(0.001)
        checking.cancel()

    asyncio.run(stall())


def test_a_head_that_arrives_byte_by_byte_gets_408(hasty):
    connection = hasty.connect()
    connection.settimeout(0.05)
    received = b""
    for byte in b"POST /v2/models/mnist/infer HTTP/1.1\r\nX-Slow: " + b"x" * 10_000:
        try:
            connection.sendall(bytes([byte]))
            received = connection.recv(1000)
            break
        except TimeoutError:
            continue
    connection.close()
    assert received.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_does_not_arrive_gets_408(hasty, digits):
    body = json.dumps(hasty.document(digits[:1])).encode()
    status, answer = hasty.answer(hasty.send(body, part=slice(-10)))
    assert status == 408
    assert answer["error"].startswith("the request did not arrive within 0.5 seconds")
    assert hasty.metric("mnist_serve_requests_in_flight") == 0


def test_an_unread_body_does_not_keep_the_connection_open(hasty):
    with hasty.connect() as connection:
        connection.sendall(b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n.")
        received = b"".join(iter(lambda: connection.recv(1000), b""))
    assert received.startswith(b"HTTP/1.1 405 ")


def test_a_slow_request_within_the_timeout_is_answered(server, digits):
    body = json.dumps(server.document(digits[:1])).encode()
    connection = server.send(body, part=slice(-10))
    with connection:
        server.wait_for_in_flight(1)
        connection.sendall(body[-10:])
        assert connection.recv(15) == b"HTTP/1.1 200 OK"


def test_each_pipelined_request_has_its_own_deadline(patient, digits):
    """A client that never pauses for long is not slow, however long it goes on."""
    body = json.dumps(patient.document(digits[:1])).encode()
    request = b"POST /v2/models/mnist/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    half = len(request) // 2
    answers = b""
    with patient.connect() as connection:
        connection.sendall(request[:half])
        start = time.monotonic()
        while time.monotonic() < start + 1.5 * LONGER:
            connection.sendall(request[half:] + request[:half])
            answers += connection.recv(65536)
            time.sleep(0.02)  # a client that is faster only takes more CPU
    assert answers.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 4" not in answers


def narrow(server, size: int) -> socket.socket:
    """Return a connection whose client has a small receive buffer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    connection.settimeout(60)
    connection.connect(server.address)
    return connection


def asking_for_json(digits: np.ndarray) -> bytes:
    """Return a request whose pixels are bytes and whose response is JSON, half as large."""
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": digits.shape}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": digits.nbytes}}]}).encode()
    length = f"Content-Length: {len(head) + digits.nbytes}\r\nInference-Header-Content-Length: {len(head)}"
    return f"POST /v2/models/mnist/infer HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode() + head + digits.tobytes()


@pytest.fixture(scope="module")
def large(test_split) -> bytes:
    """A request of 1.5 MB whose response has 0.8 MB."""
    return asking_for_json(test_split.images.reshape(-1, 784)[:2000])


def test_a_client_that_does_not_read_is_disconnected(hasty, large):
    with narrow(hasty, 4096) as connection, pytest.raises(ConnectionError):
        connection.sendall(large * 100)


def test_a_client_that_reads_slowly_gets_its_whole_response(server, large):
    with narrow(server, 2**16) as connection, connection.makefile("rb") as answers:
        sending = threading.Thread(target=connection.sendall, args=[large * 10])
        sending.start()
        for _ in range(10):
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            answer = answers.read(int(parse_headers(answers)["content-length"]))
            assert json.loads(answer)["outputs"][2]["shape"] == [2000]
        sending.join()


def test_a_client_that_stops_reading_is_disconnected(patient, large):
    """The client had also been slow before, and then continued."""
    before = patient.metric("process_open_fds")
    with narrow(patient, 4096) as connection, connection.makefile("rb") as answers:
        sending = threading.Thread(target=ignoring_resets, args=[lambda: connection.sendall(large * 10)])
        sending.start()
        for _ in range(2):
            answers.readline()
            answers.read(int(parse_headers(answers)["content-length"]))
        sending.join()
        start = time.monotonic()
        while patient.metric("process_open_fds") > before:
            assert time.monotonic() < start + 60
    assert not [line for line in patient.log if line["event"] == "error"]


def ignoring_resets(call):
    with contextlib.suppress(ConnectionError):
        call()


def test_a_client_that_keeps_reading_slowly_is_not_disconnected(patient, test_split):
    """A response that takes several times the timeout, without a pause that is nearly as long."""
    digits = np.tile(test_split.images.reshape(-1, 784), (2, 1))  # for a response of 8 MB, more than sockets buffer
    with narrow(patient, 2**16) as connection, connection.makefile("rb") as answer:
        connection.sendall(asking_for_json(digits))
        assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
        rest = int(parse_headers(answer)["content-length"])
        pause, parts = 2.5 * LONGER / 100, [answer.read(1)]
        for _ in range(100):
            time.sleep(pause)
            parts.append(answer.read(rest // 300))
        parts.append(answer.read(rest - sum(map(len, parts))))
    assert json.loads(b"".join(parts))["outputs"][2]["shape"] == [20_000]


def test_empty_lines_do_not_keep_a_connection_open(hasty):
    with hasty.connect() as connection:
        connection.sendall(b"\r\n")
        assert connection.recv(100) == b""


def test_memory_for_pipelined_requests_is_bounded(server):
    """Responses must not resume reading while requests are pending."""
    before = server.metric("process_resident_memory_bytes")
    size = 300_000_000
    with server.connect() as connection:

        def send() -> None:
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n" * 3000)
            connection.sendall(b"POST /v2/models/mnist/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
            connection.sendall(bytes(size))

        sending = threading.Thread(target=ignoring_resets, args=[send])
        sending.start()
        received, largest = b"", 0.0
        while b"HTTP/1.1 413 " not in received:
            received = received[-20:] + connection.recv(2**16)
            largest = max(largest, server.metric("process_resident_memory_bytes"))
        connection.shutdown(socket.SHUT_RDWR)
        sending.join()
    assert largest < before + 50_000_000


def test_the_log_has_the_status_that_the_client_received(serve):
    """Even for a request whose response does not depend on its malformed body."""
    server = serve()
    connection = server.connect()
    connection.sendall(b"GET /v2/models/mnist HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert server.answer(connection)[0] == 400
    assert server.wait_for("request")["status"] == 400


@pytest.mark.parametrize("body", ["length", "chunks"])
def test_an_upgrade_to_http2_is_ignored(server, digits, body):
    """curl --http2 and Java's client send one with their first request."""
    document = json.dumps(server.document(digits[:1])).encode()
    head = "POST /v2/models/mnist/infer HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c"
    if body == "length":
        rest = f"Content-Length: {len(document)}\r\n\r\n".encode() + document
    else:
        rest = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(document), document)
    request = f"{head}\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n".encode() + rest
    for cut in (0, 30, 300, len(request) - 10):  # two parts, sent separately
        with server.connect() as connection, connection.makefile("rb") as answers:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(request[:cut])
            if cut > 300:
                server.wait_for_in_flight(1)
            connection.sendall(request[cut:] + request)
            for _ in range(2):
                assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
                answer = json.loads(answers.read(int(parse_headers(answers)["content-length"])))
                assert answer["outputs"][2]["data"] == [7]


def test_an_upgrade_request_has_the_same_deadline(hasty, digits):
    head = b"POST /v2/models/mnist/infer HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
    connection = hasty.connect()
    connection.sendall(head + b"Content-Length: 9\r\n\r\n{")
    assert hasty.answer(connection)[0] == 408


def test_requests_that_cannot_be_parsed_are_logged_and_counted(serve, digits):
    server = serve("--timeout", TIMEOUT)
    body = json.dumps(server.document(digits[:1])).encode()
    sent = {
        400: b"hello\r\n\r\n",
        431: b"GET /v2 HTTP/1.1\r\nX: " + b"x" * (MAX_HEAD + 1),
        408: b"POST /v2/models/mnist/infer HTTP/1.1\r\n",
    }
    for status, head in sent.items():
        connection = server.connect()
        connection.sendall(head)
        assert server.answer(connection)[0] == status
        line = server.wait_for("request", status=status)
        assert (line["client"], line["method"], line["path"]) == ("127.0.0.1", "-", "-")
        assert server.metric("mnist_serve_requests_total", route="other", status=str(status)) == 1
    assert server.answer(server.send(body, part=slice(-10)))[0] == 408
    assert server.wait_for("request", method="POST", status=408)["path"] == "/v2/models/mnist/infer"
    assert server.metric("mnist_serve_requests_total", route="/v2/models/{model}/infer", status="408") == 1


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2 HTTP/1.1\r\nX-Whole: " + b"x" * MAX_HEAD + b"\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nContent-Length: 1\r\nX-Whole: " + b"x" * MAX_HEAD + b"\r\n\r\n.",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\nGET /v2 HTTP/1.1\r\nX: "
        + b"x" * MAX_HEAD
        + b"\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nX-Long: " + b"x" * (MAX_HEAD + 1),
        b"GET /v2 HTTP/1.1\r\n" + b"X-Many: x\r\n" * (MAX_HEAD // 11 + 1),
        b"GET /" + b"x" * (MAX_HEAD + 1),
    ],
)
def test_a_head_that_is_too_large_is_refused(server, head):
    connection = server.connect()
    connection.sendall(head)
    with connection:
        *_, last = b"".join(iter(lambda: connection.recv(65536), b"")).split(b"HTTP/1.1 ")
    assert last.startswith(b"431 ")
    document = json.loads(last.partition(b"\r\n\r\n")[2])
    assert document["error"].startswith("the headers are larger than 65,536 bytes")


def test_the_end_of_a_long_body_is_not_counted_as_headers(server):
    request = b"POST /v2/models/mnist/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" + b" " * 90_000
    last = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with server.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(request[:100])
        connection.sendall(request[100:] + last[:40])
        assert answers.readline() == b"HTTP/1.1 400 Bad Request\r\n"
        assert answers.read(int(parse_headers(answers)["content-length"])).startswith(
            b'{"error":"the request is not JSON'
        )
        connection.sendall(last[40:])
        assert answers.readline() == b"HTTP/1.1 200 OK\r\n"


CHUNKED = b"POST /v2/models/%b/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_malformed_body_does_not_affect_the_response_before_it(server, large):
    with server.connect() as connection:
        connection.sendall(large + CHUNKED % b"mnist" + b"zz\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert [received.count(b"HTTP/1.1 %d " % status) for status in (200, 400)] == [1, 1]


def test_a_request_whose_body_turns_out_malformed_is_answered_once(server):
    with server.connect() as connection:
        connection.sendall(CHUNKED % b"cifar" + b"1\r\na\r\n")
        received = connection.recv(65536)
        connection.sendall(b"zz\r\n")
        received += b"".join(iter(lambda: connection.recv(65536), b""))
    assert [received.count(b"HTTP/1.1 %d " % status) for status in (404, 400)] == [1, 0]


@pytest.mark.parametrize(
    "endless", [b"0\r\n" + b"X-Trailer: x\r\n" * 100_000, b"1;" + b"x" * 1_000_000], ids=["trailers", "extension"]
)
def test_trailers_and_chunk_extensions_are_bounded(server, endless):
    with server.connect() as connection:
        connection.sendall(CHUNKED % b"mnist" + b"1\r\n{\r\n" + endless[:1000])
        with pytest.raises(ConnectionError):
            connection.sendall(endless[1000:] * 20)


def test_a_trailer_is_not_a_header(server, digits):
    body = json.dumps(server.document(digits[:1])).encode()
    request = CHUNKED % b"mnist" + b"%x\r\n%b\r\n0\r\nContent-Encoding: gzip\r\n\r\n" % (len(body), body)
    with server.connect() as connection:
        connection.sendall(request)
        assert connection.recv(15) == b"HTTP/1.1 200 OK"


def test_ten_thousand_pipelined_requests_are_all_answered(server):
    row = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000 + b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with server.connect() as connection:
        sending = threading.Thread(target=connection.sendall, args=[row])
        sending.start()
        received = b"".join(iter(lambda: connection.recv(65536), b""))
        sending.join()
    assert received.count(b"HTTP/1.1 200 OK") == 10_001


def test_malformed_bytes_are_refused_after_the_responses_before_them(server, large):
    with server.connect() as connection:
        connection.sendall(large + large + b"hello\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert [received.count(b"HTTP/1.1 %d " % status) for status in (200, 400)] == [2, 1]
    assert received.endswith(b'{"error":"the request is not HTTP/1.1 (invalid method encountered)"}')


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", "invalid method encountered"),
        (b"hello\r\n\r\n", "invalid method encountered"),
        (b"GET /v2 HTTP/9.9\r\n\r\n", "invalid http version"),
        (b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n", "invalid URL"),
    ],
)
def test_bytes_that_are_not_http_get_400(server, sent, reason):
    connection = server.connect()
    connection.sendall(sent)
    status, answer = server.answer(connection)
    assert status == 400
    assert answer["error"] == f"the request is not HTTP/1.1 ({reason})"


@pytest.mark.parametrize("hosts", ["", "Host: x\r\nHost: x\r\n", "Host: x\r\nHOST: y\r\n"])
def test_a_request_without_one_host_gets_400(server, hosts):
    """Otherwise a proxy and the server might disagree about the request's host (RFC 9112, section 3.2)."""
    connection = server.connect()
    connection.sendall(f"GET /v2 HTTP/1.1\r\n{hosts}\r\n".encode())
    status, answer = server.answer(connection)
    assert status == 400
    assert answer["error"] == "a request of HTTP/1.1 must have one Host header; send the server's name in it"


def test_a_request_of_http_1_0_needs_no_host(server):
    with server.connect() as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
        assert connection.recv(15) == b"HTTP/1.1 200 OK"


def test_a_body_in_tiny_pieces_is_refused(server, digits):
    """A piece of one byte takes the server as long as a large one."""
    connection = server.connect()
    connection.sendall(CHUNKED % b"mnist" + b"1\r\n \r\n" * 1100)
    status, answer = server.answer(connection)
    assert status == 400
    assert answer["error"] == "the body comes in pieces of less than 64 bytes; send it in larger ones"
    body = json.dumps(server.document(digits)).encode()
    pieces = [body[at : at + 64] for at in range(0, len(body), 64)] + [b" "] * 1000
    with server.connect() as connection:
        connection.sendall(CHUNKED % b"mnist" + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces))
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(15) == b"HTTP/1.1 200 OK"


def test_connect_gets_400(server):
    connection = server.connect()
    connection.sendall(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n")
    status, answer = server.answer(connection)
    assert (status, answer["error"][:15]) == (400, "CONNECT is for ")


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: -1",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    ],
)
def test_two_body_lengths_are_refused(server, headers):
    """Otherwise a proxy and the server might disagree about where a request ends (request smuggling)."""
    connection = server.connect()
    connection.sendall(b"POST /v2/models/mnist/infer HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n\r\n12345")
    assert server.answer(connection)[0] == 400


def test_pipelined_requests_are_answered_in_order(server):
    with server.connect() as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.sendall(b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(1000), b""))
    assert received.index(b"HTTP/1.1 200 OK") < received.index(b"HTTP/1.1 404 ")


def test_a_reset_connection_causes_no_error(server, digits):
    for part in (slice(20), slice(-10), slice(None)):
        connection = server.send(json.dumps(server.document(digits[:1])).encode(), part=part)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    assert server.infer(digits[:1]).status_code == 200
    assert not [line for line in server.log if line["event"] == "error"]
