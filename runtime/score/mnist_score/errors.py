"""Errors of mnist-score: one root, and each error is also the builtin that a caller would catch."""

from mnist_runtime.errors import MnistRuntimeError


class MnistScoreError(MnistRuntimeError):
    """Root of the errors that only `mnist_score` raises; those about files, digits and models are mnist_runtime's."""


class ClusterError(MnistScoreError, RuntimeError):
    """Ray could not be started or joined, or gave up."""
