"""A module is run by node, or refused in one sentence."""

import shutil

import numpy as np
import pytest

from mnist_runtime.errors import ArtifactError, OptionError
from mnist_runtime.model.javascript import JavaScript

SOURCE = b"""
export const about = { outputs: 10, exponent: -3 };
export const selftest = () => ({ passed: true, digit: 0, layer: 0 });
export const logits = (pixels) => Int32Array.from({ length: 10 }, (_, i) => -pixels[i] * 1000);
export const predict = (pixels) => ({ label: pixels[9] % 10, verdict: pixels[9] > 99 ? "no digit" : "digit" });
"""

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="there is no node")


@needs_node
def test_logits_come_back_as_integers_of_32_bits(test_split):
    module = JavaScript(SOURCE, "mnist.mjs")
    digits = test_split.images[:7].reshape(-1, 784).copy()
    digits[:, :10] = np.arange(70).reshape(7, 10)
    assert np.array_equal(module.logits(digits), np.arange(70).reshape(7, 10) * -1000)
    assert module.logits(digits[:0]).shape == (0, 10)
    assert (module.selftest(), module.outputs, module.exponent) == (0, 10, -3)
    digits[:3, 9] = 17, 99, 100
    assert module.answers(digits[:3])[1].tolist() == [7, 9, -1]
    assert module.how.startswith("run by node v")


@needs_node
def test_a_failed_self_test_returns_digit_and_layer():
    assert JavaScript(SOURCE.replace(b"digit: 0, layer: 0", b"digit: 7, layer: 2"), "mnist.mjs").selftest() == 702


@needs_node
@pytest.mark.parametrize("source", [b"export const = 1;", b"export const about = {};", b"throw new Error('no');"])
def test_a_module_that_does_not_run_is_refused(source):
    with pytest.raises(ArtifactError, match=r"mnist.mjs does not run here .*Error.*; check this machine's compiler"):
        JavaScript(source, "mnist.mjs")


@needs_node
def test_a_module_that_prints_is_refused():
    with pytest.raises(ArtifactError, match=r"mnist.mjs does not say what it computes .*; export it again"):
        JavaScript(b"console.log('Hello');" + SOURCE, "mnist.mjs")


def test_a_missing_node_is_reported_with_advice(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(OptionError, match=r"mnist.mjs is JavaScript, and this machine has no node; install Node.js"):
        JavaScript(SOURCE, "mnist.mjs")
