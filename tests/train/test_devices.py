"""Devices: the chosen one or an error; in a group, one per process."""

import pytest
import torch

from mnist_train.devices import choose_device
from mnist_train.distributed import ProcessGroup
from mnist_train.errors import DeviceError

PAIR = ProcessGroup(rank=1, size=2, local_rank=1, local_size=2)
"""The second of two processes on a machine."""


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_a_device_that_two_processes_would_have_to_share_is_refused(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1 if name == "cuda" else 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(DeviceError, match=f"--device {name} cannot be shared by the 2 processes"):
        choose_device(name, PAIR)


def test_auto_is_the_cpu_for_a_group_without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto", PAIR) == torch.device("cpu")
