"""Requests whose clients leave before their result is there."""

import asyncio
import json
import threading

import numpy as np
import pytest
from starlette.requests import ClientDisconnect

from mnist_runtime import Classifier
from mnist_serve.batching import Batcher
from mnist_serve.endpoint import InferEndpoint, unless_disconnected
from mnist_serve.model import ServedModel


def test_a_client_that_leaves_while_others_run_leaves_their_batch(digits):
    """Eight requests run in a thread; of the three that wait for it, one leaves."""
    sizes, may_run = [], threading.Event()

    class Slow(ServedModel):
        def compute(self, digits: np.ndarray):
            sizes.append(len(digits))
            assert len(sizes) != 2 or may_run.wait(60)
            return super().compute(digits)

    model = Slow(Classifier("linear"))
    endpoint = InferEndpoint(model, Batcher(model.compute, 64, lambda count: None))
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 784], "data": digits[0].ravel().tolist()}
    body = {"type": "http.request", "body": json.dumps({"inputs": [tensor]}).encode(), "more_body": False}

    async def ask(leaves: asyncio.Event | None = None) -> list[dict]:
        messages, sent = iter([body]), []

        async def receive() -> dict:
            if message := next(messages, None):
                return message
            await (leaves or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            sent.append(message)

        await endpoint({"path_params": {"model": "mnist"}, "headers": []}, receive, send)
        return sent

    async def crowd() -> list[list[dict] | BaseException]:
        leaves = asyncio.Event()
        running = [asyncio.create_task(ask()) for _ in range(9)]
        while len(sizes) < 2:
            await asyncio.sleep(0)
        waiting = [asyncio.create_task(ask(each)) for each in (None, leaves, None)]
        leaves.set()
        with pytest.raises(ClientDisconnect):
            await waiting[1]
        may_run.set()
        return await asyncio.gather(*running, waiting[0], waiting[2])

    answered = asyncio.run(crowd())
    assert [sent[0]["status"] for sent in answered] == [200] * 11
    assert sizes == [1, 8, 2]


def test_a_request_that_is_cancelled_is_no_client_that_left():
    async def wait() -> None:
        result = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(unless_disconnected(asyncio.Event().wait, result))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(wait())


def test_the_error_of_a_result_is_raised():
    async def wait() -> None:
        result = asyncio.get_running_loop().create_future()
        result.set_exception(ValueError("no digit"))
        await unless_disconnected(asyncio.Event().wait, result)

    with pytest.raises(ValueError, match="no digit"):
        asyncio.run(wait())
