"""Pins mnist-edge to the mnist-runtime of its own version, so that the version is written in one place only."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class SameVersionHook(MetadataHookInterface):
    """Reads the runtime's version, and depends on exactly it."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in what pyproject.toml declares dynamic."""
        source = Path(self.root, "runtime/mnist_runtime/__init__.py").read_text(encoding="utf-8")
        (version,) = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)
        metadata["version"] = version
        metadata["dependencies"] = [*self.config["dependencies"], f"mnist-runtime=={version}"]
