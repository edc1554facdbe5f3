"""The modules that can be trained: each takes pixels float32 `[N, 784]` to logits float32 `[N, 10]`."""

from collections.abc import Callable

import torch
from torch import nn

from mnist_runtime.digits import CLASSES, PIXELS


class MNISTLogistic(nn.Module):
    """The lab's multinomial logistic regression: one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(PIXELS, len(CLASSES))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits float32 `[N, 10]` of pixels float32 `[N, 784]`."""
        logits: torch.Tensor = self.lin(pixels)
        return logits


MODELS: dict[str, Callable[[], nn.Module]] = {"linear": MNISTLogistic}
"""What `--model` and a checkpoint's `model` name."""
