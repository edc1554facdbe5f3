"""A machine that lets a command start no thread, as under `ulimit -u 1` or in a container with a small pids.max."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
NO_THREADS = ["prlimit", "--nproc=1"]
if os.name == "posix" and os.getuid() == 0:  # the limit holds for everybody but root, who keeps the right to read
    rights = "+dac_override,+dac_read_search"
    nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={rights}", f"--ambient-caps={rights}"]
    NO_THREADS += ["setpriv", *nobody]

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
