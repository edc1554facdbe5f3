"""Train the lab's digit classifier in PyTorch, on real MNIST."""

from mnist_runtime import __version__

__all__ = ["__version__"]
