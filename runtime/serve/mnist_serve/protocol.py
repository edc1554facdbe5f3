"""The documents of the Open Inference Protocol, with the binary tensor extension, parsed from and rendered to bytes.

The protocol: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; the
extension: Triton's documentation, protocol/extension_binary_data.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import DecodeError, Meta, Raw, Struct, ValidationError
from msgspec.json import Decoder, encode

from mnist_runtime import __version__
from mnist_runtime.classifier import Outputs
from mnist_runtime.digits import CLASSES, PIXELS, Intensities, Pixels, as_digits
from mnist_serve.errors import RequestError

INPUT = "pixels"
OUTPUTS = {"logits": "FP32", "probabilities": "FP32", "label": "INT64", "no_digit": "FP32", "verdict": "INT64"}
"""Outputs and their datatypes, in the order in which they are answered by default."""

MODEL_VERSION = "1"
"""The only version in URLs, because one model is served at a time; its SHA-256 identifies it."""

_DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1"), "INT64": np.dtype("<i8")}
"""NumPy dtype per datatype of the protocol, in the byte order of its binary form."""

_FIELDS = {name: {"label": "labels", "verdict": "verdicts"}.get(name, name) for name in OUTPUTS}
"""Attribute of `Outputs` per output of the protocol."""

_ADVICE = {
    "classification": "it is of an extension not served here; request the outputs label and probabilities instead",
    "shared_memory_region": "it is of an extension not served here; send the tensors in the body",
    "input": f"send one input, {INPUT}, UINT8 (0-255) or FP32 (0-1), of shape [N, {PIXELS}]; flatten each digit",
    "": "/openapi.json describes what is wanted",
}
"""Advice by a word in msgspec's error, which names the place where a request does not follow the protocol."""


class _Parameters(Struct):
    """Parameters of a request, an input or an output; unknown ones are ignored, unless they change the response."""

    binary_data_size: int | None = None
    """Size of the input in bytes after the JSON."""
    binary_data: bool | None = None
    """True for an output as bytes, False for numbers in the JSON, None for the request's `binary_data_output`."""
    binary_data_output: bool = False
    """Default of `binary_data`."""
    classification: None = None
    shared_memory_region: None = None


_NONE = _Parameters()


class _Input(Struct):
    """A tensor of digits, whose data are still JSON."""

    name: str
    datatype: Literal["FP32", "UINT8"]
    shape: tuple[Annotated[int, Meta(ge=0)], Literal[784]]
    data: Raw = Raw()
    parameters: _Parameters | None = None


class _Output(Struct):
    """A requested output."""

    name: str
    parameters: _Parameters | None = None


class _Document(Struct):
    """The JSON of a request."""

    inputs: tuple[_Input]
    id: str | None = None
    outputs: list[_Output] | None = None
    parameters: _Parameters | None = None


_DOCUMENT = Decoder(_Document)
_FLAT = Decoder(list[float])
_NESTED = Decoder(list[Annotated[list[float], Meta(min_length=PIXELS, max_length=PIXELS)]])


@dataclass(slots=True)
class InferRequest:
    """A parsed inference request."""

    id: str | None
    digits: Intensities | Pixels
    """Checked digits, `[N, 784]`."""
    outputs: dict[str, bool]
    """Requested outputs: True for bytes after the JSON document, False for numbers in it."""


@dataclass(slots=True)
class InferResponse:
    """The body of a response."""

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
    if length == 0 and json_length is not None:  # the extension's short form: pixels alone, all outputs as bytes
        if not body:
            raise RequestError("the body is empty; send the pixels of at least one digit")
        count = len(body) // (PIXELS * _DTYPES[raw_datatype].itemsize)
        return InferRequest(None, _from_binary(body, 0, raw_datatype, count), dict.fromkeys(OUTPUTS, True))
    document = _read_document(body[:length])
    return InferRequest(document.id, _read_digits(document.inputs[0], body, length), _read_outputs(document))


def render(request: InferRequest, computed: Outputs, model: str) -> InferResponse:
    """Render the response to an inference request."""
    described, tensors = [], []
    for name, is_binary in request.outputs.items():
        datatype = OUTPUTS[name]
        array = getattr(computed, _FIELDS[name])
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
        if is_binary:
            tensors.append(array.astype(_DTYPES[datatype], copy=False).tobytes())
            tensor["parameters"] = {"binary_data_size": len(tensors[-1])}
        else:
            tensor["data"] = array.ravel().tolist()
        described.append(tensor)
    name_ = {} if request.id is None else {"id": request.id}
    head = encode({**name_, "model_name": model, "model_version": MODEL_VERSION, "outputs": described})
    return InferResponse(b"".join([head, *tensors]), len(head) if tensors else None)


def server_metadata() -> dict[str, Any]:
    """Return the name, version and extensions of the server."""
    return {"name": "mnist-serve", "version": __version__, "extensions": ["binary_tensor_data"]}


def model_metadata(model: str, datatype: str, digests: Sequence[str]) -> dict[str, Any]:
    """Return the inputs and outputs of a model, and the SHA-256 of each of its files."""
    rows = {"logits": [len(CLASSES)], "probabilities": [len(CLASSES)]}
    return {
        "name": model,
        "versions": [MODEL_VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": INPUT, "datatype": datatype, "shape": [-1, PIXELS]}],
        "outputs": [
            {"name": name, "datatype": kind, "shape": [-1, *rows.get(name, [])]} for name, kind in OUTPUTS.items()
        ],
        "properties": {"sha256": " ".join(digests)},
    }


def _length(text: bytes, size: int) -> int:
    text = text.strip()
    if text.isdigit() and len(text) < 20 and (length := int(text)) <= size:
        return length
    raise RequestError(
        f"Inference-Header-Content-Length is {text[:20].decode('latin-1')!r}; it must be the number of bytes of JSON "
        f"before the tensors, at most the {size:,} of the body"
    )


def _read_document(text: bytes) -> _Document:
    try:
        document = _DOCUMENT.decode(text)
    except (DecodeError, UnicodeError, RecursionError) as error:
        found = "does not follow the protocol" if isinstance(error, ValidationError) else "is not JSON"
        advice = next(advice for place, advice in _ADVICE.items() if place in str(error))
        if b"\0" in text:
            advice = "set Inference-Header-Content-Length to where the JSON ends"
        raise RequestError(f"the request {found} ({error}); {advice}") from error
    if document.inputs[0].name != INPUT:
        raise RequestError(f"the input {document.inputs[0].name[:40]!r} is unknown; this model has one, {INPUT}")
    return document


def _read_digits(tensor: _Input, body: bytes, start: int) -> Intensities | Pixels:
    """Return the digits of a tensor, from its data or from the bytes after `start`."""
    size, after = (tensor.parameters or _NONE).binary_data_size, len(body) - start
    has_data = len(memoryview(tensor.data)) > 0
    if (size is None) != has_data:
        raise RequestError(f"input {INPUT} must have either data or the parameter binary_data_size")
    if size is None and after:
        raise RequestError(f"{after:,} bytes follow the JSON, but no input has the parameter binary_data_size")
    if size is None:
        return _from_json(tensor.data, tensor.datatype, tensor.shape[0])
    if size != after:
        raise RequestError(
            f"binary_data_size is {size}, but {after:,} bytes follow the JSON; set it to the size of the tensor, and "
            "Inference-Header-Content-Length to the length of the JSON"
        )
    return _from_binary(body, start, tensor.datatype, tensor.shape[0])


def _from_binary(body: bytes, start: int, datatype: str, count: int) -> Intensities | Pixels:
    """Return `count` digits from the bytes after `start`, a view of them where the machine's byte order allows."""
    dtype, size = _DTYPES[datatype], len(body) - start
    if size != count * PIXELS * dtype.itemsize:
        needed = f"the shape [{count}, {PIXELS}] of {datatype} needs {count * PIXELS * dtype.itemsize:,} bytes"
        raise RequestError(f"{needed}, but {INPUT} has {size:,}; make shape and data agree")
    return as_digits(np.frombuffer(body, dtype, offset=start).reshape(count, PIXELS))


def _from_json(data: Raw, datatype: str, count: int) -> Intensities | Pixels:
    """Return `count` digits from a flat list of `count` x 784 numbers, or a list of `count` lists of 784."""
    decoder = _NESTED if re.match(rb"\s*\[\s*\[", data) else _FLAT
    try:
        values = np.array(decoder.decode(data), np.float64)
    except ValidationError as error:
        wanted = f"a list of {count * PIXELS:,} numbers, or one list of {PIXELS} numbers per digit"
        raise RequestError(f"the data of {INPUT} are not numbers of that shape ({error}); send {wanted}") from error
    if values.size != count * PIXELS:
        needed = f"the shape [{count}, {PIXELS}] needs {count * PIXELS:,} values"
        raise RequestError(f"{needed}, but the data of {INPUT} has {values.size:,}; make shape and data agree")
    if datatype == "UINT8":
        odd = values[(values < 0) | (values > 255) | (values % 1 != 0)]
        if odd.size:
            raise RequestError(f"UINT8 data must be whole numbers from 0 to 255, and {odd[0]:g} is among them")
        values = values.astype(np.uint8)
    return as_digits(values.reshape(count, PIXELS))


def _read_outputs(document: _Document) -> dict[str, bool]:
    default = (document.parameters or _NONE).binary_data_output
    if not document.outputs:
        return dict.fromkeys(OUTPUTS, default)
    wanted: dict[str, bool] = {}
    for output in document.outputs:
        if output.name not in OUTPUTS:
            raise RequestError(f"the output {output.name[:40]!r} is unknown; this model has {', '.join(OUTPUTS)}")
        if output.name in wanted:
            raise RequestError(f"the output {output.name} is requested twice; request it once")
        is_binary = (output.parameters or _NONE).binary_data
        wanted[output.name] = default if is_binary is None else is_binary
    return wanted
