"""A process that has imported torch and forks itself for every command of the tests, as conftest.py asks it to.

Importing torch takes longer than most of these commands. A forked command is a process of its own, with its own
arguments, environment, folder, streams and end; only what is fixed when an interpreter starts (PYTHON*, the locale) is
the server's. Usage: command_server.py DESCRIPTOR, of one end of a socket pair.
"""

import functools
import importlib
import importlib.metadata
import json
import os
import socket
import sys
from pathlib import Path

PRELOADED = (
    "torch",
    "torch.distributed.run",
    "torch.nn.parallel",
    "torch.onnx",
    "torch.export",
    "onnx",
    "onnxscript",
)
"""Modules that take long to import. Not ours, and not onnxruntime: a command imports those in its own environment."""


def serve(control: socket.socket) -> list[str]:
    """Answer requests with the process id and the exit code of a child; in the child, return the words of a command."""
    requests = control.makefile("rb")
    while True:
        _, streams, _, _ = socket.recv_fds(control, 1, 2)
        if not streams:
            sys.exit()  # the tests are over
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
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        return request["words"]


def remember_operators() -> None:
    """Build the table of ONNX operators once, which torch.onnx.export builds anew in two seconds at every call."""
    from torch.onnx._internal._lazy_import import onnxscript_apis

    onnxscript_apis.get_torchlib_ops = functools.cache(onnxscript_apis.get_torchlib_ops)
    onnxscript_apis.get_torchlib_ops()


def main() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    remember_operators()
    command, *arguments = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.path[0] = str(Path(command).parent)  # as the interpreter has it for a script
    name = Path(command).name
    if name == "python":
        _, program, *arguments = arguments  # -c
        sys.argv = ["-c", *arguments]
        sys.path[0] = ""
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [command, *arguments]
        (entry,) = importlib.metadata.entry_points(group="console_scripts", name=name)
        sys.exit(entry.load()())


if __name__ == "__main__":
    main()
