"""examples/c/main.c reads a digit and prints its label, or an error."""

import subprocess
from pathlib import Path

import pytest

SOURCE = (Path(__file__).parents[2] / "examples/c/main.c").read_text()


@pytest.fixture
def program(linear, tool, build) -> Path:
    return build([tool("cc"), "-std=c99", "-Os", "-static", "-Wall", "-Wextra", "-Werror"], linear.header, SOURCE)


def _run(program: Path, data: bytes) -> tuple[int, bytes, bytes]:
    done = subprocess.run([program], input=data, capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_example_prints_the_label(linear, program):
    for digit, logits in zip(linear.digits[:20], linear.logits[:20], strict=True):
        assert _run(program, digit.tobytes()) == (0, b"%d\n" % logits.argmax(), b"")


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0"])
def test_the_example_takes_exactly_784_bytes(linear, program, change):
    code, out, err = _run(program, change(linear.digits[0].tobytes()))
    assert (code, out, err.count(b"\n")) == (2, b"", 1)


def test_a_damaged_header_prints_no_label(linear, tool, build):
    header = linear.header.replace(b"mnist_bias1[10] = {\n    ", b"mnist_bias1[10] = {\n    1")
    assert header != linear.header
    code, out, err = _run(build([tool("cc"), "-std=c99"], header, SOURCE), linear.digits[0].tobytes())
    assert (code, out) == (1, b"")
    assert b"mnist_selftest() returns 1" in err
