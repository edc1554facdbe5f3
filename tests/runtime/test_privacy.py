"""Privacy: importing and predicting write no file and open no socket; neither does native code of onnxruntime."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
import sys
seen = []
def watch(event, arguments):
    if event.startswith(("socket.", "urllib.", "subprocess.", "os.posix_spawn", "os.system", "os.mkdir", "os.rename")):
        seen.append((event, str(arguments)))
    if event == "open" and isinstance(arguments[2], int):
        import os
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and arguments[0] != "/dev/null":
            seen.append((event, str(arguments)))
sys.addaudithook(watch)
import numpy as np
from mnist_runtime import Classifier
with Classifier(threads=2) as classifier:
    classifier.classify(np.zeros((28, 28), np.uint8))
    classifier.predict(np.zeros((5000, 784), np.float32))
print(seen)
import os
links = []
for descriptor in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
    try:
        links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError:
        pass
print([link for link in links if link.startswith("socket:")])
"""


def private(home: Path) -> dict[str, str]:
    """Return an environment without CI, in which onnxruntime would send telemetry."""
    hidden = {"CI", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "MNIST_MODEL"}
    clean = {k: v for k, v in os.environ.items() if k not in hidden and not k.startswith(("XDG_", "COV"))}
    return {**clean, "HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_importing_and_predicting_write_no_file_and_open_no_socket(home):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=private(home), cwd=home, capture_output=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == b"[]\n[]\n"
    assert result.stderr == b""
    assert not list(home.iterdir())


SYSTEM_CALLS = (
    "%network,open,openat,openat2,creat,mkdir,mkdirat,mknod,mknodat,rename,renameat,renameat2,"
    "link,linkat,symlink,symlinkat,truncate,memfd_create"
)


def traced(command, home):
    """Return the system calls by which a command and its threads write files or open sockets, in native code too."""
    log = home.with_name("trace")
    strace = ["strace", "--follow-forks", "-qq", "-e", f"trace={SYSTEM_CALLS}", "-e", "signal=none", "-o", log]
    result = subprocess.run(
        [*strace, *command], env=private(home), cwd=home, capture_output=True, check=False, timeout=110
    )
    assert result.returncode == 0, result.stderr
    calls = log.read_text().splitlines()
    assert any("onnxruntime" in call for call in calls)
    return [call for call in calls if "O_RDONLY" not in call and '"/dev/null"' not in call]


def can_trace():
    strace = shutil.which("strace")
    return strace is not None and subprocess.run([strace, "-o", os.devnull, "true"], check=False).returncode == 0


needs_strace = pytest.mark.skipif(
    not can_trace(), reason="there is no strace here, or it may not trace: native code's writes and sockets go unseen"
)


@needs_strace
@pytest.mark.parametrize("as_command", [False, True], ids=["library", "mnist-infer"])
def test_native_code_writes_no_file_and_opens_no_socket(home, tmp_path, as_command):
    np.save(tmp_path / "digit.npy", np.zeros((28, 28), np.uint8))
    command = [Path(sys.executable).parent / "mnist-infer", tmp_path / "digit.npy"]
    assert traced(command if as_command else [sys.executable, "-c", PROGRAM], home) == []
    assert not list(home.iterdir())


@needs_strace
def test_the_trace_sees_sockets_and_written_files(home):
    program = "import socket, mnist_runtime.model.session; socket.socket(); open('written', 'w')"
    calls = traced([sys.executable, "-c", program], home)
    assert "socket(" in calls[0]
    assert '"written"' in calls[-1]
