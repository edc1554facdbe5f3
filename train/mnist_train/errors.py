"""Errors of the workshop: the root that `mnist_train` and `mnist_export` share, and the errors of training."""

from mnist_runtime import MnistRuntimeError


class MnistEdgeError(MnistRuntimeError):
    """Root of all errors that `mnist_train` and `mnist_export` raise on purpose."""


class DataError(MnistEdgeError, ValueError):
    """A data set that does not hold digits with labels."""


class DownloadError(MnistEdgeError, ConnectionError):
    """A download that failed or was refused."""


class ModelError(MnistEdgeError, ValueError):
    """A model that cannot be built, or does not classify digits."""


class DeviceError(MnistEdgeError, RuntimeError):
    """A device that torch does not find, or that processes cannot share."""


class GroupError(MnistEdgeError, RuntimeError):
    """Processes that cannot train together."""


class DivergenceError(MnistEdgeError, ArithmeticError):
    """A loss that is NaN or infinite."""


class CheckpointError(MnistEdgeError, ValueError):
    """A file that is no checkpoint of `mnist-train`, or holds no weights that fit the model."""


class ConfigError(MnistEdgeError, ValueError):
    """A configuration file that is not TOML, or sets unknown options or values of another type."""


class TrackerError(MnistEdgeError, RuntimeError):
    """An experiment tracker that cannot start."""


class MissingExtraError(MnistEdgeError, ImportError):
    """An optional package that is not installed."""

    def __init__(self, package: str, asked: str) -> None:
        super().__init__(f"{asked} needs {package}, which is not installed; run: pip install {package}")
