"""Modules to export that are not linear."""

from typing import Final

import torch
from torch import nn


class Perceptron(nn.Module):
    """A perceptron of two hidden layers, with dropout that evaluation mode must switch off."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(784, 24), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(24, 16), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(16, 10),
        )  # fmt: skip

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(pixels)


class Convolutions(nn.Module):
    """A convolutional network that first reshapes its pixels, with a norm to fold and constants of several types."""

    side: Final[int]
    gain: Final[float]
    bounded: Final[bool]

    def __init__(self) -> None:
        super().__init__()
        self.side, self.gain, self.bounded = 28, 1.5, True
        self.convolve = nn.Conv2d(1, 4, 5, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.classify = nn.Linear(4 * 12 * 12, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        pictures = pixels.reshape(-1, 1, self.side, self.side)
        hidden = torch.relu(self.norm(self.convolve(pictures))) * self.gain
        if self.bounded:
            hidden = hidden.clamp(max=6.0)
        return self.classify(hidden.flatten(1))
