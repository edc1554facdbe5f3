"""Models: modules from pixels float32 `[N, 784]` to logits float32 `[N, 10]` or `[N, 11]`.

A user's module may take pictures `[N, 28, 28]` or `[N, 1, 28, 28]` instead.

The first ten logits belong to the digits. Their softmax is the probability of each digit, given that the picture shows
a digit. An eleventh logit belongs to what is no digit: entry 10 of the softmax over all eleven is its probability. So
P(digit d) = P(d | a digit) * (1 - P(no digit)). A model of ten logits takes every picture for a digit.
"""

import importlib
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from mnist_runtime.digits import CLASSES, HEIGHT, PIXELS, WIDTH
from mnist_runtime.errors import first_line
from mnist_train.errors import ModelError


class MNISTLogistic(nn.Module):
    """The lab's multinomial logistic regression: one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(PIXELS, len(CLASSES))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits float32 `[N, 10]` for pixels float32 `[N, 784]`."""
        logits: torch.Tensor = self.lin(pixels)
        return logits


class MLP(nn.Module):
    """The lab's multi-layer perceptron: 784 to `fc1` to `fc2` to 10, ReLU and dropout between."""

    def __init__(self, fc1: int = 1024, fc2: int = 128, dropout: float = 0.5) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(PIXELS, fc1),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(fc1, fc2),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(fc2, len(CLASSES)),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits float32 `[N, 10]` for pixels float32 `[N, 784]`."""
        logits: torch.Tensor = self.layers(pixels)
        return logits


class CNN(nn.Module):
    """A convolutional network of 24,971 weights that also knows what is no digit.

    In C, with each pooling fused into the convolution before it, its activations take 5.5 KB: 12x12x16 and 10x10x32.
    """

    picture: Final[tuple[int, int, int, int]]  # because TorchScript sees no globals

    def __init__(self) -> None:
        super().__init__()
        self.picture = -1, 1, HEIGHT, WIDTH
        self.layers = nn.Sequential(
            *_convolution(1, 16, 5, pool=2),
            *_convolution(16, 32, 3),
            *_convolution(32, 32, 3, pool=2),
            *_convolution(32, 32, 3),
            nn.Flatten(),
            nn.Linear(32 * 2 * 2, len(CLASSES) + 1),
        )
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # trains a third faster

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits float32 `[N, 11]` for pixels float32 `[N, 784]`, the last one for what is no digit."""
        logits: torch.Tensor = self.layers(pixels.reshape(self.picture))
        return logits


def _convolution(channels: int, outputs: int, side: int, pool: int = 1) -> list[nn.Module]:
    """Return a convolution without padding, pooling, normalisation and ReLU.

    The convolution's bias is that of the normalisation. The normalisation's gain stays 1, because the next layer can
    scale its inputs, and because pooling can then come first: it leaves a quarter of the numbers to normalise, and the
    exact network, which pools last, computes the same.
    """
    norm = nn.BatchNorm2d(outputs)
    norm.weight.requires_grad = False
    pooling = [nn.MaxPool2d(pool)] if pool > 1 else []
    return [nn.Conv2d(channels, outputs, side, bias=False), *pooling, norm, nn.ReLU()]


MODELS: dict[str, Callable[[], nn.Module]] = {"linear": MNISTLogistic, "mlp": MLP, "cnn": CNN}
"""Models by their names for `--model` and in checkpoints; any other name is `package.module:Class`."""


class Pictures(nn.Module):
    """A module of pictures, behind a reshape from pixels float32 `[N, 784]`."""

    shape: Final[tuple[int, ...]]

    def __init__(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        """Reshape each digit to `shape`, (28, 28) or (1, 28, 28), before `module`."""
        super().__init__()
        self.module = module
        self.shape = (-1, *shape)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return what the module returns for these pixels."""
        logits: torch.Tensor = self.module(pixels.reshape(self.shape))
        return logits


def build(name: str) -> nn.Module:
    """Build "linear", "mlp", "cnn", or "package.module:Class" without arguments.

    `package.module` is imported from the Python path or the current folder; its code runs.

    Raises:
        ModelError: the class cannot be built, or does not classify digits.
    """
    if name in MODELS:
        return MODELS[name]()
    found = _find(name)
    try:
        module = found()
    except Exception as error:  # a user's code can raise anything
        raise ModelError(
            f"{name} cannot be built without arguments ({type(error).__name__}: {error}); give every one a default"
        ) from error
    return for_pixels(module, name)


_SHAPES = ((PIXELS,), (HEIGHT, WIDTH), (1, HEIGHT, WIDTH))
"""Shapes that a module may take a digit in."""


def for_pixels(module: nn.Module, name: str) -> nn.Module:
    """Return `module` for pixels `[N, 784]`, behind a reshape if it takes digits in another shape.

    The shape is found by trying. The module is left in evaluation mode.

    Raises:
        ModelError: the module takes digits in no shape, or does not return float32 `[N, 10]` or `[N, 11]`.
    """
    obstacles = []
    has_lazy = any(map(is_lazy, module.parameters()))
    for shape in _SHAPES:
        tried = deepcopy(module) if has_lazy else module  # a wrong shape would fix a lazy module's
        candidate = tried if len(shape) == 1 else Pictures(tried, shape)
        obstacle = _obstacle(candidate.eval())
        if obstacle is None:
            return candidate
        obstacles.append(f"for {(2, *shape)} it {obstacle}")
    raise ModelError(
        f"{name} does not classify two digits: {', '.join(obstacles)}; a model maps float32 [N, 784], [N, 28, 28] or "
        "[N, 1, 28, 28] to float32 [N, 10], or [N, 11] with a logit for what is no digit"
    )


def _obstacle(module: nn.Module) -> str | None:
    """Return what `module` does wrong with two digits, which no convolution takes for channels, and then with one."""
    try:
        with torch.no_grad():
            two, one = (module(torch.zeros(count, PIXELS)) for count in (2, 1))
    except Exception as error:  # noqa: BLE001  # a user's code can raise anything
        return f"fails ({type(error).__name__}: {first_line(error)})"
    if not isinstance(two, torch.Tensor):
        return f"returns {type(two).__name__}"
    if two.shape not in {(2, 10), (2, 11)} or two.dtype != torch.float32:
        return f"returns {two.dtype} {tuple(two.shape)}"
    if one.shape != (1, two.shape[1]):
        return f"returns {tuple(one.shape)} for a single digit"
    return None


def require_trainable(module: nn.Module, name: str) -> None:
    """Raise before the first step if `module` cannot be trained, or its weights cannot be saved.

    Raises:
        ModelError: the sentence names the obstacle.
    """
    extra = [key for key, value in module.state_dict().items() if not isinstance(value, torch.Tensor)]
    if extra:
        raise ModelError(
            f"{name} keeps {', '.join(extra)} in its state dict, and a checkpoint holds tensors only; "
            "remove get_extra_state, or register what it returns as a buffer"
        )
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ModelError(f"{name} has no parameter to train; give it one")


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module whose weights have the names that its author gave them."""
    return module.module if isinstance(module, Pictures) else module


def _find(name: str) -> Callable[[], nn.Module]:
    package, colon, attribute = name.partition(":")
    if not (package and colon and attribute):
        raise ModelError(f"there is no model {name!r}; give {', '.join(MODELS)} or package.module:Class")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(package), attribute)
    except Exception as error:  # importing runs a user's code
        raise ModelError(
            f"the model {name} cannot be imported ({type(error).__name__}: {error}); give package.module:Class"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ModelError(f"{name} is {found!r:.60}, not a class of torch.nn.Module; give the class of your module")
    return found


def knows_no_digit(model: nn.Module) -> bool:
    """Return True if `model` has an eleventh logit, for what is no digit."""
    device = next(model.parameters()).device
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(torch.zeros(1, PIXELS, device=device))
    return logits.shape[1] > len(CLASSES)
