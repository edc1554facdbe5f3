"""Limits of a machine: no threads, as under `ulimit -u 1` or a small pids.max of a container; no files of others."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

BIN = Path(sys.executable).parent
NO_THREADS, UNPRIVILEGED = ["prlimit", "--nproc=1"], []
if os.name == "posix" and os.getuid() == 0:  # the limits hold for everybody but root
    UNPRIVILEGED = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    rights = "+dac_override,+dac_read_search"
    NO_THREADS += [*UNPRIVILEGED, f"--inh-caps={rights}", f"--ambient-caps={rights}"]

pytestmark = pytest.mark.skipif(not all(map(shutil.which, ("prlimit", "setpriv"))), reason="needs util-linux")


def run_without_threads(*command: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    words = [*NO_THREADS, BIN / command[0], *command[1:]]
    return subprocess.run(words, cwd=folder, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "command", [("mnist-train",), ("mnist-train", "--resume", "state"), ("mnist-export",), ("mnist-serve", "--port=0")]
)
def test_a_command_that_needs_threads_fails_in_one_sentence(tmp_path, command):
    result = run_without_threads(*command, folder=tmp_path)
    sentence = b"Error: no thread can be started; raise the limit of processes (ulimit -u, or pids.max)\n"
    assert (result.returncode, result.stderr) == (1, sentence)


@pytest.mark.parametrize("command", [("mnist-data", "info"), ("mnist-parity",), ("mnist-export", "--help")])
def test_a_command_that_needs_no_threads_works(tmp_path, command):
    result = run_without_threads(*command, folder=tmp_path)
    assert result.returncode == 0
    assert b"BLAS" not in result.stderr


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder of everybody's, with a file and two folders that nobody may read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for inner in ("digits", "digits/closed", "artifacts"):
            (folder / inner).mkdir()
        for file in ("digits/open.npy", "digits/closed.npy", "digits/closed/x.npy", "artifacts/mnist.onnx"):
            np.save(folder / file, np.zeros((28, 28), np.uint8))
        folder.chmod(0o755)
        for closed in ("digits/closed.npy", "digits/closed", "artifacts"):
            (folder / closed).chmod(0)
        yield folder
        for closed in ("digits/closed", "artifacts"):
            (folder / closed).chmod(0o755)


def test_what_may_not_be_read_is_named_and_the_rest_is_answered(common):
    command = [*UNPRIVILEGED, BIN / "mnist-infer", "--format", "csv"]
    if subprocess.run([*command, "--help"], capture_output=True, check=False).returncode:
        pytest.skip("nobody may run the commands of this environment")

    def infer(*args: str) -> tuple[int, int, list[str]]:
        done = subprocess.run([*command, *args], cwd=common, capture_output=True, text=True, timeout=60, check=False)
        errors = [line.partition(";")[0] for line in done.stderr.splitlines() if line.startswith("Error")]
        return done.returncode, len(done.stdout.splitlines()), errors

    refused = "Error: digits/closed.npy cannot be read (Permission denied)"
    assert infer("digits/closed.npy", "digits/open.npy") == (1, 2, [refused])
    assert infer("digits") == (1, 2, [refused])
    folder = "Error: digits/closed is a folder that may not be read"
    assert infer("digits", "--recursive") == (1, 2, [refused, folder])
    assert infer("digits/closed") == (1, 1, ["Error: digits/closed cannot be read (Permission denied)"])
