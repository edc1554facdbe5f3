"""The root of the errors of mnist-score."""

from mnist_runtime import MnistRuntimeError
from mnist_score.errors import ClusterError, MnistScoreError


def test_every_error_has_both_roots_and_a_builtin_base():
    assert issubclass(MnistScoreError, MnistRuntimeError)
    assert issubclass(ClusterError, MnistScoreError)
    assert issubclass(ClusterError, RuntimeError)
