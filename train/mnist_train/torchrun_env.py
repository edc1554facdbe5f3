"""What torchrun tells each process of a group in its environment: which rank it is, and where the others meet."""

import os
from dataclasses import dataclass
from typing import Self

from mnist_train.errors import GroupError

_ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PORTS = 2**16


@dataclass(frozen=True)
class Rank:
    """One process of a group."""

    rank: int
    """From 0."""
    size: int
    """Processes."""
    local_rank: int
    """Among those of this machine, from 0."""
    local_size: int
    """Processes on this machine."""

    @classmethod
    def told(cls) -> Self | None:
        """Which one this process is; None if it is alone.

        Raises:
            GroupError: the environment tells half of it, or what makes no sense: it would wait for the others in vain.
        """
        told = os.environ.keys() & set(_ENVIRONMENT)
        if not told & {"RANK", "WORLD_SIZE"}:
            return None
        if missing := [name for name in _ENVIRONMENT if name not in told]:
            raise GroupError(
                f"the environment gives {', '.join(sorted(told))}, as to one of several processes, "
                f"but not {', '.join(missing)}; start them with torchrun, or unset the first to train in this process "
                "alone"
            )
        if not os.environ["MASTER_ADDR"]:
            raise GroupError("MASTER_ADDR is empty, and must be where rank 0 is; start with torchrun, which sets it")
        rank, size = _within("RANK", "WORLD_SIZE")
        local_rank, local_size = _within("LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if local_size > size:
            raise GroupError(f"LOCAL_WORLD_SIZE is {local_size}, of WORLD_SIZE {size}; start with torchrun")
        if _whole("MASTER_PORT") >= _PORTS:
            raise GroupError(f"MASTER_PORT is {os.environ['MASTER_PORT']}, and ports end at {_PORTS - 1}")
        return cls(rank, size, local_rank, local_size)


def _within(of_this: str, of_all: str) -> tuple[int, int]:
    number, count = _whole(of_this), _whole(of_all)
    if number >= count:
        raise GroupError(
            f"{of_this} is {number} of {of_all} {count}, and counts from 0; start with torchrun, which sets both"
        )
    return number, count


def _whole(name: str) -> int:
    value = os.environ[name]
    if not (value.isascii() and value.isdecimal() and len(value) < 10):
        raise GroupError(f"{name} is {value[:20]!r}, and must be a whole number; start with torchrun")
    return int(value)
