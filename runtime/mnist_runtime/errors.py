"""Errors of the runtime: one root, and each error is also the builtin you would catch."""


class MnistRuntimeError(Exception):
    """Root of all errors that `mnist_runtime` raises on purpose; the text is one sentence for a person."""


class DigitError(MnistRuntimeError, ValueError):
    """The input is not MNIST digits: wrong shape, dtype or range, or a file that holds none."""


class ArtifactError(MnistRuntimeError, ValueError):
    """The model was not written by `mnist-export`, or this onnxruntime cannot load or run it."""


class IntegrityError(ArtifactError):
    """The model has changed since `mnist-export` wrote it."""


class ManifestError(ArtifactError):
    """A folder's manifest.json is damaged, not one that `mnist-export` wrote, or of another schema."""


class FileReadError(MnistRuntimeError, OSError):
    """A file exists but cannot be read, is empty, or is larger than allowed."""


class FileMissingError(FileReadError, FileNotFoundError):
    """There is no file at that path."""


class FileWriteError(MnistRuntimeError, OSError):
    """A result could not be written; an earlier file at that path is unchanged."""


class OptionError(MnistRuntimeError, ValueError):
    """A setting is invalid, or not available on this machine."""


class ClosedError(MnistRuntimeError, ValueError):
    """The classifier was closed before this call."""


class ExtraMissingError(MnistRuntimeError, ImportError):
    """An optional extra of the package is needed but not installed."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of an exception's text that is not blank, or the name of its type if there is none.

    >>> first_line(ValueError("\n  no such layer\nTraceback...")), first_line(KeyboardInterrupt())
    ('no such layer', 'KeyboardInterrupt')
    """
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


def printable(text: str) -> str:
    r"""Return text with control characters escaped, because a file's name could command the terminal that shows it.

    >>> print(printable("a\x1b[2Jb\n"))
    a\x1b[2Jb\x0a
    """
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8, which prints as it came
        return character
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
