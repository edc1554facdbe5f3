"""Fixtures of the export room's tests: modules that are not linear, and an export of every format."""

import functools
import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from mnist_export.formats import FORMATS
from mnist_export.golden import Expected, expect
from mnist_export.onnx import trace
from mnist_train.checkpoint import Checkpoint, load
from mnist_train.data.bundled import Split


@pytest.fixture(scope="session", autouse=True)
def operators() -> None:
    """Build the table of ONNX operators once, as command_server.py does."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))


@pytest.fixture(scope="session")
def networks() -> ModuleType:
    """networks.py beside this file, as a module."""
    spec = importlib.util.spec_from_file_location("networks", Path(__file__).with_name("networks.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def checkpoint(trained: Path) -> Checkpoint:
    """The trained linear model."""
    return load(trained / "mnist.safetensors")


@pytest.fixture(scope="session")
def expected(checkpoint: Checkpoint, validation: Split) -> Expected:
    """What every artifact of the trained linear model must compute."""
    return expect(checkpoint.module, validation, lambda: trace(checkpoint.module)[0])


@pytest.fixture(scope="session")
def everything(run, trained: Path, make_once) -> Path:
    """The folder of a real export of every format; without node, of all but the JavaScript ones."""

    def export(folder: Path) -> None:
        formats = ["all"] if shutil.which("node") else [name for name in FORMATS if name not in {"js", "html"}]
        options = [word for name in formats for word in ("--format", name)]
        result = run("mnist-export", trained / "mnist.safetensors", *options, "--output-dir", folder)
        assert result.returncode == 0, result.stderr
        assert result.stderr == b"", "messages of torch's exporters must not reach the user"

    return make_once("everything", export)
