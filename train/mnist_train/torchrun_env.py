"""The environment that torchrun gives each process of a group: its rank, and the address of rank 0."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from mnist_train.errors import GroupError

_ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PORTS = 2**16


@dataclass(frozen=True)
class Rank:
    """One process of a group."""

    rank: int
    """Number of this process, from 0."""
    size: int
    """Number of processes."""
    local_rank: int
    """Number of this process on this machine, from 0."""
    local_size: int
    """Number of processes on this machine."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self | None:
        """Return the rank of this process, or None if torchrun did not start it.

        Raises:
            GroupError: the environment is incomplete or contradicts itself, so connecting would only time out.
        """
        given = environ.keys() & set(_ENVIRONMENT)
        if not given & {"RANK", "WORLD_SIZE"}:
            return None
        if missing := [name for name in _ENVIRONMENT if name not in given]:
            raise GroupError(
                f"the environment sets {', '.join(sorted(given))}, as for one of several processes, but not "
                f"{', '.join(missing)}; start with torchrun, or unset the first to train in this process alone"
            )
        if not environ["MASTER_ADDR"]:
            raise GroupError("MASTER_ADDR is empty, not the address of rank 0; start with torchrun, which sets it")
        numbers = {name: _whole(name, environ[name]) for name in _ENVIRONMENT if name != "MASTER_ADDR"}
        for name, count in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
            if numbers[name] >= numbers[count]:
                raise GroupError(
                    f"{name} is {numbers[name]} of {count} {numbers[count]}, and counts from 0; start with torchrun, "
                    "which sets both"
                )
        rank, local_rank, size, local_size, port = numbers.values()
        if local_size > size:
            raise GroupError(f"LOCAL_WORLD_SIZE is {local_size}, of WORLD_SIZE {size}; start with torchrun")
        if port >= _PORTS:
            raise GroupError(f"MASTER_PORT is {port}, and ports end at {_PORTS - 1}; start with torchrun")
        return cls(rank, size, local_rank, local_size)


def _whole(name: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 10):
        raise GroupError(f"{name} is {value[:20]!r}, and must be a whole number; start with torchrun")
    return int(value)
