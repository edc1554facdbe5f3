"""A pool of scorers on a Ray that is started on this machine, or joined, and kept silent."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict

import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from mnist_runtime.cpus import usable_cpus
from mnist_runtime.errors import first_line
from mnist_score.errors import ClusterError
from mnist_score.job import Shard
from mnist_score.scorer import Report, Scorer

_AUTHENTICATION = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
_STORE = 80 * 2**20  # bytes of Ray's object store, which holds the shards' names and the reports, and never digits
_TIMEOUT = 10.0  # seconds to reach a Ray that is joined
_TRIES = 5  # per shard: enough for nodes that come and go, and few for a shard that kills every scorer
_MAX_BLOCKS = 10_000  # blocks of shards; each costs the driver some KiB and a millisecond


@contextlib.contextmanager
def joined(address: str | None, actors: int | None) -> Iterator[tuple[int, str]]:
    """Join the Ray at `address`; without an address start a Ray on this machine, with one CPU per actor.

    Yields the number of CPUs of all its nodes, and its name for messages.

    Inside the block, the file descriptors of stdout and stderr are silenced, because Ray's processes and threads write
    there (their logs stay in Ray's session folder); only `sys.stderr` still works.

    Raises:
        ClusterError: Ray cannot be joined or started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local = {} if address else {"num_cpus": actors or usable_cpus(), "object_store_memory": _STORE}
    if not address and not os.environ.keys() & _AUTHENTICATION:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # otherwise Ray leaves a token in the user's home
    with _private_stderr():
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
                f"{what} ({first_line(error)}); start a Ray with ray start, or see that its GCS can be reached{hint}"
            ) from error
        try:
            nodes = sum(node["Alive"] for node in ray.nodes())
            name = f"the {nodes} node{'' if nodes == 1 else 's'} at {address}" if address else "this machine"
            yield int(ray.cluster_resources().get("CPU", 1)), name
        finally:
            with _unstoppable():
                ray.shutdown()


def score(shards: list[Shard], scorer: tuple[object, ...], actors: int) -> Iterator[Report]:
    """Score `shards`, the largest first, with a pool of `actors` scorers that are made with the arguments `scorer`.

    A shard whose scorer dies is tried `_TRIES` times. A shard whose scorers all die, or that Ray loses, has no last
    report.

    Raises:
        ClusterError: Ray gave up; the shards that are scored stay scored.
    """
    _log_to_file_alone()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # unlimited: the shards of other blocks are scored
    context.target_max_block_size = 1  # so that each report is a block, and arrives at once
    # The largest first, so that all scorers end at nearly the same time.
    items = [asdict(shard) for shard in sorted(shards, key=lambda shard: -shard.size)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RayDeprecationWarning)  # there is no other way to set max_task_retries yet
            reports = ray.data.from_items(items, override_num_blocks=min(len(items), _MAX_BLOCKS)).map_batches(
                Scorer,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=actors),
                fn_constructor_args=scorer,
                num_cpus=1,
                max_task_retries=_TRIES - 1,
            )
        for report in reports.iter_rows():
            yield Report(**report)
    except ExecutionTimeoutError as error:
        raise ClusterError(
            f"no scorer has reported for {context.execution_no_progress_timeout_s:,.0f} s, perhaps because no CPU is "
            "free; run again to score the rest"
        ) from error
    except (RayError, SystemException) as error:
        raise ClusterError(f"Ray gave up ({first_line(error)}); run again to score the rest") from error


@contextlib.contextmanager
def _unstoppable() -> Iterator[None]:
    """Ignore a second Ctrl-C or SIGTERM, which would leave Ray's processes running."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_reachable(address: str | None) -> None:
    """Connect to HOST:PORT once, because Ray itself would retry for many minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "://" not in host:
        socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT).close()


def _log_to_file_alone() -> None:
    """Keep Ray Data's log off stderr, because its threads log a traceback when the scorer dies that they wait for."""
    logger = logging.getLogger("ray.data")
    for handler in [each for each in logger.handlers if isinstance(each, logging.StreamHandler)]:
        logger.removeHandler(handler)


@contextlib.contextmanager
def _private_stderr() -> Iterator[None]:
    """Point the file descriptors of stdout and stderr at the null device, and `sys.stderr` at the real one."""
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
