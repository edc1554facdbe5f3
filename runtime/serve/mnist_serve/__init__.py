"""The Open Inference Protocol (KServe V2) over HTTP: `mnist-serve`, and `create_app` for any ASGI server.

>>> from mnist_runtime import Classifier
>>> from mnist_serve import ServedModel, create_app
>>> app = create_app(ServedModel(Classifier(), name="mnist"))

Importing this package loads nothing heavy: the server's libraries come with the first name you use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_serve.app import create_app
    from mnist_serve.exchange import Limits
    from mnist_serve.model import ServedModel

__all__ = ["Limits", "ServedModel", "create_app"]
_MODULES = {"Limits": "exchange", "ServedModel": "model", "create_app": "app"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
