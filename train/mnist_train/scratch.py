"""The lab from raw tensors up: the slow, readable twin of `fit()`, one stage at a time.

Each stage computes the same as the stage before, with a little more of PyTorch; the tests compare them. `docs/lab.md`
walks through the stages. Nothing else in the package uses this module.
"""

import gzip
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import requests
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_runtime.digits import CLASSES, PIXELS
from mnist_train.data.unpickle import load_arrays

Batch = tuple[Tensor, Tensor]
"""Pixels float32 `[N, 784]` and labels int64 `[N]`."""

Model = Callable[[Tensor], Tensor]
"""Pixels float32 `[N, 784]` to logits or log-probabilities float32 `[N, 10]`."""


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


class LogisticParameters(nn.Module):
    """The lab's first `MNISTLogistic`: the same two tensors, registered as `nn.Parameter`s."""

    def __init__(self, weights: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[N, 10]` for pixels `[N, 784]`."""
        return linear(x, self.weights, self.bias)


def step_raw(weights: Tensor, bias: Tensor, batch: Batch, lr: float) -> Tensor:
    """Take a step of stage 1, by hand: update `weights` and `bias`, return the loss before the step."""
    x, y = batch
    loss = cross_entropy(log_softmax(linear(x, weights, bias)), y)
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for tensor in (weights, bias):
            assert tensor.grad is not None  # noqa: S101  # both are part of the loss
            tensor -= tensor.grad * lr
            tensor.grad.zero_()
    return loss.detach()


def step_functional(weights: Tensor, bias: Tensor, batch: Batch, lr: float) -> Tensor:
    """Take a step of stage 2: `F.cross_entropy` replaces `log_softmax` and `cross_entropy`."""
    x, y = batch
    loss = F.cross_entropy(linear(x, weights, bias), y)
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for tensor in (weights, bias):
            assert tensor.grad is not None  # noqa: S101
            tensor -= tensor.grad * lr
            tensor.grad.zero_()
    return loss.detach()


def step_module(model: nn.Module, batch: Batch, lr: float) -> Tensor:
    """Take a step of stages 3 and 4: `model.parameters()` lists the parameters of any model."""
    x, y = batch
    loss = F.cross_entropy(model(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for p in model.parameters():
            assert p.grad is not None  # noqa: S101
            p -= p.grad * lr  # type: ignore[misc]
        model.zero_grad()
    return loss.detach()
