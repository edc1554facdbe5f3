"""The application on another ASGI server, in a larger application, and with additional routes."""

import asyncio
import gzip
import io
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from mnist_runtime import Classifier
from mnist_serve import Limits, ServedModel, create_app

INFER = "/v2/models/mnist/infer"


def visit(app: Starlette, talk: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """Send requests to an application in this process, without a server."""

    async def talking() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
            await talk(http)

    asyncio.run(talking())


def test_the_application_can_be_mounted_into_another(server, classifier, digits):
    app = Starlette(routes=[Mount("/digits", create_app(ServedModel(classifier)))])

    async def talk(http: httpx.AsyncClient) -> None:
        assert (await http.get("/digits/v2/health/ready")).json() == {"ready": True}
        answer = await http.post("/digits" + INFER, json=server.document(digits))
        assert answer.json()["outputs"][2]["data"] == classifier.predict(digits).tolist()
        assert 'route="/v2/models/{model}/infer",status="200"' in (await http.get("/digits/metrics")).text
        assert (await http.get("/digits/v2/models/cifar")).status_code == 404
        assert (await http.get("/digits")).headers["location"] == "http://here/digits/"  # the page's links are relative
        assert "<canvas" in (await http.get("/digits/")).text
        picture = io.BytesIO()
        Image.fromarray(255 - digits[0].reshape(28, 28)).resize((280, 280)).save(picture, "PNG")
        assert (await http.post("/digits/digit", content=picture.getvalue())).json()["label"] == 7

    visit(app, talk)


def test_two_applications_in_one_process_count_separately(classifier):
    one, other = create_app(ServedModel(classifier)), create_app(ServedModel(classifier, "other"))

    async def talk(http: httpx.AsyncClient) -> None:
        assert (await http.get("/one/v2/models/mnist")).status_code == 200
        assert (await http.get("/other/v2/models/other")).status_code == 200
        assert 'mnist_serve_requests_total{route="/v2/models/{model}"' in (await http.get("/one/metrics")).text
        assert 'status="404"' not in (await http.get("/other/metrics")).text

    visit(Starlette(routes=[Mount("/one", one), Mount("/other", other)]), talk)


def test_additional_routes_have_the_same_limits_metrics_and_log(classifier, caplog):
    caplog.set_level(logging.INFO, "mnist_serve")

    async def echo(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def fail(_: Request) -> Response:
        raise RuntimeError("a mistake")

    async def early(request: Request) -> Response:
        async def words() -> AsyncIterator[bytes]:
            yield b"begun"
            yield await request.body()

        return StreamingResponse(words())

    app = create_app(
        ServedModel(classifier),
        limits=Limits(max_body=100),
        routes=[Route("/echo", echo, methods=["POST"]), Route("/early", early, methods=["POST"]), Route("/fail", fail)],
    )

    async def talk(http: httpx.AsyncClient) -> None:
        assert (await http.post("/echo", content=bytes(100))).text == "100"
        assert (await http.post("/echo", content=bytes(101))).status_code == 413
        failed = await http.get("/fail")
        assert failed.status_code == 500
        assert failed.json() == {"error": "the server failed at this request; its log says why"}
        assert 'mnist_serve_requests_total{route="/fail",status="500"} 1.0' in (await http.get("/metrics")).text

        half = await http.post("/early", content=gzip.compress(bytes(101)), headers={"Content-Encoding": "gzip"})
        assert half.status_code == 200  # sent before the body turned out to be too large

    visit(app, talk)
    lines = [record.facts for record in caplog.records if record.name == "mnist_serve.request"]
    assert [(line["path"], line["status"]) for line in lines[:3]] == [("/echo", 200), ("/echo", 413), ("/fail", 500)]


def test_the_model_can_be_replaced(classifier, bundled):
    model = ServedModel(classifier)

    async def talk(http: httpx.AsyncClient) -> None:
        assert (await http.get("/v2/models/mnist")).json()["inputs"][0]["datatype"] == "UINT8"
        model.classifier = Classifier(bundled)
        assert (await http.get("/v2/models/mnist")).json()["inputs"][0]["datatype"] == "FP32"

    visit(create_app(model), talk)


def test_large_requests_are_computed_beside_the_event_loop(server, classifier, test_split):
    computing: list[tuple[int, bool]] = []

    class Watched(ServedModel):
        def compute(self, digits):
            computing.append((len(digits), threading.current_thread() is threading.main_thread()))
            return super().compute(digits)

    async def talk(http: httpx.AsyncClient) -> None:
        for count in (1, 200):
            document = server.document(test_split.images[:count].reshape(count, 784))
            assert (await http.post(INFER, json=document)).status_code == 200

    visit(create_app(Watched(classifier)), talk)
    assert computing == [(1, True), (200, False)]


def test_the_rest_of_the_runtime_does_not_load_the_servers_libraries():
    code = (
        "import sys, mnist_runtime.infer.cli, mnist_runtime.classifier, mnist_runtime.parity.findings; "
        "print({'starlette', 'uvicorn', 'prometheus_client', 'httptools', 'uvloop'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_no_torch_is_in_the_process():
    code = (
        "import sys, mnist_serve.server, mnist_serve.reload; print({'torch', 'onnx', 'mnist_train'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_public_names_are_listed_and_no_others():
    import mnist_serve

    assert dir(mnist_serve) == mnist_serve.__all__
    assert all(getattr(mnist_serve, name) for name in mnist_serve.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'serve_forever'"):
        _ = mnist_serve.serve_forever
