"""tritonclient[http], the field's own client, works as with Triton."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from mnist_runtime.digits import as_digits
from mnist_serve.protocol import OUTPUTS

ENCODINGS = [None, "gzip", "deflate"]


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=8) as client:
        yield client


def tensor(digits: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    pixels = triton.InferInput("pixels", list(digits.shape), "UINT8" if digits.dtype == np.uint8 else "FP32")
    pixels.set_data_from_numpy(digits, binary_data=binary)
    return pixels


def outputs(*names: str, binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def test_health_and_metadata_are_understood(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mnist")
    assert client.is_model_ready("mnist", "1")
    assert not client.is_model_ready("cifar")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.get_model_metadata("mnist", "1")["inputs"] == [
        {"name": "pixels", "datatype": "UINT8", "shape": [-1, 784]}
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("binary", "binary_back"), list(product([True, False], [True, False, None])))
def test_every_mix_of_json_and_binary_gets_the_answer_of_the_classifier(
    client, classifier, digits, dtype, binary, binary_back
):
    sent = digits if dtype == np.uint8 else digits.astype(np.float32) / np.float32(256)
    wanted = None if binary_back is None else outputs(*OUTPUTS, binary=binary_back)
    result = client.infer("mnist", [tensor(sent, binary=binary)], outputs=wanted, request_id="seven")
    computed = classifier.compute(as_digits(sent))
    assert result.get_response()["id"] == "seven"
    for name, expected in {
        "logits": computed.logits,
        "probabilities": computed.probabilities,
        "label": classifier.predict(sent),
        "no_digit": computed.no_digit,
        "verdict": computed.verdicts,
    }.items():
        answered = result.as_numpy(name)
        assert answered.dtype == expected.dtype
        np.testing.assert_array_equal(answered, expected)


@pytest.mark.parametrize(("there", "back"), list(product(ENCODINGS, ENCODINGS)))
@pytest.mark.parametrize("binary", [True, False])
def test_bodies_are_compressed_both_ways(client, classifier, digits, there, back, binary):
    result = client.infer(
        "mnist",
        [tensor(digits, binary=binary)],
        outputs=outputs("logits", "label", binary=binary),
        request_compression_algorithm=there,
        response_compression_algorithm=back,
    )
    np.testing.assert_array_equal(result.as_numpy("label"), classifier.predict(digits))
    np.testing.assert_array_equal(result.as_numpy("logits"), classifier.decision_function(digits))


def test_custom_parameters_are_ignored(client, digits):
    result = client.infer("mnist", [tensor(digits)], priority=3, timeout=10, parameters={"tenant": "blue"})
    assert result.as_numpy("label").shape == (100,)


def test_a_request_without_digits_is_answered(client):
    result = client.infer("mnist", [tensor(np.empty((0, 784), np.uint8))])
    assert result.as_numpy("label").shape == (0,)
    assert result.as_numpy("logits").shape == (0, 10)


def test_errors_raise_the_exception_of_the_client(client, digits):
    with pytest.raises(InferenceServerException, match="model 'cifar' is not served here") as caught:
        client.infer("cifar", [tensor(digits)])
    assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match=r"there is a NaN among the pixels") as caught:
        client.infer("mnist", [tensor(np.full((1, 784), np.nan, np.float32))])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="is of an extension not served here"):
        client.infer("mnist", [tensor(digits)], outputs=[triton.InferRequestedOutput("label", class_count=3)])


def test_many_threads_each_get_their_own_answer(server, classifier, digits):
    expected = classifier.predict(digits)

    def ask(start: int) -> list[tuple[str, int]]:
        address = server.url.removeprefix("http://")
        with triton.InferenceServerClient(address) as client:  # gevent's, and so one for each thread
            rows = range(start, 100, 8)
            answers = [client.infer("mnist", [tensor(digits[row : row + 1])], request_id=str(row)) for row in rows]
            return [(answer.get_response()["id"], int(answer.as_numpy("label")[0])) for answer in answers]

    with ThreadPoolExecutor(8) as threads:
        answers = [answer for part in threads.map(ask, range(8)) for answer in part]
    assert sorted(answers) == sorted((str(row), int(label)) for row, label in enumerate(expected))


def test_concurrent_requests_of_one_client_each_get_their_own_answer(client, classifier, digits):
    pending = [client.async_infer("mnist", [tensor(digits[row : row + 1])]) for row in range(32)]
    labels = [int(each.get_result().as_numpy("label")[0]) for each in pending]
    assert labels == classifier.predict(digits[:32]).tolist()


def test_the_asyncio_client_is_served_too(server, classifier, digits):
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(server.url.removeprefix("http://")) as client:
            assert await client.is_server_ready()
            assert await client.is_model_ready("mnist")
            assert (await client.get_model_metadata("mnist"))["name"] == "mnist"
            for there, back, binary in product(ENCODINGS, ENCODINGS, [True, False]):
                result = await client.infer(
                    "mnist",
                    [tensor(digits, binary=binary)],
                    outputs=outputs("label", "logits", binary=binary),
                    request_id="a",
                    request_compression_algorithm=there,
                    response_compression_algorithm=back,
                )
                np.testing.assert_array_equal(result.as_numpy("logits"), classifier.decision_function(digits))
            together = [client.infer("mnist", [tensor(digits[row : row + 1])]) for row in range(100)]
            labels = [int(result.as_numpy("label")[0]) for result in await asyncio.gather(*together)]
            assert labels == classifier.predict(digits).tolist()
            with pytest.raises(InferenceServerException, match="version '2' of mnist"):
                await client.infer("mnist", [tensor(digits)], model_version="2")

    asyncio.run(ask())
