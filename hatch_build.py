"""Gives every distribution of this repository one version, and pins the others to the mnist-runtime of that version."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_RUNTIME = Path(__file__).parent / "runtime" / "mnist_runtime" / "__init__.py"


class SameVersionHook(MetadataHookInterface):
    """Reads the version of mnist-runtime and adds that very version to the dependencies."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in what pyproject.toml declares dynamic."""
        (version,) = re.findall(r'^__version__ = "(.+)"$', _RUNTIME.read_text(encoding="utf-8"), re.MULTILINE)
        metadata["version"] = version
        metadata["dependencies"] = [*self.config["dependencies"], f"mnist-runtime=={version}"]
