"""Replacement of the served model by a newly published one, if that proves itself on this machine."""

import asyncio
from pathlib import Path

from mnist_runtime.classifier import Classifier
from mnist_runtime.model.manifest import NAME
from mnist_serve.errors import UnprovenModelError
from mnist_serve.log import log_event
from mnist_serve.metrics import Metrics
from mnist_serve.model import ServedModel

INTERVAL = 1.0
"""Seconds between two checks. A change is loaded once it looks the same twice, so that a copy can end."""


def load_proven(path: Path | None) -> Classifier:
    """Load a model, or the bundled one, and replay its golden digits.

    Raises:
        FileReadError, ArtifactError: the model is missing, damaged, or was not written by `mnist-export`.
        UnprovenModelError: the model computes something else than was trained.
    """
    classifier = Classifier(path)
    for comparison in classifier.replay():
        if not comparison.passed:
            reasons = "; ".join(comparison.failures)
            raise UnprovenModelError(f"{comparison.name} is not at parity: {reasons}; do not serve it on this machine")
    return classifier


async def watch(model: ServedModel, path: Path, metrics: Metrics) -> None:
    """Watch the file or published folder that a model came from, for ever, and load what is new there."""
    seen = judged = None
    while True:
        await asyncio.sleep(INTERVAL)
        before, seen = seen, await asyncio.to_thread(_identity, path)
        if seen not in (None, judged) and seen == before:
            judged = seen
            await _judge(model, path, metrics)


async def _judge(model: ServedModel, path: Path, metrics: Metrics) -> None:
    try:
        classifier = await asyncio.to_thread(load_proven, path)
    except Exception as error:  # noqa: BLE001  # whatever is wrong with the new model, the old one stays
        metrics.reloads.labels("refused").inc()
        log_event("refused", f"Refused a new model; the old one stays: {error}", reason=str(error))
        return
    if classifier.digests != model.classifier.digests:
        model.classifier = classifier
        metrics.reloads.labels("swapped").inc()
        metrics.model.info(model.info())
        message = f"Serving {model.name} (sha256 {classifier.digests[0][:12]}) from now on."
        log_event("reloaded", message, model=model.name, sha256=classifier.digests)


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when something is published at `path`; None while nothing is there."""
    try:
        found = (path / NAME if path.is_dir() else path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
