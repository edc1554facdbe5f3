"""Dynamic batching without a delay.

A lone request runs at once. Requests of the same event-loop iteration run together at its end, many of them in a
thread; requests that arrive meanwhile are the next batch. The answer to a digit does not depend on its batch.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mnist_runtime.classifier import Outputs
from mnist_runtime.digits import Intensities, Pixels

Compute = Callable[[Intensities | Pixels], Outputs]

_MANY = 8
"""Number of requests from which a batch runs in a thread; fewer are computed sooner than a thread is reached."""


@dataclass(slots=True)
class _Pending:
    digits: Intensities | Pixels
    outputs: "asyncio.Future[Outputs]"


class Batcher:
    """Collects digits in one event loop and computes them together."""

    def __init__(self, compute: Compute, max_batch: int, ran: Callable[[int], None]) -> None:
        """Compute up to `max_batch` digits per run with `compute`; call `ran` with the number of digits of each run."""
        self._compute = compute
        self._max_batch = max_batch
        self._ran = ran
        self._pending: list[_Pending] = []
        self._is_busy = False
        """True until pending requests run: at the end of this event-loop iteration, or of a run in the thread."""
        self._is_crowded = False
        """True if several requests were pending at that time."""

    def compute(self, digits: Intensities | Pixels) -> Outputs:
        """Compute `[N, 784]` at once."""
        self._ran(len(digits))
        return self._compute(digits)

    def join(self, digits: Intensities | Pixels) -> "Outputs | asyncio.Future[Outputs]":
        """Compute `[N, 784]`, uint8 or float32, at once, or together with the digits of other pending requests.

        The future's result or error is of these digits alone. Cancel the future to leave the batch.
        """
        if len(digits) >= self._max_batch:
            return self.compute(digits)
        loop = asyncio.get_running_loop()
        is_alone = not self._is_busy and not self._is_crowded
        if not self._is_busy:
            self._is_busy = True
            loop.call_soon(self._run_pending)
        if is_alone:
            return self.compute(digits)
        self._pending.append(_Pending(digits, loop.create_future()))
        return self._pending[-1].outputs

    def _run_pending(self) -> None:
        self._is_crowded = len(self._pending) > 1
        batches = _batches([each for each in self._pending if not each.outputs.done()], self._max_batch)
        self._pending = []
        while batches and len(batches[0]) < _MANY:
            batch = batches.pop(0)
            self._answer(batch, self._outcome(batch))
        self._is_busy = bool(batches)
        if batches:
            self._pending = [request for batch in batches[1:] for request in batch]
            self._run_in_thread(batches[0])

    def _run_in_thread(self, batch: Sequence[_Pending]) -> None:
        def end(run: "asyncio.Future[Outputs | Exception]") -> None:
            self._answer(batch, run.result())
            self._run_pending()

        asyncio.get_running_loop().run_in_executor(None, self._outcome, batch).add_done_callback(end)

    def _outcome(self, batch: Sequence[_Pending]) -> Outputs | Exception:
        """Compute the digits of a batch; return an error instead of raising it."""
        try:
            return self.compute(np.concatenate([request.digits for request in batch]) if batch[1:] else batch[0].digits)
        except Exception as error:  # noqa: BLE001  # any error belongs to the request whose digits caused it
            return error

    def _answer(self, batch: Sequence[_Pending], outcome: Outputs | Exception) -> None:
        """Give each request its part of the outputs; after an error, run each alone."""
        if isinstance(outcome, Exception) and batch[1:]:
            for request in batch:
                self._answer([request], self._outcome([request]))
            return
        start = 0
        for request in batch:
            end = start + len(request.digits)
            if request.outputs.done():  # cancelled
                pass
            elif isinstance(outcome, Exception):
                request.outputs.set_exception(outcome)
            else:
                request.outputs.set_result(outcome[start:end])
            start = end


def _batches(requests: Sequence[_Pending], max_batch: int) -> list[list[_Pending]]:
    """Cut pending requests, in their order, into batches of one dtype and at most `max_batch` digits."""
    batches: list[list[_Pending]] = []
    room = 0
    for request in sorted(requests, key=lambda request: request.digits.dtype.kind):
        if not batches or len(request.digits) > room or request.digits.dtype != batches[-1][0].digits.dtype:
            batches.append([])
            room = max_batch
        batches[-1].append(request)
        room -= len(request.digits)
    return batches
