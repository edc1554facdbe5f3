"""Is what was published here still what was published, and does this machine compute it? For a file or a folder."""

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
    """What was found of one file."""

    file: str
    sha256: str | None
    """Of its bytes, in hex; None if they could not be read."""
    artifact: Artifact | None
    """Loaded, if onnxruntime runs it and it is sound."""
    comparison: Comparison | None
    """Of its golden digits; None for a file without any, or that could not be run."""
    problem: str | None
    """What is wrong, in one sentence."""
    spoke: str | None
    """Who found that out: "integrity", the digests and the file's form, or "numbers", the golden digits."""
    listed: bool = True
    """False for a model that lies in a folder without being in its manifest.json: nothing vouches for it, nor was it
    checked."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; `passed` is null for what was not checked."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "listed": self.listed,
            "passed": self.problem is None if self.listed else None,
            "spoke": self.spoke,
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
