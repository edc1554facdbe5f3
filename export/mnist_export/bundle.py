"""From a checkpoint to a folder of artifacts: build, gate, then publish."""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from mnist_export.errors import ParityError
from mnist_export.golden import golden_digits, reference, single_pixels
from mnist_export.onnx import IR_VERSION, OPSET, to_graph, to_onnx, to_onnx_uint8
from mnist_export.torchscript import from_torchscript, to_torchscript
from mnist_runtime import __version__
from mnist_runtime.artifact import Artifact
from mnist_runtime.digits import CLASSES, LEVELS, PIXELS, Intensities, as_pixels
from mnist_runtime.files import ensure_writable, write_atomically
from mnist_runtime.parity import Comparison, Reference, compare
from mnist_train.checkpoint import Checkpoint
from mnist_train.data import Split

SCHEMA = 1
"""Version of manifest.json's layout."""

FILES = {"onnx": "mnist.onnx", "onnx-uint8": "mnist.uint8.onnx", "torchscript": "mnist.torchscript.pt"}
"""The formats, and the file that each becomes."""

_BATCHES = (0, 1, 2, 64)
"""Sizes that the gate runs besides the whole: a baked-in batch dimension shows at once."""

Run = Callable[[Intensities], tuple[NDArray[np.float32], NDArray[np.float32] | None]]
"""uint8 `[N, 784]` to logits and, where the artifact computes them, probabilities."""


@dataclass(frozen=True)
class Gated:
    """An artifact that may be published, and why."""

    format: str
    file: str
    data: bytes
    comparisons: tuple[Comparison, ...]

    @property
    def sha256(self) -> str:
        """Of the file's bytes, in hex."""
        return hashlib.sha256(self.data).hexdigest()


class Bundle:
    """The artifacts of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, validation: Split) -> None:
        """Prepare to export `checkpoint`, with `validation` digits to hold the artifacts against."""
        self.checkpoint = checkpoint
        self._golden = golden_digits(validation)
        self._validation = validation

    def build(self, form: str) -> Gated:
        """Write the artifact of one format, load it back, and hold it against the module.

        Raises:
            ExportError: the module cannot be turned into this format.
            ParityError: the artifact does not compute what the module computes; it says where.
        """
        data = _BUILDERS[form](self)
        run = _run_torchscript(data) if form == "torchscript" else _run_onnx(data, FILES[form])
        comparisons = tuple(_gate(run, name, wanted) for name, wanted in self.references.items())
        for comparison in comparisons:
            if not comparison.passed:
                raise ParityError(
                    f"{FILES[form]} does not compute what was trained ({comparison.name}: "
                    f"{'; '.join(comparison.failures)}); nothing was published, please report this"
                )
        return Gated(form, FILES[form], data, comparisons)

    @cached_property
    def references(self) -> dict[str, Reference]:
        """What every artifact must compute: golden, single-pixel and validation digits."""
        sets = {
            "golden digits": self._golden,
            "single pixels": single_pixels(),
            "validation digits": self._validation.images.reshape(-1, PIXELS),
        }
        whole = reference(self.checkpoint.module, np.concatenate(list(sets.values())))
        starts = itertools.accumulate((len(digits) for digits in sets.values()), initial=0)
        return {
            name: whole[start : start + len(digits)]
            for start, (name, digits) in zip(starts, sets.items(), strict=False)
        }

    @cached_property
    def graph(self) -> ModelProto:
        """The bare ONNX graph that both ONNX formats share."""
        return to_graph(self.checkpoint.module)

    def properties(self, dtype: str) -> dict[str, str]:
        """The metadata of an ONNX artifact whose pixels are of `dtype`."""
        return {
            "input": json.dumps(_contract(dtype), sort_keys=True),
            "classes": json.dumps(CLASSES),
            "checkpoint_sha256": self.checkpoint.sha256,
            "training": json.dumps(self.checkpoint.record, sort_keys=True),
            "tools": json.dumps(_tools(), sort_keys=True),
            "golden": self.references["golden digits"].to_text(),
        }


def publish(bundle: Bundle, gated: Sequence[Gated], folder: str | os.PathLike[str]) -> None:
    """Write artifacts that passed into `folder`, each atomically, and manifest.json last.

    Raises:
        FileWriteError: naming the file.
    """
    folder = Path(folder)
    ensure_writable(folder)
    for artifact in gated:
        write_atomically(folder / artifact.file, artifact.data)
    manifest = json.dumps(_manifest(bundle, gated), indent=2, sort_keys=True) + "\n"
    write_atomically(folder / "manifest.json", manifest.encode())


_BUILDERS: Mapping[str, Callable[[Bundle], bytes]] = {
    "onnx": lambda bundle: to_onnx(bundle.graph, bundle.properties("float32")),
    "onnx-uint8": lambda bundle: to_onnx_uint8(bundle.graph, bundle.properties("uint8")),
    "torchscript": lambda bundle: to_torchscript(bundle.checkpoint.module),
}


def _run_onnx(data: bytes, name: str) -> Run:
    artifact = Artifact.from_bytes(data, name)

    def run(digits: Intensities) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logits, probabilities = artifact.run(artifact.prepare(digits), "logits", "probabilities")
        return logits, probabilities

    return run


def _run_torchscript(data: bytes) -> Run:
    module = from_torchscript(data)

    def run(digits: Intensities) -> tuple[NDArray[np.float32], None]:
        with torch.no_grad():
            logits: torch.Tensor = module(torch.from_numpy(as_pixels(digits)))
            return logits.numpy(), None

    return run


def _gate(run: Run, name: str, wanted: Reference) -> Comparison:
    """Compare the whole set; before it, small batches, of which only a failure is of interest."""
    for size in _BATCHES:
        small = compare(f"{name}, batch of {size}", wanted[:size], *run(wanted.digits[:size]))
        if not small.passed:
            return small
    return compare(name, wanted, *run(wanted.digits))


def _contract(dtype: str) -> dict[str, Any]:
    return {
        "name": "pixels",
        "dtype": dtype,
        "shape": ["batch", PIXELS],
        "scale": f"1/{LEVELS}" if dtype == "float32" else "1",
        "layout": "28x28 row-major, white ink on black",
    }


def _tools() -> dict[str, str]:
    return {
        "mnist-edge": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxscript": onnxscript.__version__,
    }


def _manifest(bundle: Bundle, gated: Sequence[Gated]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "checkpoint": {"sha256": bundle.checkpoint.sha256, "size": bundle.checkpoint.size},
        "classes": CLASSES,
        "onnx": {"opset": OPSET, "ir_version": IR_VERSION},
        "tools": _tools(),
        "files": {
            artifact.file: {
                "format": artifact.format,
                "sha256": artifact.sha256,
                "size": len(artifact.data),
                "input": _contract("uint8" if artifact.format == "onnx-uint8" else "float32"),
                "parity": [asdict(comparison) for comparison in artifact.comparisons],
            }
            for artifact in gated
        },
    }
