"""Devices and threads that a model is trained on."""

import torch
from torch import nn

from mnist_train.distributed import ALONE, ProcessGroup
from mnist_train.errors import DeviceError

_THREADS_PAY_FROM = 100_000
"""Parameters from which two threads are faster: by a third for the MLP, of 936,330, and not for the linear model."""


def choose_device(name: str, group: ProcessGroup = ALONE) -> torch.device:
    """Return the device named "auto", "cpu", "cuda", "cuda:N" or "mps"; in a group, a CUDA device per process.

    Raises:
        DeviceError: torch does not find the device, or the processes of a group cannot share it.
    """
    if name == "auto":
        has_mps = torch.backends.mps.is_available() and group is ALONE
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    kind, _, index = name.partition(":")
    count = {"cpu": 1, "mps": int(torch.backends.mps.is_available()), "cuda": torch.cuda.device_count()}[kind]
    found = f"{count or 'no'} {kind.upper()} device{'' if count == 1 else 's'}"
    if int(index or 0) >= count:
        raise DeviceError(f"--device {name} was asked for and torch finds {found}; use --device cpu or auto")
    if group is ALONE or name == "cpu":
        return torch.device(name)
    if name != "cuda" or count < group.local_size:
        raise DeviceError(
            f"--device {name} cannot be shared by the {group.local_size} processes of torchrun on this machine, and "
            f"torch finds {found}; use --device cuda with one GPU per process, or --device cpu"
        )
    torch.cuda.set_device(group.local_rank)  # NCCL uses the current device
    return torch.device(name, group.local_rank)


def limit_threads(model: nn.Module) -> None:
    """Use one thread for the steps of a small model.

    More threads hardly help the linear model, and PyTorch's threads spin while they wait: beside another process on the
    same cores, it trained 10 to 30 times slower. One thread also rounds alike on any number of cores.
    """
    if sum(p.numel() for p in model.parameters()) < _THREADS_PAY_FROM:
        torch.set_num_threads(1)
