"""Replacement of the served model by a newly published one that has proven itself on this machine."""

import asyncio
import contextlib
import math
from pathlib import Path

from mnist_runtime.classifier import Classifier
from mnist_runtime.errors import ArtifactError, FileReadError
from mnist_runtime.model.manifest import NAME, read_manifest
from mnist_serve.errors import UnprovenModelError
from mnist_serve.log import log_event
from mnist_serve.metrics import Metrics
from mnist_serve.model import ServedModel

INTERVAL = 1.0
"""Seconds between two checks. A change is loaded once two checks find the same, so that a copy can end."""

_LONGEST_PAUSE = 300.0
"""Longest time in seconds until a refused model is tried again, because the machine may have caused the refusal."""


def load_proven(model: Path | str, max_error: float | None = None) -> Classifier:
    """Load a model, or the bundled one of that name, and replay its golden digits.

    Raises:
        FileReadError, ArtifactError: the model is missing, damaged, or was not written by `mnist-export`.
        OptionError: the model states no risk as low as `max_error`.
        UnprovenModelError: the model's logits differ from the trained ones.
    """
    classifier = Classifier(model, max_error=max_error)
    for comparison in classifier.replay():
        if not comparison.passed:
            reasons = "; ".join(comparison.failures)
            raise UnprovenModelError(f"{comparison.name} is not at parity: {reasons}; do not serve it on this machine")
    return classifier


async def watch(model: ServedModel, path: Path, metrics: Metrics) -> None:
    """Watch the file or published folder of a model, for ever, and load each new model.

    A refused model is tried again when anything changes, and after growing pauses.
    """
    now = asyncio.get_running_loop().time
    seen = judged = None
    pause = try_again = 0.0
    while True:
        await asyncio.sleep(INTERVAL)
        before, seen = seen, await asyncio.to_thread(_identity, path)
        if seen is None or seen != before or (seen == judged and now() < try_again):
            continue
        pause = min(2 * pause, _LONGEST_PAUSE) if seen == judged else 8 * INTERVAL
        judged = seen
        try_again = math.inf if await _is_accepted(model, path, metrics) else now() + pause


async def _is_accepted(model: ServedModel, path: Path, metrics: Metrics) -> bool:
    """Replace the model by the one at `path`; return False if that one is refused."""
    try:
        classifier = await asyncio.to_thread(load_proven, path, model.classifier.max_error)
    except Exception as error:  # noqa: BLE001  # any error refuses the new model, and the old one stays
        metrics.reloads.labels("refused").inc()
        log_event("refused", f"Refused a new model; the old one stays: {error}", reason=str(error))
        return False
    if classifier.digests != model.classifier.digests:
        model.classifier = classifier
        metrics.reloads.labels("swapped").inc()
        metrics.model.info(model.info())
        message = f"Serving {model.name} (sha256 {classifier.digests[0][:12]}) from now on."
        log_event("reloaded", message, model=model.name, sha256=classifier.digests)
    return True


def _identity(path: Path) -> list[tuple[int, int, int] | None] | None:
    """Return a fingerprint of the files of the model at `path`; None while nothing is there."""
    files = [path]
    if path.is_dir():
        files = [path / NAME]
        with contextlib.suppress(ArtifactError, FileReadError):  # loading will refuse a bad manifest
            files += [path / file for file in read_manifest(path, interrupted=True).files]
    identities = list(map(_status, files))
    return identities if identities[0] else None


def _status(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
