"""Errors of export."""

from mnist_train.errors import MnistEdgeError


class ExportError(MnistEdgeError, RuntimeError):
    """The module cannot be turned into the format asked for."""


class BusyError(MnistEdgeError, TimeoutError):
    """Another exporter is publishing into the same folder."""


class UnknownFormatError(MnistEdgeError, ValueError):
    """There is no format of that name."""
