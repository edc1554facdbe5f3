"""The lab from raw tensors up: the slow, readable twin of `fit()`, one stage at a time.

Each stage does what the one before does with a little more of PyTorch, and the tests hold it to that. `docs/lab.md`
walks through them. Nothing of the rest of the package uses this module.
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
    """Fetch the file at `url` into `folder`, made if missing, unless it is there already; return its path.

    This is the lab's download, good for a lesson: `mnist_train.data.download` survives a bad network too.

    Raises:
        requests.RequestException: the server cannot be reached, or refuses.
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

    Images are float32 `[N, 784]`, labels int64 `[N]`. The pickle is read by an unpickler that admits arrays alone.

    Raises:
        DataError: the pickle holds anything else.
    """
    with gzip.open(path, "rb") as file:
        ((x_train, y_train), (x_valid, y_valid), *_) = load_arrays(file, str(path))
    return [torch.tensor(array) for array in (x_train, y_train, x_valid, y_valid)]


def init(generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """First weights `[784, 10]`, normal with deviation 1/sqrt(784) (Glorot & Bengio 2010), and bias `[10]` of zeros."""
    weights = torch.randn(PIXELS, len(CLASSES), generator=generator) / math.sqrt(PIXELS)
    weights.requires_grad_()
    bias = torch.zeros(len(CLASSES), requires_grad=True)
    return weights, bias


def linear(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Logits `[N, 10]` of pixels `[N, 784]`."""
    return x @ weights + bias


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities `[N, 10]`, finite for every finite input: the largest logit is taken off before `exp`."""
    shifted = logits - logits.max(dim=1, keepdim=True).values
    return shifted - shifted.exp().sum(dim=1, keepdim=True).log()


def cross_entropy(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """The mean of minus the log-probability given to the right label: a scalar."""
    return -log_probabilities[torch.arange(len(labels)), labels].mean()


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of right labels: a scalar without gradient, for `argmax` jumps."""
    return (logits.argmax(dim=1) == labels).float().mean()


def batches(x: Tensor, y: Tensor, batch_size: int) -> Iterator[Batch]:
    """Slices of the data in file order; the last takes what is left."""
    for start in range(0, len(x), batch_size):
        yield x[start : start + batch_size], y[start : start + batch_size]


class LogisticParameters(nn.Module):
    """The lab's first `MNISTLogistic`: the same two tensors, registered as `nn.Parameter`s."""

    def __init__(self, weights: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[N, 10]` of pixels `[N, 784]`."""
        return linear(x, self.weights, self.bias)


def step_raw(weights: Tensor, bias: Tensor, batch: Batch, lr: float) -> Tensor:
    """One step of stage 1: everything by hand. Changes `weights` and `bias`, returns the loss before the step."""
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
    """One step of stage 2: `F.cross_entropy` takes the place of `log_softmax` and `cross_entropy`."""
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
    """One step of stages 3 and 4: the parameters come from `model.parameters()`, whatever the model is."""
    x, y = batch
    loss = F.cross_entropy(model(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for p in model.parameters():
            assert p.grad is not None  # noqa: S101
            p -= p.grad * lr  # type: ignore[misc]
        model.zero_grad()
    return loss.detach()
