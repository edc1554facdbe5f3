"""The Open Inference Protocol (KServe V2) over HTTP: `mnist-serve`, and `create_app` for any ASGI server.

>>> from mnist_runtime import Classifier
>>> from mnist_runtime.serve import ServedModel, create_app
>>> app = create_app(ServedModel(Classifier(), name="mnist"))

It needs the extra: pip install "mnist-runtime[serve]".
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnist_runtime.errors import ExtraMissingError

if TYPE_CHECKING:
    from mnist_runtime.serve.access_log import Log
    from mnist_runtime.serve.app import Limits, create_app
    from mnist_runtime.serve.batching import Batching
    from mnist_runtime.serve.model import ServedModel
    from mnist_runtime.serve.reload import load_proven
    from mnist_runtime.serve.server import run

__all__ = ["Batching", "Limits", "Log", "ServedModel", "create_app", "load_proven", "run"]

_HOMES = {
    "Batching": "batching",
    "Limits": "app",
    "Log": "access_log",
    "ServedModel": "model",
    "create_app": "app",
    "load_proven": "reload",
    "run": "server",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562), or say which extra brings what it needs."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise ExtraMissingError(
            f'serving needs {missing}, which is not installed; install it with pip install "mnist-runtime[serve]"'
        ) from error


def __dir__() -> list[str]:
    return __all__
