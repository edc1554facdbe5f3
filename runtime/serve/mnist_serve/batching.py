"""Dynamic batching that never delays a lone request.

A request that finds no other runs at once. Requests that come in the same event-loop iteration run together at its
end, and wait longer only while bodies are on their way, at most `max_delay_us`. What is computed for one digit does not
depend on the others in its batch.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mnist_runtime.classifier import Outputs
from mnist_runtime.digits import Intensities, Pixels

Compute = Callable[[Intensities | Pixels], Outputs]


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests are batched."""

    max_batch: int = 64
    """Digits per run of the model; a request that has more runs alone."""
    max_delay_us: int = 500
    """Microseconds that a request waits for others whose bodies are on their way; 0 runs each request alone."""


@dataclass(slots=True)
class _Pending:
    digits: Intensities | Pixels
    outputs: "asyncio.Future[Outputs]"


class Batcher:
    """Collects digits in one event loop and computes them together.

    Every request is announced with `expect`; once its body has `arrived`, or never will, it may `join`.
    """

    def __init__(self, compute: Compute, batching: Batching, ran: Callable[[int], None]) -> None:
        """Compute with `compute`; call `ran` with the number of digits of each run."""
        self._compute = compute
        self._batching = batching
        self._ran = ran
        self._pending: list[_Pending] = []
        self._expected = 0
        self._timer: asyncio.Handle | None = None
        """The run of what is pending, at the end of this event-loop iteration or once the delay is over."""
        self.is_waiting = False
        """True while pending requests wait for a body that is on its way."""
        self._is_crowded = False
        """True if several requests were pending at the end of the last iteration."""

    def expect(self) -> None:
        """Announce a request whose body may be on its way."""
        self._expected += 1

    def arrived(self) -> None:
        """Note that the body of an announced request has come, or never will."""
        self._expected -= 1
        if self._timer and self.is_waiting and not self._expected:
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_soon(self._run_all)
            self.is_waiting = False

    def compute(self, digits: Intensities | Pixels) -> Outputs:
        """Compute `[N, 784]` at once."""
        self._ran(len(digits))
        return self._compute(digits)

    def join(self, digits: Intensities | Pixels) -> "asyncio.Future[Outputs]":
        """Compute `[N, 784]`, uint8 or float32, together with the digits of other pending requests.

        The result, or the error, concerns these digits alone. Cancel the future to leave the batch.
        """
        loop = asyncio.get_running_loop()
        request = _Pending(digits, loop.create_future())
        if self._batching.max_delay_us == 0 or len(digits) >= self._batching.max_batch:
            self._run([request])
        elif not (self._timer or self._expected or self._is_crowded):
            self._timer = loop.call_soon(self._run_all)  # later requests of this loop iteration join the next batch
            self._run([request])
        else:
            self._pending.append(request)
            if self._timer is None and self._expected:
                self._timer = loop.call_later(self._batching.max_delay_us / 1e6, self._run_all)
                self.is_waiting = True
            elif self._timer is None:
                self._timer = loop.call_soon(self._run_all)
        return request.outputs

    def _run_all(self) -> None:
        pending, self._pending, self._timer, self.is_waiting = self._pending, [], None, False
        self._is_crowded = len(pending) > 1
        for batch in _batches([each for each in pending if not each.outputs.done()], self._batching.max_batch):
            self._run(batch)

    def _run(self, batch: Sequence[_Pending]) -> None:
        try:
            outputs = self.compute(
                np.concatenate([request.digits for request in batch]) if batch[1:] else batch[0].digits
            )
        except Exception as error:  # noqa: BLE001  # any error belongs to the request whose digits caused it
            if len(batch) == 1:
                batch[0].outputs.set_exception(error)
            else:
                for request in batch:
                    self._run([request])
            return
        start = 0
        for request in batch:
            request.outputs.set_result(outputs[start : start + len(request.digits)])
            start += len(request.digits)


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
