"""mnist.h: its logits, its self-test, and its requirements on a machine."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mnist_export.exact.c import to_header
from mnist_export.exact.network import ExactNetwork, Linear
from mnist_export.golden import single_pixels
from mnist_runtime.model.header import PROGRAM, Header
from mnist_runtime.verdicts import Thresholds

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")

STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
BARE = """
#include "mnist.h"
int predict(const uint8_t *pixels);
int predict(const uint8_t *pixels) { return mnist_predict(pixels) + mnist_selftest(); }
"""


@pytest.fixture(scope="module")
def header(network: ExactNetwork, golden: np.ndarray) -> bytes:
    return _print(network, golden)


def _print(network: ExactNetwork, golden: np.ndarray) -> bytes:
    return to_header(network, golden, Thresholds(), checkpoint="0" * 64, logits_sha256="0" * 64)


def _compile(folder: Path, header: bytes, source: str, *flags: str) -> Path:
    (folder / "mnist.h").write_bytes(header)
    (folder / "main.c").write_text(source)
    done = subprocess.run(
        ["cc", *flags, "main.c", "-o", "main"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "main"


def test_c_computes_the_integers_of_the_network(network, header, golden):
    digits = np.concatenate([golden, single_pixels()])
    compiled = Header(header, "mnist.h")
    assert np.array_equal(compiled.logits(digits), network.logits(digits))
    assert (compiled.selftest(), compiled.outputs, compiled.exponent) == (0, 10, network.exponent)


def test_a_network_of_one_layer_and_eleven_outputs_is_printed(golden):
    weight = np.random.default_rng(0).integers(-99, 99, (11, 784)).astype(np.int8)
    network = ExactNetwork((Linear(weight, np.arange(11, dtype=np.int32), None),), -10)
    compiled = Header(_print(network, golden), "mnist.h")
    assert np.array_equal(compiled.logits(golden), network.logits(golden))
    assert (compiled.selftest(), compiled.outputs) == (0, 11)


def test_equal_networks_give_equal_bytes_that_a_person_can_read(network, header, golden):
    assert _print(network, golden) == header
    lines = header.decode("ascii").splitlines()
    assert max(map(len, lines)) <= 140
    assert lines[0].startswith("/* mnist.h")


@pytest.mark.parametrize("language", [["-std=c99"], ["-x", "c++", "-std=c++17"]])
@pytest.mark.parametrize("define", [[], ["-DMNIST_NO_SELFTEST"]])
def test_the_header_compiles_without_a_warning(tmp_path, header, language, define):
    source = BARE if not define else BARE.replace(" + mnist_selftest()", "")
    _compile(tmp_path, header, source, *language, *define, *STRICT, "-O3", "-c")


@pytest.mark.parametrize("level", ["-O0", "-Os", "-O3"])
def test_the_header_needs_no_library(tmp_path, header, level):
    compiled = _compile(tmp_path, header, BARE, "-ffreestanding", "-fno-stack-protector", level, "-c")
    undefined = subprocess.run(["nm", "-u", compiled], capture_output=True, text=True, check=True).stdout
    assert undefined.replace("_GLOBAL_OFFSET_TABLE_", "").replace("U", "").strip() == ""


def test_the_buffer_is_as_large_as_the_head_says_and_can_lie_elsewhere(tmp_path, header):
    size = int(re.search(rb"#define MNIST_BUFFER_SIZE (\d+)", header)[1])
    assert f"one static buffer of {size:,} bytes" in header.decode()
    source = f"""
static unsigned char mine[{size} + 16];
#define MNIST_BUFFER mine
#include "mnist.h"
int main(void)
{{
    for (int i = 0; i < 16; i++) mine[{size} + i] = 0xA5;
    int failed = mnist_selftest();
    for (int i = 0; i < 16; i++) failed |= mine[{size} + i] != 0xA5;
    return failed;
}}
"""
    assert subprocess.run([_compile(tmp_path, header, source, "-std=c99", *STRICT)], check=False).returncode == 0
    assert b"mnist_buffer" not in (tmp_path / "main").read_bytes()


def _flip(header: bytes, table: str, place: int, bit: int) -> bytes:
    """Change one bit of one number of a table."""
    start = header.index(b"{", header.index(f" {table}[".encode()))
    body = header[start : header.index(b"};", start)]
    number = list(re.finditer(rb"-?\b(?:0x[0-9a-f]+|\d+)", body))[place]
    changed = int(number[0], 0) ^ 1 << bit
    text = f"{changed:#x}" if number[0].startswith(b"0x") else str(changed)
    return header[: start + number.start()] + text.encode() + header[start + number.end() :]


@pytest.mark.parametrize(
    ("table", "found"),
    [("mnist_weight1", 1), ("mnist_weight2", 2), ("mnist_bias2", 2), ("mnist_shift3", 3), ("mnist_weight4", 4)],
)
@pytest.mark.parametrize("bit", [0, 2])
def test_the_self_test_names_the_layer_whose_table_is_damaged(header, table, found, bit):
    assert Header(_flip(header, table, 5, bit), "mnist.h").selftest() == found


def test_every_changed_bit_of_a_weight_is_found(tmp_path, network, header):
    """Flip a thousand random bits of the compiled program, one at a time, as worn flash memory does."""
    program = bytearray(_compile(tmp_path, header, PROGRAM, "-std=c99", "-O2").read_bytes())
    layers = [number for number, layer in enumerate(network.layers, start=1) for _ in layer.weight.flat]
    tables = [np.frombuffer(_table(header, f"mnist_weight{n}"), np.uint8) for n in range(1, len(network.layers) + 1)]
    places = np.concatenate([program.index(table.tobytes()) + np.arange(table.size) for table in tables])
    generator = np.random.default_rng(0)
    for weight, bit in zip(generator.integers(len(places), size=1000), generator.integers(8, size=1000), strict=True):
        program[places[weight]] ^= 1 << bit
        worn = tmp_path / "worn"
        worn.write_bytes(program)
        worn.chmod(0o700)
        told = subprocess.run([worn, "about"], capture_output=True, check=True).stdout.split()[2]
        program[places[weight]] ^= 1 << bit
        assert int(told) == layers[weight]


def _table(header: bytes, name: str) -> bytes:
    start = header.index(b"{", header.index(f" {name}[".encode()))
    numbers = header[start + 1 : header.index(b"}", start)].replace(b"\n", b"").split(b",")
    return np.array([int(n) for n in numbers if n.strip()], np.int8).tobytes()


@pytest.mark.parametrize(("table", "place", "found"), [("mnist_golden", 700, 400), ("mnist_golden_checksums", 7, 202)])
def test_the_self_test_names_the_golden_digit_that_is_damaged(header, table, place, found):
    assert Header(_flip(header, table, place, 1), "mnist.h").selftest() == found


def test_the_self_test_names_the_layer_that_a_compiler_got_wrong(header):
    wrong = header.replace(
        b"mnist_activation(sums[i], mnist_shift2[i])", b"mnist_activation(sums[i] + 64, mnist_shift2[i])"
    )
    digit, layer = divmod(Header(wrong, "mnist.h").selftest(), 100)
    assert digit >= 1
    assert layer == 2
