"""The routes of the protocol and its documents, for any ASGI server."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from mnist_runtime import __version__
from mnist_serve.admission import Application
from mnist_serve.batching import Batcher
from mnist_serve.endpoint import InferEndpoint
from mnist_serve.exchange import Gate, Limits
from mnist_serve.metrics import Metrics
from mnist_serve.model import ServedModel
from mnist_serve.page import routes as page_routes
from mnist_serve.protocol import model_metadata, server_metadata

_MODEL = "/v2/models/{model}"
_LIMITS = Limits()


def create_app(
    model: ServedModel,
    *,
    limits: Limits = _LIMITS,
    max_batch: int = 64,
    routes: Sequence[Route] = (),
    page: bool = True,
) -> Application:
    """Return the ASGI application that serves `model`, to run on any ASGI server or mount into another application.

    Args:
        model: Assign its `classifier` to replace the model while the application runs.
        limits: Bounds on what one client may cost.
        max_batch: Digits per run of the model, which many requests may share; 1 turns batching off.
        routes: More routes, under the same limits.
        page: Serve the page to draw on, at `/`, and its `/digit`.
    """
    gate = Gate(limits.max_concurrency)
    metrics = Metrics(lambda: gate.in_flight)
    metrics.model.info(model.info())
    infer = InferEndpoint(model, Batcher(model.compute, max_batch, metrics.batch_digits.observe))
    served = [*_protocol_routes(model, gate, infer), *routes]
    served += page_routes(lambda: model.classifier) if page else []
    served += _document_routes(model, metrics, served)
    return Application(_router(served, model.name, infer), served, limits, gate, metrics)


def _router(routes: Sequence[Route], model: str, infer: InferEndpoint) -> ASGIApp:
    """Return Starlette's router behind a shortcut to `infer`, which saves inference a twelfth of its time."""
    router = Router(routes, redirect_slashes=False)  # behind a proxy, Starlette's redirects lead to another scheme
    path = f"/v2/models/{model}/infer"

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == path and scope["method"] == "POST":
            scope.update(endpoint=infer, path_params={"model": model})
            await infer(scope, receive, send)
        else:
            await router(scope, receive, send)

    return route


def _protocol_routes(model: ServedModel, gate: Gate, infer: InferEndpoint) -> list[Route]:
    async def live(_: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_: Request) -> Response:
        return JSONResponse({"ready": not gate.is_stopping}, 503 if gate.is_stopping else 200)

    async def server(_: Request) -> Response:
        return JSONResponse(server_metadata())

    async def model_ready(request: Request) -> Response:
        model.check(**request.path_params)
        return JSONResponse({"name": model.name, "ready": not gate.is_stopping}, 503 if gate.is_stopping else 200)

    async def metadata(request: Request) -> Response:
        model.check(**request.path_params)
        return JSONResponse(model_metadata(model.name, model.datatype, model.classifier.digests))

    paths = (_MODEL, _MODEL + "/versions/{version}")
    return [
        *(Route(path + "/infer", infer, methods=["POST"]) for path in paths),
        *(Route(path + "/ready", model_ready) for path in paths),
        *(Route(path, metadata) for path in paths),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2", server),
    ]


def _document_routes(model: ServedModel, metrics: Metrics, others: Sequence[Route]) -> list[Route]:
    async def scrape(_: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def describe(_: Request) -> Response:
        return JSONResponse(document)

    routes = [Route("/metrics", scrape), Route("/openapi.json", describe)]
    document = _openapi(model.name)
    served = {route.path for route in [*others, *routes]}
    document["paths"] = {path: item for path, item in document["paths"].items() if path in served}
    return routes


def _openapi(model: str) -> dict[str, Any]:
    """Return openapi.json with the names of the model and of this version filled in."""
    text = Path(__file__).with_name("openapi.json").read_text("utf-8")
    for placeholder, value in (("MODEL_NAME", model), ("SERVER_VERSION", __version__)):
        text = text.replace(f'"{placeholder}"', json.dumps(value))
    document: dict[str, Any] = json.loads(text)
    return document
