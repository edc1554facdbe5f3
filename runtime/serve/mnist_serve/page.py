"""The page to draw a digit on, with the files that make it an app, and the answer to the image that it sends.

The browser only draws. Drawings and uploads go through `mnist_runtime.io.images`, as every image does.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mnist_runtime.classifier import Classifier
from mnist_runtime.cpus import usable_cpus
from mnist_runtime.errors import DigitError
from mnist_runtime.io.images import read_image
from mnist_runtime.page import app_files, served
from mnist_serve.endpoint import unless_disconnected
from mnist_serve.errors import RequestError
from mnist_serve.pictures import DaemonThreads, picture_in

_MEDIA_TYPES = {"mnist.webmanifest": "application/manifest+json", "mnist.worker.js": "text/javascript"}
_WORKER = "default-src 'none'; connect-src 'self'"  # it fetches the page


def routes(current: Callable[[], Classifier]) -> list[Route]:
    """Return `GET /`, the page, with its app files, and `POST /digit`, which answers an image with `current()`."""
    html, policy = served()
    page = Route("/", _file(html, "text/html", policy))
    app = [Route(f"/{name}", _file(data, _MEDIA_TYPES[name], _WORKER)) for name, data in app_files("./").items()]
    decoders = DaemonThreads(usable_cpus())  # a large photograph takes some 200 MiB while it is decoded

    async def digit(request: Request) -> Response:
        body = await request.body()
        work = partial(_answer, body, request.headers.get("content-type", ""), current())
        try:
            answer = await unless_disconnected(
                request.receive, asyncio.get_running_loop().run_in_executor(decoders, work)
            )
        except DigitError as error:
            raise RequestError(str(error), 422) from error
        return JSONResponse(answer)

    return [page, *app, Route("/digit", digit, methods=["POST"])]


def _file(content: bytes, media_type: str, policy: str) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that answers with `content`, or with 304 if the browser has it."""
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",  # cached, and revalidated by its ETag
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    }

    async def answer(request: Request) -> Response:
        known = request.headers.get("if-none-match", "").split(",")
        if headers["ETag"] in (tag.strip().removeprefix("W/") for tag in known):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return answer


def _answer(body: bytes, content_type: str, classifier: Classifier) -> dict[str, object]:
    """Return a JSON-serialisable dict: the prediction, its 784 pixels, times and the model's digest."""
    started = time.perf_counter()
    pixels = read_image(picture_in(body, content_type), "the image")
    prepared = time.perf_counter()
    prediction = classifier.classify(pixels)
    classified = time.perf_counter()
    return {
        **prediction.to_dict(),
        "pixels": pixels.tolist(),
        "preprocessing_ms": 1000 * (prepared - started),
        "inference_ms": 1000 * (classified - prepared),
        "sha256": classifier.digests[-1],  # of two graphs, the second is the one for uint8 pixels
    }
