"""What can go wrong in the workshop: the one root of `mnist_train` and `mnist_export`, and training's own errors."""

from mnist_runtime import MnistRuntimeError


class MnistEdgeError(MnistRuntimeError):
    """Root of every error that `mnist_train` and `mnist_export` raise on purpose, itself a `MnistRuntimeError`."""


class DataError(MnistEdgeError, ValueError):
    """A data set is not what it should be."""


class DeviceError(MnistEdgeError, RuntimeError):
    """The device asked for is not there."""


class DivergenceError(MnistEdgeError, ArithmeticError):
    """The loss is no longer a number."""


class CheckpointError(MnistEdgeError, ValueError):
    """The file is not a checkpoint that `mnist-train` wrote."""
