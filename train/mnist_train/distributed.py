"""The processes that train one model together: their ranks, their sums, and how one failure ends them all."""

import gc
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # imported later, it would keep the first group as a default argument
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from mnist_runtime import MnistRuntimeError
from mnist_runtime.digits import PIXELS
from mnist_runtime.errors import first_line
from mnist_train.errors import GroupError
from mnist_train.torchrun_env import Rank

T = TypeVar("T")

_TIMEOUT = timedelta(hours=2)  # of a rank that is silent; rank 0 reads a data set on disk once before the first step


@dataclass(frozen=True)
class ProcessGroup(Rank):
    """One process of those that train together; gradients go by DistributedDataParallel, all other values by gloo."""

    run_id: str = ""
    """Id of the torchrun that started the group; empty without torchrun."""
    restarted: bool = False
    """True if this torchrun may have started the group before."""

    @property
    def command(self) -> str:
        """Command that starts the group."""
        return "torchrun ... -m mnist_train" if self.run_id else "mnist-train"

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the module whose backward pass gives every rank the gradient of the whole batch.

        A user's module may leave parameters unused in some steps, even at random, so DistributedDataParallel must look
        for unused parameters in every step.
        """
        if self.size == 1:
            return model
        is_known = type(model).__module__.startswith("mnist_train.") and _backward(model)
        parallel = DistributedDataParallel(model, find_unused_parameters=not is_known)
        if is_known:
            # The first backward pass reorders the buckets; doing it now makes a resumed run sum in the same order.
            _backward(parallel)
        return parallel

    def loss(self, logits: Tensor, labels: Tensor, count: int, smoothing: float = 0.0) -> Tensor:
        """Return the loss of this rank's share of a batch of `count`: the sum over the share, times size / count.

        DistributedDataParallel takes the mean of the ranks' gradients. With these sums, that mean is the gradient of
        the batch even when shares are uneven; with means it is not. The loss of an empty share is 0, not NaN.
        """
        if self.size == 1:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        total = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        return total * (self.size / count)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a scalar over the ranks."""
        return value if self.size == 1 else self.sum(value) / self.size

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over the ranks, on their device."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def share_buffers(self, module: nn.Module) -> None:
        """Give every rank the buffers of rank 0, the statistics of a BatchNorm among them, which are those saved."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def largest(self, number: int) -> int:
        """Return the largest `number` of any rank."""
        return number if self.size == 1 else max(int(each) for each in self.gather(torch.tensor(number)))

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the `values` of every rank, on the CPU and of one shape."""
        if self.size == 1:
            return [values]
        gathered = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(gathered, values)
        return gathered

    def of_main(self, value: T) -> T:
        """Return the `value` of rank 0."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box)
        return box[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait for all ranks at the end of the block; if any failed inside, every rank raises the first rank's error.

        On the other ranks, the sentence names the rank that failed.
        """
        failure: MnistRuntimeError | None = None
        try:
            yield
        except MnistRuntimeError as error:
            if self.size == 1:
                raise
            failure = error
        sentences: list[Any] = [None] * self.size
        if self.size > 1:
            dist.all_gather_object(sentences, failure and str(failure))
        for rank, sentence in enumerate(sentences):
            if sentence is not None:
                raise failure if rank == self.rank and failure else GroupError(f"rank {rank}: {sentence}")


ALONE = ProcessGroup(rank=0, size=1, local_rank=0, local_size=1)
"""A process that torchrun did not start."""


@contextmanager
def join() -> Iterator[ProcessGroup]:
    """Join the group that torchrun's environment describes; without one, this process is alone.

    Raises:
        GroupError: the environment contradicts itself, or another process is gone.
    """
    rank = Rank.from_environment()
    if rank is None:
        yield ALONE
        return
    try:
        _connect(rank)
        yield _started_group(rank)
        dist.barrier()  # because a rank that leaves early looks dead to the others
    except RuntimeError as error:
        if isinstance(error, MnistRuntimeError) or not _is_connection_error(error):
            raise
        raise GroupError(
            f"the processes have lost their connection ({_reason(error)}); torchrun --max-restarts=N restarts them "
            "from the last resumable checkpoint"
        ) from error
    finally:
        _leave()


def _started_group(rank: Rank) -> ProcessGroup:
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    # "none" is torchrun's default, which many runs share. With another id, a new torchrun may count from 0 again.
    restarted = run_id != "none" or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    return ProcessGroup(**asdict(rank), run_id=run_id, restarted=restarted)


def _connect(rank: Rank) -> None:
    """Connect to the other ranks, through the store that torchrun keeps.

    torchrun keeps one store for its lifetime, in which a restarted rank could read its peers' old addresses
    (https://github.com/pytorch/pytorch/issues/135712), so each start uses a prefix of its own. On several machines,
    each torchrun counts its own starts; docs/scale.md shows how to get a new store at every start.
    """
    store, number, size = next(rendezvous("env://", timeout=_TIMEOUT))
    if rank.size == rank.local_size:
        store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    # gloo beside NCCL, because values exchanged between two steps must not wait for the GPU.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=_TIMEOUT)


def _leave() -> None:
    """End the group and gloo's threads, which could abort the process when the interpreter ends.

    The threads live as long as anything refers to the group. A wrapped module does, and so do the frames of an
    exception that passed through it.
    """
    if error := sys.exception():
        traceback.clear_frames(error.__traceback__)
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def _is_connection_error(error: RuntimeError) -> bool:
    """Return True for errors of the connection; gloo raises plain RuntimeErrors that name its source files."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _reason(error: RuntimeError) -> str:
    """Return the first sentence, without its position in gloo's source."""
    return re.sub(r"\[[^]]*:\d+\] ", "", first_line(error)).split(". ")[0]


def _backward(model: nn.Module) -> bool:
    """Run one backward pass from a blank digit and drop the gradients; return True if every parameter had one."""
    model.eval()
    model(torch.zeros(1, PIXELS, device=next(model.parameters()).device)).sum().backward()
    is_whole = all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.zero_grad(set_to_none=True)
    return is_whole
