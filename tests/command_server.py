"""A process that has imported modules and forks itself for every command of the tests, as conftest.py asks it to.

Importing torch or onnxruntime takes longer than most commands. A forked command is a process of its own, with its own
arguments, environment, folder, streams and exit code; only what is fixed when an interpreter starts (PYTHON*, the
locale) or a module is imported is the server's. Usage: command_server.py DESCRIPTOR MODULE...; the descriptor is a
listening socket's. Each process that runs tests connects to it; the server ends with the last connection.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import importlib.metadata
import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn


def accept(listener: socket.socket) -> socket.socket:
    """Fork a child per client; return, in the child, its connection."""
    signal.signal(signal.SIGCHLD, end_with_the_last_client)
    while True:
        control, _ = listener.accept()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            return control
        control.close()


def end_with_the_last_client(*_: object) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        os._exit(0)


def serve(control: socket.socket) -> list[str]:
    """Answer requests with the process id and the exit code of a child; in the child, return the words of a command."""
    requests = control.makefile("rb")
    while True:
        _, streams, _, _ = socket.recv_fds(control, 1, 2)
        if not streams:
            os._exit(0)  # the client's tests are over
        request = json.loads(requests.readline())
        if child := os.fork():
            for stream in streams:
                os.close(stream)
            control.sendall(f"{child}\n".encode())
            _, status = os.waitpid(child, 0)
            control.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            continue
        requests.close()
        control.close()
        for number, stream in enumerate(streams, start=1):
            os.dup2(stream, number)
            os.close(stream)
        # The streams of the server belong to its own files, which may be of another kind.
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        change_environment(request["env"])
        os.chdir(request["cwd"])
        return request["words"]


def change_environment(env: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)


def run(words: Sequence[str]) -> None:
    """Run a command, or `python -c PROGRAM`, `-m MODULE` or SCRIPT, in this process."""
    command, *arguments = words
    match Path(command).name, arguments:
        case "python", ["-c", program, *arguments]:
            sys.argv = ["-c", *arguments]
            sys.path[0] = ""
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        case "python", ["-m", module, *arguments]:
            sys.argv = [module, *arguments]
            sys.path[0] = str(Path.cwd())
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case "python", [script, *arguments]:
            sys.argv = [script, *arguments]
            sys.path[0] = str(Path(script).parent)
            runpy.run_path(script, run_name="__main__")
        case name, arguments:
            sys.argv = [command, *arguments]
            sys.path[0] = str(Path(command).parent)
            (entry,) = importlib.metadata.entry_points(group="console_scripts", name=name)
            sys.exit(entry.load()())


def run_and_exit(words: Sequence[str]) -> NoReturn:
    """Run a command and exit as an interpreter does, but without destroying modules, which takes torch a second."""
    code: object = 0
    try:
        run(words)
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        code = 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    # Both are private, because the only public end of an interpreter destroys modules; multiprocessing calls the first.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


class Rank:
    """A rank that torchrun starts, forked from torchrun; it has what torchrun uses of a `subprocess.Popen`."""

    def __init__(self, args: Sequence[str], env: Mapping[str, str], **_: object) -> None:
        self.args, self.returncode = args, None
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            run_rank(["python", *args[2:]], env)  # without -u

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)  # as subprocess.Popen does
        return self.returncode


def run_rank(words: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Run a command as a rank, in a session of its own."""
    os.setsid()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    change_environment(env)
    sys.stdout.reconfigure(write_through=True)  # as -u does
    run_and_exit(words)


def fork_ranks() -> None:
    """Let torchrun fork its ranks."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    subprocess_handler.Popen = Rank


def remember_operators() -> None:
    """Build the table of ONNX operators once, because torch.onnx.export takes two seconds to build it at every call."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))


def export_once() -> None:
    """Export a small module, because the first export of a process imports for three seconds what it needs."""
    import torch

    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        batch = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(torch.nn.Linear(2, 1), (torch.zeros(2, 2),), dynamic_shapes=batch, verbose=False)
        logging.disable(logging.NOTSET)


def prepare_torch() -> None:
    """Prepare what commands of torch would otherwise prepare one by one."""
    remember_operators()
    export_once()
    fork_ranks()


def main() -> None:
    descriptor, *modules = sys.argv[1:]
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as mnist_runtime does before it imports onnxruntime
    for name in modules:
        importlib.import_module(name)
    if "torch" in modules:
        prepare_torch()
    gc.collect()
    gc.freeze()  # because a child that collects garbage would copy every page of the modules' objects
    run_and_exit(serve(accept(socket.socket(fileno=int(descriptor)))))


if __name__ == "__main__":
    main()
