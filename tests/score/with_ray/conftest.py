"""Fixtures of the tests that start a Ray: millions of digits made from the 70,000 real ones, and a Ray of two nodes."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

# Ray makes sockets below this folder, whose paths may have 107 bytes; pytest's own folders are too deep for that.
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray", dir="/tmp")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.pop("RAY_ADDRESS", None)

SCORE = Path(sys.executable).parent / "mnist-score"
TIMEOUT = 900  # seconds, also on a slow machine


@pytest.fixture(scope="session", autouse=True)
def ray_folder() -> Iterator[None]:
    """Remove Ray's folder at the end."""
    yield
    shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def millions(shifted, write_shard, tmp_path_factory) -> Path:
    """A folder of 30 shards with 2,100,000 different digits."""
    folder = tmp_path_factory.mktemp("millions")
    for k in range(30):
        write_shard(folder / f"shift={k:02}" / "digits.parquet", shifted(k), first=70_000 * k)
    return folder


@pytest.fixture(scope="session")
def check_all(shifted, plain) -> Callable[[Path], None]:
    """Function that compares an output of `millions` with the plain runtime, row by row."""
    wanted = [(plain.predict(shifted(k)), plain.predict_proba(shifted(k))) for k in range(30)]

    def check(output: Path) -> None:
        files = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
        assert files == ["_manifest.json", *(f"shift={k:02}/digits.parquet" for k in range(30))]
        for k, (labels, probabilities) in enumerate(wanted):
            table = pq.ParquetFile(output / f"shift={k:02}" / "digits.parquet").read()
            assert np.array_equal(table["number"].to_numpy(), np.arange(70_000 * k, 70_000 * (k + 1)))
            assert np.array_equal(table["label"].to_numpy(), labels)
            assert np.array_equal(table["probability"].to_numpy(), probabilities.max(axis=1))

    return check


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[str]:
    """Address of a Ray of two nodes with one CPU each, as real processes on this machine."""
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    cluster.add_node(**options)
    cluster.wait_for_nodes()
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def home(tmp_path_factory) -> Path:
    """An empty HOME."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def start(home) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Function that starts mnist-score as a process; it is killed if it still runs at the end of the test."""
    ours = {"MNIST_MODEL", "RAY_USAGE_STATS_ENABLED"}
    started = []

    def start(*arguments: object) -> "subprocess.Popen[str]":
        clean = {key: value for key, value in os.environ.items() if key not in ours}
        started.append(
            subprocess.Popen(
                [SCORE, *map(str, arguments)],
                env={**clean, "HOME": str(home), "MNIST_MODEL": "linear"},  # fast, for millions of digits
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def score(start) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Function that runs mnist-score to its end."""

    def score(*arguments: object) -> "subprocess.CompletedProcess[str]":
        process = start(*arguments)
        stdout, stderr = process.communicate(timeout=TIMEOUT)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    return score
