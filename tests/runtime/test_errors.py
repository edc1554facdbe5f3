"""The errors of the runtime: one root, and a builtin for each."""

import pytest

import mnist_runtime
from mnist_runtime import MnistRuntimeError


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        ("DigitError", ValueError),
        ("ArtifactError", ValueError),
        ("IntegrityError", ValueError),
        ("ManifestError", ValueError),
        ("FileReadError", OSError),
        ("FileMissingError", FileNotFoundError),
        ("FileWriteError", OSError),
        ("OptionError", ValueError),
        ("ClosedError", ValueError),
        ("ExtraMissingError", ImportError),
    ],
)
def test_every_error_has_our_root_and_a_builtin_base(error, builtin):
    assert issubclass(getattr(mnist_runtime, error), MnistRuntimeError)
    assert issubclass(getattr(mnist_runtime, error), builtin)
