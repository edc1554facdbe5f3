"""The processes that train one model together, as torchrun starts them: who each is, and what they tell one another."""

import gc
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before a group is there: its functions would have it, for ever, as a default
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from mnist_runtime import MnistRuntimeError
from mnist_runtime.digits import PIXELS
from mnist_train.errors import GroupError
from mnist_train.torchrun_env import Rank

T = TypeVar("T")

_PATIENCE = timedelta(
    hours=2
)  # for a rank that is silent: rank 0 reads a mapped data set through before the first step


class Group:
    """One process alone: every batch is all its own, and what it knows everybody knows."""

    command: ClassVar[str] = "mnist-train"
    """How it is started."""
    rank: int = 0
    """Of this process, from 0; rank 0 speaks and writes for all."""
    size: int = 1
    """Processes."""
    local_rank: int = 0
    """Of this process among those of this machine."""
    local_size: int = 1
    """Processes on this machine."""
    run_id: str = ""
    """Of the torchrun that starts the group, and starts it anew when a process dies; empty without."""
    restarted: bool = False
    """Whether this torchrun may have started the group before."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module whose backward pass gives every rank the gradient of the whole batch."""
        return model

    def loss(self, logits: Tensor, labels: Tensor, count: int) -> Tensor:
        """The loss of this rank's share of a batch of `count`; its mean over the ranks is the mean of the batch."""
        del count
        return F.cross_entropy(logits, labels)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over the ranks."""
        return value

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values`, on the CPU, over the ranks."""
        return values

    def largest(self, number: int) -> int:
        """The largest `number` of any rank."""
        return number

    def gather(self, values: Tensor) -> list[Tensor]:
        """The `values`, on the CPU and of one shape, of every rank."""
        return [values]

    def of_main(self, value: T) -> T:
        """The `value` of rank 0."""
        return value

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave the block when every rank came through it; else raise, at all, what stopped the first of them."""
        yield


ALONE = Group()


class TorchrunGroup(Group):
    """The processes that torchrun started: gradients by DistributedDataParallel, everything else over gloo."""

    command = "torchrun ... -m mnist_train"

    def __init__(self, place: Rank) -> None:
        self.rank, self.size = place.rank, place.size
        self.local_rank, self.local_size = place.local_rank, place.local_size
        self.run_id = os.environ.get("TORCHELASTIC_RUN_ID", "none")
        # "none" is torchrun's own default, and so of many runs. Where it is not, a new agent may count from 0 again.
        self.restarted = self.run_id != "none" or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"

    def wrap(self, model: nn.Module) -> nn.Module:
        """Wrap it in DistributedDataParallel, on the device where it is.

        Of a module that is not ours nobody knows which parameters have a part in a step, for that may depend on chance.
        """
        is_known = type(model).__module__.startswith("mnist_train.") and _backward(model)
        parallel = DistributedDataParallel(model, find_unused_parameters=not is_known)
        if is_known:
            # After the first, it orders its buckets anew: here, so that a resumed run adds up alike.
            _backward(parallel)
        return parallel

    def loss(self, logits: Tensor, labels: Tensor, count: int) -> Tensor:
        """The sum over the share, times size / count.

        DistributedDataParallel takes the mean of the ranks' gradients, and of these that is the gradient of the batch,
        however uneven the shares; of their means it would not be. Of an empty share it is 0, and not NaN.
        """
        return F.cross_entropy(logits, labels, reduction="sum") * (self.size / count)

    def mean(self, value: Tensor) -> Tensor:
        """As `Group.mean`, on the device of `value`."""
        total = value.clone()
        dist.all_reduce(total)
        return total / self.size

    def sum(self, values: Tensor) -> Tensor:
        """As `Group.sum`."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    def largest(self, number: int) -> int:
        """As `Group.largest`."""
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def gather(self, values: Tensor) -> list[Tensor]:
        """As `Group.gather`."""
        gathered = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(gathered, values)
        return gathered

    def of_main(self, value: T) -> T:
        """As `Group.of_main`."""
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """As `Group.together`; the sentence says which rank it is of, unless it is rank 0's."""
        failure: MnistRuntimeError | None = None
        try:
            yield
        except MnistRuntimeError as error:
            failure = error
        sentences: list[Any] = [None] * self.size
        dist.all_gather_object(sentences, failure and str(failure))
        for rank, sentence in enumerate(sentences):
            if sentence is not None:
                raise failure if rank == self.rank and failure else GroupError(f"rank {rank}: {sentence}")


@contextmanager
def join() -> Iterator[Group]:
    """Join the group that the environment tells of, as torchrun sets it; without one, this process is alone.

    Raises:
        GroupError: the environment makes no sense, or another process is gone.
    """
    place = Rank.told()
    if place is None:
        yield ALONE
        return
    try:
        _connect(place)
        yield TorchrunGroup(place)
        dist.barrier()  # a rank that leaves before the others looks to them like one that died
    except RuntimeError as error:
        if isinstance(error, MnistRuntimeError) or not _is_of_connection(error):
            raise
        raise GroupError(
            f"the processes have lost one another ({_reason(error)}); torchrun --max-restarts=N starts them again from "
            "the last resumable checkpoint"
        ) from error
    finally:
        _leave()


def _connect(place: Rank) -> None:
    """Connect to the other ranks, through the store that torchrun keeps.

    It keeps one store for as long as it runs, and a rank that is started anew could read there where its peers were
    before (https://github.com/pytorch/pytorch/issues/135712), so each start has its own part of it. On several machines
    each torchrun counts starts for itself, and docs/scale.md says how to have a new store at every start.
    """
    store, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
    if place.size == place.local_size:
        store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    # Both: what the ranks tell one another between two steps must not wait for the GPU.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)


def _leave() -> None:
    """End the group, and with it gloo's threads: at the interpreter's end they may abort the process.

    They live as long as anything refers to the group, as a wrapped module does, and the frames that an exception comes
    from refer to that.
    """
    if error := sys.exception():
        traceback.clear_frames(error.__traceback__)
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def _is_of_connection(error: RuntimeError) -> bool:
    """Whether it is of the connection, and not of the module; gloo's are plain RuntimeErrors that name its files."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _reason(error: RuntimeError) -> str:
    """Its first sentence, without the place in somebody else's source."""
    return re.sub(r"\[[^]]*:\d+\] ", "", str(error).splitlines()[0]).split(". ")[0]


def _backward(model: nn.Module) -> bool:
    """Go backwards once, from a blank digit, which changes nothing; whether every parameter had a part in it."""
    model.eval()
    model(torch.zeros(1, PIXELS, device=next(model.parameters()).device)).sum().backward()
    is_whole = all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.zero_grad(set_to_none=True)
    return is_whole
