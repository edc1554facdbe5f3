"""The application: routes, middleware, and nothing that needs a particular server."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mnist_serve.admission import Gate, Traffic
from mnist_serve.batching import Batcher, Batching
from mnist_serve.bodies import BoundedBodies
from mnist_serve.endpoint import InferEndpoint, Shortcut
from mnist_serve.log import Log
from mnist_serve.metrics import Metrics
from mnist_serve.model import ServedModel
from mnist_serve.openapi import document
from mnist_serve.protocol import model_metadata, server_metadata

_MODEL = "/v2/models/{model}"
_INFER = _MODEL + "/infer"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may cost."""

    max_body: int = 2**24
    """Bytes of a request's body, as it comes and unpacked: 16 MiB."""
    max_concurrency: int = 256
    """Requests that are answered at a time; more get a 503. Those that only read do not count."""


_LIMITS, _BATCHING = Limits(), Batching()


def create_app(
    model: ServedModel,
    *,
    limits: Limits = _LIMITS,
    batching: Batching = _BATCHING,
    log: Log | None = None,
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """Make the ASGI application that serves `model`, for any ASGI server or as a part of another application.

    Args:
        model: Assign its `classifier` to replace the model while the application runs.
        limits: What one client may cost.
        batching: How requests are put together.
        log: Where requests are told; nowhere if not given.
        routes: More of them, under the same limits; those of `mnist_serve.page` are the page.

    Returns:
        The application. Its `state.gate` tells how many requests are inside, and lets none enter once `is_stopping`;
        its `state.metrics` are what /metrics answers.
    """
    gate = Gate(limits.max_concurrency)
    metrics = Metrics(lambda: gate.in_flight)
    metrics.serving(model.name, model.classifier.digests)
    infer = InferEndpoint(model, Batcher(model.compute, batching, metrics.ran))
    every = [*_protocol_routes(model, gate, infer), *routes]
    every += _documents(model, metrics, every)
    app = Starlette(
        routes=every,
        middleware=[
            Middleware(Traffic, gate=gate, metrics=metrics, log=log, routes=every),
            Middleware(BoundedBodies, max_body=limits.max_body),
            Middleware(
                Shortcut, path=_INFER.format(model=model.name), path_params={"model": model.name}, endpoint=infer
            ),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _server_error},
    )
    app.state.gate, app.state.metrics = gate, metrics
    return app


def _protocol_routes(model: ServedModel, gate: Gate, infer: InferEndpoint) -> list[Route]:
    async def live(_: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_: Request) -> Response:
        return JSONResponse({"ready": not gate.is_stopping}, 503 if gate.is_stopping else 200)

    async def server(_: Request) -> Response:
        return JSONResponse(server_metadata())

    async def model_ready(request: Request) -> Response:
        _check(request)
        return JSONResponse({"name": model.name, "ready": not gate.is_stopping}, 503 if gate.is_stopping else 200)

    async def metadata(request: Request) -> Response:
        _check(request)
        return JSONResponse(model_metadata(model.name, model.datatype, model.classifier.digests))

    def _check(request: Request) -> None:
        model.check(request.path_params["model"], request.path_params.get("version"))

    versions = (_MODEL, _MODEL + "/versions/{version}")
    return [
        *(Route(path + "/infer", infer, methods=["POST"]) for path in versions),
        *(Route(path + "/ready", model_ready) for path in versions),
        *(Route(path, metadata) for path in versions),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2", server),
    ]


def _documents(model: ServedModel, metrics: Metrics, others: Sequence[BaseRoute]) -> list[Route]:
    async def scrape(_: Request) -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    async def describe(_: Request) -> Response:
        return JSONResponse(described)

    routes = [Route("/metrics", scrape), Route("/openapi.json", describe)]
    described = document(model.name, {route.path for route in [*others, *routes] if isinstance(route, Route)})
    return routes


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router says: no such path, no such method."""
    error = cast("HTTPException", error)
    path, allowed = request.url.path[:80], sorted((error.headers or {}).get("Allow", "").split(", "))
    sentence = {
        404: f"there is nothing at {path}; the protocol begins at /v2",
        405: f"{request.method} is not for {path}; use {' or '.join(allowed)}",
    }.get(error.status_code, error.detail)
    return JSONResponse({"error": sentence}, error.status_code, error.headers)


async def _server_error(*_: object) -> Response:
    return JSONResponse({"error": "the server failed at this request, and its log says why"}, 500)
