"""A command run as a process of its own, and what it took."""

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
"""A process's peak memory counts that of the process that forked it, so a small one does."""


_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Lets Python keep the bytecode of an editable install, as pip does of any other."""


@dataclass(frozen=True)
class Usage:
    """What one process took from its start to its end."""

    wall: float
    """In seconds."""
    cpu: float
    """User and system time of all its threads, in seconds."""
    peak: int
    """Largest resident memory, in bytes."""


def measure(*command: object) -> Usage:
    """Run a command, silently, and measure it; end this benchmark where it fails."""
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *map(str, command)]
    wall, cpu, peak, status = subprocess.check_output(launch, env=_ENVIRONMENT).split()
    if int(status):
        sys.exit(f"{' '.join(map(str, command))} failed")
    return Usage(float(wall), float(cpu), int(peak) * (1 if sys.platform == "darwin" else 1024))
