"""What the tests of exact networks share: modules of every layer, rounded once."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnist_export.exact.network import ExactNetwork
from mnist_export.exact.rounding import exact
from mnist_export.golden import golden_digits
from mnist_train.data.bundled import Split, load_split


@pytest.fixture(scope="session")
def training_digits() -> np.ndarray:
    return load_split("train").images[:300].reshape(-1, 784)


@pytest.fixture(scope="session")
def golden(validation: Split) -> np.ndarray:
    return golden_digits(validation)


@pytest.fixture(scope="session")
def every_layer() -> nn.Module:
    """Each layer that can be made exact, and each of their settings; not trained, but with statistics to fold."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 6, 5, stride=2, padding=2), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(3, stride=2),
        nn.Conv2d(6, 10, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(90, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(20, 10), nn.LogSoftmax(dim=1),
    )  # fmt: skip
    digits = torch.from_numpy(load_split("train").images[:500].reshape(-1, 784)) / 256
    with torch.no_grad():
        for _ in range(20):
            module(digits)
    return module.eval()


@pytest.fixture(scope="session")
def network(every_layer: nn.Module, training_digits: np.ndarray) -> ExactNetwork:
    return exact(every_layer, training_digits)


@pytest.fixture(scope="session")
def convolutional() -> nn.Module:
    """A convolutional network of 19,434 weights, trained for a moment."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 16, 5, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    pixels, labels = load_split("train").tensors()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for start in range(0, 80 * 64, 64):
        loss = F.cross_entropy(module(pixels[start : start + 64]), labels[start : start + 64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()
