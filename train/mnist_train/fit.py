"""The lab's training loop, for every model: slices of the data, a loss, a step."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_train.data.batches import Batches, Data, InMemory
from mnist_train.distributed import ALONE, Group
from mnist_train.errors import DivergenceError
from mnist_train.optimizers import Descent, Optimizer, Schedule, constant

CHANCE_LOSS = -math.log(1 / 10)
"""Cross-entropy of guessing ten classes uniformly, 2.303: where an untrained model should start."""

_CHECK_EVERY = 100  # steps: a NaN is seen soon, and the device hardly waited for
_CURVE_POINTS = 100
_EVALUATION_BATCH = 10_000  # digits; bounds memory, and is large enough to keep every core busy


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the training data came to."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean cross-entropy of the batches, each before its own update."""
    valid_loss: float
    valid_accuracy: float
    curve: tuple[float, ...] = ()
    """Mean training loss of up to 100 stretches of the epoch, of equal length, for drawing."""

    def metrics(self) -> dict[str, float]:
        """The numbers, without the curve."""
        return {name: value for name, value in asdict(self).items() if name != "curve"}


@dataclass(slots=True)
class Position:
    """Where a training stands, and so where it can go on from."""

    epoch: int = 1
    """The one being worked on, from 1."""
    step: int = 0
    """Steps done in it."""
    losses: Tensor = field(default_factory=lambda: torch.empty(0))
    """float32, on the model's device: of those steps, with room for the rest of the epoch."""
    history: list[Epoch] = field(default_factory=list)
    """Of the epochs before."""


def fit(  # noqa: PLR0913  # one argument a number, and a hook each for its caller
    model: nn.Module,
    train: Data | Batches,
    valid: Data | Batches,
    *,
    lr: float = 0.5,
    epochs: int = 2,
    batch_size: int = 64,
    optimizer: Optimizer | None = None,
    schedule: Schedule = constant,
    position: Position | None = None,
    group: Group = ALONE,
    on_step: Callable[[], object] = lambda: None,
    on_epoch: Callable[[Epoch], object] = lambda _: None,
) -> list[Epoch]:
    """Train `model` in place by the lab's loop and return a record of each epoch.

    Every step takes the next `batch_size` digits and lets the optimizer move the parameters. The host waits for the
    device once in 100 steps, to see that the loss is still a number, and at the end of each epoch.

    Args:
        model: Takes float32 `[N, 784]` to float32 `[N, 10]`.
        train: Pixels and labels to learn from.
        valid: Pixels and labels to measure on after each epoch.
        lr: Learning rate, > 0.
        epochs: Passes over `train`, >= 1.
        batch_size: Digits a step, >= 1; the last step of an epoch takes what is left.
        optimizer: Moves the parameters; by default each goes by `-lr * gradient`, as in the lab.
        schedule: The share of `lr` to use when a share of all steps is done.
        position: Where to start; kept up to date, so that `on_step` and `on_epoch` can save it.
        group: The processes that train together; `model` is wrapped by it, and the batches are this rank's shares.
        on_step: Called after every step; an exception from it ends the training between two steps.
        on_epoch: Called with the record of every epoch.

    Raises:
        DivergenceError: the loss is not finite any more; it names the epoch, the step and the learning rate.
    """
    train, valid = as_batches(train), as_batches(valid)
    optimizer = optimizer or Descent(model.parameters())
    position = position or Position()
    steps = math.ceil(len(train) / batch_size)
    while position.epoch <= epochs:
        model.train()
        losses = _with_room(position.losses[: position.step], steps, next(model.parameters()).device)
        position.losses = losses
        for pixels, labels in train.epoch(position.epoch, batch_size, position.step):
            count = min(batch_size, len(train) - batch_size * position.step)
            loss = group.loss(model(pixels), labels, count)
            loss.backward()  # type: ignore[no-untyped-call]
            done = (position.epoch - 1) * steps + position.step
            optimizer.step(lr * schedule(done / (epochs * steps)))
            losses[position.step] = group.mean(loss.detach())
            position.step += 1
            if position.step % _CHECK_EVERY == 0:
                _require_finite(position, lr, _CHECK_EVERY)
            on_step()
        _require_finite(position, lr, steps)
        measured = evaluate(model, valid, group)
        epoch = Epoch(position.epoch, _mean(losses, len(train), batch_size), *measured, _curve(losses))
        if not math.isfinite(epoch.valid_loss):
            raise _divergence(epoch.valid_loss, position.epoch, position.step, lr)
        position.history.append(epoch)
        position.epoch, position.step, position.losses = position.epoch + 1, 0, losses[:0]
        on_epoch(epoch)
    return position.history


def as_batches(data: Data | Batches) -> Batches:
    """Take tensors as they are for batches in file order."""
    return InMemory(*data) if isinstance(data, tuple) else data


def _with_room(losses: Tensor, steps: int, device: torch.device) -> Tensor:
    """Room for the losses of an epoch, in one piece: a scalar kept at every step would riddle the heap with holes."""
    room = torch.empty(steps, device=device)
    room[: len(losses)] = losses
    return room


def _require_finite(position: Position, lr: float, last: int) -> None:
    """Look at the `last` losses, all at once: one wait for the device."""
    losses = position.losses[position.step - last : position.step]
    finite = torch.isfinite(losses)
    if not finite.all():
        first = int(finite.int().argmin())
        raise _divergence(float(losses[first]), position.epoch, position.step - len(losses) + first + 1, lr)


def _divergence(loss: float, epoch: int, step: int, lr: float) -> DivergenceError:
    return DivergenceError(
        f"the loss is {loss:g} in epoch {epoch}, step {step}, at learning rate {lr:g}; train with a lower --lr"
    )


def _mean(losses: Tensor, count: int, batch_size: int) -> float:
    """The mean over digits of per-batch means; the last batch may be smaller than the others."""
    sizes = torch.full((len(losses),), float(batch_size), device=losses.device)
    sizes[-1] = count - batch_size * (len(losses) - 1)
    return float(losses @ sizes / count)


def _curve(losses: Tensor) -> tuple[float, ...]:
    stretches = losses.tensor_split(min(_CURVE_POINTS, len(losses)))
    return tuple(torch.stack([stretch.mean() for stretch in stretches]).tolist())


@torch.no_grad()
def evaluate(model: nn.Module, data: Data | Batches, group: Group = ALONE) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of `model` in evaluation mode over pixels and labels, of all ranks of `group`."""
    model.eval()
    data = as_batches(data)
    losses, right = [], []
    for pixels, labels in data.epoch(0, _EVALUATION_BATCH):
        logits = model(pixels)
        losses.append(F.cross_entropy(logits, labels, reduction="sum"))
        right.append(_right(logits, labels).sum())
    sums = torch.stack([torch.stack(each).cpu().double().sum() for each in (losses, right)])
    loss, share = (group.sum(sums) / len(data)).tolist()
    return loss, share


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of rows of `logits` `[N, 10]` whose largest is at their label `[N]`: a scalar without gradient."""
    return _right(logits, labels).float().mean()


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.argmax(dim=1) == labels
