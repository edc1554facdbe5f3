"""Note on the model that a command chose: its origin and its accuracy."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_runtime import FileReadError
from mnist_runtime.console.model_choice import open_classifier
from mnist_runtime.model.seal import seal, sealed_digest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Path) -> Path:
    """Current folder, with an export that commands find."""
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "mnist.onnx").write_bytes((exported / "mnist.onnx").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MNIST_MODEL", raising=False)
    return tmp_path


@pytest.fixture
def notes(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Function that opens a model, and returns the notes on stderr."""

    def notes(named: str | None = None) -> list[str]:
        open_classifier(named).close()
        return capsys.readouterr().err.splitlines()

    return notes


def lower_accuracy(model: Path) -> None:
    """Set the validation accuracy in the metadata to a tenth."""
    data = model.read_bytes()
    lower = re.sub(rb'("valid_accuracy": 0\.)(\d+)', lambda found: found[1] + b"1" + b"0" * (len(found[2]) - 1), data)
    assert lower != data
    model.write_bytes(seal(lower.replace(sealed_digest(data).encode(), b"0" * 64)))


def test_the_line_states_the_validation_accuracy(here, notes):
    assert notes() == ["Using artifacts/mnist.onnx (found here): it read 91.67% of the validation digits right."]


def test_a_named_model_prints_no_line(here, notes):
    assert notes("artifacts/mnist.onnx") == notes("linear") == []


def test_a_path_is_never_the_name_of_a_bundled_model(run, here):
    (here / "linear").write_bytes(b"another model")
    for command in (("mnist-infer", here / "artifacts", "--model", "./linear"), ("mnist-parity", "./linear")):
        result = run(*command, cwd=here)
        assert result.returncode == 1
        assert b"Error: linear is not a complete ONNX model" in result.stderr


def test_a_low_accuracy_is_red_on_a_terminal(here, notes, terminal):
    lower_accuracy(here / "artifacts" / "mnist.onnx")
    assert notes() == ["Using artifacts/mnist.onnx (found here): it read 10.00% of the validation digits right."]
    seen = terminal("mnist-infer", Path(__file__).parents[3] / "examples" / "digit.npy", cwd=here).read()
    assert "\x1b[31mUsing artifacts/mnist.onnx (found here): it read 10.00%" in seen


def test_a_model_that_cannot_be_used_is_named_first(here, capsys):
    (here / "artifacts" / "mnist.onnx").write_bytes(b"")
    with pytest.raises(FileReadError, match="empty"):
        open_classifier(None)
    assert capsys.readouterr().err == "Using artifacts/mnist.onnx (found here).\n"
