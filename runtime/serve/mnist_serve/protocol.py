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
from mnist_serve.tensors import (
    DATATYPES,
    DIGIT_DATATYPES,
    check_shape,
    from_binary,
    from_json,
    short,
    to_binary,
    to_json,
)

INPUT = "pixels"
OUTPUTS = {"logits": "FP32", "probabilities": "FP32", "label": "INT64"}
"""What may be asked for, with its datatype, in the order in which all are answered."""

_FIELDS = {"logits": "logits", "probabilities": "probabilities", "label": "labels"}
"""Attribute of `Outputs` for each output of the protocol."""

VERSION = "1"
"""Of the model, always. The protocol's versions stand side by side, and one is served; its SHA-256 tells which."""

EXTENSIONS = ("binary_tensor_data",)

_REFUSED = {
    "classification": "ask for the outputs label and probabilities instead",
    "shared_memory_region": "send the tensors in the body",
}
"""Parameters that would change the meaning of an answer; all others that are not known are tolerated."""

_SHORT = 1024
"""Bytes of JSON that holds no digits, and is remembered."""

_BRACKETS, _BRACKETS_PER_BYTE = 2**16, 1 / 32
"""Lists and objects in JSON, at most: more than digits of 28 lists of 28 have, which get a better sentence."""


class Output(NamedTuple):  # which is hashed faster than a dataclass, for `_binary_head`
    """One tensor that was asked for."""

    name: str
    binary: bool
    """As bytes after the JSON document, not as numbers in it."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What one request asks."""

    id: str | None
    digits: Intensities | Pixels
    """Checked, `[N, 784]`."""
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class InferResponse:
    """A body, and where the JSON in it ends."""

    body: bytes
    json_length: int | None
    """Bytes of JSON before the tensors; None if there is nothing else."""


def parse(body: bytes, json_length: bytes | None, raw_datatype: str) -> InferRequest:
    """Read an inference request.

    Args:
        body: As it came, unpacked.
        json_length: The header Inference-Header-Content-Length, if there was one: the bytes after as many are tensors.
        raw_datatype: Of a body that is all pixels, which a length of 0 says.

    Raises:
        RequestError: it is none, in one sentence.
        DigitError: its tensor is one, and its values are no digits.
    """
    length = len(body) if json_length is None else _length(json_length, len(body))
    if length == 0 and json_length is not None:
        return _read_raw(body, raw_datatype)
    head = (_read_head if length > _SHORT else _read_short_head)(body[:length])
    return InferRequest(head.id, _read_tensor(head, body, length), head.outputs)


def render(request: InferRequest, computed: Outputs, model: str) -> InferResponse:
    """Write the answer to an inference request."""
    arrays: list[NDArray[Any]] = [getattr(computed, _FIELDS[output.name]) for output in request.outputs]
    tensors = [
        to_binary(array, OUTPUTS[output.name])
        for output, array in zip(request.outputs, arrays, strict=True)
        if output.binary
    ]
    if len(tensors) == len(arrays):
        head = _binary_head(model, request.outputs, len(request.digits))
    else:
        data = [
            None if output.binary else to_json(array) for output, array in zip(request.outputs, arrays, strict=True)
        ]
        head = _head(model, request.outputs, len(request.digits), data)
    if request.id is not None:
        head = b'{"id":%b,%b' % (orjson.dumps(request.id), head.removeprefix(b"{"))
    return InferResponse(b"".join([head, *tensors]), len(head) if tensors else None)


def server_metadata() -> dict[str, Any]:
    """Who answers: name, version and extensions."""
    return {"name": "mnist-serve", "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(model: str, datatype: str, digests: Sequence[str]) -> dict[str, Any]:
    """What a model takes and gives, and the SHA-256 of each file it is made of."""
    return {
        "name": model,
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": INPUT, "datatype": datatype, "shape": [-1, PIXELS]}],
        "outputs": [
            {"name": name, "datatype": kind, "shape": [-1] if name == "label" else [-1, len(CLASSES)]}
            for name, kind in OUTPUTS.items()
        ],
        "properties": {"sha256": " ".join(digests)},
    }


@dataclass(frozen=True, slots=True)
class _Head:
    """The JSON of a request, checked; the data of its tensor are not."""

    id: str | None
    datatype: str
    count: int
    """Digits."""
    size: int | None
    """Bytes of the tensor after the JSON; None if it is in `data`."""
    data: object
    outputs: tuple[Output, ...]


def _head(model: str, outputs: tuple[Output, ...], count: int, data: Sequence[list[Any] | None]) -> bytes:
    """The JSON of a response without an id; of a binary tensor without its data."""
    described = []
    for output, values in zip(outputs, data, strict=True):
        shape = [count] if output.name == "label" else [count, len(CLASSES)]
        tensor: dict[str, Any] = {"name": output.name, "datatype": OUTPUTS[output.name], "shape": shape}
        if values is None:
            tensor["parameters"] = {"binary_data_size": prod(shape) * DATATYPES[OUTPUTS[output.name]].itemsize}
        else:
            tensor["data"] = values
        described.append(tensor)
    return orjson.dumps({"model_name": model, "model_version": VERSION, "outputs": described})


@lru_cache(maxsize=256)
def _binary_head(model: str, outputs: tuple[Output, ...], count: int) -> bytes:
    """The JSON of a response whose tensors are all binary: the same again and again."""
    return _head(model, outputs, count, [None] * len(outputs))


def _length(text: bytes, size: int) -> int:
    if text.isdigit() and len(text) < 20 and (length := int(text)) <= size:
        return length
    raise RequestError(
        f"Inference-Header-Content-Length is {text[:20].decode('latin-1')!r}, and must be the bytes of JSON before the "
        f"tensors, at most the {size:,} of the body"
    )


def _load(text: bytes) -> dict[str, Any]:
    if len(text) > _BRACKETS and text.count(b"[") + text.count(b"{") > _BRACKETS + len(text) * _BRACKETS_PER_BYTE:
        raise RequestError("the request has more lists and objects than digits need; send what the protocol describes")
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        hint = (
            "; with binary tensors, say in Inference-Header-Content-Length where the JSON ends" if b"\0" in text else ""
        )
        raise RequestError(f"the request is not JSON ({error}){hint}") from error
    if type(document) is not dict:
        raise RequestError('the request is not a JSON object; send {"inputs": [...]}')
    return document


def _read_raw(body: bytes, datatype: str) -> InferRequest:
    """The extension's short form: nothing but the pixels of digits; all outputs come back as bytes."""
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


_read_short_head = lru_cache(maxsize=256)(_read_head)  # clients of binary tensors send the same one again and again


def _only_input(inputs: object) -> dict[str, Any]:
    if type(inputs) is not list or len(inputs) != 1 or type(inputs[0]) is not dict:
        raise RequestError(f"inputs must be a list of one tensor, {INPUT}, with name, datatype, shape and data")
    tensor: dict[str, Any] = inputs[0]
    if tensor.get("name") != INPUT:
        raise RequestError(f"the input {short(tensor.get('name'))} is unknown; this model takes one, {INPUT}")
    return tensor


def _read_tensor(head: _Head, body: bytes, start: int) -> Intensities | Pixels:
    after = len(body) - start
    if head.size is None:
        if after:
            raise RequestError(f"there are {after:,} bytes after the JSON, and no input says they are its data")
        return from_json(head.data, head.datatype, head.count)
    if type(head.size) is not int or head.size != after:
        raise RequestError(
            f"binary_data_size is {short(head.size)}, and {after:,} bytes follow the JSON; say in "
            "Inference-Header-Content-Length where the JSON ends, and here how many bytes come after it"
        )
    return from_binary(body, start, head.datatype, head.count)


def _read_outputs(outputs: object, *, binary: bool) -> tuple[Output, ...]:
    if not outputs and outputs in (None, []):
        return _ALL_BINARY if binary else _ALL
    if type(outputs) is not list:
        raise RequestError(f"outputs must be a list of tensors, of {', '.join(OUTPUTS)}")
    wanted: dict[str, Output] = {}
    for output in outputs:
        name = output.get("name") if type(output) is dict else None
        if type(name) is not str or name not in OUTPUTS:
            raise RequestError(f"the output {short(name)} is unknown; this model gives {', '.join(OUTPUTS)}")
        if name in wanted:
            raise RequestError(f"the output {name} is asked for twice; name it once")
        wanted[name] = Output(name, _flag(_parameters(output, f"output {name}"), "binary_data", default=binary))
    return tuple(wanted.values())


def _parameters(holder: Mapping[str, Any], whose: str) -> Mapping[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise RequestError(f"the parameters of {whose} must be an object")
    for name in parameters.keys() & _REFUSED:
        raise RequestError(f"the parameter {name} of {whose} belongs to an extension not served here; {_REFUSED[name]}")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise RequestError(f"the parameter {name} must be true or false")
    return value


_ALL = tuple(Output(name, binary=False) for name in OUTPUTS)
_ALL_BINARY = tuple(Output(name, binary=True) for name in OUTPUTS)
