"""The page over HTTP: its policy, its caching, and its answers to images."""

import asyncio
import base64
import io
import threading

import httpx
import numpy as np
import pytest
from PIL import Image

from mnist_runtime import Classifier
from mnist_runtime.io.images import read_image
from mnist_runtime.page import app_files, served
from mnist_serve import Limits, ServedModel, create_app


@pytest.fixture(scope="module")
def model():
    return ServedModel(Classifier())


@pytest.fixture(scope="module")
def ask(model):
    """Function that sends one request to an application that takes bodies of up to 1 MiB."""
    app = create_app(model, limits=Limits(max_body=2**20))

    def ask(method, path, **request):
        async def ask():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
                return await client.request(method, path, **request)

        return asyncio.run(ask())

    return ask


def encode(picture, format_="PNG"):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format_)
    return file.getvalue()


@pytest.fixture
def digit(test_split):
    """A test digit, enlarged, dark on light."""
    return 255 - np.kron(np.pad(test_split.images[0].reshape(28, 28), 4), np.ones((5, 5), np.uint8))


def test_the_page_is_served_with_its_policy(ask):
    response = ask("GET", "/")
    page, policy = served()
    assert response.content == page
    assert response.headers["content-security-policy"] == policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/mnist.webmanifest", "/mnist.worker.js"])
def test_each_file_is_cached_until_it_changes(ask, path):
    first = ask("GET", path)
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], "W/" + first.headers["etag"], '"other", ' + first.headers["etag"]):
        again = ask("GET", path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert ask("GET", path, headers={"If-None-Match": '"other"'}).content == first.content
    head = ask("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("mnist.webmanifest", "application/manifest+json"), ("mnist.worker.js", "text/javascript; charset=utf-8")],
)
def test_the_files_of_the_app_have_their_own_policy(ask, name, media_type):
    response = ask("GET", f"/{name}")
    assert response.content == app_files("./")[name]
    assert response.headers["content-type"] == media_type
    assert response.headers["content-security-policy"] == "default-src 'none'; connect-src 'self'"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "BMP", "WEBP"])
def test_an_image_gets_the_answer_of_the_runtime(ask, model, digit, format_):
    image = encode(digit, format_)
    pixels = read_image(image, "digit")
    expected = model.classifier.classify(pixels)
    answer = ask("POST", "/digit", content=image).json()
    assert answer.pop("preprocessing_ms") > 0
    assert answer.pop("inference_ms") > 0
    assert answer.pop("sha256") in model.classifier.digests
    assert answer.pop("pixels") == pixels.tolist()
    assert answer == expected.to_dict()


@pytest.mark.parametrize(
    "image", [b"", b"\x89no image", encode(np.full((90, 90), 200, np.uint8))], ids=["empty", "text", "blank"]
)
def test_an_image_without_a_digit_gets_422_and_one_sentence(ask, image):
    response = ask("POST", "/digit", content=image)
    assert response.status_code == 422
    with pytest.raises(ValueError, match="the image") as refusal:
        read_image(image, "the image")
    assert response.json() == {"error": str(refusal.value)}


@pytest.mark.parametrize(
    "send",
    [
        lambda image: {"files": {"file": image}},
        lambda image: {"files": {"a": (None, "text"), "b": ("x.png", image)}, "data": {"c": "\r\n\r\n"}},
        lambda image: {"content": b"data:image/png;base64," + base64.b64encode(image)},
        lambda image: {"content": b"DATA:;BASE64," + base64.encodebytes(image)},
        lambda image: {"content": image, "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
    ],
    ids=[
        "form",
        "form with other fields",
        "data URL",
        "data URL in lines",
        "curl --data-binary",
    ],
)
def test_an_image_may_come_in_a_form_or_a_data_url(ask, model, digit, send):
    image = encode(digit)
    assert ask("POST", "/digit", **send(image)).json()["pixels"] == read_image(image, "digit").tolist()


FORM = "multipart/form-data; boundary="


@pytest.mark.parametrize(
    ("body", "content_type", "sentence"),
    [
        (base64.b64encode(bytes(90)), "", "the body is no image file; send the bytes of one image file"),
        (b"\x93NUMPY\1\0", "", "the body is no image file; send"),
        (b'{"image": 1}', "application/json", "the body is no image file; send"),
        (b"data:;base64,%%%", "", "the data URL holds no base64"),
        (b"data:image/png,%89PNG%0D%0A%1A%0A%00", "", "the body is no image file; send"),
        (b"", "multipart/form-data", "the form has no file among its first 100 fields; send"),
        (b"--x\r\nfilename\r\n\r\n", FORM + "x", "the form has no file"),
        (b"--x\r\n\r\n\r\n" * 10_000 + b"--x\r\nfilename\r\n\r\n\r\n--x--", FORM + "x", "the form has no file"),
        (b"--\xff\r\n", FORM.encode() + b'"\xff', "the form has no file"),
    ],
)
def test_other_bodies_are_refused_with_advice(ask, body, content_type, sentence):
    response = ask("POST", "/digit", content=body, headers={"Content-Type": content_type})
    assert response.status_code == 422
    assert response.json()["error"].startswith(sentence)
    assert "a data URL" in response.json()["error"]


def test_a_disconnected_client_is_no_longer_counted(digit):
    """The picture is still decoded to the end, because a decoder cannot be interrupted."""
    decoding, done = threading.Event(), threading.Event()

    class Slow(Classifier):
        def classify(self, pixels):
            decoding.set()
            done.wait()
            return super().classify(pixels)

    slow = Slow()
    app = create_app(ServedModel(slow))
    messages = [{"type": "http.request", "body": encode(digit)}]

    async def receive():
        if messages:
            return messages.pop()
        await asyncio.to_thread(decoding.wait)
        return {"type": "http.disconnect"}

    async def send(message):
        pytest.fail(f"{message} was sent to nobody")

    scope = {"type": "http", "method": "POST", "path": "/digit", "headers": [], "query_string": b"", "root_path": ""}
    asyncio.run(app(scope, receive, send))
    assert app.gate.in_flight == 0
    assert b'requests_total{route="/digit",status="499"} 1.0' in app.metrics.text()
    done.set()


def test_an_image_that_is_too_large_is_refused_before_it_is_read(ask):
    response = ask("POST", "/digit", content=b"\x89PNG" + bytes(2**20))
    assert response.status_code == 413


def test_the_page_uses_the_current_model(ask, model, digit, exported):
    before, bundled = ask("POST", "/digit", content=encode(digit)).json(), model.classifier
    model.classifier = Classifier(exported / "mnist.onnx")
    after = ask("POST", "/digit", content=encode(digit)).json()
    assert after["sha256"] == model.classifier.artifact.sha256 != before["sha256"]
    model.classifier = bundled
