"""Seal of a .onnx file: its own SHA-256 in its metadata, found by walking the top-level fields of the protobuf.

The wire format: https://protobuf.dev/programming-guides/encoding; the fields: `ModelProto` in onnx/onnx.proto.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

KEY = "mnist_edge.sha256"
"""Name of the metadata property that holds the seal."""

UNSEALED = "0" * 64
"""Value of the property while the SHA-256 is computed."""

_METADATA, _TRAINING, _FUNCTION = 14, 20, 25  # fields of ModelProto
_FIELD_LIMIT = 10_000  # a file of ours has 30
_ENTRY = b"\x0a" + bytes([len(KEY)]) + KEY.encode() + b"\x12\x40"  # field 1, the key; field 2, a value of 64 bytes


class _Field(NamedTuple):
    number: int
    start: int
    """Offset of the first byte of the value."""
    stop: int


def seal(model: bytes) -> bytes:
    """Write into a serialised ONNX model its own SHA-256, computed while that property is `UNSEALED`.

    Raises:
        ValueError: the model has no such property, or several.
    """
    if (start := _find(model)) is None:
        raise ValueError(f"the model has no property {KEY} of 64 characters")
    return _with_seal(model, start, hashlib.sha256(model).hexdigest().encode())


def sealed_digest(model: bytes) -> str | None:
    """Return the SHA-256 that the model was sealed with, or None if it was never sealed.

    Raises:
        ValueError: this is no protobuf.
    """
    start = _find(model)
    return None if start is None else model[start : start + len(UNSEALED)].decode("ascii", "replace")


def is_intact(model: bytes) -> bool:
    """Return True if a sealed model is unchanged, bit for bit; finds damage, not malice.

    Raises:
        ValueError: this is no protobuf.
    """
    start = _find(model)
    if start is None:
        return False
    unsealed = _with_seal(model, start, UNSEALED.encode())
    return sealed_digest(model) == hashlib.sha256(unsealed).hexdigest()


def is_hazardous(model: bytes) -> bool:
    """Return True if a model has local functions or training info, which `mnist-export` never writes.

    Functions that call each other twice, 22 deep, take 4 KB and keep onnxruntime's loader busy for ten minutes.

    Raises:
        ValueError: this is no protobuf.
    """
    return any(field.number in {_TRAINING, _FUNCTION} for field in _fields(model))


def _find(model: bytes) -> int | None:
    """Return the offset of the seal's 64 characters, or None unless there is exactly one."""
    size = len(_ENTRY) + len(UNSEALED)
    found = [
        field.start + len(_ENTRY)
        for field in _fields(model)
        if field.number == _METADATA and field.stop - field.start == size and model.startswith(_ENTRY, field.start)
    ]
    return found[0] if len(found) == 1 else None


def _with_seal(model: bytes, start: int, digest: bytes) -> bytes:
    return model[:start] + digest + model[start + len(digest) :]


def _fields(model: bytes) -> Iterator[_Field]:
    """Walk the top-level fields, without parsing their contents.

    Raises:
        ValueError: a field has an unknown type or reaches beyond the end, or there are too many.
    """
    at, count = 0, 0
    while at < len(model):
        tag, start = _varint(model, at)
        match tag & 7:
            case 0:
                _, at = _varint(model, start)
            case 1:
                at = start + 8
            case 2:
                size, start = _varint(model, start)
                at = start + size
            case 5:
                at = start + 4
            case other:
                raise ValueError(f"a field has the wire type {other}")
        if at > len(model):
            raise ValueError("it is cut short")
        if (count := count + 1) > _FIELD_LIMIT:
            raise ValueError(f"it has more than {_FIELD_LIMIT:,} fields")
        yield _Field(tag >> 3, start, at)


def _varint(model: bytes, at: int) -> tuple[int, int]:
    """Return a varint of at most ten bytes, and the offset behind it."""
    value = 0
    for position, byte in enumerate(model[at : at + 10]):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value, at + position + 1
    raise ValueError("it is cut short")
