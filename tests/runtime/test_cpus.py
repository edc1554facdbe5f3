"""The number of usable CPUs: affinity, and the quotas of cgroup v1 and v2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_runtime.cpus import cgroup_quotas, usable_cpus
from mnist_runtime.model.session import SessionSettings


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_auto_threads_respect_the_affinity():
    program = (
        "import os; from mnist_runtime.cpus import usable_cpus; os.sched_setaffinity(0, {%d}); print(usable_cpus())"
    )
    cpu = min(os.sched_getaffinity(0))
    assert subprocess.check_output([sys.executable, "-c", program % cpu]) == b"1\n"
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))
    assert SessionSettings(threads="auto").thread_count == usable_cpus()


def cgroups(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("membership", "files", "quotas"),
    [
        ("0::/pod/app\n", {"cg/pod/app/cpu.max": "max 100000\n", "cg/pod/cpu.max": "150000 100000\n"}, [1.5]),
        ("0::/\n", {"cg/cpu.max": "50000 100000\n"}, [0.5]),
        (
            "4:memory:/m\n3:cpu,cpuacct:/app\n",
            {"cg/cpu,cpuacct/app/cpu.cfs_quota_us": "200000\n", "cg/cpu,cpuacct/app/cpu.cfs_period_us": "100000\n"},
            [2.0],
        ),
        ("3:cpu:/\n", {"cg/cpu/cpu.cfs_quota_us": "-1\n", "cg/cpu/cpu.cfs_period_us": "100000\n"}, []),
        ("", {}, []),
    ],
)
def test_auto_threads_read_the_quota_of_every_cgroup_above(tmp_path, membership, files, quotas):
    folder = cgroups(tmp_path, {"self": membership, **files})
    assert list(cgroup_quotas(folder / "self", folder / "cg")) == quotas


def test_auto_threads_are_no_more_than_the_quota(monkeypatch):
    monkeypatch.setattr("mnist_runtime.cpus.cgroup_quotas", lambda: iter([7.5, 0.5]))
    assert usable_cpus() == 1
