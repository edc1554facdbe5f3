"""Optimizers, which update the parameters, and schedules of the learning rate."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Descent:
    """The lab's update, `p -= lr * p.grad`, which keeps no state."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        # Detached tensors share the memory and record no gradients, without the cost of torch.no_grad() at every step.
        self._pairs = [(p, p.detach()) for p in parameters]

    def step(self, lr: float) -> None:
        """Subtract `lr` times the gradient from every parameter that has one."""
        for p, values in self._pairs:
            if p.grad is not None:
                values -= p.grad * lr
                p.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Do nothing."""


class TorchOptimizer:
    """An optimizer of `torch.optim` whose learning rate is set at every step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def step(self, lr: float) -> None:
        """Update every parameter as the optimizer does."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Return the buffers, named `parameter.buffer`: `0.momentum_buffer`."""
        state = self._optimizer.state_dict()["state"]
        return {
            f"{index}.{name}": value
            for index, buffers in state.items()
            for name, value in buffers.items()
            if isinstance(value, Tensor)
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the buffers that `tensors` returned."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        groups: list[dict[str, Any]] = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


Optimizer = Descent | TorchOptimizer
"""Update of parameters by their gradients, which it then clears."""


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], *, momentum: float = 0.0, weight_decay: float = 0.0
) -> Optimizer:
    """Make "plain", "sgd" (with `momentum`) or "adamw"; the last two take `weight_decay`."""
    match name:
        case "sgd":
            return TorchOptimizer(torch.optim.SGD(parameters, momentum=momentum, weight_decay=weight_decay))
        case "adamw":
            return TorchOptimizer(torch.optim.AdamW(parameters, weight_decay=weight_decay))
    return Descent(parameters)


Schedule = Callable[[float], float]
"""Factor on the learning rate as a function of the share of steps done, 0 to 1."""


def constant(_: float) -> float:
    """Return 1 throughout."""
    return 1.0


def cosine(done: float) -> float:
    """Return 1 at the start and 0 at the end, along half a cosine (Loshchilov & Hutter 2017, SGDR, without restarts).

    >>> [round(cosine(done), 2) for done in (0, 0.25, 0.5, 1)]
    [1.0, 0.85, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * done)) / 2


def one_cycle(done: float) -> float:
    """Rise from 0 to 1 in the first 30 % of the run and fall back to 0, along cosines (Smith and Topin 2019).

    >>> [round(one_cycle(done), 2) for done in (0, 0.15, 0.3, 0.65, 1)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    return 1 - cosine(done / _WARM_UP) if done < _WARM_UP else cosine((done - _WARM_UP) / (1 - _WARM_UP))


_WARM_UP = 0.3  # of the run

SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine, "one-cycle": one_cycle}
"""Schedules by their names for `--schedule`."""
