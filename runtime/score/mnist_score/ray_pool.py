"""Ray, started on this machine or joined where it runs, and kept from talking over us."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from mnist_runtime.cpus import usable_cpus
from mnist_runtime.errors import ClusterError
from mnist_score.scorer import Report, Scorer
from mnist_score.shards import Shard
from mnist_score.storage import reason

_AUTHENTICATION = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
_STORE = 80 * 2**20  # bytes; shards' names and reports go through Ray's object store, digits never do
_PATIENCE = 10.0  # seconds, to reach a Ray that is to be joined
_TRIES = 5  # of a shard: enough for nodes that come and go, and soon over with one that kills whoever takes it
_MOST_BLOCKS = 10_000  # that shards are handed out in: each costs the driver some KiB, and a millisecond


@dataclass(frozen=True)
class Cluster:
    """A Ray that is running."""

    cpus: int
    """Of all its nodes."""
    name: str
    """What to call it."""


@contextlib.contextmanager
def joined(address: str | None, actors: int | None) -> Iterator[Cluster]:
    """Join the Ray at `address`, or without one start a Ray on this machine with a CPU for each of `actors`.

    Until it is left, what is written to the file descriptors of stdout and stderr is lost, for Ray's processes and
    threads write there when it suits them (their logs stay in Ray's session folder); `sys.stderr` works as ever.

    Raises:
        ClusterError: that cannot be done.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local = {} if address else {"num_cpus": actors or usable_cpus(), "object_store_memory": _STORE}
    if not address and not os.environ.keys() & _AUTHENTICATION:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # or Ray would leave one in the user's home
    with _stderr_for_us_alone():
        try:
            _check_reachable(address)
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **local,
            )
        except (RayError, OSError, RuntimeError, ValueError) as error:
            what = f"the Ray at {address} cannot be joined" if address else "no Ray can be started here"
            hint = "; if it asks for a token, set RAY_AUTH_MODE=token" if address else ""
            raise ClusterError(
                f"{what} ({reason(error)}); start one with ray start, or see that its GCS can be reached{hint}"
            ) from error
        try:
            nodes = sum(node["Alive"] for node in ray.nodes())
            name = f"the {nodes} node{'' if nodes == 1 else 's'} at {address}" if address else "this machine"
            yield Cluster(int(ray.cluster_resources().get("CPU", 1)), name)
        finally:
            with _unstoppable():
                ray.shutdown()


def score(shards: list[Shard], scorer: dict[str, object], actors: int) -> Iterator[Report]:
    """Have a pool of `actors` scorers, made with the arguments `scorer`, score `shards`, the largest first.

    A shard whose scorer dies is tried again, up to `_TRIES` times; one that fails to the last gets no report, as
    one that Ray itself has lost.

    Raises:
        ClusterError: Ray has given up; what is done stays done.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # whose shards are then without an answer, and nothing else
    context.target_max_block_size = 1  # a report is a block, and so is here as soon as it is made
    largest_first = sorted(shards, key=lambda shard: -shard.size)  # so that all scorers end at about the same time
    try:
        items = [asdict(shard) for shard in largest_first]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RayDeprecationWarning)  # there is no other way to say max_task_retries yet
            reports = ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS)).map_batches(
                Scorer,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=actors),
                fn_constructor_kwargs=scorer,
                num_cpus=1,
                max_task_retries=_TRIES - 1,
            )
        for report in reports.iter_rows():
            yield Report(**report)
    except ExecutionTimeoutError as error:
        raise ClusterError(
            f"no scorer has said anything for {context.execution_no_progress_timeout_s:,.0f} s, as where no CPU is "
            "free; what is done stays done, and the next run tries the rest"
        ) from error
    except (RayError, SystemException) as error:
        raise ClusterError(f"Ray gave up ({reason(error)}); run again, and what is done stays done") from error


@contextlib.contextmanager
def _unstoppable() -> Iterator[None]:
    """Take no notice of a second Ctrl-C or SIGTERM: Ray's processes would be left running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_reachable(address: str | None) -> None:
    """Try a connection to HOST:PORT: Ray itself would try for many minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "://" not in host:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()


@contextlib.contextmanager
def _stderr_for_us_alone() -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    ours, stdout = os.dup(2), os.dup(1)
    theirs = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(theirs, 1)
        os.dup2(theirs, 2)
        stream = open(ours, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        with stream, contextlib.redirect_stderr(stream):
            yield
    finally:
        os.dup2(stdout, 1)
        os.dup2(ours, 2)
        for descriptor in (ours, stdout, theirs):
            os.close(descriptor)
