"""What every room's tests share: real digits, one real training run, its artifacts, and real processes."""

import codecs
import os
import pty
import select
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Tests run side by side, and PyTorch's threads, which spin while they wait, would wait on one another's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

# The runtime's tests also run where there is no torch: make compat.
if TYPE_CHECKING:
    from mnist_train.data.bundled import Split

BIN = Path(sys.executable).parent

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exported", type=Path, metavar="DIR", help="An export made elsewhere, where there is torch.")


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


class Terminal:
    """A command under a pseudo-terminal of 24 lines of 80 columns, as a person would run it."""

    def __init__(self, *command: object, env: dict[str, str] | None = None, **options: object) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        clean = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm-256color"}
        words = [BIN / str(command[0]), *map(str, command[1:])]
        self.process = subprocess.Popen(words, env=clean | (env or {}), **streams, **options)
        os.close(slave)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.seen = ""

    def read(self, until: str | None = None) -> str:
        """Everything seen so far, once `until` is in it or, without, once the command has ended."""
        while until is None or until not in self.seen:
            ready, _, _ = select.select([self._master], [], [], 60)
            assert ready, f"nothing more came after: {self.seen}"
            try:
                self.seen += self._decoder.decode(os.read(self._master, 65536))
            except OSError:  # the terminal hangs up when the process has ended
                assert until is None, f"{until!r} never came: {self.seen}"
                self.process.wait(timeout=60)
                break
        return self.seen

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Start commands under a pseudo-terminal; what still runs at the test's end is killed."""
    started = []

    def start(*command: object, **options: object) -> Terminal:
        started.append(Terminal(*command, **options))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="session")
def test_split() -> "Split":
    """The 10,000 digits that no training has seen."""
    from mnist_train.data.bundled import load_split

    return load_split("test")


@pytest.fixture(scope="session")
def validation() -> "Split":
    from mnist_train.data.bundled import load_split

    return load_split("valid")


@pytest.fixture(scope="session")
def trained(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real training run: mnist.safetensors and metrics.jsonl."""
    folder = tmp_path_factory.mktemp("trained")
    result = run("mnist-train", "--device", "cpu", "--output-dir", folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="session")
def exported(request: pytest.FixtureRequest, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real export of that run: all formats and manifest.json; or that of --exported."""
    if made := request.config.getoption("--exported"):
        return made.resolve()
    trained, folder = request.getfixturevalue("trained"), tmp_path_factory.mktemp("exported")
    result = run("mnist-export", trained / "mnist.safetensors", "--output-dir", folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="session")
def bundled() -> Path:
    """The model that comes with the runtime."""
    from mnist_runtime.model.artifact import BUNDLED

    return BUNDLED
