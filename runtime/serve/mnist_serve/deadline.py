"""Deadlines that cost nothing unless somebody has to wait."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")


async def finish_in(
    start_timer: Callable[[], asyncio.Timeout], awaitable: Awaitable[T], late: Callable[[], Exception]
) -> T:
    """Await, at most until the timer runs out; then raise the error that `late` returns.

    The timer starts only if the awaitable has to wait. Most calls of ASGI's `receive` and `send` return at once, and a
    timer for each would take a tenth of a request's time.
    """
    steps = awaitable.__await__()
    try:
        awaited = next(steps)
    except StopIteration as stop:
        result: T = stop.value
        return result
    try:
        async with start_timer():
            return await _Started(steps, awaited)
    except TimeoutError as error:
        raise late() from error


class _Started(Generator[Any, None, T]):
    """An awaitable after its first step."""

    def __init__(self, steps: Generator[Any, Any, T], awaited: object) -> None:
        self._steps = steps
        self._awaited = awaited

    def __await__(self) -> Generator[Any, None, T]:
        return self

    def send(self, _: None) -> Any:
        awaited, self._awaited = self._awaited, None
        return awaited or next(self._steps)

    def throw(self, error: Any, *_: object) -> Any:
        return self._steps.throw(error)
