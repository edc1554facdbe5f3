"""Verification of a file or a published folder: its bytes are unchanged, and this machine computes its numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_runtime.errors import ArtifactError, IntegrityError, MnistRuntimeError
from mnist_runtime.model.artifact import Artifact
from mnist_runtime.model.comparison import Comparison
from mnist_runtime.model.manifest import Entry, Manifest, read_manifest


@dataclass(frozen=True)
class Finding:
    """Result of the checks of one file."""

    file: str
    sha256: str | None
    """SHA-256 of the file, in hex; None if it could not be read."""
    artifact: Artifact | None
    """Loaded model; None if it is damaged or onnxruntime cannot load it."""
    comparison: Comparison | None
    """Comparison of the golden digits; None for a file that has none or could not be run."""
    problem: str | None
    """Problem, in one sentence; None if all checks passed."""
    failed_check: str | None
    """Check that failed: "integrity" (digests, file format) or "numbers" (golden digits)."""
    listed: bool = True
    """False for a model in the folder that its manifest.json does not list, and that was not checked."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict; `passed` is None for a file that was not checked."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "listed": self.listed,
            "passed": self.problem is None if self.listed else None,
            "failed_check": self.failed_check,
            "problem": self.problem,
            "parity": self.comparison and self.comparison.to_dict(),
        }


def verify_file(path: Path) -> Finding:
    """Check the seal of the .onnx file at `path`, and replay its golden digits."""
    return _examine(str(path), lambda: Artifact.load(path))


def verify_folder(folder: Path) -> list[Finding]:
    """Check every file of the folder against its manifest.json, and replay the golden digits of the ONNX ones.

    Models that the manifest does not list come last, unchecked.

    Raises:
        FileMissingError, FileReadError, ManifestError: there is no manifest that can be read.
    """
    manifest = read_manifest(folder)
    models = (path.name for pattern in ("*.onnx", "*.pt", "*.pt2") for path in sorted(folder.glob(pattern)))
    unlisted = [
        Finding(name, None, None, None, None, None, listed=False) for name in models if name not in manifest.files
    ]
    return [*(_verify_entry(manifest, entry) for entry in manifest.files.values()), *unlisted]


def _verify_entry(manifest: Manifest, entry: Entry) -> Finding:
    def load() -> Artifact:
        artifact = Artifact.from_bytes(manifest.read(entry.file), entry.file)
        if artifact.metadata.get("checkpoint_sha256") != manifest.checkpoint:
            raise IntegrityError(f"{entry.file} is of another checkpoint than manifest.json names; export again")
        return artifact

    if entry.file.endswith(".onnx"):
        return _examine(entry.file, load)
    try:
        manifest.read(entry.file)
    except MnistRuntimeError as error:
        return Finding(entry.file, None, None, None, str(error), "integrity")
    return Finding(entry.file, entry.sha256, None, None, None, None)


def _examine(file: str, load: Callable[[], Artifact]) -> Finding:
    try:
        artifact = load()
    except MnistRuntimeError as error:
        return Finding(file, None, None, None, str(error), "integrity")
    try:
        comparison = artifact.replay()
    except ArtifactError as error:
        return Finding(file, artifact.sha256, artifact, None, str(error), "numbers")
    problem = "; ".join(comparison.failures)
    if problem:
        problem = f"{file} is not at parity: {problem}; do not deploy it on this machine"
    return Finding(file, artifact.sha256, artifact, comparison, problem or None, "numbers" if problem else None)
