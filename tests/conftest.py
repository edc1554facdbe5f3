"""What every room's tests share: real digits, one real training run, its artifacts, and real processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_runtime.artifact import BUNDLED
from mnist_train.data import Split, load_split

BIN = Path(sys.executable).parent

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run one of our commands as a process with an empty HOME; the result holds bytes."""
    home = tmp_path_factory.mktemp("home")

    def run(command: str, *args: object, env: dict[str, str] | None = None, **options: object):
        clean = {key: value for key, value in os.environ.items() if key not in {"MNIST_MODEL", "NO_COLOR"}}
        return subprocess.run(
            [BIN / command, *map(str, args)],
            env={**clean, "HOME": str(home), **(env or {})},
            capture_output=True,
            timeout=120,
            check=False,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def test_split() -> Split:
    """The 10,000 digits that no training has seen."""
    return load_split("test")


@pytest.fixture(scope="session")
def validation() -> Split:
    return load_split("valid")


@pytest.fixture(scope="session")
def trained(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real training run: mnist.safetensors and metrics.jsonl."""
    folder = tmp_path_factory.mktemp("trained")
    result = run("mnist-train", "--device", "cpu", "--output-dir", folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="session")
def exported(run: Run, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real export of that run: all formats and manifest.json."""
    folder = tmp_path_factory.mktemp("exported")
    result = run("mnist-export", trained / "mnist.safetensors", "--output-dir", folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="session")
def bundled() -> Path:
    """The model that comes with the runtime."""
    return BUNDLED
