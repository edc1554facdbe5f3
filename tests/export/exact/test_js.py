"""mnist.mjs as text; tests/edge runs it."""

import re

from mnist_export.exact.js import to_module
from mnist_runtime.verdicts import Thresholds


def test_equal_networks_give_equal_bytes_of_a_module_that_names_its_layers(network, golden):
    module = to_module(network, golden, Thresholds(), checkpoint="a" * 64, logits_sha256="b" * 64)
    assert to_module(network, golden, Thresholds(), checkpoint="a" * 64, logits_sha256="b" * 64) == module
    text = module.decode("ascii")
    assert text.startswith("/**\n * mnist.mjs - reads a handwritten digit")
    assert '"about": "convolution 5x5, stride 2, padding 2, then the largest of each 3x3: 28x28x1 to 6x6x6"' in text
    assert ("a" * 64 in text, "b" * 64 in text) == (True, True)


def test_the_module_uses_the_language_only(network, golden):
    text = to_module(network, golden, Thresholds(), checkpoint="", logits_sha256="").decode()
    code = re.sub(r"/\*.*?\*/|//[^\n]*|\"[^\"\n]*\"", "", text, flags=re.DOTALL)
    used = r"\b(import|require|eval|Function|WebAssembly|atob|document|window|globalThis|fetch|async|class)\b"
    assert not re.findall(used, code)
