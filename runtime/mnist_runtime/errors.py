"""What can go wrong in the runtime: one root, and each error is also the builtin you would catch."""


class MnistRuntimeError(Exception):
    """Root of every error that `mnist_runtime` raises on purpose. Its text is one sentence for a person."""


class DigitError(MnistRuntimeError, ValueError):
    """The input is not MNIST digits: wrong shape, dtype or range, or not a readable .npy."""


class ArtifactError(MnistRuntimeError, ValueError):
    """The model is not one that `mnist-export` wrote, or this onnxruntime cannot load it."""


class IntegrityError(ArtifactError):
    """The model was written by `mnist-export` and has changed since."""


class ManifestError(ArtifactError):
    """A folder's manifest.json is damaged, not one that `mnist-export` wrote, or of another schema."""


class FileReadError(MnistRuntimeError, OSError):
    """A file is there and cannot be read, is empty, or is larger than it may be."""


class FileMissingError(FileReadError, FileNotFoundError):
    """There is no file at that path."""


class FileWriteError(MnistRuntimeError, OSError):
    """A result could not be written; what stood at that path before stands there still."""


class OptionError(MnistRuntimeError, ValueError):
    """A setting that makes no sense, or that this machine does not have."""


class ClosedError(MnistRuntimeError, ValueError):
    """The classifier was closed before this call."""


class ExtraMissingError(MnistRuntimeError, ImportError):
    """An optional part of the package is needed and not installed."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of an exception's text, or the name of its type if that is empty.

    >>> first_line(ValueError("no such layer\nTraceback...")), first_line(KeyboardInterrupt())
    ('no such layer', 'KeyboardInterrupt')
    """
    return (str(error).splitlines() or [""])[0] or type(error).__name__
