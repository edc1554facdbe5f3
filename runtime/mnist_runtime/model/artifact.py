"""One .onnx file that `mnist-export` wrote: its seal, its contract, its golden digits and its onnxruntime session."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from mnist_runtime.digits import CLASSES, PIXELS, Intensities, Pixels, as_intensities, as_pixels
from mnist_runtime.errors import ArtifactError, IntegrityError, first_line
from mnist_runtime.io.files import read_whole
from mnist_runtime.model.seal import KEY, UNSEALED, is_hazardous, is_intact, sealed_digest
from mnist_runtime.model.session import ENGINE_VERSION, Run, SessionSettings, raw_run
from mnist_runtime.verdicts import Thresholds

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime as ort
    from numpy.typing import NDArray

    from mnist_runtime.model.comparison import Comparison, Reference

Contract: TypeAlias = Literal["float32", "uint8"]
"""Meaning of a graph's input `pixels`: "float32" (intensity / 256) or "uint8" (raw intensity)."""

METADATA_SCHEMA = "1"
"""Version of the metadata's layout; a file with another one is refused."""

PREFIX = "mnist_edge."
SIZE_LIMIT = 2**31
"""Largest model in bytes, the limit of protobuf and so of ONNX."""

WANTED = "give a .onnx file that mnist-export wrote"
"""Advice at the end of every sentence that refuses a model."""

_CACHE = 2 * 2**20
"""Bytes of a layer that fit a core's cache; with half or twice as much, neither bundled model is 10 % faster."""
_SMALLEST_LAYER = 4 * PIXELS
"""Bytes of a digit's float32 pixels, the largest layer of a model that does not state it."""

ALL_LOGITS = "all_logits"
"""Tensor of the eleven logits, float32 `[batch, 11]`, inside the graph of a model with the output `no_digit`."""

ROW_SHAPES: dict[str, tuple[int, ...]] = {"logits": (len(CLASSES),), "probabilities": (len(CLASSES),), "no_digit": ()}
"""Shape of one digit's row, per output."""
_INPUT_DTYPES: dict[str, Contract] = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


def with_output(model: bytes, tensor: str) -> bytes:
    """Return a serialised ONNX model that also outputs an inner tensor.

    Protobuf merges the appended second field `graph` into the first, and joins their lists of outputs
    (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
    """
    message = tensor.encode()
    for field_ in (1, 12, 7):  # ValueInfoProto.name in GraphProto.output in ModelProto.graph
        message = bytes([field_ << 3 | 2, len(message)]) + message
    return model + message


def metadata(values: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata properties of an artifact: prefixed keys, the schema version and the empty seal."""
    named = {PREFIX + key: value for key, value in values.items()}
    return {**named, f"{PREFIX}schema": METADATA_SCHEMA, KEY: UNSEALED}


@dataclass(frozen=True)
class Artifact:
    """A loaded and verified model; call `run` on checked digits."""

    name: str
    """Name of the model's source, for messages."""
    sha256: str
    """SHA-256 of the whole file, in hex."""
    dtype: Contract
    """dtype of the graph's input `pixels`."""
    metadata: Mapping[str, str]
    """Properties whose names begin with `mnist_edge.`, without that prefix; empty for a trusted model of others."""
    session: ort.InferenceSession
    outputs: tuple[str, ...]
    """Names of the outputs: "logits", "probabilities", and "no_digit" if the model knows what is no digit."""
    thresholds: Thresholds
    """Thresholds of the verdicts."""
    batch: int
    """Number of digits to compute together: their largest layer stays in a core's cache."""
    data: bytes
    """Bytes of the whole file."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read, verify and open the .onnx file at `path`.

        Raises:
            FileMissingError, FileReadError: it is not there, or cannot be read.
            IntegrityError: its bytes are not the ones that were sealed.
            ArtifactError: it is not a model of ours, or this onnxruntime cannot load it.
        """
        return cls.from_bytes(read_whole(path, limit=SIZE_LIMIT, wanted=WANTED), str(path))

    @classmethod
    def from_bytes(
        cls,
        model: bytes,
        name: str,
        *,
        settings: SessionSettings | None = None,
        trusted_contract: Contract | None = None,
    ) -> Self:
        """Verify and open a serialised model; as `load`, without the file.

        Args:
            model: The bytes of a .onnx file.
            name: Name of their source, for messages.
            settings: Settings of onnxruntime; one thread on the CPU by default.
            trusted_contract: Meaning of `pixels` in a model without our metadata, as the caller vouches for it; ignored
                if there are metadata. The graph's names, shapes and dtypes are checked in any case.
        """
        try:
            hazardous, sealed = is_hazardous(model), sealed_digest(model) is not None
        except ValueError as error:
            raise ArtifactError(f"{name} is not a complete ONNX model ({error}); {WANTED}") from error
        if hazardous:
            raise ArtifactError(
                f"{name} has local functions or training info, which onnxruntime may take hours to load; inline the "
                f"functions with onnx.inliner, or {WANTED}"
            )
        if sealed and not is_intact(model):
            raise IntegrityError(
                f"{name} has changed since it was exported (its SHA-256 seal does not match); copy or export it again"
            )
        session = (settings or SessionSettings()).open(model, name)
        try:
            properties = session.get_modelmeta().custom_metadata_map
            dtype, outputs = _check_interface(session, name)
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{name} contains names or metadata that are not text ({error}); {WANTED}") from error
        ours = {key.removeprefix(PREFIX): value for key, value in properties.items() if key.startswith(PREFIX)}
        if not sealed or not ours:
            _check_trust(trusted_contract, dtype, name)
        elif ours.get("schema") != METADATA_SCHEMA:
            raise ArtifactError(
                f"{name} has metadata schema {ours.get('schema')}, and this version reads {METADATA_SCHEMA}; "
                "install the mnist-runtime that goes with it, or export it again"
            )
        thresholds, batch = _thresholds(ours, name), _batch(ours, name)
        return cls(name, hashlib.sha256(model).hexdigest(), dtype, ours, session, outputs, thresholds, batch, model)

    def run(self, digits: Intensities | Pixels, *outputs: str) -> list[NDArray[np.float32]]:
        """Compute the named outputs, float32: "logits" and "probabilities" `[N, 10]`, "no_digit" `[N]`.

        Args:
            digits: Digits checked by `as_digits`, uint8 or float32 `[N, 784]`; converted to what the graph takes.
            outputs: Names of the outputs.

        Raises:
            ArtifactError: the graph fails, or a graph taken on trust answers other than one row per digit.
        """
        pixels = as_intensities(digits) if self.dtype == "uint8" else as_pixels(digits)
        try:
            results = self._run(outputs, {"pixels": pixels}, None)
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            sentence = f"{self.name} cannot compute these digits ({first_line(error)}); export it again"
            raise ArtifactError(sentence) from error
        if not self.metadata:
            for output, result in zip(outputs, results, strict=True):
                wanted = (len(digits), *ROW_SHAPES[output])
                if result.shape != wanted:
                    raise ArtifactError(
                        f"{self.name} computes {result.shape} where {wanted} is wanted; export it again"
                    )
        return results

    def all_logits(self, digits: Intensities | Pixels) -> NDArray[np.float32]:
        """Compute all logits that the network has, float32 `[N, 10]`, or `[N, 11]` with that of no digit.

        Opens a session of its own, because the graph has no such output.
        """
        if "no_digit" not in self.outputs:
            return self.run(digits, "logits")[0]
        session = SessionSettings().open(with_output(self.data, ALL_LOGITS), self.name)
        return replace(self, session=session).run(digits, ALL_LOGITS)[0]

    def replay(self) -> Comparison:
        """Compute the golden digits on this machine, and compare them with the trained logits.

        Raises:
            ArtifactError: it carries none, or cannot compute them.
        """
        from mnist_runtime.model.comparison import compare

        golden = self.golden
        return compare("golden digits", golden, *self.run(golden.digits, *self.outputs))

    @cached_property
    def _run(self) -> Run:
        return raw_run(self.session)

    @property
    def engine(self) -> str:
        """Engine, for reports: "onnxruntime 1.32.0, CPUExecutionProvider"."""
        return f"onnxruntime {ENGINE_VERSION}, {', '.join(self.session.get_providers())}"

    @property
    def training(self) -> dict[str, Any]:
        """Hyperparameters and metrics of the training run, from the checkpoint."""
        return dict(json.loads(self.metadata["training"]))

    @cached_property
    def golden(self) -> Reference:
        """Golden digits of the artifact, with the trained logits and each logit's tolerance."""
        from mnist_runtime.model.comparison import Reference

        try:
            return Reference.from_text(self.metadata["golden"])
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"{self.name} carries no readable golden digits ({error}); export it again") from error


def _check_trust(trusted: Contract | None, dtype: Contract, name: str) -> None:
    if trusted is None:
        raise ArtifactError(
            f"{name} is an ONNX model without the seal and metadata of mnist-export; {WANTED}, or vouch for what its "
            f'pixels mean with Classifier(..., trusted_contract="{dtype}")'
        )
    if trusted != dtype:
        raise ArtifactError(f"{name} takes {dtype} pixels, and trusted_contract says {trusted}; give the one it takes")


def _thresholds(metadata: Mapping[str, str], name: str) -> Thresholds:
    try:
        return Thresholds.from_text(metadata["thresholds"]) if "thresholds" in metadata else Thresholds()
    except ValueError as error:
        raise ArtifactError(f"{name} carries no readable thresholds ({error}); export it again") from error


def _batch(metadata: Mapping[str, str], name: str) -> int:
    largest_layer = metadata.get("largest_layer", str(_SMALLEST_LAYER))
    if not largest_layer.isascii() or not largest_layer.isdecimal():
        raise ArtifactError(
            f"{name} has the largest layer {largest_layer[:20]!r}, and a number of bytes is wanted; export it again"
        )
    return max(1, _CACHE // max(_SMALLEST_LAYER, int(largest_layer[:20])))


def _check_interface(session: ort.InferenceSession, name: str) -> tuple[Contract, tuple[str, ...]]:
    """Check the graph's inputs and outputs against the artifact contract; return the input's dtype and the outputs."""
    found = {
        node.name: (node.type, tuple(size if isinstance(size, int) else None for size in node.shape))  # None is free
        for node in (*session.get_inputs(), *session.get_outputs())
    }
    kind, _ = found.get("pixels", (None, None))
    outputs = tuple(output for output in ROW_SHAPES if output in found or output != "no_digit")
    contract = {output: ("tensor(float)", (None, *ROW_SHAPES[output])) for output in outputs}
    if kind not in _INPUT_DTYPES or found != {"pixels": (kind, (None, PIXELS)), **contract}:
        raise ArtifactError(
            f"{name} computes {found}, and the contract is pixels float32 or uint8 [batch, 784] to "
            "logits and probabilities float32 [batch, 10], and perhaps no_digit float32 [batch]; export it again"
        )
    return _INPUT_DTYPES[kind], outputs
