"""Number of CPUs that this process may use, by its affinity and its container's quota."""

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """Count the CPUs that this process may keep busy, at least 1.

    The least of the CPU affinity (`taskset`, `docker --cpuset-cpus`) and, on Linux, the CPU quota of the process's
    cgroup and of every one above it (`docker --cpus`, Kubernetes limits), rounded up.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([affinity, *(max(1, ceil(quota)) for quota in cgroup_quotas())])


def cgroup_quotas(membership: Path = _MEMBERSHIP, root: Path = _CGROUPS) -> Iterator[float]:
    """Yield the CPU quota of each cgroup from this process's own up to the root; cgroup v2 and v1, Linux only.

    A missing or unreadable file counts as no limit. Files and their syntax: the kernel's
    Documentation/admin-guide/cgroup-v2.rst (`cpu.max`) and scheduler/sched-bwc.rst (`cpu.cfs_quota_us`).
    """
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        hierarchy = root / controllers if controllers else root
        below = PurePosixPath(path.lstrip("/"))
        for folder in (hierarchy / each for each in (below, *below.parents)):
            yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    words = _read(folder / "cpu.max").split() or [
        *_read(folder / "cpu.cfs_quota_us").split(),
        *_read(folder / "cpu.cfs_period_us").split(),
    ]
    if len(words) == 2 and words[0].isdigit():  # "max", or -1 in v1, is no limit
        yield int(words[0]) / int(words[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
