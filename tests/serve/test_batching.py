"""Batching: pending requests run together, and each gets its own answer."""

import asyncio
import json
import os
import signal
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
from mnist_serve.batching import Batcher


class Recorder:
    """A batcher around the real classifier, and its runs; those in a thread begin when `may_run` is set."""

    def __init__(self, classifier, max_batch: int = 64) -> None:
        self.runs: list[tuple[str, int]] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self._classifier = classifier
        self.batcher = Batcher(self.compute, max_batch, lambda count: None)

    def compute(self, digits: np.ndarray) -> Outputs:
        self.runs.append((digits.dtype.name, len(digits)))
        if threading.current_thread() is not threading.main_thread():
            assert self.may_run.wait(60)
        return self._classifier.compute(as_digits(digits))

    def crowd(self, digit: np.ndarray) -> Self:
        """Send several requests at once, so that the batcher expects more, and forget their runs."""
        self.labels(digit, digit, digit)
        self.runs.clear()
        return self

    def labels(self, *batches: np.ndarray) -> list[list[int]]:
        """Send all requests at once, and return the labels of each."""

        async def ask() -> list[list[int]]:
            return [outputs.labels.tolist() for outputs in await asyncio.gather(*map(self.ask, batches))]

        return asyncio.run(ask())

    async def ask(self, digits: np.ndarray) -> Outputs:
        """Send one request, and return its outputs."""
        outputs = self.batcher.join(digits)
        return await outputs if isinstance(outputs, asyncio.Future) else outputs


def test_concurrent_requests_run_once_and_are_answered_separately(classifier, digits):
    recorder = Recorder(classifier)
    parts = [digits[:1], digits[1:4], digits[4:5], digits[5:5], digits[5:20]]
    assert recorder.labels(*parts) == [classifier.predict(part).tolist() for part in parts]
    assert recorder.runs == [("uint8", 1), ("uint8", 19)]  # the first ran at once
    assert recorder.labels(*parts) == [classifier.predict(part).tolist() for part in parts]
    assert recorder.runs[2:] == [("uint8", 20)]  # all waited for the end of the iteration


def test_a_batch_computes_each_digit_within_its_tolerance(classifier):
    """A batch may round sums in another order, but stays within the proven tolerance."""
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


def test_batching_can_be_turned_off(classifier, digits):
    recorder = Recorder(classifier, max_batch=1)
    assert recorder.labels(digits[:1], digits[1:2]) == [[7], [2]]
    assert recorder.runs == [("uint8", 1), ("uint8", 1)]


def test_a_lone_request_is_answered_at_once(classifier, digits):
    async def ask() -> object:
        return recorder.batcher.join(digits[:1])

    recorder = Recorder(classifier)
    assert isinstance(asyncio.run(ask()), Outputs)


def test_while_many_requests_run_in_a_thread_others_become_the_next_batch(classifier, digits):
    recorder = Recorder(classifier).crowd(digits[:1])
    recorder.may_run.clear()

    async def ask() -> list[int]:
        asked = [recorder.batcher.join(digits[row : row + 1]) for row in range(8)]
        while not recorder.runs:
            await asyncio.sleep(0)
        asked += [recorder.batcher.join(digits[row : row + 1]) for row in range(8, 11)]
        asked.append(recorder.batcher.join(digits[:1]))
        asked.pop().cancel()
        left = asked.pop(3)
        left.cancel()
        await asyncio.sleep(0)
        assert not any(each.done() for each in asked)
        recorder.may_run.set()
        return [outputs.labels.item() for outputs in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == np.delete(classifier.predict(digits[:11]), 3).tolist()
    assert recorder.runs == [("uint8", 8), ("uint8", 3)]


def test_a_cancelled_request_leaves_its_batch(classifier, digits):
    recorder = Recorder(classifier).crowd(digits[:1])

    async def ask() -> list[tuple[str, int]]:
        pending = [recorder.batcher.join(digits[row : row + 1]) for row in range(3)]
        pending[1].cancel()
        assert [(await pending[row]).labels.tolist() for row in (0, 2)] == [[7], [1]]
        return recorder.runs

    assert asyncio.run(ask()) == [("uint8", 2)]


@pytest.mark.parametrize("count", [2, 20])
def test_digits_that_the_model_refuses_fail_alone(classifier, digits, count):
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
        given = (good, bad, *[good] * count)
        return await asyncio.gather(*map(recorder.ask, given), return_exceptions=True)

    first, failed, *others = asyncio.run(ask())
    assert [each.labels.tolist() for each in (first, *others)] == [[7]] * (1 + count)
    assert isinstance(failed, DigitError)


def test_the_server_runs_requests_of_the_same_moment_together(serve, classifier, digits):
    server = serve()
    connections = [server.connect() for _ in range(21)]
    for connection in connections:  # so that the server has accepted them all
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
    server.process.send_signal(signal.SIGSTOP)
    os.waitpid(server.process.pid, os.WUNTRACED)  # it reads none of the requests before all of them have come
    for row, connection in enumerate(connections):
        body = json.dumps(server.document(digits[row : row + 1])).encode()
        server.send(body, "Connection: close", connection=connection)
    server.process.send_signal(signal.SIGCONT)
    answers = [server.answer(connection) for connection in connections]
    labels = [answer["outputs"][2]["data"][0] for _, answer in answers]
    assert labels == classifier.predict(digits[:21]).tolist()
    assert server.metric("mnist_serve_batch_digits_count") == 2  # the first ran at once
    assert server.metric("mnist_serve_batch_digits_sum") == 21


def test_large_requests_of_many_clients_leave_the_server_answering(serve, classifier, test_split):
    server = serve()
    every = test_split.images.reshape(-1, 784)[:1000]
    expected = classifier.predict(every).tolist()
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(server.infer, every) for _ in range(4)]
        while not all(each.done() for each in asked):
            assert server.http.get("/v2/health/live").status_code == 200
    assert [each.result().json()["outputs"][2]["data"] for each in asked] == [expected] * 4
