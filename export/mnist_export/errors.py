"""What can go wrong in export."""

from mnist_train.errors import MnistEdgeError


class ExportError(MnistEdgeError, RuntimeError):
    """The module cannot be turned into the format asked for."""


class ParityError(MnistEdgeError, ArithmeticError):
    """An artifact does not compute what was trained; nothing was published."""
