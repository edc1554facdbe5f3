"""The lab's training loop: plain gradient descent on slices of the data, in file order."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_train.errors import DivergenceError

CHANCE_LOSS = -math.log(1 / 10)
"""Cross-entropy of guessing ten classes uniformly, 2.303: where an untrained model should start."""

_EVALUATION_BATCH = 10_000  # digits; bounds memory, and is large enough to keep every core busy

Data = tuple[Tensor, Tensor]
"""Pixels float32 `[N, 784]` and labels int64 `[N]`, on the model's device."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the training data came to."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean cross-entropy of the batches, each before its own update."""
    valid_loss: float
    valid_accuracy: float


def fit(
    model: nn.Module,
    train: Data,
    valid: Data,
    *,
    lr: float = 0.5,
    epochs: int = 2,
    batch_size: int = 64,
    on_step: Callable[[], object] = lambda: None,
    on_epoch: Callable[[Epoch], object] = lambda _: None,
) -> list[Epoch]:
    """Train `model` in place by the lab's loop and return a record of each epoch.

    Every step takes the next `batch_size` digits in order and moves each parameter `p` by `-lr * p.grad`.
    Nothing waits for the device within an epoch.

    Args:
        model: Takes float32 `[N, 784]` to float32 `[N, 10]`.
        train: Pixels and labels to learn from.
        valid: Pixels and labels to measure on after each epoch.
        lr: Learning rate, > 0.
        epochs: Passes over `train`, >= 1.
        batch_size: Digits a step, >= 1; the last step of an epoch takes what is left.
        on_step: Called after every step.
        on_epoch: Called with the record of every epoch.

    Raises:
        DivergenceError: an epoch ended with a loss that is not finite.
    """
    pixels, labels = train
    parameters = list(model.parameters())
    history = []
    for number in range(1, epochs + 1):
        model.train()
        losses = []
        for start in range(0, len(pixels), batch_size):
            batch = slice(start, start + batch_size)
            loss = F.cross_entropy(model(pixels[batch]), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            _descend(parameters, lr)
            losses.append(loss.detach())
            on_step()
        epoch = Epoch(number, _mean(losses, len(pixels), batch_size), *evaluate(model, valid))
        if not math.isfinite(epoch.train_loss + epoch.valid_loss):
            raise DivergenceError(
                f"the loss is {epoch.train_loss:g} in epoch {number} at learning rate {lr:g}; train with a lower --lr"
            )
        history.append(epoch)
        on_epoch(epoch)
    return history


def _descend(parameters: list[nn.Parameter], lr: float) -> None:
    with torch.no_grad():
        for p in parameters:
            if p.grad is not None:
                p -= p.grad * lr  # type: ignore[misc]
                p.grad = None


def _mean(losses: list[Tensor], count: int, batch_size: int) -> float:
    """The mean over digits of per-batch means; the last batch may be smaller than the others."""
    sizes = torch.full((len(losses),), float(batch_size), device=losses[0].device)
    sizes[-1] = count - batch_size * (len(losses) - 1)
    return float(torch.stack(losses) @ sizes / count)


@torch.no_grad()
def evaluate(model: nn.Module, data: Data) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of `model` in evaluation mode over pixels and labels."""
    model.eval()
    pixels, labels = data
    loss, right = 0.0, 0.0
    for start in range(0, len(pixels), _EVALUATION_BATCH):
        batch = slice(start, start + _EVALUATION_BATCH)
        logits = model(pixels[batch])
        loss += F.cross_entropy(logits, labels[batch], reduction="sum").item()
        right += accuracy(logits, labels[batch]).item() * len(logits)
    return loss / len(pixels), right / len(pixels)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of rows of `logits` `[N, 10]` whose largest is at their label `[N]`: a scalar without gradient."""
    return (logits.argmax(dim=1) == labels).float().mean()
