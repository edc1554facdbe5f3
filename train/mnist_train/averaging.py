"""The average of the weights over training, which predicts better than the last weights (Polyak and Juditsky 1992)."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of all weights and buffers of a module.

    Without a decay nothing is averaged, and `model` is the module itself.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the weights of `model`; every update keeps the share `decay` of the average, 0 to below 1."""
        self.decay = decay
        self.model = deepcopy(model) if decay else model
        """Module with the averaged weights."""
        self._pairs = list(zip(_tensors(self.model), _tensors(model), strict=True)) if decay else []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after `step` steps, from 1; the first weights, which are random, lose their share quickly."""
        share = 1 - min(self.decay, step / (step + 9))
        for average, latest in self._pairs:
            if average.is_floating_point():
                average.lerp_(latest, share)
            else:
                average.copy_(latest)

    def tensors(self) -> dict[str, Tensor]:
        """Return the averaged weights and buffers by name; none without a decay."""
        return dict(self.model.state_dict()) if self.decay else {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors()` returned."""
        if self.decay:
            self.model.load_state_dict(tensors)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Yield weights and buffers, a tensor that has several names once."""
    return chain(module.parameters(), module.buffers())
