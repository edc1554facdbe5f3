"""Fixtures of all rooms: real digits, one real training run, its artifacts, and real processes."""

import codecs
import contextlib
import fcntl
import functools
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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


SLOW_FIXTURES = frozenset({"trained", "exported", "everything", "server", "serve", "terminal", "edge"})
"""Fixtures that start torch, a server or a terminal."""

SLOW_ROOMS = frozenset({"browser", "docs", "edge", "end_to_end", "examples", "export", "serve", "with_ray"})
SLOW_FILES = frozenset(
    f"test_{name}.py"
    for name in (
        *("augment", "distributed", "fit", "lab", "models", "no_digit", "optimizers", "report", "run", "scratch"),
        *("classifier_processes", "fuzz", "images", "images_papers", "ink", "limits", "local", "ray_pool"),
    )
)
"""Files that train networks, read hundreds of pictures, or kill processes."""


def _rooms(path: Path) -> set[str]:
    """Return the names of the folders under tests/ that lead to `path`."""
    tests = Path(__file__).parent
    return set(path.relative_to(tests).parts) if path.is_relative_to(tests) else set()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file of slow tests alone where they are left out: they import Ray, matplotlib and hypothesis."""
    slow = _rooms(collection_path) & (SLOW_ROOMS | SLOW_FILES)
    return True if slow and "not slow" in config.option.markexpr else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what `make quick` leaves out: tests that start torch, Ray or a server, or kill a process.

    Rooms of long tests come first. `make test` gives out files in this order, so that its workers end together.
    """
    items.sort(key=lambda item: not _rooms(item.path) & {*SLOW_ROOMS, "train"})
    for item in items:
        rooms, fixtures = _rooms(item.path), set(getattr(item, "fixturenames", ()))
        starts_torch = "run" in fixtures and "train" in rooms
        if rooms & (SLOW_ROOMS | SLOW_FILES) or starts_torch or fixtures & SLOW_FIXTURES:
            item.add_marker(pytest.mark.slow)


TORCH = (
    "torch",
    "torch.distributed.run",
    "torch.nn.parallel",
    "torch.onnx",
    "torch.export",
    "onnx",
    "onnxscript",
)
ONNXRUNTIME = ("click", "numpy", "onnxruntime")
PRELOADED = {
    **dict.fromkeys(("mnist-train", "mnist-data", "mnist-export", "torchrun", "python"), TORCH),
    **dict.fromkeys(("mnist-infer", "mnist-parity", "mnist-score", "mnist-serve"), ONNXRUNTIME),
}
"""Modules that a command, or `python -c PROGRAM`, finds imported in the process that it is forked from: none of ours,
because a command imports those in its own environment."""


class CommandServer:
    """A connection to a process of command_server.py, which has modules imported and forks itself for each command."""

    def __init__(self, folder: Path, modules: Sequence[str]) -> None:
        """Connect to the server with these modules that listens in `folder`; start it if there is none."""
        self._control = socket.socket(socket.AF_UNIX)
        address = folder / f"{modules[-1]}.commands"
        with _lock(address):
            try:
                self._control.connect(str(address))
            except (FileNotFoundError, ConnectionRefusedError):
                address.unlink(missing_ok=True)
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(str(address))
                    listener.listen()
                    listener.set_inheritable(True)
                    self._control.connect(str(address))
                    program = Path(__file__).with_name("command_server.py")
                    words = [sys.executable, str(program), str(listener.fileno()), *modules]
                    os.posix_spawn(sys.executable, words, os.environ)  # it outlives this process
        self._answers = self._control.makefile("rb")

    def run(
        self, words: Sequence[str], env: Mapping[str, str], cwd: Path, timeout: float
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a command to its end; kill it after `timeout` seconds."""
        (stdout, child_stdout), (stderr, child_stderr) = os.pipe(), os.pipe()
        socket.send_fds(self._control, [b"\n"], [child_stdout, child_stderr])
        request = {"words": words, "env": dict(env), "cwd": str(cwd)}
        self._control.sendall(json.dumps(request).encode() + b"\n")
        os.close(child_stdout)
        os.close(child_stderr)
        watchdog = threading.Timer(timeout, os.kill, (int(self._answers.readline()), signal.SIGKILL))
        watchdog.start()
        with ThreadPoolExecutor(2) as readers:
            outputs = readers.map(_read_all, (stdout, stderr))
        returncode = int(self._answers.readline())
        watchdog.cancel()
        return subprocess.CompletedProcess(words, returncode, *outputs)

    def close(self) -> None:
        self._answers.close()
        self._control.close()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process at a time into the block."""
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_all(descriptor: int) -> bytes:
    with open(descriptor, "rb") as pipe:
        return pipe.read()


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all processes of a test run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def make_once(common: Path) -> Callable[[str, Callable[[Path], None]], Path]:
    """Return a function that returns a folder by its name; the first process to ask for the folder fills it."""

    def make_once(name: str, fill: Callable[[Path], None]) -> Path:
        folder = common / name
        with _lock(folder):
            if not folder.exists():
                unfinished = common / f"{name}.unfinished"
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                fill(unfinished)
                unfinished.rename(folder)
        return folder

    return make_once


@pytest.fixture(scope="session")
def command_server(common: Path) -> Iterator[Callable[[Sequence[str]], CommandServer]]:
    """Return a function that returns this process's connection to the server with some modules."""
    with contextlib.ExitStack() as connections:

        @functools.cache
        def server(modules: Sequence[str]) -> CommandServer:
            return connections.enter_context(contextlib.closing(CommandServer(common, modules)))

        yield server


def _needs_an_interpreter(env: Mapping[str, str]) -> bool:
    """Return True if `env` sets a variable that an interpreter reads at its start only, and a fork would miss."""
    return any(name.startswith(("PYTHON", "LANG", "LC_")) and os.environ.get(name) != env[name] for name in env)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, command_server: Callable[[Sequence[str]], CommandServer]) -> Run:
    """Run a command as a process with an empty HOME; the result holds bytes.

    Commands that import torch or onnxruntime are forked from a process that has; the others, and those with options of
    `subprocess.run` other than `cwd`, start the installed executable.
    """
    home = tmp_path_factory.mktemp("home")

    def run(command: str, *args: object, env: Mapping[str, str] | None = None, timeout: float = 300, **options: object):
        env = env or {}
        clean = {key: value for key, value in os.environ.items() if key not in {"MNIST_MODEL", "NO_COLOR"}}
        words, whole = [str(BIN / command), *map(str, args)], {**clean, "HOME": str(home), **env}
        if command in PRELOADED and options.keys() <= {"cwd"} and not _needs_an_interpreter(env):
            return command_server(PRELOADED[command]).run(words, whole, Path(options.get("cwd") or Path.cwd()), timeout)
        return subprocess.run(words, env=whole, capture_output=True, timeout=timeout, check=False, **options)

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
        """Return all output so far, once it contains `until`, or, without `until`, once the command has ended."""
        while until is None or until not in self.seen:
            ready, _, _ = select.select([self._master], [], [], 300)
            assert ready, f"there was no output after: {self.seen}"
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
    """Start commands under a pseudo-terminal; kill those that still run at the test's end."""
    started = []

    def start(*command: object, **options: object) -> Terminal:
        started.append(Terminal(*command, **options))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="session")
def test_split() -> "Split":
    """The 10,000 test digits."""
    from mnist_train.data.bundled import load_split

    return load_split("test")


@pytest.fixture(scope="session")
def validation() -> "Split":
    from mnist_train.data.bundled import load_split

    return load_split("valid")


@pytest.fixture(scope="session")
def trained(run: Run, make_once: Callable[..., Path]) -> Path:
    """The folder of a real training run: mnist.safetensors and metrics.jsonl."""

    def train(folder: Path) -> None:
        result = run("mnist-train", "--device", "cpu", "--output-dir", folder)
        assert result.returncode == 0, result.stderr

    return make_once("trained", train)


@pytest.fixture(scope="session")
def exported(request: pytest.FixtureRequest, run: Run, make_once: Callable[..., Path]) -> Path:
    """The folder of a real export of that run: all formats and manifest.json; or that of --exported."""
    if made := request.config.getoption("--exported"):
        return made.resolve()

    def export(folder: Path) -> None:
        result = run("mnist-export", request.getfixturevalue("trained") / "mnist.safetensors", "--output-dir", folder)
        assert result.returncode == 0, result.stderr

    return make_once("exported", export)


@pytest.fixture(scope="session")
def bundled() -> Path:
    """The lab's linear model that comes with the runtime, for float32; its twin for uint8 lies beside it."""
    from mnist_runtime.bundled import BUNDLED

    return BUNDLED["linear"][0]
