"""mnist.mjs in node and Hermes: the integers of the network, the bytes of the image recipe, and its self-test."""

import base64
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mnist_export.exact.js import to_module
from mnist_export.exact.network import ExactNetwork, Linear
from mnist_runtime.ink import drawn, normalise
from mnist_runtime.model.javascript import JavaScript
from mnist_runtime.model.program import logits_sha256
from mnist_runtime.page import offline
from mnist_runtime.verdicts import VERDICTS, Thresholds

DRAWINGS = Path(__file__).with_name("drawings.mjs").read_text()
TYPES = {
    "compilerOptions": {
        "allowJs": True, "checkJs": True, "strict": True, "noUnusedLocals": True, "noEmit": True,
        "target": "es2020", "module": "es2020", "lib": ["es2020"], "types": [],
    },
    "files": ["mnist.mjs"],
}  # fmt: skip


@pytest.fixture
def node(tool, tmp_path, convolutional):
    """Run a program of node beside a mnist.mjs, by default that of the convolutional network."""
    executable = tool("node")

    def node(program, data=b"", module=convolutional.module):
        (tmp_path / "mnist.mjs").write_bytes(module)
        (tmp_path / "main.mjs").write_text(program)
        done = subprocess.run([executable, "main.mjs"], cwd=tmp_path, input=data, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    return node


@pytest.mark.parametrize("name", ["linear", "convolutional"])
def test_node_computes_the_integers_of_all_validation_digits(tool, request, validation, name):
    assert tool("node")
    printed, digits = request.getfixturevalue(name), validation.images.reshape(-1, 784)
    program = JavaScript(printed.module, "mnist.mjs")
    wanted = printed.network.logits(digits).astype(np.int32)
    assert logits_sha256(program.logits(digits)) == logits_sha256(wanted)
    assert (program.selftest(), program.outputs) == (0, printed.network.outputs)
    assert program.exponent == printed.network.exponent


def test_a_prediction_has_the_probabilities_of_its_logits(node, convolutional):
    answers = node(
        'import { logits, predict } from "./mnist.mjs"; import { readFileSync } from "node:fs";'
        "const pixels = readFileSync(0);"
        "console.log(JSON.stringify([Array.from(logits(pixels)), predict(pixels), predict(Array.from(pixels))]));",
        convolutional.digits[0].tobytes(),
    )
    logits, prediction, from_array = json.loads(answers)
    scores = np.exp(np.ldexp(np.array(logits[:10], float), convolutional.network.exponent))
    assert logits == convolutional.logits[0].tolist()
    assert prediction["probabilities"] == pytest.approx(scores / scores.sum(), rel=1e-12)
    assert prediction["label"] == int(np.argmax(logits[:10]))
    assert prediction["probability"] == max(prediction["probabilities"])
    assert prediction == from_array


def test_verdicts_follow_the_rule_of_the_runtime_at_every_stated_risk(node, convolutional):
    weight = np.random.default_rng(3).integers(-9, 10, (11, 784)).astype(np.int8)
    network = ExactNetwork((Linear(weight, np.zeros(11, np.int32), None),), -14)
    thresholds, digits = Thresholds({0.01: 0.3, 0.001: 0.6}, odds=0.9), convolutional.digits[:200]
    module = to_module(network, digits[:1], thresholds, checkpoint="", logits_sha256="")
    answers = node(
        'import { predict } from "./mnist.mjs"; import { readFileSync } from "node:fs";'
        "const data = readFileSync(0);"
        "console.log(JSON.stringify([undefined, 0.01, 1].map((risk) => Array.from({ length: data.length / 784 },"
        "  (_, i) => predict(data.subarray(784 * i, 784 * i + 784), risk)))));",
        digits.tobytes(),
        module,
    )
    powers = np.exp(np.ldexp(network.logits(digits).astype(float), network.exponent))
    no_digit = powers[:, 10] / powers.sum(axis=1)
    probability = powers[:, :10].max(axis=1) / powers[:, :10].sum(axis=1)
    for risk, predictions in zip((None, 0.01, 1), json.loads(answers), strict=True):
        wanted = thresholds.rule(risk, "mnist.mjs").judge(probability, no_digit)
        assert [prediction["verdict"] for prediction in predictions] == [VERDICTS[each] for each in wanted]
        assert [prediction["no_digit"] for prediction in predictions] == pytest.approx(no_digit.tolist())
    assert set(wanted) == {0, 2}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("logits([1, 2])", "pixels has 2 values, and 784 are wanted, row by row"),
        ("logits()", "pixels has no values, and 784 are wanted, row by row"),
        ("predict(new Array(784).fill(0.5))", "pixels[0] is 0.5, and an integer from 0 to 255 is wanted"),
        ("predict(new Array(784).fill(256))", "pixels[0] is 256, and an integer from 0 to 255 is wanted"),
        (
            "predict(new Array(784).fill(0), 1e-4)",
            "maxError is 0.0001, and 1, this network's least risk, to 1 is wanted",
        ),
        ("normalise([0, 0, 0], 2, 2)", "grey has 3 values, and 4 are wanted, row by row"),
        ("normalise([], 801, 1)", "the drawing has 801 x 1 pixels, and 1 to 800 a side are wanted; scale it"),
        ("normalise(new Array(9).fill(7), 3, 3)", "nothing stands out from the ground; draw darker or lighter than it"),
        (
            "normalise(Array.from({ length: 256 }, (_, i) => i), 16, 16)",
            "the ground is not even, as in a photograph; mnist-runtime reads photographs, this module drawings",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(node, call, sentence):
    program = f'import {{ logits, normalise, predict }} from "./mnist.mjs";\ntry {{ {call}; }} catch (error) {{'
    assert node(program + "console.log(error.message); }").decode().strip() == sentence


def normalised(node, drawings):
    data = b"".join(np.array(each.shape[::-1], "<u2").tobytes() + each.tobytes() for each in drawings)
    return np.frombuffer(node(DRAWINGS, data), np.uint8).reshape(-1, 784)


def expected(inks):
    return np.concatenate([normalise(ink[None]) for ink in inks])


def test_200_golden_drawings_get_the_bytes_of_the_python_recipe(node, validation):
    rng = np.random.default_rng(0)
    drawings = []
    for digit in validation.images[:200].reshape(-1, 28, 28):
        size = int(rng.integers(20, 300))
        ink = np.pad(np.asarray(Image.fromarray(digit).resize((size, size))), int(rng.integers(8, 40))).astype(int)
        paper, pen = rng.permutation([int(rng.integers(0, 100)), int(rng.integers(150, 256))])
        drawings.append((paper + (pen - paper) * ink // 255).astype(np.uint8))
    assert np.array_equal(normalised(node, drawings), expected(map(drawn, drawings)))


def test_5000_random_drawings_get_the_bytes_of_the_python_recipe(node):
    rng = np.random.default_rng(1)
    drawings, inks = [], []
    while len(drawings) < 5000:
        width, height = (int(side) for side in rng.integers(8, 130, 2))
        paper, pen = (int(level) for level in rng.integers(0, 256, 2))
        picture = Image.new("L", (2 * width, 2 * height), paper)
        points = [tuple(map(float, rng.uniform(0.05, 0.95, 2) * picture.size)) for _ in range(rng.integers(1, 7))]
        brush, thickness = ImageDraw.Draw(picture), int(rng.integers(1, 24))
        brush.line(points, fill=pen, width=thickness)
        for x, y in points:
            brush.ellipse((x, y, x + thickness / 2, y + thickness / 2), fill=pen)
        drawing = np.asarray(picture.resize((width, height), Image.Resampling.BOX))
        if (ink := drawn(drawing)) is not None:
            drawings.append(drawing)
            inks.append(ink)
    assert np.array_equal(normalised(node, drawings), expected(inks))


def test_the_page_of_the_convolutional_network_has_less_than_100_kb(convolutional):
    assert len(offline(convolutional.module)) < 100_000


def damaged(module, layer, table, place=0, bit=0):
    """Flip a bit of one byte of a table."""
    tables = list(re.finditer(rf'"{table}": "([^"]+)"'.encode(), module))
    data = bytearray(base64.b64decode(tables[layer - 1][1]))
    data[place] ^= 1 << bit
    start, end = tables[layer - 1].span(1)
    return module[:start] + base64.b64encode(data) + module[end:]


@pytest.mark.parametrize(
    ("layer", "table", "place", "bit"),
    [(1, "weight", 0, 0), (2, "weight", 4607, 7), (3, "bias", 5, 3), (3, "shift", 31, 1), (4, "weight", 77, 2)],
)
def test_the_self_test_names_the_layer_whose_table_is_damaged(tool, convolutional, layer, table, place, bit):
    assert tool("node")
    program = JavaScript(damaged(convolutional.module, layer, table, place, bit), "mnist.mjs")
    assert program.selftest() == layer


def test_the_self_test_finds_every_one_of_200_bits(node):
    """Import each damaged module from a data: URL, all in one process."""
    program = """
import { readFileSync } from "node:fs";
const source = readFileSync("mnist.mjs", "utf8");
const found = /"weight": "([^"]+)"/.exec(source);
const bytes = Buffer.from(found[1], "base64");
let [missed, seed] = [0, 1];
for (let i = 0; i < 200; i++) {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  const place = seed % bytes.length, bit = 1 << ((seed >>> 16) & 7);
  bytes[place] ^= bit;
  const damaged = source.replace(found[1], bytes.toString("base64"));
  const module = await import("data:text/javascript," + encodeURIComponent(damaged + "//" + i));
  missed += module.selftest().layer !== 1;
  bytes[place] ^= bit;
}
console.log(missed);
"""
    assert node(program).decode().strip() == "0"


def test_the_self_test_names_the_golden_digit_and_the_layer_that_an_engine_gets_wrong(tool, convolutional):
    assert tool("node")
    golden = re.search(rb'golden: "([^"]+)"', convolutional.module)
    data = bytearray(base64.b64decode(golden[1]))
    data[700] ^= 1
    worn = convolutional.module.replace(golden[1], base64.b64encode(data))
    digit, layer = divmod(JavaScript(worn, "mnist.mjs").selftest(), 100)
    assert (digit > 1, layer) == (True, 0)
    wrong = convolutional.module.replace(b"sums[i] >> shift[channel]", b"(sums[i] + 64) >> shift[channel]")
    digit, layer = divmod(JavaScript(wrong, "mnist.mjs").selftest(), 100)
    assert (digit, layer) == (1, 1)


def test_the_types_pass_the_strict_typescript_compiler(tool, tmp_path, convolutional):
    (tmp_path / "mnist.mjs").write_bytes(convolutional.module)
    (tmp_path / "tsconfig.json").write_text(json.dumps(TYPES))
    done = subprocess.run([tool("tsc"), "-p", tmp_path], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


def test_hermes_runs_the_module_and_its_self_test_passes(tool, tmp_path, convolutional):
    """Hermes alone has neither modules nor interfaces of browsers, such as atob."""
    source = re.sub(r"^export ", "", convolutional.module.decode(), flags=re.MULTILINE)
    (tmp_path / "mnist.js").write_text(source + "print(JSON.stringify(selftest()));\n")
    done = subprocess.run([tool("hermes"), tmp_path / "mnist.js"], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout) == {"passed": True, "digit": 0, "layer": 0}, done.stderr
