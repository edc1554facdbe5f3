"""finish_in: a deadline for anything that can be awaited."""

import asyncio
from functools import partial

import pytest

from mnist_serve.deadline import finish_in

LONG = 600.0
"""Timeout in seconds that no test waits out."""


class LateError(Exception):
    """The caller's own error."""


async def answer(*waits: asyncio.Future) -> str:
    for wait in waits:
        await wait
    return "done"


def run(test):
    async def timed():
        return await test(asyncio.get_running_loop())

    return asyncio.run(timed())


def test_a_result_that_needs_no_waiting_is_returned_even_after_the_deadline():
    assert run(lambda _: finish_in(partial(asyncio.timeout, -1), answer(), LateError)) == "done"


def test_a_result_is_returned_once_it_is_done():
    async def test(loop):
        waits = [loop.create_future(), loop.create_future()]
        for wait in waits:
            loop.call_later(0.001, wait.set_result, None)
        return await finish_in(partial(asyncio.timeout, LONG), answer(*waits), LateError)

    assert run(test) == "done"


def test_an_awaitable_beyond_its_deadline_is_cancelled():
    async def test(loop):
        wait = loop.create_future()
        with pytest.raises(LateError):
            await finish_in(partial(asyncio.timeout, 0.01), answer(wait), LateError)
        return wait.cancelled()

    assert run(test)


def test_a_future_can_be_awaited_too():
    async def test(loop):
        wait = loop.create_future()
        loop.call_soon(wait.set_result, "done")
        return await finish_in(partial(asyncio.timeout, LONG), wait, LateError)

    assert run(test) == "done"


@pytest.mark.parametrize("waits", [0, 1])
def test_errors_are_passed_on(waits):
    async def test(loop):
        async def fail():
            for _ in range(waits):
                await asyncio.sleep(0.001)
            raise ValueError("a mistake")

        with pytest.raises(ValueError, match="a mistake"):
            await finish_in(partial(asyncio.timeout, LONG), fail(), LateError)

    run(test)


def test_cancelling_the_caller_cancels_the_awaitable():
    async def test(loop):
        wait = loop.create_future()
        waiting = loop.create_task(finish_in(partial(asyncio.timeout, LONG), answer(wait), LateError))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return wait.cancelled()

    assert run(test)
