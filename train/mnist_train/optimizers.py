"""How a step moves the parameters, and at which learning rate."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Optimizer(Protocol):
    """Moves parameters by their gradients, and forgets the gradients."""

    def step(self, lr: float) -> None:
        """Move every parameter once at learning rate `lr`."""

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers from step to step, by name."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors()` gave."""


class Descent:
    """The lab's update, `p -= lr * p.grad`: nothing to remember, and nothing between the loop and the arithmetic."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        # Detached, they are the same memory without a history: what torch.no_grad() costs is saved at every step.
        self._pairs = [(p, p.detach()) for p in parameters]

    def step(self, lr: float) -> None:
        """Move every parameter that has a gradient by `-lr` times it."""
        for p, values in self._pairs:
            if p.grad is not None:
                values -= p.grad * lr
                p.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing to take up."""


class TorchOptimizer:
    """Any of `torch.optim`, its learning rate set at every step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def step(self, lr: float) -> None:
        """Move every parameter as the optimizer does."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Its buffers, named `parameter.buffer`, as `0.momentum_buffer`."""
        state = self._optimizer.state_dict()["state"]
        return {
            f"{index}.{name}": value
            for index, buffers in state.items()
            for name, value in buffers.items()
            if isinstance(value, Tensor)
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up the buffers that `tensors()` gave."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        groups: list[dict[str, Any]] = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


OPTIMIZERS = ("plain", "sgd", "adamw")
"""What `--optimizer` names: the lab's own update, and two of torch.optim."""


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
"""From the share of the training that is done, 0 to 1, to the share of the learning rate to use."""


def constant(_: float) -> float:
    """The learning rate as it was given, all the way."""
    return 1.0


def cosine(done: float) -> float:
    """From 1 to 0 along half a cosine (Loshchilov & Hutter 2017, SGDR, without restarts).

    >>> [round(cosine(done), 2) for done in (0, 0.25, 0.5, 1)]
    [1.0, 0.85, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * done)) / 2


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine}
"""What `--schedule` names."""
