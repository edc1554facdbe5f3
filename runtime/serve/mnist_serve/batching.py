"""Requests that wait together run as one `session.run`: what dynamic batching is, without its waiting.

A request never waits for one that nobody has sent. One that finds nobody runs at once; where several come in one turn
of the event loop they run together at its end, and while bodies are on their way they are waited for, at most
`max_delay_us`. What is computed for one digit does not depend on the others in its batch.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnist_runtime.classifier import Outputs
from mnist_runtime.digits import Intensities, Pixels

Compute = Callable[[Intensities | Pixels], Outputs]


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests are put together."""

    max_batch: int = 64
    """Digits of one run; a request that has more runs alone."""
    max_delay_us: int = 500
    """Microseconds that a request waits for others whose bodies are on their way; 0 runs each request alone."""

    @property
    def is_on(self) -> bool:
        """Whether requests are put together at all."""
        return self.max_batch > 1 and self.max_delay_us > 0


@dataclass(frozen=True, slots=True)
class _Seat:
    digits: Intensities | Pixels
    scores: asyncio.Future[Outputs]


class Batcher:
    """Collects digits in one event loop and computes them together.

    Every request is announced with `expect`; once its body has `arrived`, or never will, it may `join`.
    """

    def __init__(self, compute: Compute, settings: Batching, ran: Callable[[int], None]) -> None:
        """Compute with `compute`; `ran` is told the digits of each run."""
        self._compute = compute
        self._settings = settings
        self._ran = ran
        self._lanes: dict[Any, list[_Seat]] = {np.uint8: [], np.float32: []}
        self._coming = 0
        self._timer: asyncio.Handle | None = None
        self._is_due = False
        self._is_crowded = False
        """Whether several waited at the end of the last turn."""

    def expect(self) -> None:
        """Announce a request, whose body may be on its way."""
        self._coming += 1

    def arrived(self) -> None:
        """The body of an announced request has come, or never will."""
        self._coming -= 1
        if not self._coming and self.is_waiting:
            self._soon()

    def compute(self, digits: Intensities | Pixels) -> Outputs:
        """Compute `[N, 784]` here and now."""
        self._ran(len(digits))
        return self._compute(digits)

    def join(self, digits: Intensities | Pixels) -> asyncio.Future[Outputs]:
        """Compute `[N, 784]`, uint8 or float32, together with what else is waiting.

        The result, or the error, is of these digits alone. Cancel it to leave the batch.
        """
        loop = asyncio.get_running_loop()
        seat = _Seat(digits, loop.create_future())
        if not self._settings.is_on or len(digits) >= self._settings.max_batch:
            self._run([seat])
            return seat.scores
        if not (self._coming or self._is_due or self._is_crowded):
            self._soon()  # who comes in the same turn sits down behind this one
            self._run([seat])
            return seat.scores
        self._lanes[digits.dtype.type].append(seat)
        if not self._coming:
            self._soon()
        elif self._timer is None:
            self._timer = loop.call_later(self._settings.max_delay_us / 1e6, self._run_all)
        return seat.scores

    @property
    def is_waiting(self) -> bool:
        """Whether those that have joined wait for one whose body is on its way."""
        return self._timer is not None

    def _soon(self) -> None:
        """Run what waits as soon as those that have come this turn of the loop have sat down."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._run_all)

    def _run_all(self) -> None:
        self._is_due = False
        self._is_crowded = sum(map(len, self._lanes.values())) > 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for kind, lane in self._lanes.items():
            if lane:
                self._lanes[kind] = []
                for batch in _split([seat for seat in lane if not seat.scores.done()], self._settings.max_batch):
                    self._run(batch)

    def _run(self, batch: list[_Seat]) -> None:
        digits = batch[0].digits if len(batch) == 1 else np.concatenate([seat.digits for seat in batch])
        try:
            scores = self.compute(digits)
        except Exception as error:  # noqa: BLE001  # whatever it is belongs to whose digits they are
            if len(batch) == 1:
                batch[0].scores.set_exception(error)
                return
            for seat in batch:
                self._run([seat])
            return
        if len(batch) == 1:
            batch[0].scores.set_result(scores)
            return
        start = 0
        for seat in batch:
            seat.scores.set_result(scores[start : start + len(seat.digits)])
            start += len(seat.digits)


def _split(seats: list[_Seat], limit: int) -> list[list[_Seat]]:
    """Cut a queue, in its order, into batches of at most `limit` digits."""
    batches: list[list[_Seat]] = []
    room = 0
    for seat in seats:
        if len(seat.digits) > room or not batches:
            batches.append([])
            room = limit
        batches[-1].append(seat)
        room -= len(seat.digits)
    return batches
