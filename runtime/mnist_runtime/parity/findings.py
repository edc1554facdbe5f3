"""Verification of a file or a published folder: its bytes are unchanged, and this machine computes its numbers."""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnist_runtime.digits import Intensities, Pixels, as_intensities
from mnist_runtime.errors import ArtifactError, IntegrityError, MnistRuntimeError, OptionError
from mnist_runtime.io.files import read_whole
from mnist_runtime.model.artifact import SIZE_LIMIT, WANTED, Artifact
from mnist_runtime.model.comparison import Comparison
from mnist_runtime.model.header import Header
from mnist_runtime.model.javascript import JavaScript, OfflinePage
from mnist_runtime.model.manifest import Entry, Manifest, read_manifest
from mnist_runtime.model.program import logits_sha256

EXACT = "equal, bit for bit"
"""Proof of an exact network: no logit may differ from the integers that were published."""

_PROGRAMS: dict[str, type[Header] | type[JavaScript]] = {".h": Header, ".mjs": JavaScript, ".html": OfflinePage}
"""Programs that test themselves, by the suffix of their file."""


@dataclass(frozen=True)
class Finding:
    """Result of the checks of one file."""

    file: str
    sha256: str | None = None
    """SHA-256 of the file, in hex; None if it could not be read."""
    artifact: Artifact | None = None
    """Loaded model; None if it is damaged or onnxruntime cannot load it."""
    comparison: Comparison | None = None
    """Comparison of the golden digits; None for a file that has none or could not be run."""
    problem: str | None = None
    """Problem, in one sentence; None if all checks passed."""
    failed_check: str | None = None
    """Check that failed: "integrity" (digests, file format) or "numbers" (golden digits)."""
    listed: bool = True
    """False for a model in the folder that its manifest.json does not list, and that was not checked."""
    proof: str | None = None
    """Proof that is stronger than a tolerance: "equal, bit for bit"."""
    logits_sha256: str | None = None
    """SHA-256 of the logits of the digits that were given, in hex; of an exact network's integers, int32."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict; `passed` is None for a file that was not checked."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "listed": self.listed,
            "passed": self.problem is None if self.listed else None,
            "failed_check": self.failed_check,
            "problem": self.problem,
            "proof": self.proof,
            "logits_sha256": self.logits_sha256,
            "parity": self.comparison and self.comparison.to_dict(),
        }


def verify_file(path: Path, digits: Intensities | Pixels | None = None) -> Finding:
    """Check the seal of the .onnx file at `path` and replay its golden digits, or run a program's self-test.

    Args:
        path: Path of a model that mnist-export wrote.
        digits: Digits whose logits to digest, uint8 or float32 `[N, 784]`.

    Raises:
        OptionError: the model is C or JavaScript, and there is no compiler or node.
    """
    if path.suffix in _PROGRAMS:
        return _test_program(str(path), lambda: read_whole(path, limit=SIZE_LIMIT, wanted=WANTED), digits)
    return _examine(str(path), lambda: Artifact.load(path), digits)


def verify_folder(folder: Path) -> list[Finding]:
    """Check every file of the folder against its manifest.json, and replay the golden digits of the ONNX ones.

    Models that the manifest does not list come last, unchecked.

    Raises:
        FileMissingError, FileReadError, ManifestError: there is no manifest that can be read.
    """
    manifest = read_manifest(folder)
    models = (path.name for pattern in ("*.onnx", "*.pt", "*.pt2") for path in sorted(folder.glob(pattern)))
    unlisted = [Finding(name, listed=False) for name in models if name not in manifest.files]
    return [*(_verify_entry(manifest, entry) for entry in manifest.files.values()), *unlisted]


def _verify_entry(manifest: Manifest, entry: Entry) -> Finding:
    def load() -> Artifact:
        artifact = Artifact.from_bytes(manifest.read(entry.file), entry.file)
        if artifact.metadata.get("checkpoint_sha256") != manifest.checkpoint:
            raise IntegrityError(f"{entry.file} is of another checkpoint than manifest.json names; export again")
        return artifact

    if entry.file.endswith(".onnx"):
        return _examine(entry.file, load)
    if Path(entry.file).suffix in _PROGRAMS:
        with contextlib.suppress(OptionError):  # there is no compiler or node
            return _test_program(entry.file, lambda: manifest.read(entry.file))
    try:
        manifest.read(entry.file)
    except MnistRuntimeError as error:
        return Finding(entry.file, problem=str(error), failed_check="integrity")
    return Finding(entry.file, entry.sha256)


def _test_program(file: str, read: Callable[[], bytes], digits: Intensities | Pixels | None = None) -> Finding:
    """Make a program of a C header, a JavaScript module or a page, and run its self-test."""
    try:
        data = read()
        program = _PROGRAMS[Path(file).suffix](data, file)
    except OptionError:
        raise
    except MnistRuntimeError as error:
        return Finding(file, problem=str(error), failed_check="integrity")
    sha256 = hashlib.sha256(data).hexdigest()
    if failed := program.selftest():
        digit, layer = divmod(failed, 100)
        place = f"golden digit {digit} differs from layer {layer} on" if digit else f"layer {layer} is damaged"
        problem = f"{file} is not at parity: its self-test says that {place}; do not deploy it on this machine"
        return Finding(file, sha256, problem=problem, failed_check="numbers")
    digest = None if digits is None else logits_sha256(program.logits(as_intensities(digits)))
    return Finding(file, sha256, proof=f"{program.how}, {EXACT}", logits_sha256=digest)


def _digest(artifact: Artifact, digits: Intensities | Pixels) -> str:
    """Return the SHA-256 of all logits: of integers, as programs compute them, where the network is exact."""
    logits, exponent = artifact.all_logits(digits), artifact.metadata.get("exponent")
    return logits_sha256(logits if exponent is None else np.ldexp(logits, -int(exponent)).astype(np.int32))


def _examine(file: str, load: Callable[[], Artifact], digits: Intensities | Pixels | None = None) -> Finding:
    try:
        artifact = load()
    except MnistRuntimeError as error:
        return Finding(file, problem=str(error), failed_check="integrity")
    try:
        comparison = artifact.replay()
    except ArtifactError as error:
        return Finding(file, artifact.sha256, artifact, problem=str(error), failed_check="numbers")
    if comparison.failures:
        problem = f"{file} is not at parity: {'; '.join(comparison.failures)}; do not deploy it on this machine"
        return Finding(file, artifact.sha256, artifact, comparison, problem, "numbers")
    proof = None if artifact.golden.tolerance.any() else EXACT
    digest = None if digits is None else _digest(artifact, digits)
    return Finding(file, artifact.sha256, artifact, comparison, proof=proof, logits_sha256=digest)
