"""The OpenAPI document of the server: every path, what it takes and what it answers."""

from collections.abc import Collection
from typing import Any

from mnist_runtime import __version__
from mnist_runtime.digits import CLASSES, PIXELS
from mnist_serve.protocol import INPUT, OUTPUTS, VERSION
from mnist_serve.tensors import DIGIT_DATATYPES

Schema = dict[str, Any]

_EXAMPLE = {
    "id": "a blank digit",
    "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [1, PIXELS], "data": [0] * PIXELS}],
    "outputs": [{"name": "label"}],
}

_DESCRIPTION = (
    "The Open Inference Protocol (KServe V2) with the binary tensor extension, for a classifier of handwritten digits. "
    "A body may be gzip or deflate (Content-Encoding), and so is an answer if Accept-Encoding asks for it."
)


def document(model: str, served: Collection[str]) -> Schema:
    """Describe a server of `model`, and of its paths those that are `served`."""
    name = _parameter("model", "path", {"type": "string", "enum": [model]})
    version = _parameter("version", "path", {"type": "string", "enum": [VERSION]})
    paths: Schema = {
        "/v2": {"get": _get("Who answers", "ServerMetadata")},
        "/v2/health/live": {"get": _get("Is the process alive?", "Live")},
        "/v2/health/ready": {"get": _get("Shall requests be sent here?", "Ready", 503)},
        "/metrics": {"get": {"summary": "Metrics for Prometheus", "responses": {"200": _text("Metrics")}}},
        "/openapi.json": {"get": {"summary": "This document", "responses": {"200": _json("OpenAPI", {})}}},
        "/": {"get": {"summary": "A page to draw a digit on", "responses": {"200": _text("The page", "text/html")}}},
        "/digit": {"post": _digit()},
    }
    for prefix, parameters in (
        ("/v2/models/{model}", [name]),
        ("/v2/models/{model}/versions/{version}", [name, version]),
    ):
        paths |= {
            prefix: {"parameters": parameters, "get": _get("What the model takes and gives", "ModelMetadata", 404)},
            f"{prefix}/ready": {"parameters": parameters, "get": _get("Is it ready?", "ModelReady", 404, 503)},
            f"{prefix}/infer": {"parameters": parameters, "post": _infer()},
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "mnist-serve", "version": __version__, "description": _DESCRIPTION},
        "paths": {path: item for path, item in paths.items() if path in served},
        "components": {"schemas": _schemas(model)},
    }


def _infer() -> Schema:
    length = _parameter(
        "Inference-Header-Content-Length",
        "header",
        {"type": "integer", "minimum": 0},
        "Bytes of JSON before the tensors, where those follow as bytes; with 0 the body is nothing but pixels",
    )
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "summary": "Recognise digits",
        "parameters": [length],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ref("InferRequest"), "example": _EXAMPLE},
                "application/octet-stream": binary,
            },
        },
        "responses": {
            "200": {
                "description": "What the model says",
                "headers": {
                    "Inference-Header-Content-Length": {
                        "description": "Bytes of JSON before the tensors, if any were asked for as bytes",
                        "schema": {"type": "integer"},
                    }
                },
                "content": {
                    "application/json": {"schema": _ref("InferResponse")},
                    "application/octet-stream": binary,
                },
            },
            **_errors(400, 404, 408, 413, 415, 503),
        },
    }


def _digit() -> Schema:
    picture = {"schema": {"type": "string", "format": "binary"}}
    kinds = ("image/png", "image/jpeg", "image/webp", "image/bmp")
    return {
        "summary": "Recognise the digit in a picture",
        "requestBody": {"required": True, "content": dict.fromkeys((*kinds, "application/octet-stream"), picture)},
        "responses": {
            "200": _json("The digit, the pixels that the model received, and times", _ref("Digit")),
            **_errors(400, 408, 413, 415, 422, 503),
        },
    }


def _get(summary: str, schema: str, *statuses: int) -> Schema:
    answer = _json(summary, _ref(schema))
    others = {"503": answer} if 503 in statuses else {}
    return {"summary": summary, "responses": {"200": answer, **_errors(*statuses), **others}}


def _errors(*statuses: int) -> Schema:
    said = {
        400: "The request makes no sense",
        404: "There is no such model or version",
        408: "The body did not come in time",
        413: "The body is too large",
        415: "The body is packed in a way that is not read here",
        422: "The picture is none, or shows no digit",
        503: "The server is busy or stopping",
    }
    return {str(status): _json(said[status], _ref("Error")) for status in statuses}


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _text(description: str, media_type: str = "text/plain") -> Schema:
    return {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}


def _parameter(name: str, place: str, schema: Schema, description: str = "") -> Schema:
    said = {"description": description} if description else {}
    return {"name": name, "in": place, "required": place == "path", "schema": schema, **said}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Schema, optional: Schema | None = None, **more: Any) -> Schema:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required), **more}


def _array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _schemas(model: str) -> Schema:
    text, flag, count = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
    probability, milliseconds = {"type": "number", "minimum": 0, "maximum": 1}, {"type": "number", "minimum": 0}
    parameters = {"type": "object"}
    output_name = {"type": "string", "enum": list(OUTPUTS)}
    metadata = _array(_object({"name": text, "datatype": text, "shape": _array({"type": "integer"})}))
    numbers = _array({"type": "number", "minimum": 0})
    tensor = _object(
        {
            "name": {"type": "string", "enum": [INPUT]},
            "datatype": {"type": "string", "enum": list(DIGIT_DATATYPES)},
            "shape": {
                "type": "array",
                "prefixItems": [count, {"const": PIXELS}],
                "minItems": 2,
                "maxItems": 2,
                "description": f"[N, {PIXELS}]; N may be 0",
            },
        },
        {
            "data": {
                "description": "FP32: intensity / 256, within [0, 1]; UINT8: 0-255; flat, or a list for each digit",
                "anyOf": [numbers, _array(numbers)],
            },
            "parameters": _object({}, {"binary_data_size": count}),
        },
    )
    wanted = _object({"name": output_name}, {"parameters": _object({}, {"binary_data": flag})})
    answered = _object(
        {"name": output_name, "datatype": {"type": "string", "enum": ["FP32", "INT64"]}, "shape": _array(count)},
        {"data": _array({"type": "number"}), "parameters": _object({}, {"binary_data_size": count})},
    )
    return {
        "Digit": _object(
            {
                "label": {"type": "integer", "minimum": 0, "maximum": len(CLASSES) - 1},
                "probability": probability,
                "probabilities": _array(probability, minItems=len(CLASSES), maxItems=len(CLASSES)),
                "pixels": _array({"type": "integer", "minimum": 0, "maximum": 255}, minItems=PIXELS, maxItems=PIXELS),
                "preprocessing_ms": milliseconds,
                "inference_ms": milliseconds,
                "sha256": text,
            }
        ),
        "Error": _object({"error": text}),
        "Live": _object({"live": flag}),
        "Ready": _object({"ready": flag}),
        "ModelReady": _object({"name": text, "ready": flag}),
        "ServerMetadata": _object({"name": text, "version": text, "extensions": _array(text)}),
        "ModelMetadata": _object(
            {"name": {"const": model}, "versions": _array(text), "platform": text, "inputs": metadata},
            {"outputs": metadata, "properties": _object({"sha256": text})},
        ),
        "InferRequest": _object(
            {"inputs": _array(tensor, minItems=1, maxItems=1)},
            {"id": text, "outputs": _array(wanted), "parameters": parameters},
        ),
        "InferResponse": _object(
            {"model_name": {"const": model}, "model_version": {"const": VERSION}, "outputs": _array(answered)},
            {"id": text, "parameters": parameters},
        ),
    }
