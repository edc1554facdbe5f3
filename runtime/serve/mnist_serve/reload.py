"""A newly published model takes the place of the old one between two requests, if it proves itself on this machine."""

import asyncio
from pathlib import Path

from mnist_runtime.classifier import Classifier
from mnist_runtime.errors import ArtifactError
from mnist_runtime.model.manifest import NAME
from mnist_serve.log import Log
from mnist_serve.metrics import Metrics
from mnist_serve.model import ServedModel

INTERVAL = 1.0
"""Seconds between two looks. What changed is taken up when it looks the same twice, so that a copy can end."""


def load_proven(path: Path | None) -> Classifier:
    """Load a model, or the bundled one, and replay its golden digits.

    Raises:
        FileReadError, ArtifactError: it is not there, damaged, or not ours.
        ArtifactError: it computes something else than was trained.
    """
    classifier = Classifier(path)
    for comparison in classifier.replay():
        if not comparison.passed:
            reasons = "; ".join(comparison.failures)
            raise ArtifactError(f"{comparison.name} is not at parity: {reasons}; do not serve it on this machine")
    return classifier


class Reloader:
    """Watches the file or the published folder that a model came from."""

    def __init__(self, model: ServedModel, path: Path, metrics: Metrics, log: Log) -> None:
        self._model = model
        self._path = path
        self._metrics = metrics
        self._log = log

    async def watch(self) -> None:
        """Look for ever."""
        seen = judged = None
        while True:
            await asyncio.sleep(INTERVAL)
            before, seen = seen, await asyncio.to_thread(_stamp, self._path)
            if seen not in (None, judged) and seen == before:
                judged = seen
                await self._judge()

    async def _judge(self) -> None:
        try:
            classifier = await asyncio.to_thread(load_proven, self._path)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with the new one, the old one goes on
            self._metrics.reloaded("refused")
            self._log.say("refused", f"Refused a new model, and the old one goes on: {error}", reason=str(error))
            return
        if classifier.digests == self._model.classifier.digests:
            return
        self._model.classifier = classifier
        self._metrics.reloaded("swapped")
        self._metrics.serving(self._model.name, classifier.digests)
        said = f"Serving {self._model.name} (sha256 {classifier.digests[0][:12]}) from now on."
        self._log.say("reloaded", said, model=self._model.name, sha256=classifier.digests)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when something is published at `path`; None while there is nothing."""
    try:
        found = (path / NAME if path.is_dir() else path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
