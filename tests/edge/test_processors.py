"""mnist.h computes the same bits with every compiler and on every processor."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mnist_runtime.model.header import PROGRAM

STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
SANITIZE = ["-O1", "-g", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"]
FLAGS = {"-O0": ["-O0"], "-O3": ["-O3", "-march=native"], "-Ofast": ["-Ofast"], "sanitizers": SANITIZE}
LANGUAGES = {"C99": ["-std=c99"], "C++17": ["-x", "c++", "-std=c++17"]}

PROCESSORS = {
    "aarch64": ("aarch64-linux-gnu-gcc", "qemu-aarch64"),
    "armv7 hard-float": ("arm-linux-gnueabihf-gcc", "qemu-arm"),
    "riscv64": ("riscv64-linux-gnu-gcc", "qemu-riscv64"),
    "s390x, big-endian": ("s390x-linux-gnu-gcc", "qemu-s390x"),
}
BOARDS = {
    "Cortex-M0": ("cortex-m0", "microbit"),
    "Cortex-M3": ("cortex-m3", "mps2-an385"),
    "Cortex-M4": ("cortex-m4", "mps2-an386"),
    "Cortex-M7": ("cortex-m7", "mps2-an500"),
}


@pytest.fixture(params=["linear", "convolutional"])
def printed(request: pytest.FixtureRequest):
    return request.getfixturevalue(request.param)


def _check(printed, command: list[str | Path]) -> None:
    about = subprocess.run([*command, "about"], capture_output=True, check=True, timeout=300).stdout.split()
    assert [int(word) for word in about] == [printed.network.outputs, printed.network.exponent, 0, printed.no_digit]
    digits = printed.digits.tobytes()
    answers = subprocess.run(command, input=digits, capture_output=True, check=True, timeout=600).stdout
    *logits, labels = np.frombuffer(answers, "<i4").reshape(-1, printed.network.outputs + 1).T
    assert np.array_equal(np.transpose(logits), printed.logits)
    assert np.array_equal(labels, printed.labels)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_this_processor_computes_the_same_logits(printed, tool, build, compiler, flags, language):
    if language == "C++17":
        compiler = {"gcc": "g++", "clang": "clang++"}[compiler]
        printed = replace(printed, digits=printed.digits[:100], logits=printed.logits[:100])
    program = build([tool(compiler), *LANGUAGES[language], *STRICT, *FLAGS[flags]], printed.header, PROGRAM)
    _check(printed, [program])


@pytest.mark.parametrize("processor", PROCESSORS)
def test_other_processors_compute_the_same_logits(printed, tool, build, processor):
    compiler, emulator = map(tool, PROCESSORS[processor])
    program = build([compiler, "-std=c99", *STRICT, "-O3", "-static"], printed.header, PROGRAM)
    _check(printed, [emulator, program])


@pytest.mark.parametrize("board", BOARDS)
def test_microcontrollers_compute_the_same_logits(printed, tool, build, tmp_path, board):
    cpu, machine = BOARDS[board]
    here = Path(__file__).parent
    compiler = [tool("arm-none-eabi-gcc"), f"-mcpu={cpu}", "-mthumb", "-std=gnu99", "-Os", *STRICT]
    compiler += ["-ffreestanding", "-nostdlib", "-T", str(here / "bare.ld"), "-Wl,--build-id=none"]
    program = build(compiler, printed.header, (here / "bare.c").read_text())
    (tmp_path / "digits.bin").write_bytes(printed.digits.tobytes())
    quiet = ["-display", "none", "-monitor", "none", "-serial", "none"]
    command = [tool("qemu-system-arm"), "-M", machine, *quiet, "-semihosting", "-kernel", program]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=600)
    failed, *logits = np.frombuffer((tmp_path / "logits.bin").read_bytes(), "<i4").tolist()
    assert failed == 0
    assert np.array_equal(np.reshape(logits, printed.logits.shape), printed.logits)
