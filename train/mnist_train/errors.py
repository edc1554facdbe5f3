"""What can go wrong in the workshop: the one root of `mnist_train` and `mnist_export`, and training's own errors."""

from mnist_runtime import MnistRuntimeError


class MnistEdgeError(MnistRuntimeError):
    """Root of every error that `mnist_train` and `mnist_export` raise on purpose, itself a `MnistRuntimeError`."""


class DataError(MnistEdgeError, ValueError):
    """A data set is not what it should be."""


class DownloadError(MnistEdgeError, ConnectionError):
    """A file could not be fetched."""


class ModelError(MnistEdgeError, ValueError):
    """The model asked for is not there, or does not classify digits."""


class DeviceError(MnistEdgeError, RuntimeError):
    """The device asked for is not there."""


class GroupError(MnistEdgeError, RuntimeError):
    """The processes that torchrun starts cannot train together."""


class DivergenceError(MnistEdgeError, ArithmeticError):
    """The loss is no longer a number."""


class CheckpointError(MnistEdgeError, ValueError):
    """The file is not a checkpoint that `mnist-train` wrote."""


class ConfigError(MnistEdgeError, ValueError):
    """A configuration file cannot be read, or names what there is not."""


class MissingExtraError(MnistEdgeError, ImportError):
    """An optional package is not installed; the sentence says which extra brings it."""

    def __init__(self, package: str, extra: str, asked: str) -> None:
        super().__init__(f"{asked} needs {package}, which is not installed; run: pip install 'mnist-edge[{extra}]'")
