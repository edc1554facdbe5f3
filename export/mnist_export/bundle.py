"""From a checkpoint to a folder of artifacts: build, gate, then publish."""

import copy
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnxscript
import safetensors.torch
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from mnist_export.errors import ExportError
from mnist_export.formats import DEFAULT, Format, named
from mnist_export.gate import ParityError, Run, Verdict, judge
from mnist_export.golden import GOLDEN, Expected, expect
from mnist_export.onnx import IR_VERSION, OPSET, to_graph, to_onnx, uint8_graph
from mnist_export.publish import File, publish
from mnist_export.torchscript import from_torchscript, to_torchscript
from mnist_export.triton import CONFIG_FILE, to_config
from mnist_runtime import __version__
from mnist_runtime.digits import CLASSES, LEVELS, PIXELS, Intensities, as_intensities, as_pixels
from mnist_runtime.io.files import ensure_writable
from mnist_runtime.model.artifact import Artifact
from mnist_runtime.model.comparison import Reference
from mnist_train.checkpoint import Checkpoint, load
from mnist_train.data.bundled import Split, load_split

OLDEST_ONNXRUNTIME = "1.15.1"
"""That `make compat` has seen every ONNX format load and pass in."""


@dataclass(frozen=True)
class Gated:
    """An artifact that may be published, and why."""

    format: Format
    data: bytes
    record: Mapping[str, Any]
    """What manifest.json says of it."""
    verdict: Verdict

    @property
    def files(self) -> list[File]:
        """What to publish: the artifact, and for Triton its configuration."""
        files = [File(self.format.file, self.data, self.record)]
        if self.format.name == "triton":
            files.append(File(CONFIG_FILE, to_config(), {"format": "triton-config", "input": None}))
        return files


class Bundle:
    """The artifacts of one checkpoint."""

    def __init__(
        self, checkpoint: Checkpoint, validation: Split, *, opset: int = OPSET, max_accuracy_drop: float = 0.1
    ) -> None:
        """Prepare to export `checkpoint`.

        Args:
            checkpoint: What to export.
            validation: The digits to hold the artifacts against.
            opset: Of the ONNX formats, 13 to 18.
            max_accuracy_drop: What "onnx-int8" may lose on `validation`, in percentage points.
        """
        self.checkpoint = checkpoint
        self.opset = opset
        self._validation = validation
        self._max_accuracy_drop = max_accuracy_drop

    def build(self, form: Format) -> Gated:
        """Write the artifact of one format, load it back, and hold it against the module.

        Raises:
            ExportError: the module cannot be turned into this format.
            ParityError: the artifact does not compute what the module computes; it says where.
        """
        expected = self.expected  # first: a module that does not run is told before an exporter stumbles over it
        data = _BUILDERS[form.name](self)
        if form.name == "onnx-int8":
            expected = self.quantized_expected
        verdict = judge(run_artifact(form, data), expected)
        self._refuse(form, verdict, expected)
        return Gated(form, data, self._record(form, verdict), verdict)

    @cached_property
    def expected(self) -> Expected:
        """What every artifact of full precision must compute."""
        return expect(self.checkpoint.module, self._validation)

    @cached_property
    def graph(self) -> ModelProto:
        """The bare ONNX graph that all ONNX formats share."""
        return to_graph(self.checkpoint.module, self.opset)

    @cached_property
    def quantized_graph(self) -> ModelProto:
        """The graph with 8-bit weights and activations."""
        from mnist_export.quantization import CALIBRATION_DIGITS, quantize

        digits = as_intensities(load_split("train").images[:CALIBRATION_DIGITS].reshape(-1, PIXELS))
        return quantize(self.graph, digits)

    @cached_property
    def quantized_expected(self) -> Expected:
        """What the quantised artifact must compute: its own weights' logits, not those it was made from."""
        from mnist_export.quantization import expect_quantized

        return expect_quantized(self.quantized_graph, self.expected)

    def properties(self, dtype: str, golden: Reference) -> dict[str, str]:
        """The metadata of an ONNX artifact whose pixels are of `dtype`."""
        return {
            "input": json.dumps(_contract(dtype), sort_keys=True),
            "classes": json.dumps(CLASSES),
            "checkpoint_sha256": self.checkpoint.sha256,
            "training": json.dumps(self.checkpoint.record, sort_keys=True),
            "tools": json.dumps(_tools(), sort_keys=True),
            "golden": golden.to_text(),
        }

    @property
    def made_from(self) -> dict[str, Any]:
        """What manifest.json says of all files together."""
        return {
            "checkpoint": {"sha256": self.checkpoint.sha256, "size": self.checkpoint.size},
            "classes": list(CLASSES),
            "tools": _tools(),
        }

    def _refuse(self, form: Format, verdict: Verdict, expected: Expected) -> None:
        failure = verdict.failure
        if failure:
            raise ParityError(
                f"{form.file} does not compute what was trained ({failure.name}: {'; '.join(failure.failures)}); "
                "nothing was published, please report this",
                form.name,
                verdict,
                expected,
            )
        drop = 100 * (verdict.module_accuracy - verdict.accuracy)
        if drop > self._max_accuracy_drop:
            raise ParityError(
                f"{form.file} loses {drop:.2f} points of accuracy, and may lose {self._max_accuracy_drop:g}; nothing "
                "was published, allow more with --max-accuracy-drop or leave this format out",
                form.name,
                verdict,
                expected,
            )

    def _record(self, form: Format, verdict: Verdict) -> dict[str, Any]:
        record = {"format": form.name, "input": _contract(form.dtype), **verdict.to_dict()}
        if not form.is_onnx:
            return record
        onnx_needs = {"opset": self.opset, "ir_version": IR_VERSION, "onnxruntime": f">={OLDEST_ONNXRUNTIME}"}
        return {**record, **onnx_needs}


def _float32_onnx(bundle: Bundle) -> bytes:
    return to_onnx(bundle.graph, bundle.properties("float32", bundle.expected.sets[GOLDEN]))


def _uint8_onnx(bundle: Bundle) -> bytes:
    return to_onnx(uint8_graph(bundle.graph), bundle.properties("uint8", bundle.expected.sets[GOLDEN]))


def _int8_onnx(bundle: Bundle) -> bytes:
    golden = bundle.quantized_expected.sets[GOLDEN]
    return to_onnx(bundle.quantized_graph, bundle.properties("float32", golden))


def _torchscript(bundle: Bundle) -> bytes:
    return to_torchscript(bundle.checkpoint.module)


def _pt2(bundle: Bundle) -> bytes:
    from mnist_export.pt2 import to_pt2  # torch.export costs half a second that other formats need not pay

    return to_pt2(bundle.checkpoint.module)


_BUILDERS: Mapping[str, Callable[[Bundle], bytes]] = {
    "onnx": _float32_onnx,
    "onnx-uint8": _uint8_onnx,
    "onnx-int8": _int8_onnx,
    "torchscript": _torchscript,
    "pt2": _pt2,
    "triton": _float32_onnx,
}


def run_artifact(form: Format, data: bytes) -> Run:
    """How an application runs the artifact `data`: ONNX through the runtime, at its optimisation level.

    Raises:
        ExportError: it cannot be loaded.
    """
    try:
        if form.is_onnx:
            return _run_onnx(Artifact.from_bytes(data, form.file))
        if form.name == "torchscript":
            return _run_module(from_torchscript(data))
        from mnist_export.pt2 import from_pt2

        return _run_module(from_pt2(data))
    except Exception as error:  # each engine has its own
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"{form.file} cannot be loaded again ({reason}); nothing was published") from error


def _run_onnx(artifact: Artifact) -> Run:
    def run(digits: Intensities) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logits, probabilities = artifact.run(artifact.prepare(digits), "logits", "probabilities")
        return logits, probabilities

    return run


def _run_module(module: Callable[[torch.Tensor], torch.Tensor]) -> Run:
    def run(digits: Intensities) -> tuple[NDArray[np.float32], None]:
        with torch.no_grad():
            return module(torch.from_numpy(as_pixels(digits))).numpy(), None

    return run


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


def export(
    source: str | os.PathLike[str] | Checkpoint | nn.Module,
    formats: Sequence[str] = DEFAULT,
    output_dir: str | os.PathLike[str] = "artifacts",
    *,
    opset: int = OPSET,
    max_accuracy_drop: float = 0.1,
    on_gated: Callable[[Gated], object] = lambda _: None,
) -> list[Gated]:
    """Turn a trained model into artifacts, prove each against it, and publish them together.

    Args:
        source: A checkpoint, its path, or a module that takes pixels float32 `[N, 784]` to logits float32 `[N, 10]`;
            a module is copied, to the CPU and into evaluation mode.
        formats: Names of `mnist_export.formats.FORMATS`, or "all".
        output_dir: Where the artifacts and manifest.json go; made if missing.
        opset: Of the ONNX formats, 13 to 18.
        max_accuracy_drop: What "onnx-int8" may lose on the validation digits, in percentage points.
        on_gated: Called with every artifact as it passes; nothing is published yet.

    Returns:
        What was published, with its verdict.

    Raises:
        UnknownFormatError: a format is none of ours.
        ExportError: the module cannot be turned into a format. Nothing was published.
        ParityError: an artifact does not compute what was trained. Nothing was published.
        CheckpointError, FileReadError, FileWriteError, BusyError: as their names say.
    """
    chosen = named(formats)
    ensure_writable(output_dir)
    bundle = Bundle(_checkpoint(source), load_split("valid"), opset=opset, max_accuracy_drop=max_accuracy_drop)
    gated = []
    for form in chosen:
        gated.append(bundle.build(form))
        on_gated(gated[-1])
    publish(output_dir, bundle.made_from, [file for artifact in gated for file in artifact.files])
    return gated


def _checkpoint(source: str | os.PathLike[str] | Checkpoint | nn.Module) -> Checkpoint:
    if isinstance(source, Checkpoint):
        return source
    if not isinstance(source, nn.Module):
        return load(source)
    module = copy.deepcopy(source).cpu().eval()
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in module.state_dict().items()})
    record = {"model": f"{type(source).__module__}:{type(source).__qualname__}"}
    return Checkpoint(module, record, hashlib.sha256(data).hexdigest(), len(data))
