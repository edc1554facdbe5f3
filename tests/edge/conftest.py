"""Fixtures of the tests of printed programs: two networks, their prints and the integers that they must compute."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mnist_export.exact.c import no_digit_threshold, to_header
from mnist_export.exact.js import to_module
from mnist_export.exact.network import ExactNetwork
from mnist_export.exact.rounding import exact
from mnist_export.golden import golden_digits
from mnist_runtime.verdicts import Thresholds
from mnist_train.checkpoint import load
from mnist_train.data.bundled import load_split
from mnist_train.models import CNN

TEST_DIGITS = 1000


@dataclass(frozen=True)
class Printed:
    """One network as a header and as a module, with the logits that it must compute."""

    header: bytes
    module: bytes
    network: ExactNetwork
    digits: np.ndarray
    """The test digits, uint8 `[N, 784]`."""
    logits: np.ndarray
    """Their logits, int64 `[N, 10]` or `[N, 11]`."""
    no_digit: int
    """Threshold on the eleventh logit minus the label's, above which a picture is no digit; 0 without that logit."""

    @property
    def labels(self) -> np.ndarray:
        """Labels that mnist_predict must return, int64 `[N]`; -1 for what is no digit."""
        labels = self.logits[:, :10].argmax(axis=1)
        if self.logits.shape[1] == 10:
            return labels
        excess = self.logits[:, 10] - self.logits[np.arange(len(labels)), labels]
        return np.where(excess > self.no_digit, -1, labels)


def _print(module: nn.Module, count: int) -> Printed:
    network = exact(module.eval(), load_split("train").images[:500].reshape(-1, 784))
    golden = golden_digits(load_split("valid"))
    header = to_header(network, golden, Thresholds(), checkpoint="0" * 64, logits_sha256="0" * 64)
    module = to_module(network, golden, Thresholds(), checkpoint="0" * 64, logits_sha256="0" * 64)
    digits = load_split("test").images[:count].reshape(-1, 784)
    no_digit = no_digit_threshold(network, Thresholds()) or 0
    return Printed(header, module, network, digits, network.logits(digits), no_digit)


@pytest.fixture(scope="session")
def linear(trained: Path) -> Printed:
    """The trained linear model."""
    return _print(load(trained / "mnist.safetensors").module, TEST_DIGITS)


@pytest.fixture(scope="session")
def convolutional() -> Printed:
    """The convolutional network; its bits do not depend on whether it was trained."""
    torch.manual_seed(0)
    module = CNN()
    with torch.no_grad():
        for _ in range(20):
            module(load_split("train").tensors()[0][:200])
    return _print(module, TEST_DIGITS)


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """The path of a tool; without it the test is skipped, or fails under REQUIRE_EDGE=1, as in `make test-edge`."""
    npm = Path(__file__).parents[2] / ".venv-engines/npm/node_modules"  # where `make test-edge` installs from npm
    places = [os.environ["PATH"], str(npm / ".bin"), str(npm / "hermes-engine-cli/linux64-bin")]

    def find(name: str) -> str:
        path = shutil.which(name, path=os.pathsep.join(places))
        if not path and os.environ.get("REQUIRE_EDGE") != "1":
            pytest.skip(f"there is no {name}; make test-edge installs it")
        assert path, f"there is no {name}"
        return path

    return find


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    """Compile a C source with a header beside it; a warning is an error."""

    def build(compiler: list[str], header: bytes, source: str) -> Path:
        (tmp_path / "mnist.h").write_bytes(header)
        (tmp_path / "main.c").write_text(source)
        done = subprocess.run(
            [*compiler, "main.c", "-o", "main"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return tmp_path / "main"

    return build
