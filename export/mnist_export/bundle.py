"""From a checkpoint to a folder of artifacts: build, gate, then publish."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import onnx
import onnxscript
import safetensors.torch
import torch
from onnx import ModelProto
from torch import Tensor, nn

from mnist_export.formats import DEFAULT, Format, named
from mnist_export.gate import ParityError, Verdict, judge
from mnist_export.golden import Expected, expect
from mnist_export.network import Normalised, prepare
from mnist_export.normalisation import Normalisation
from mnist_export.onnx import OPSET, for_opset, trace
from mnist_export.outputs import with_outputs
from mnist_export.publishing import File, publish
from mnist_runtime import __version__
from mnist_runtime.digits import CLASSES
from mnist_runtime.io.files import ensure_writable
from mnist_train.checkpoint import Checkpoint, load
from mnist_train.data.bundled import Split, load_split
from mnist_train.models import unwrapped

T = TypeVar("T")


@dataclass(frozen=True)
class Gated:
    """An artifact that may be published, and why."""

    format: Format
    """Format of the artifact."""
    data: bytes
    """Bytes of the artifact."""
    record: Mapping[str, Any]
    """Record of the artifact in manifest.json, without its digest."""
    verdict: Verdict
    """Verdict of the gate."""
    expected: Expected
    """References that the artifact was held against."""
    side_files: Sequence[File] = ()
    """Files to publish beside the artifact."""

    @property
    def files(self) -> list[File]:
        """Files to publish: the artifact, then its side files."""
        return [File(self.format.file, self.data, self.record), *self.side_files]


class Bundle:
    """The artifacts of one checkpoint."""

    def __init__(
        self, checkpoint: Checkpoint, validation: Split, *, opset: int = OPSET, max_accuracy_drop: float = 0.1
    ) -> None:
        """Prepare to export `checkpoint`.

        Args:
            checkpoint: Model to export.
            validation: Digits to hold the artifacts against.
            opset: Opset of the ONNX formats, 13 to 18.
            max_accuracy_drop: Accuracy that a lossy format may lose on `validation`, in percentage points.
        """
        self.checkpoint = checkpoint
        self.opset = opset
        self._validation = validation
        self._max_accuracy_drop = max_accuracy_drop
        self._made: dict[Callable[[Bundle], Any], Any] = {}

    def build(self, format_: Format) -> Gated:
        """Build the artifact of one format, load it back, and compare it with what it must compute.

        Raises:
            ExportError: the module cannot be turned into this format.
            ParityError: the artifact does not compute what the module computes; the error says where.
        """
        _ = self.expected  # refuses a module that cannot be run, before an exporter fails on it
        expected = format_.recipe.expect(self)
        data = format_.recipe.build(self, expected)
        verdict = judge(format_.load(data), expected)
        self._refuse(format_, verdict, expected)
        record = {
            "format": format_.name,
            "input": format_.contract,
            **verdict.to_dict(),
            "thresholds": json.loads(expected.thresholds.to_text()),
            **format_.recipe.describe(self),
        }
        return Gated(format_, data, record, verdict, expected, format_.recipe.side_files(self))

    def once(self, make: "Callable[[Bundle], T]") -> T:
        """Return `make(self)`, computed by the first call only, because several formats or steps share it."""
        if make not in self._made:
            self._made[make] = make(self)
        made: T = self._made[make]
        return made

    @cached_property
    def expected(self) -> Expected:
        """Reference of every format that is not lossy: the numbers that the module computes."""
        return expect(self.checkpoint.module, self._validation, lambda: self._graphs[0])

    @cached_property
    def graph(self) -> ModelProto:
        """Bare ONNX graph of the module, optimised, which all ONNX formats share."""
        return with_outputs(for_opset(self._graphs[1], self.opset))

    @cached_property
    def _graphs(self) -> tuple[ModelProto, ModelProto]:
        return trace(self.checkpoint.module)

    @property
    def properties(self) -> dict[str, str]:
        """Provenance, for the metadata of an ONNX artifact."""
        return {
            "classes": json.dumps(CLASSES),
            "checkpoint_sha256": self.checkpoint.sha256,
            "training": json.dumps(self.checkpoint.record, sort_keys=True),
            "tools": json.dumps(_tools(), sort_keys=True),
        }

    @property
    def made_from(self) -> dict[str, Any]:
        """Provenance of all files together, for manifest.json."""
        record = self.checkpoint.record
        return {
            **{name: record[name] for name in ("normalisation",) if name in record},
            "checkpoint": {"sha256": self.checkpoint.sha256, "size": self.checkpoint.size},
            "classes": list(CLASSES),
            "tools": _tools(),
        }

    def _refuse(self, format_: Format, verdict: Verdict, expected: Expected) -> None:
        """Raise ParityError if the artifact failed, or lost more accuracy than a lossy format may."""
        drop = 100 * (verdict.module_accuracy - verdict.accuracy)
        if failure := verdict.failure:
            sentence = (
                f"{format_.file} does not compute what was trained ({failure.name}: {'; '.join(failure.failures)}); "
                "nothing was published, please report this"
            )
        elif format_.lossy and drop > self._max_accuracy_drop:
            sentence = (
                f"{format_.file} loses {drop:.2f} points of accuracy, and may lose {self._max_accuracy_drop:g}; "
                "nothing was published, allow more with --max-accuracy-drop or leave this format out"
            )
        else:
            return
        raise ParityError(sentence, format_.name, verdict, expected)


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
    mean: float | None = None,
    std: float | None = None,
    opset: int = OPSET,
    max_accuracy_drop: float = 0.1,
    on_gated: Callable[[Gated], object] = lambda _: None,
) -> list[Gated]:
    """Turn a trained model into artifacts, prove each against the model, and publish them together.

    Args:
        source: A checkpoint, its path, or a module that takes float32 `[N, 784]`, `[N, 28, 28]` or `[N, 1, 28, 28]` to
            logits float32 `[N, 10]`; a module is copied, to the CPU and into evaluation mode.
        formats: Names of `mnist_export.formats.FORMATS`, or "all".
        output_dir: Folder for the artifacts and manifest.json; made if missing.
        mean: Mean that training subtracted from pixels in [0, 1] (intensity / 255); it becomes part of the artifacts.
        std: Deviation that training then divided by.
        opset: Opset of the ONNX formats, 13 to 18.
        max_accuracy_drop: Accuracy that a lossy format may lose on the validation digits, in percentage points.
        on_gated: Called with every artifact as it passes; nothing is published yet.

    Returns:
        The published artifacts with their verdicts.

    Raises:
        UnknownFormatError: there is no format of that name.
        OptionError: `mean` and `std` are no mean and deviation of pixels in [0, 1].
        ExportError: the module cannot be turned into a format. Nothing was published.
        ParityError: an artifact does not compute what was trained. Nothing was published.
        CheckpointError, FileReadError, FileWriteError, BusyError: as their names say.
    """
    chosen = named(formats)
    normalisation = Normalisation.of(mean, std)
    ensure_writable(output_dir)
    checkpoint = _checkpoint(source)
    if normalisation:
        checkpoint = replace(
            checkpoint,
            module=Normalised(checkpoint.module, normalisation).eval(),
            record={**checkpoint.record, "normalisation": asdict(normalisation)},
        )
    bundle = Bundle(checkpoint, load_split("valid"), opset=opset, max_accuracy_drop=max_accuracy_drop)
    gated = []
    for format_ in chosen:
        gated.append(bundle.build(format_))
        on_gated(gated[-1])
    publish(output_dir, bundle.made_from, [file for artifact in gated for file in artifact.files])
    return gated


def _checkpoint(source: str | os.PathLike[str] | Checkpoint | nn.Module) -> Checkpoint:
    """Return the checkpoint of `source`, its module prepared."""
    if isinstance(source, str | os.PathLike):
        source = load(source)
    if isinstance(source, Checkpoint):
        return replace(source, module=prepare(source.module))
    module = prepare(source)
    weights = {  # contiguous, which safetensors requires, and weights in channels_last order are not
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in unwrapped(module).state_dict().items()
        if isinstance(tensor, Tensor)
    }
    data = safetensors.torch.save(weights)
    record = {"model": f"{type(source).__module__}:{type(source).__qualname__}"}
    return Checkpoint(module, record, hashlib.sha256(data).hexdigest(), len(data))
