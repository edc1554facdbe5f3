"""Turn a trained PyTorch module into artifacts that prove themselves.

`export(module, ["onnx"], "artifacts")` does what the command `mnist-export` does. Importing this package loads nothing
heavy: torch and onnx come with the first use.
"""

from typing import TYPE_CHECKING, Any

from mnist_runtime import __version__

if TYPE_CHECKING:
    from mnist_export.bundle import export

__all__ = ["__version__", "export"]


def __getattr__(name: str) -> Any:
    """Import `export` when it is first used (PEP 562)."""
    if name != "export":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mnist_export.bundle import export

    return export
