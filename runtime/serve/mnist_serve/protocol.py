"""The documents of the Open Inference Protocol, with the binary tensor extension: bytes in, bytes out, nothing else.

The protocol: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; the
extension: Triton's documentation, protocol/extension_binary_data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import orjson
from numpy.typing import NDArray

from mnist_runtime import __version__
from mnist_runtime.classifier import Outputs
from mnist_runtime.digits import CLASSES, PIXELS, Intensities, Pixels
from mnist_serve.errors import RequestError
from mnist_serve.tensors import DATATYPES, DIGIT_DATATYPES, check_shape, from_binary, from_json, short

INPUT = "pixels"
OUTPUTS = {"logits": "FP32", "probabilities": "FP32", "label": "INT64", "no_digit": "FP32", "verdict": "INT64"}
"""Outputs and their datatypes, in the order in which they are answered by default."""

_FIELDS = {name: {"label": "labels", "verdict": "verdicts"}.get(name, name) for name in OUTPUTS}
"""Attribute of `Outputs` per output of the protocol."""

_ROW = {"logits": [len(CLASSES)], "probabilities": [len(CLASSES)]}
"""Shape of a digit's row, for the outputs with more than one number per digit."""

MODEL_VERSION = "1"
"""The only version in URLs, because one model is served at a time; its SHA-256 tells which."""

_REFUSED = {
    "classification": "request the outputs label and probabilities instead",
    "shared_memory_region": "send the tensors in the body",
}
"""Parameters that would change the meaning of a response; other unknown parameters are tolerated."""

_SHORT = 1024
"""Bytes of JSON up to which a parsed head is cached; it holds no digits."""

_BRACKETS, _BRACKETS_PER_BYTE = 2**16, 1 / 32
"""Largest number of lists and objects in JSON: enough for digits of 28 lists of 28, which get a better error."""


class Output(NamedTuple):
    """A requested output."""

    name: str
    binary: bool
    """True for bytes after the JSON document, False for numbers in it."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A parsed inference request."""

    id: str | None
    digits: Intensities | Pixels
    """Checked digits, `[N, 784]`."""
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The body of a response, and where the JSON in it ends."""

    body: bytes
    json_length: int | None
    """Bytes of JSON before the tensors; None if the body is JSON alone."""


def parse(body: bytes, json_length: bytes | None, raw_datatype: str) -> InferRequest:
    """Parse an inference request.

    Args:
        body: The decompressed body.
        json_length: The header Inference-Header-Content-Length, if present: the offset at which binary tensors begin.
        raw_datatype: Datatype of a body without JSON, which a length of 0 announces.

    Raises:
        RequestError: the body is not an inference request.
        DigitError: the values of its tensor are not digits.
    """
    length = len(body) if json_length is None else _length(json_length, len(body))
    if length == 0 and json_length is not None:
        return _read_raw(body, raw_datatype)
    head = (_read_head if length > _SHORT else _read_short_head)(body[:length])
    return InferRequest(head.id, _read_tensor(head, body, length), head.outputs)


def render(request: InferRequest, computed: Outputs, model: str) -> InferResponse:
    """Render the response to an inference request."""
    arrays: list[tuple[Output, NDArray[Any]]] = [
        (output, getattr(computed, _FIELDS[output.name])) for output in request.outputs
    ]
    tensors = [
        array.astype(DATATYPES[OUTPUTS[name]], copy=False).tobytes() for (name, binary), array in arrays if binary
    ]
    if len(tensors) == len(arrays):
        head = _binary_head(model, request.outputs, len(request.digits))
    else:
        data = [None if binary else array.ravel().tolist() for (_, binary), array in arrays]
        head = _head(model, request.outputs, len(request.digits), data)
    if request.id is not None:
        head = b'{"id":%b,%b' % (orjson.dumps(request.id), head.removeprefix(b"{"))
    return InferResponse(b"".join([head, *tensors]), len(head) if tensors else None)


def server_metadata() -> dict[str, Any]:
    """Return the name, version and extensions of the server."""
    return {"name": "mnist-serve", "version": __version__, "extensions": ["binary_tensor_data"]}


def model_metadata(model: str, datatype: str, digests: Sequence[str]) -> dict[str, Any]:
    """Return the inputs and outputs of a model, and the SHA-256 of each of its files."""
    return {
        "name": model,
        "versions": [MODEL_VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": INPUT, "datatype": datatype, "shape": [-1, PIXELS]}],
        "outputs": [
            {"name": name, "datatype": kind, "shape": [-1, *_ROW.get(name, [])]} for name, kind in OUTPUTS.items()
        ],
        "properties": {"sha256": " ".join(digests)},
    }


@dataclass(frozen=True, slots=True)
class _Head:
    """The checked JSON of a request; the data of its tensor are not checked yet."""

    id: str | None
    datatype: str
    count: int
    """Number of digits."""
    size: int | None
    """Bytes of the tensor after the JSON; None if the tensor is in `data`."""
    data: object
    outputs: tuple[Output, ...]


def _head(model: str, outputs: tuple[Output, ...], count: int, data: Sequence[list[Any] | None]) -> bytes:
    """Render the JSON of a response without an id; the values of a binary tensor are None."""
    described = []
    for output, values in zip(outputs, data, strict=True):
        shape = [count, *_ROW.get(output.name, [])]
        tensor: dict[str, Any] = {"name": output.name, "datatype": OUTPUTS[output.name], "shape": shape}
        if values is None:
            tensor["parameters"] = {"binary_data_size": prod(shape) * DATATYPES[OUTPUTS[output.name]].itemsize}
        else:
            tensor["data"] = values
        described.append(tensor)
    return orjson.dumps({"model_name": model, "model_version": MODEL_VERSION, "outputs": described})


@lru_cache(maxsize=256)
def _binary_head(model: str, outputs: tuple[Output, ...], count: int) -> bytes:
    """Render the JSON of a response whose tensors are all binary: the same for most requests."""
    return _head(model, outputs, count, [None] * len(outputs))


def _length(text: bytes, size: int) -> int:
    text = text.strip()
    if text.isdigit() and len(text) < 20 and (length := int(text)) <= size:
        return length
    raise RequestError(
        f"Inference-Header-Content-Length is {text[:20].decode('latin-1')!r}; it must be the number of bytes of JSON "
        f"before the tensors, at most the {size:,} of the body"
    )


def _load(text: bytes) -> dict[str, Any]:
    if len(text) > _BRACKETS and text.count(b"[") + text.count(b"{") > _BRACKETS + len(text) * _BRACKETS_PER_BYTE:
        raise RequestError("the request has more lists and objects than digits need; send what the protocol describes")
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        hint = "; set Inference-Header-Content-Length to where the JSON ends" if b"\0" in text else ""
        raise RequestError(f"the request is not JSON ({error}){hint}") from error
    if type(document) is not dict:
        raise RequestError('the request is not a JSON object; send {"inputs": [...]}')
    return document


def _read_raw(body: bytes, datatype: str) -> InferRequest:
    """Parse the extension's short form: the body is nothing but pixels, and all outputs come back as bytes."""
    if not body:
        raise RequestError("the body is empty; send the pixels of at least one digit")
    count = len(body) // (PIXELS * DATATYPES[datatype].itemsize)
    return InferRequest(None, from_binary(body, 0, datatype, count), _ALL_BINARY)


def _read_head(text: bytes) -> _Head:
    document = _load(text)
    name = document.get("id")
    if name is not None and type(name) is not str:
        raise RequestError("the id of the request must be a string")
    tensor = _only_input(document.get("inputs"))
    datatype = tensor.get("datatype")
    if type(datatype) is not str or datatype not in DIGIT_DATATYPES:
        raise RequestError(f"the datatype of {INPUT} is {short(datatype)}; it must be FP32 (0-1) or UINT8 (0-255)")
    count = check_shape(tensor.get("shape"))
    size = _parameters(tensor, f"input {INPUT}").get("binary_data_size")
    if (size is None) != ("data" in tensor):
        raise RequestError(f"input {INPUT} must have either data or the parameter binary_data_size")
    binary = _flag(_parameters(document, "the request"), "binary_data_output")
    outputs = _read_outputs(document.get("outputs"), binary=binary)
    return _Head(name, datatype, count, size, tensor.get("data"), outputs)


_read_short_head = lru_cache(maxsize=256)(_read_head)  # clients of binary tensors repeat theirs


def _only_input(inputs: object) -> dict[str, Any]:
    if type(inputs) is not list or len(inputs) != 1 or type(inputs[0]) is not dict:
        raise RequestError(f"inputs must be a list of one tensor, {INPUT}, with name, datatype, shape and data")
    tensor: dict[str, Any] = inputs[0]
    if tensor.get("name") != INPUT:
        raise RequestError(f"the input {short(tensor.get('name'))} is unknown; this model has one, {INPUT}")
    return tensor


def _read_tensor(head: _Head, body: bytes, start: int) -> Intensities | Pixels:
    after = len(body) - start
    if head.size is None:
        if after:
            raise RequestError(f"{after:,} bytes follow the JSON, but no input has the parameter binary_data_size")
        return from_json(head.data, head.datatype, head.count)
    if type(head.size) is not int or head.size != after:
        raise RequestError(
            f"binary_data_size is {short(head.size)}, but {after:,} bytes follow the JSON; set it to the size of the "
            "tensor, and Inference-Header-Content-Length to the length of the JSON"
        )
    return from_binary(body, start, head.datatype, head.count)


def _read_outputs(outputs: object, *, binary: bool) -> tuple[Output, ...]:
    if not outputs and outputs in (None, []):
        return _ALL_BINARY if binary else _ALL
    if type(outputs) is not list:
        raise RequestError(f"outputs must be a list of some of {', '.join(OUTPUTS)}")
    wanted: dict[str, Output] = {}
    for output in outputs:
        name = output.get("name") if type(output) is dict else None
        if type(name) is not str or name not in OUTPUTS:
            raise RequestError(f"the output {short(name)} is unknown; this model has {', '.join(OUTPUTS)}")
        if name in wanted:
            raise RequestError(f"the output {name} is requested twice; request it once")
        wanted[name] = Output(name, _flag(_parameters(output, f"output {name}"), "binary_data", default=binary))
    return tuple(wanted.values())


def _parameters(holder: Mapping[str, Any], whose: str) -> Mapping[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise RequestError(f"the parameters of {whose} must be an object")
    for name in parameters.keys() & _REFUSED:
        raise RequestError(f"the parameter {name} of {whose} is of an extension not served here; {_REFUSED[name]}")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise RequestError(f"the parameter {name} must be true or false")
    return value


_ALL = tuple(Output(name, binary=False) for name in OUTPUTS)
_ALL_BINARY = tuple(Output(name, binary=True) for name in OUTPUTS)
