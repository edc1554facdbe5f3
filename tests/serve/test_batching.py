"""Batching: pending requests run together, and none of them can tell."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np
import pytest

from mnist_runtime import Classifier
from mnist_runtime.classifier import Outputs
from mnist_runtime.digits import as_digits
from mnist_runtime.errors import DigitError
from mnist_runtime.model.comparison import compare
from mnist_serve.batching import Batcher, Batching

LONG = 600_000_000
"""Microseconds of a delay that no test waits for."""


class Recorder:
    """A batcher around the real classifier, and its runs."""

    def __init__(self, classifier, **settings: int) -> None:
        self.runs: list[tuple[str, int]] = []
        self._classifier = classifier
        self.batcher = Batcher(self.compute, Batching(**settings), lambda count: None)

    def compute(self, digits: np.ndarray) -> Outputs:
        self.runs.append((digits.dtype.name, len(digits)))
        return self._classifier.compute(as_digits(digits))

    def crowd(self, digit: np.ndarray) -> Self:
        """Ask for some at once, so that the batcher knows of a crowd; forget what ran."""
        self.labels(digit, digit, digit)
        self.runs.clear()
        return self

    def labels(self, *batches: np.ndarray) -> list[list[int]]:
        """Ask for all of them at once."""

        async def ask() -> list[list[int]]:
            return [scores.labels.tolist() for scores in await asyncio.gather(*map(self.batcher.join, batches))]

        return asyncio.run(ask())


def test_concurrent_requests_run_once_and_are_answered_separately(classifier, digits):
    recorder = Recorder(classifier)
    parts = [digits[:1], digits[1:4], digits[4:5], digits[5:5], digits[5:20]]
    assert recorder.labels(*parts) == [classifier.predict(part).tolist() for part in parts]
    assert recorder.runs == [("uint8", 1), ("uint8", 19)]  # the first could not know of the others
    assert recorder.labels(*parts) == [classifier.predict(part).tolist() for part in parts]
    assert recorder.runs[2:] == [("uint8", 20)]  # and now it is crowded


def test_a_batch_computes_each_digit_within_its_tolerance(classifier):
    """Not always the same bits, because sums may round in another order, but always within the proven tolerance."""
    golden = classifier.artifact.golden
    recorder = Recorder(classifier).crowd(golden.digits[:1])

    async def ask() -> list[Outputs]:
        return await asyncio.gather(
            *(recorder.batcher.join(golden.digits[row : row + 1]) for row in range(len(golden)))
        )

    together = asyncio.run(ask())
    assert recorder.runs == [("uint8", len(golden))]
    logits = np.concatenate([scores.logits for scores in together])
    probabilities = np.concatenate([scores.probabilities for scores in together])
    no_digit = np.concatenate([scores.no_digit for scores in together])
    assert compare("batched", golden, logits, probabilities, no_digit).failures == ()


def test_floats_and_intensities_run_separately(classifier, digits):
    recorder = Recorder(classifier).crowd(digits[:1])
    floats = digits[:2].astype(np.float32) / 256
    labels = classifier.predict(digits[:2]).tolist()
    assert recorder.labels(digits[:2], floats, digits[:2]) == [labels, labels, labels]
    assert sorted(recorder.runs) == [("float32", 2), ("uint8", 4)]


def test_a_batch_has_its_limit_and_a_larger_request_runs_alone(classifier, digits):
    recorder = Recorder(classifier, max_batch=4).crowd(digits[:1])
    parts = [digits[:1], digits[1:3], digits[3:6], digits[6:7], digits[7:16]]
    assert recorder.labels(*parts) == [classifier.predict(part).tolist() for part in parts]
    assert sorted(count for _, count in recorder.runs) == [3, 4, 9]
    assert recorder.crowd(digits[:1]).labels(*(digits[:size] for size in (2, 2, 1, 2, 2)))
    assert [count for _, count in recorder.runs] == [4, 3, 2]


@pytest.mark.parametrize("off", [{"max_delay_us": 0}, {"max_batch": 1}])
def test_batching_can_be_turned_off(classifier, digits, off):
    recorder = Recorder(classifier, **off)
    assert recorder.labels(digits[:1], digits[1:2]) == [[7], [2]]
    assert recorder.runs == [("uint8", 1), ("uint8", 1)]


def test_a_lone_request_does_not_wait(classifier, digits):
    recorder = Recorder(classifier, max_delay_us=LONG)
    assert recorder.labels(digits[:1]) == [[7]]
    recorder.crowd(digits[:1])
    assert [recorder.labels(digits[:1]) for _ in range(2)] == [[[7]], [[7]]]


def test_pending_requests_wait_for_a_body_on_its_way_but_not_forever(classifier, digits):
    async def ask(max_delay_us: int, *, comes: bool) -> list[tuple[str, int]]:
        recorder = Recorder(classifier, max_delay_us=max_delay_us)
        recorder.batcher.expect()
        first = recorder.batcher.join(digits[:1])
        assert recorder.batcher.is_waiting
        if comes:
            await asyncio.sleep(0)
            recorder.batcher.arrived()
            assert (await recorder.batcher.join(digits[1:2])).labels.tolist() == [2]
        assert (await first).labels.tolist() == [7]
        return recorder.runs

    assert asyncio.run(ask(LONG, comes=True)) == [("uint8", 2)]
    assert asyncio.run(ask(1000, comes=False)) == [("uint8", 1)]


def test_a_cancelled_request_leaves_its_batch(classifier, digits):
    recorder = Recorder(classifier).crowd(digits[:1])

    async def ask() -> list[tuple[str, int]]:
        seats = [recorder.batcher.join(digits[row : row + 1]) for row in range(3)]
        seats[1].cancel()
        assert [(await seats[row]).labels.tolist() for row in (0, 2)] == [[7], [1]]
        return recorder.runs

    assert asyncio.run(ask()) == [("uint8", 2)]


def test_digits_that_the_model_cannot_take_fail_alone(classifier, digits):
    """An engine refuses the digits of one request; the other requests of the batch succeed."""

    class Choosy(Classifier):
        def compute(self, digits: np.ndarray) -> Outputs:
            if (digits == np.float32(0.3)).any():
                raise DigitError("too fine")
            return super().compute(digits)

    recorder = Recorder(Choosy("linear"))
    good = digits[:1].astype(np.float32) / 256
    bad = np.full((1, 784), 0.3, np.float32)

    async def ask() -> list[object]:
        return await asyncio.gather(*map(recorder.batcher.join, (good, bad, good)), return_exceptions=True)

    first, failed, last = asyncio.run(ask())
    assert [first.labels.tolist(), last.labels.tolist()] == [[7], [7]]
    assert isinstance(failed, DigitError)


def hold_the_door(server, digits):
    """Return a request without its last bytes, for which others wait up to the server's delay, and those bytes."""
    body = json.dumps(server.document(digits)).encode()
    connection = server.send(body, part=slice(-10))
    server.wait_for_in_flight(1)
    return connection, body[-10:]


def test_the_server_batches_pending_requests(serve, classifier, digits):
    server = serve("--max-delay-us", LONG)
    late, rest = hold_the_door(server, digits[:1])
    with ThreadPoolExecutor(20) as threads:
        asked = [threads.submit(server.infer, digits[row : row + 1]) for row in range(1, 21)]
        server.wait_for_in_flight(21)
        assert server.metric("mnist_serve_batch_digits_count") == 0
        late.sendall(rest)
        labels = [each.result().json()["outputs"][2]["data"][0] for each in asked]
    with late:
        assert late.recv(15) == b"HTTP/1.1 200 OK"
    assert labels == classifier.predict(digits[1:21]).tolist()
    assert server.metric("mnist_serve_batch_digits_count") == 1
    assert server.metric("mnist_serve_batch_digits_sum") == 21


def test_in_the_server_a_bad_tensor_fails_alone(serve, digits):
    server = serve("--max-delay-us", LONG)
    late, rest = hold_the_door(server, digits[:1])
    answers = {}
    good = threading.Thread(target=lambda: answers.update(good=server.infer(digits[1:2])))
    good.start()
    server.wait_for_in_flight(2)
    assert server.infer(np.full((1, 784), 2, np.float32)).status_code == 400
    late.sendall(rest)
    good.join()
    with late:
        assert late.recv(15) == b"HTTP/1.1 200 OK"
    assert answers["good"].json()["outputs"][2]["data"] == [2]


def test_in_the_server_a_client_that_disconnects_leaves_its_batch(serve, digits):
    server = serve("--max-delay-us", LONG)
    late, rest = hold_the_door(server, digits[:1])
    body = json.dumps(server.document(digits[:1])).encode()
    leaving = server.send(body)
    server.wait_for_in_flight(2)
    leaving.close()
    server.wait_for("request", status=499)
    late.sendall(rest)
    with late:
        assert late.recv(15) == b"HTTP/1.1 200 OK"
    assert server.metric("mnist_serve_batch_digits_sum") == 1


def test_large_requests_of_many_clients_leave_the_server_answering(serve, classifier, test_split):
    server = serve()
    every = test_split.images.reshape(-1, 784)[:1000]
    expected = classifier.predict(every).tolist()
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(server.infer, every) for _ in range(4)]
        while not all(each.done() for each in asked):
            assert server.http.get("/v2/health/live").status_code == 200
    assert [each.result().json()["outputs"][2]["data"] for each in asked] == [expected] * 4
