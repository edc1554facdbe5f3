"""The lab from raw tensors up: the slow, readable twin of `fit()`, one stage at a time.

Each stage computes the same as the stage before, with a little more of PyTorch; the tests compare them. `docs/lab.md`
shows the stages and runs them. Nothing else in the package uses this module.
"""

import gzip
import math
from collections.abc import Iterator
from pathlib import Path

import requests
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mnist_runtime.digits import CLASSES, HEIGHT, PIXELS, WIDTH
from mnist_train.data.bundled import load_split
from mnist_train.data.unpickle import load_arrays

Batch = tuple[Tensor, Tensor]
"""Pixels float32 `[N, 784]` and labels int64 `[N]`."""


def download(url: str, folder: Path) -> Path:
    """Download the file at `url` into `folder`, unless it is there already; return its path.

    This is the lab's own step. `mnist_train.data.download` also retries, checks the content, and limits the size.

    Raises:
        requests.RequestException: the server cannot be reached, or answers with an error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / url.rsplit("/", 1)[-1]
    if not path.exists():
        response = requests.get(url, timeout=30)
        response.raise_for_status()
        path.write_bytes(response.content)
    return path


def read(path: Path) -> list[Tensor]:
    """Read the lab's `mnist.pkl.gz` as tensors: x_train, y_train, x_valid, y_valid.

    Images are float32 `[N, 784]`, labels int64 `[N]`. The unpickler refuses everything but arrays.

    Raises:
        DataError: the pickle holds anything else.
    """
    with gzip.open(path, "rb") as file:
        ((x_train, y_train), (x_valid, y_valid), *_) = load_arrays(file, str(path))
    return [torch.tensor(array) for array in (x_train, y_train, x_valid, y_valid)]


def init(generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw weights `[784, 10]`, normal with deviation 1/sqrt(784) (Glorot & Bengio 2010); the bias `[10]` is zeros."""
    weights = torch.randn(PIXELS, len(CLASSES), generator=generator) / math.sqrt(PIXELS)
    weights.requires_grad_()
    bias = torch.zeros(len(CLASSES), requires_grad=True)
    return weights, bias


def linear(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Return logits `[N, 10]` for pixels `[N, 784]`."""
    return x @ weights + bias


def log_softmax(logits: Tensor) -> Tensor:
    """Return log-probabilities `[N, 10]`; subtracting the largest logit before `exp` keeps them finite."""
    shifted = logits - logits.max(dim=1, keepdim=True).values
    return shifted - shifted.exp().sum(dim=1, keepdim=True).log()


def cross_entropy(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of minus the log-probability of the label, as a scalar."""
    return -log_probabilities[torch.arange(len(labels)), labels].mean()


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of correct predictions, as a scalar without gradient, because `argmax` has none."""
    return (logits.argmax(dim=1) == labels).float().mean()


def batches(x: Tensor, y: Tensor, batch_size: int) -> Iterator[Batch]:
    """Yield slices of the data in file order; the last takes the remainder."""
    for start in range(0, len(x), batch_size):
        yield x[start : start + batch_size], y[start : start + batch_size]


def step_raw(weights: Tensor, bias: Tensor, batch: Batch, lr: float) -> Tensor:
    """Take a step of stage 1, by hand: update `weights` and `bias`, return the loss before the step."""
    x, y = batch
    loss = cross_entropy(log_softmax(linear(x, weights, bias)), y)
    loss.backward()
    with torch.no_grad():
        for tensor in (weights, bias):
            tensor -= tensor.grad * lr
            tensor.grad.zero_()
    return loss.detach()


def step_functional(weights: Tensor, bias: Tensor, batch: Batch, lr: float) -> Tensor:
    """Take a step of stage 2: `F.cross_entropy` replaces `log_softmax` and `cross_entropy`."""
    x, y = batch
    loss = F.cross_entropy(linear(x, weights, bias), y)
    loss.backward()
    with torch.no_grad():
        for tensor in (weights, bias):
            tensor -= tensor.grad * lr
            tensor.grad.zero_()
    return loss.detach()


class LogisticParameters(nn.Module):
    """The lab's first `MNISTLogistic`: the same two tensors, registered as `nn.Parameter`s."""

    def __init__(self, weights: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[N, 10]` for pixels `[N, 784]`."""
        return linear(x, self.weights, self.bias)


def step_module(model: nn.Module, batch: Batch, lr: float) -> Tensor:
    """Take a step of stages 3 and 4: `model.parameters()` lists the parameters of any model."""
    x, y = batch
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= p.grad * lr
        model.zero_grad()
    return loss.detach()


def step_optimizer(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
    """Take a step of stage 5: any optimizer of `torch.optim` updates the parameters."""
    x, y = batch
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


class Digits(Dataset[Batch]):
    """Stage 6: pixels and labels that are indexed together, as the lab's `BaseDataset`."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Batch:
        return self.pixels[index], self.labels[index]


def train_epoch(model: nn.Module, loader: DataLoader[Batch], optimizer: torch.optim.Optimizer) -> None:
    """Take a step on each batch of `loader`: stage 7's loop, for any data, model and optimizer."""
    model.train()
    for batch in loader:
        step_optimizer(model, batch, optimizer)


class DataModule:
    """Stage 10: everything about the data in one place, as the lab's `MNISTDataModule`."""

    def __init__(self, batch_size: int, device: torch.device) -> None:
        self.batch_size = batch_size
        self.train = Digits(*load_split("train").tensors(device))
        self.valid = Digits(*load_split("valid").tensors(device))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return batches of the training digits, shuffled anew in every epoch."""
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return batches of the validation digits, larger because no gradient takes memory."""
        return DataLoader(self.valid, 2 * self.batch_size)


@torch.no_grad()
def validate(model: nn.Module, loader: DataLoader[Batch]) -> tuple[float, float]:
    """Return the mean loss and the accuracy per digit; the lab takes the mean per batch, and the last is smaller."""
    model.eval()
    losses, correct, count = 0.0, 0.0, 0
    for x, y in loader:
        logits = model(x)
        losses += F.cross_entropy(logits, y, reduction="sum").item()
        correct += (logits.argmax(dim=1) == y).sum().item()
        count += len(y)
    return losses / count, correct / count


def fit_with_validation(
    model: nn.Module, data: DataModule, optimizer: torch.optim.Optimizer, epochs: int
) -> list[tuple[float, float]]:
    """Train for some epochs; return validation loss and accuracy before the first epoch and after each."""
    history = [validate(model, data.val_dataloader())]
    for _ in range(epochs):
        train_epoch(model, data.train_dataloader(), optimizer)
        history.append(validate(model, data.val_dataloader()))
    return history


class ConvolutionsWithSkip(nn.Module):
    """A solution of the lab's second exercise: two convolutions, batch normalisation and a linear skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=5, stride=2),  # 28x28 to 12x12
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, stride=2),  # to 5x5
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 5 * 5, len(CLASSES)),
        )
        self.skip = nn.Linear(PIXELS, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[N, 10]` for pixels `[N, 784]`."""
        return self.convolutions(x.reshape(-1, 1, HEIGHT, WIDTH)) + self.skip(x)
