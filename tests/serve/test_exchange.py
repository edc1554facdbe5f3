"""Exchanges: the size limit of a body, and compression both ways."""

import gzip
import json
import re
import zlib
from http.client import HTTPConnection, parse_headers
from pathlib import Path

import numpy as np
import pytest

INFER = "/v2/models/mnist/infer"
LIMIT = 100_000


@pytest.fixture(scope="module")
def small(serve_module):
    """A server that accepts bodies of 100,000 bytes."""
    return serve_module("--max-body", LIMIT)


def peak_memory(server) -> int:
    """Return the server's peak memory in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
    ],
)
def test_compressed_bodies_are_decompressed(server, digits, encoding, pack):
    body = pack(json.dumps(server.document(digits[:5])).encode())
    answer = server.http.post(INFER, content=body, headers={"Content-Encoding": encoding})
    assert answer.json()["outputs"][2]["data"] == [7, 2, 1, 0, 4]


@pytest.mark.parametrize(
    ("encoding", "body", "status", "sentence"),
    [
        ("br", b"{}", 415, "Content-Encoding is 'br'; send gzip, deflate or identity"),
        ("gzip, gzip", b"{}", 415, "Content-Encoding is 'gzip, gzip'"),
        ("gzip", b"{}", 400, "the body is not gzip, as Content-Encoding claims"),
        ("deflate", b"\xff\xff{}", 400, "the body is not deflate, as Content-Encoding claims"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-3], 400, "the gzip body ends too early"),
        ("gzip", b"", 400, "the gzip body ends too early"),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"more", 400, "the gzip body is followed by more bytes"),
    ],
)
def test_a_body_that_contradicts_its_content_encoding_is_refused(server, encoding, body, status, sentence):
    answer = server.http.post(INFER, content=body, headers={"Content-Encoding": encoding})
    assert (answer.status_code, answer.json()["error"][: len(sentence)]) == (status, sentence)


def test_two_content_encodings_are_refused(server):
    headers = [("Content-Encoding", "gzip"), ("Content-Encoding", "identity")]
    answer = server.http.post(INFER, content=b"{}", headers=headers)
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert answer.json()["error"].startswith("Content-Encoding is 'gzip, identity'")


def test_a_content_length_beyond_the_limit_is_refused_at_once(small):
    with small.send(b"", f"X-Padding: {'x' * 100}") as connection:
        assert connection.recv(15) == b"HTTP/1.1 400 Ba"
    head = b"POST /v2/models/mnist/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    for size in (LIMIT + 1, 10**15):
        with small.connect() as connection, connection.makefile("rb") as answer:
            connection.sendall(head % size)
            assert answer.readline().startswith(b"HTTP/1.1 413 ")
            document = json.loads(answer.read(int(parse_headers(answer)["content-length"])))
        assert document["error"].startswith("the body is larger than 100,000 bytes; send fewer digits per request")
    assert small.metric("mnist_serve_requests_total", route="/v2/models/{model}/infer", status="413") >= 2


def test_a_refused_expectation_closes_the_connection(small):
    """The client may leave the body out, and its next request must not be taken for the body."""
    with small.connect() as connection, connection.makefile("rb") as answer:
        head = (
            "POST /v2/models/mnist/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 999999\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert answer.readline().startswith(b"HTTP/1.1 413 ")
        assert parse_headers(answer)["connection"] == "close"


def test_a_client_that_sends_all_of_a_large_body_gets_its_413(small):
    connection = HTTPConnection(*small.address, timeout=60)
    connection.request("POST", INFER, body=bytes(30_000_000))
    assert connection.getresponse().status == 413
    connection.close()


def test_a_body_of_the_largest_size_is_accepted(small):
    document = json.dumps(small.document(np.zeros((1, 784), np.uint8))).encode()
    assert small.http.post(INFER, content=document.ljust(LIMIT)).status_code == 200
    assert small.http.post(INFER, content=document.ljust(LIMIT + 1)).status_code == 413


def test_a_body_without_a_length_is_counted_as_it_arrives(small, digits):
    document = json.dumps(small.document(digits[:1])).encode()

    def chunks(count):
        yield document
        for _ in range(count):
            yield b" " * 10_000

    assert small.http.post(INFER, content=chunks(5)).json()["outputs"][2]["data"] == [7]
    assert small.http.post(INFER, content=chunks(12)).status_code == 413


def test_a_client_that_disconnects_between_chunks_is_logged_as_499(small):
    with small.connect() as connection:
        connection.sendall(
            b"POST /v2/models/mnist/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{"
        )
        small.wait_for_in_flight(1)
    small.wait_for("request", status=499)
    assert not [line for line in small.log if line["event"] == "error"]


def test_the_413_arrives_even_if_the_connection_closes(small):
    """Most of the body is unread, so closing at once would reset the connection and lose the response."""
    assert small.answer(small.send(bytes(30_000_000), "Connection: close"))[0] == 413


def test_long_ids_are_not_kept(serve):
    server = serve()
    document = server.document(np.empty((0, 784), np.uint8))
    before = server.metric("process_resident_memory_bytes")
    for number in range(40):
        name = str(number) * 2_000_000
        answer = server.http.post(INFER, json={**document, "id": name, "parameters": {"binary_data_output": True}})
        assert json.loads(answer.content[: int(answer.headers["inference-header-content-length"])])["id"] == name
    assert server.metric("process_resident_memory_bytes") < before + 60_000_000


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate])
def test_a_decompression_bomb_is_refused_before_it_takes_memory(small, pack):
    encoding = "gzip" if pack is gzip.compress else "deflate"
    bomb = pack(b" " * 90_000_000)
    assert len(bomb) < LIMIT
    before = peak_memory(small)
    for _ in range(3):
        answer = small.http.post(INFER, content=bomb, headers={"Content-Encoding": encoding})
        assert answer.status_code == 413
        assert answer.json()["error"].startswith("the body is too large once decompressed")
    assert peak_memory(small) < before + 20_000_000
    assert small.metric("mnist_serve_requests_rejected_total", reason="too large") >= 3


def test_the_limit_holds_on_every_path(small):
    assert small.http.post("/v2/nowhere", content=b" " * (LIMIT + 1)).status_code == 413


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip", "gzip"), ("deflate, gzip;q=0.5", "gzip"), ("deflate", None), ("br", None), ("identity", None)],
)
def test_large_responses_are_compressed_if_the_client_accepts_gzip(server, classifier, digits, accepted, encoding):
    answer = server.http.post(INFER, json=server.document(digits), headers={"Accept-Encoding": accepted})
    assert answer.headers.get("content-encoding") == encoding
    assert answer.json()["outputs"][2]["data"] == classifier.predict(digits).tolist()


def test_small_responses_are_not_compressed(server, digits):
    wanted = {**server.document(digits[:1]), "outputs": [{"name": "label"}]}
    answer = server.http.post(INFER, json=wanted, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in answer.headers
