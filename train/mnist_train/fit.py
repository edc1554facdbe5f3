"""The lab's training loop for every model: a batch, a loss, a step."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_runtime.digits import CLASSES
from mnist_runtime.errors import first_line
from mnist_train.averaging import WeightAverage
from mnist_train.data.batches import Batches, Data, InMemory
from mnist_train.distributed import ALONE, ProcessGroup
from mnist_train.errors import DivergenceError, ModelError
from mnist_train.optimizers import Descent, Optimizer, Schedule, constant

CHANCE_LOSS = -math.log(1 / 10)
"""Cross-entropy of guessing among ten classes, 2.303, where an untrained model should start."""

_CHECK_EVERY = 100  # steps; each check waits for the device
_CURVE_POINTS = 100
_EVALUATION_BATCH = 10_000  # digits whose losses are added as float32
_FORWARD = 500  # digits; the layers of a convolutional network of so many still fit the cache


@dataclass(frozen=True, slots=True)
class Epoch:
    """Record of one pass over the training data."""

    epoch: int
    """Number of the epoch, from 1."""
    train_loss: float
    """Mean cross-entropy per digit; each batch is measured before its own update."""
    valid_loss: float
    valid_accuracy: float
    curve: tuple[float, ...] = ()
    """Mean training loss in each of up to 100 equal parts of the epoch, for drawing."""

    def metrics(self) -> dict[str, float]:
        """Return the numbers without the curve."""
        return {name: value for name, value in asdict(self).items() if name != "curve"}


@dataclass(slots=True)
class Position:
    """Progress of a training, from which it can be continued."""

    epoch: int = 1
    """Number of the current epoch, from 1."""
    step: int = 0
    """Steps done in the current epoch."""
    losses: Tensor = field(default_factory=lambda: torch.empty(0))
    """Losses of these steps, float32 on the model's device, with room for the rest of the epoch."""
    history: list[Epoch] = field(default_factory=list)
    """Records of the finished epochs."""


def fit(  # noqa: PLR0913  # one argument per number and per hook
    model: nn.Module,
    train: Data | Batches,
    valid: Data | Batches,
    *,
    lr: float = 0.5,
    epochs: int = 2,
    batch_size: int = 64,
    optimizer: Optimizer | None = None,
    schedule: Schedule = constant,
    label_smoothing: float = 0.0,
    average: WeightAverage | None = None,
    position: Position | None = None,
    group: ProcessGroup = ALONE,
    on_step: Callable[[], object] = lambda: None,
    on_epoch: Callable[[Epoch], object] = lambda _: None,
) -> list[Epoch]:
    """Train `model` in place by the lab's loop and return a record of each epoch.

    Every step takes the next `batch_size` digits and lets the optimizer update the parameters. The host waits for the
    device once in 100 steps, to check that the losses are finite, and at the end of each epoch.

    Args:
        model: Module from float32 `[N, 784]` to float32 `[N, 10]` or `[N, 11]`.
        train: Pixels and labels to learn from.
        valid: Pixels and labels to evaluate on after each epoch.
        lr: Learning rate, > 0.
        epochs: Passes over `train`, >= 1.
        batch_size: Digits per step, >= 1; the last step of an epoch takes the remainder.
        optimizer: Update rule; the default is the lab's, `p -= lr * p.grad`.
        schedule: Factor on `lr` as a function of the share of steps done.
        label_smoothing: Share of each label that is spread over all classes (Szegedy et al. 2016).
        average: Average of the weights, updated after every step, and evaluated after each epoch instead of `model`.
        position: Progress to continue from; updated in place, so that `on_step` and `on_epoch` can save it.
        group: Processes that train together; `model` was wrapped by `group`, and the batches are this rank's shares.
        on_step: Called after every step; an exception from it ends the training between two steps.
        on_epoch: Called with the record of every epoch.

    Raises:
        DivergenceError: a loss is NaN or infinite; the sentence names the epoch, the step and the learning rate.
        ModelError: the model fails on a batch in training mode.
    """
    train, valid = as_batches(train), as_batches(valid)
    optimizer = optimizer or Descent(model.parameters())
    average = average or WeightAverage(model, decay=0)
    position = position or Position()
    steps = math.ceil(len(train) / batch_size)
    while position.epoch <= epochs:
        model.train()
        losses = _with_room(position.losses[: position.step], steps, next(model.parameters()).device)
        position.losses = losses
        for pixels, labels in train.epoch(position.epoch, batch_size, position.step):
            count = min(batch_size, len(train) - batch_size * position.step)
            loss = _loss(model, group, pixels, labels, count, label_smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            done = (position.epoch - 1) * steps + position.step
            optimizer.step(lr * schedule(done / (epochs * steps)))
            average.update(done + 1)
            losses[position.step] = group.mean(loss.detach())
            position.step += 1
            if position.step % _CHECK_EVERY == 0:
                _require_finite(position, lr, _CHECK_EVERY)
            on_step()
        _require_finite(position, lr, steps)
        measured = evaluate(average.model, valid, group)
        epoch = Epoch(position.epoch, _mean(losses, len(train), batch_size), *measured, _curve(losses))
        if not math.isfinite(epoch.valid_loss):
            raise _divergence(epoch.valid_loss, position.epoch, position.step, lr)
        position.history.append(epoch)
        position.epoch, position.step, position.losses = position.epoch + 1, 0, losses[:0]
        on_epoch(epoch)
    return position.history


def _loss(  # as of `ProcessGroup.loss`
    model: nn.Module, group: ProcessGroup, pixels: Tensor, labels: Tensor, count: int, smoothing: float
) -> Tensor:
    try:
        return group.loss(model(pixels), labels, count, smoothing)
    except (TypeError, ValueError) as error:  # of a user's code, or of BatchNorm for a batch of a single digit
        raise ModelError(
            f"the model cannot be trained on a batch of size {len(pixels)} ({first_line(error)}); return logits "
            "alone, or choose a --batch-size that leaves another remainder"
        ) from error


def as_batches(data: Data | Batches) -> Batches:
    """Wrap a pair of tensors as batches in file order."""
    return InMemory(*data) if isinstance(data, tuple) else data


def _with_room(losses: Tensor, steps: int, device: torch.device) -> Tensor:
    """Extend `losses` to an epoch in one allocation; a scalar kept per step would fragment the heap."""
    room = torch.empty(steps, device=device)
    room[: len(losses)] = losses
    return room


def _require_finite(position: Position, lr: float, last: int) -> None:
    """Raise if one of the `last` losses is not finite; one check covers all, because a check waits for the device."""
    losses = position.losses[position.step - last : position.step]
    finite = torch.isfinite(losses)
    if not finite.all():
        first = int(finite.int().argmin())
        raise _divergence(float(losses[first]), position.epoch, position.step - len(losses) + first + 1, lr)


def _divergence(loss: float, epoch: int, step: int, lr: float) -> DivergenceError:
    return DivergenceError(
        f"the loss is {loss:g} in epoch {epoch}, step {step}, at learning rate {lr:g}; start again with a lower --lr"
    )


def _mean(losses: Tensor, count: int, batch_size: int) -> float:
    """Return the mean per digit of per-batch means; the last batch may be smaller."""
    sizes = torch.full((len(losses),), float(batch_size), device=losses.device)
    sizes[-1] = count - batch_size * (len(losses) - 1)
    return float(losses @ sizes / count)


def _curve(losses: Tensor) -> tuple[float, ...]:
    stretches = losses.tensor_split(min(_CURVE_POINTS, len(losses)))
    return tuple(torch.stack([stretch.mean() for stretch in stretches]).tolist())


@torch.no_grad()
def evaluate(model: nn.Module, data: Data | Batches, group: ProcessGroup = ALONE) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy of `model` in evaluation mode, over the digits of all ranks of `group`.

    The accuracy is that of the ten digits; an eleventh logit is left out.
    """
    model.eval()
    group.share_buffers(model)
    data = as_batches(data)
    losses, correct = [], []
    for pixels, labels in data.epoch(0, _EVALUATION_BATCH):
        logits = torch.cat([model(part) for part in torch.split(pixels, _FORWARD)])
        losses.append(F.cross_entropy(logits, labels, reduction="sum"))
        correct.append((logits[:, : len(CLASSES)].argmax(dim=1) == labels).sum())
    sums = torch.stack([torch.stack(each).cpu().double().sum() for each in (losses, correct)])
    loss, share = (group.sum(sums) / len(data)).tolist()
    return loss, share
