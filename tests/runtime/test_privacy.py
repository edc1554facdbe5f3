"""Nobody is told: importing and predicting write no file and open no socket, whatever onnxruntime would like."""

import os
import subprocess
import sys

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


def test_importing_and_predicting_write_no_file_and_open_no_socket(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    hidden = {"CI", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY"}  # onnxruntime keeps quiet where it sees CI
    clean = {k: v for k, v in os.environ.items() if k not in hidden and not k.startswith(("XDG_", "COV"))}
    result = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM],
        env={**clean, "HOME": str(home), "TMPDIR": str(home)},
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == b"[]\n[]\n"
    assert result.stderr == b""
    assert [str(path) for path in tmp_path.rglob("*")] == [str(home)]
