"""A command as a process of its own, and its time and memory."""

import os
import subprocess
import sys
from dataclasses import dataclass

_LAUNCHER = """
import os, sys, time
start = time.perf_counter()
child = os.fork()
if not child:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1), os.dup2(silence, 2)
    os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
print(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, status)
"""
"""A small process that forks the command, because a process's peak memory includes that of its parent at the fork."""


_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Lets Python keep the bytecode of an editable install, as pip does of any other."""


@dataclass(frozen=True)
class Usage:
    """Time and memory of one process from its start to its end."""

    wall: float
    """Time in seconds."""
    cpu: float
    """User and system time of all its threads, in seconds."""
    peak: int
    """Largest resident memory, in bytes."""


def measure(*command: object) -> Usage:
    """Run a command silently and measure it; exit if it fails."""
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *map(str, command)]
    wall, cpu, peak, status = subprocess.check_output(launch, env=_ENVIRONMENT).split()
    if int(status):
        sys.exit(f"{' '.join(map(str, command))} failed")
    return Usage(float(wall), float(cpu), int(peak) * (1 if sys.platform == "darwin" else 1024))
