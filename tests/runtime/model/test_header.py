"""A header is compiled and run, or refused in one sentence."""

import hashlib
import shutil

import numpy as np
import pytest

from mnist_runtime.errors import ArtifactError, OptionError
from mnist_runtime.model.header import Header
from mnist_runtime.model.program import logits_sha256

SOURCE = b"""
#include <stdint.h>
#define MNIST_OUTPUTS 10
#define MNIST_EXPONENT (-3)
static int mnist_selftest(void) { return 0; }
static void mnist_logits(const uint8_t *pixels, int32_t *logits)
{
    for (int i = 0; i < MNIST_OUTPUTS; i++) logits[i] = -pixels[i] * 1000;
}
static int mnist_predict(const uint8_t *pixels) { return pixels[9] % 11 - 1; }
"""

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")


@needs_compiler
def test_logits_come_back_as_integers_of_32_bits(test_split):
    header = Header(SOURCE, "mnist.h")
    digits = test_split.images[:7].reshape(-1, 784).copy()
    digits[:, :10] = np.arange(70).reshape(7, 10)
    assert np.array_equal(header.logits(digits), np.arange(70).reshape(7, 10) * -1000)
    assert header.logits(digits[:0]).shape == (0, 10)
    assert (header.selftest(), header.outputs, header.exponent, header.no_digit) == (0, 10, -3, 0)


@needs_compiler
def test_labels_come_back_beside_the_logits_and_follow_the_stated_rule(test_split):
    eleven = SOURCE.replace(b"OUTPUTS 10", b"OUTPUTS 11\n#define MNIST_NO_DIGIT (-7)")
    header = Header(eleven, "mnist.h")
    digits = test_split.images[:3].reshape(-1, 784).copy()
    digits[:, 9] = 0, 1, 12
    assert header.answers(digits)[1].tolist() == [-1, 0, 0]
    assert header.no_digit == -7
    logits = np.zeros((3, 11), np.int32)
    logits[:, 4], logits[:, 10] = 10, (2, 3, 4)
    assert header.rule(logits).tolist() == [4, 4, -1]
    assert header.rule(logits[:, :10]).tolist() == [4, 4, 4]


@needs_compiler
def test_a_header_that_does_not_compile_is_refused():
    with pytest.raises(
        ArtifactError, match=r"^out/mnist.h does not compile here \(mnist.h:1:2: .*; check this machine"
    ):
        Header(b"#error not a header\n", "out/mnist.h")


@needs_compiler
def test_a_program_that_crashes_is_an_error(test_split):
    header = Header(SOURCE.replace(b"logits[i] = ", b"*(volatile int *)0 = "), "mnist.h")
    with pytest.raises(ArtifactError, match=r"mnist.h does not run here .exit code"):
        header.logits(test_split.images[:1])


@needs_compiler
@pytest.mark.parametrize("compiler", ["", "  ", "cc -O1"])
def test_the_compiler_is_cc_unless_another_is_named(monkeypatch, compiler):
    monkeypatch.setenv("CC", compiler)
    assert Header(SOURCE, "mnist.h").how == f"compiled by {compiler.strip() or 'cc'}"


@pytest.mark.parametrize("compiler", ["no-such-compiler", "no-such-compiler -m32", '"cc', "''"])
def test_a_missing_compiler_is_reported_with_advice(monkeypatch, compiler):
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(OptionError, match=f"no compiler {compiler!r}; install one, or name yours"):
        Header(SOURCE, "mnist.h")


def test_the_digest_of_logits_depends_on_no_memory_layout():
    logits = np.arange(20, dtype=np.int32).reshape(2, 10)
    wanted = hashlib.sha256(b"".join(int(i).to_bytes(4, "little") for i in range(20))).hexdigest()
    assert logits_sha256(logits) == logits_sha256(logits.astype(">i4")) == wanted
    assert logits_sha256(np.asfortranarray(logits)) == wanted
