"""Turn a trained PyTorch module into artifacts that prove themselves."""

from mnist_runtime import __version__

__all__ = ["__version__"]
