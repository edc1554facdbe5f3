"""The module to export: prepared, run in float32 and float64, and checked to be a function of each digit alone."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from mnist_export.errors import ExportError
from mnist_export.normalisation import Normalisation
from mnist_runtime.digits import LEVELS, PIXELS, Intensities
from mnist_runtime.errors import first_line
from mnist_runtime.model.comparison import TEN, Logits
from mnist_train.errors import ModelError
from mnist_train.models import for_pixels

_BATCH = 32
"""Digits that are run together, so that a small network's activations, some 100 KB per digit, stay in a cache."""
_SIZES = (1, 3)
"""Batch sizes that must give the answers of a larger batch."""
_REORDERED = 2.0**-16
"""Change that summing in another order may make to a logit, as a share of the largest: 256 roundoffs of float32."""
_SUM = 1e-3
"""Largest distance from 1 of the sum of a softmax's outputs."""


def prepare(source: object) -> nn.Module:
    """Return a copy of the module `source` for pixels `[N, 784]` on the CPU, in evaluation mode, with plain weights.

    Weight normalisation, spectral normalisation, pruning and other parametrisations become the weights they stand for.
    Whether the module takes `[N, 784]`, `[N, 28, 28]` or `[N, 1, 28, 28]` is found by trying.

    Raises:
        ExportError: `source` is no module, one whose weights cannot be read, or one that does not classify digits.
    """
    original = _module(source)
    # A computed weight (the old weight_norm and spectral_norm keep one) cannot be deep-copied while it has a gradient.
    computed = [value for module in original.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    memo: dict[int, Any] = {id(value): value.detach().clone() for value in computed if not value.is_leaf}
    try:
        module = copy.deepcopy(original, memo).cpu().eval()
    except Exception as error:  # a module may hold anything
        raise ExportError(
            f"the module cannot be copied ({first_line(error)}); remove what cannot be, or load its state dict into a "
            "new module and export that"
        ) from error
    for each in module.modules():
        _fold(each)
    try:
        return for_pixels(module, type(source).__qualname__)
    except ModelError as error:
        raise ExportError(str(error)) from error


class Normalised(nn.Module):
    """A module whose pixels were normalised in training, for pixels that are intensity / 256."""

    def __init__(self, module: nn.Module, normalisation: Normalisation) -> None:
        """Put the normalisation before `module`, as one product and one sum."""
        super().__init__()
        self.module = module
        scale = LEVELS / (LEVELS - 1) / normalisation.std  # from intensity / 256 to intensity / 255, and normalised
        offset = -normalisation.mean / normalisation.std
        self.scale: Tensor
        self.offset: Tensor
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), persistent=False)
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.float32), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the module's logits for the normalised pixels."""
        logits: Tensor = self.module(self.of(pixels))
        return logits

    def of(self, pixels: Tensor) -> Tensor:
        """Return the normalised pixels."""
        return pixels * self.scale + self.offset


def _module(source: object) -> nn.Module:
    """Return `source` if it is a module of float weights; otherwise raise ExportError."""
    if isinstance(source, Mapping):
        raise ExportError(
            "a state dict holds weights without a network; load it into its module with load_state_dict, "
            "and export the module"
        )
    if isinstance(source, torch.jit.ScriptModule):
        raise ExportError("a TorchScript module hides its layers; export the nn.Module that it was made from")
    if not isinstance(source, nn.Module):
        raise ExportError(f"{type(source).__name__} is neither a module, a checkpoint nor a path; give one of them")
    tensors = [*source.parameters(), *source.buffers()]
    if any(isinstance(tensor, UninitializedParameter | UninitializedBuffer) for tensor in tensors):
        raise ExportError("the module is lazy and has no weights yet; run it on a digit once, train it, then export it")
    if any(tensor.is_meta for tensor in tensors):
        raise ExportError("the module is on the device meta, without weights; load its weights, then export it")
    if any("quantized" in type(module).__module__ for module in source.modules()):
        raise ExportError(
            'the module is quantised already; export the float module it was made from, with the format "onnx-exact"'
        )
    return source


def _fold(module: nn.Module) -> None:
    """Replace a weight that torch computes anew at every call by its value."""
    for hook in list(module._forward_pre_hooks.values()):  # noqa: SLF001  # torch offers no other way to find them
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]  # noqa: SLF001
    if parametrize.is_parametrized(module):
        made = type(module)  # made by torch for `module`'s original; the removal deletes the weight from its class
        module.__class__ = type(made.__name__, made.__bases__, dict(vars(made)))
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            parametrize.remove_parametrizations(module, name)


def logits_in_float32(module: nn.Module, digits: Intensities) -> NDArray[np.float32]:
    """Run the module as it was trained, and check that its answers depend on each digit alone and do not vary.

    Raises:
        ExportError: the module cannot be run, is random, mixes the digits of a batch, or does not compute finite
            logits `[N, 10]` or `[N, 11]`.
    """
    logits: NDArray[np.float32] = _run(module, digits, torch.float32)
    shapes = [(len(digits), width) for width in (TEN, TEN + 1)]
    if logits.shape not in shapes or not np.isfinite(logits).all():
        raise ExportError(
            f"the module makes {logits.shape} of {len(digits):,} digits, {np.count_nonzero(~np.isfinite(logits)):,} "
            f"values of them not finite; it should make finite logits [N, {TEN}], or "
            f"[N, {TEN + 1}] with one for what is no digit"
        )
    _require_function(module, digits[: 2 * TEN])
    if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, rtol=0, atol=_SUM):
        raise ExportError(
            "the module ends in a softmax: its rows are probabilities, and the artifact adds a softmax to logits; "
            "remove the last softmax and export again (training with cross_entropy wants logits, too)"
        )
    return logits


def _require_function(module: nn.Module, digits: Intensities) -> None:
    wanted = _run(module, digits, torch.float32)
    allowed = _REORDERED * np.abs(wanted).max()
    if np.abs(_run(module, digits, torch.float32) - wanted).max() > allowed:
        raise ExportError(
            "the module answers the same digits differently from run to run; remove what is random or remembered in "
            "evaluation mode, such as F.dropout without training=self.training, or added noise"
        )
    for size in _SIZES:
        try:
            answers = [
                _run(module, digits[start : start + size], torch.float32) for start in range(0, len(digits), size)
            ]
        except ExportError as error:
            raise ExportError(f"in a batch of {size}, {error}; {_BY_ITSELF}") from error
        answer = np.concatenate(answers)
        if answer.shape != wanted.shape or np.abs(answer - wanted).max() > allowed:
            raise ExportError(
                f"the module answers a digit differently in batches of {size} and {len(digits)}; {_BY_ITSELF}"
            )


_BY_ITSELF = (
    "an answer must depend on its own digit alone, not on the batch: give BatchNorm running statistics "
    "(track_running_stats=True), and compute nothing over the batch"
)


def logits_in_float64(module: nn.Module, digits: Intensities) -> Logits | None:
    """Run a copy of the module with float64 in place of float32; return None if it cannot run so."""
    try:
        with float64():
            logits: Logits = _run(copy.deepcopy(module).double(), digits, torch.float64)
    except ExportError:
        return None
    return logits if logits.dtype == np.float64 else None


class _Widened(TorchFunctionMode):
    """A mode that replaces float32 in every call of a module's code by float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        args = [torch.float64 if arg is torch.float32 else arg for arg in args]
        named = {name: torch.float64 if arg is torch.float32 else arg for name, arg in (kwargs or {}).items()}
        return func(*args, **named)


@contextmanager
def float64() -> Iterator[None]:
    """Make float64 the default dtype, of torch.zeros for example, and replace float32 by it in every call of torch."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widened():
            yield
    finally:
        torch.set_default_dtype(before)


@torch.no_grad()
def _run(module: nn.Module, digits: Intensities, dtype: torch.dtype) -> NDArray[Any]:
    """Run a module on a batch at a time, and keep the answers in one array.

    An array per batch, between the large ones of its layers, would keep their memory from being used again.
    """
    pixels = torch.from_numpy(digits)
    try:
        logits = np.empty(0)
        for start in range(0, len(digits), _BATCH):
            batch = pixels[start : start + _BATCH]
            answer = module(batch.to(dtype) / LEVELS).numpy()
            if answer.shape[:1] != batch.shape[:1]:
                sentence = f"it makes {answer.shape} of {len(batch)} digits, and should make a row of logits for each"
                raise ValueError(sentence)  # noqa: TRY301  # to be told as every error of the module
            if start == 0:
                logits = np.empty((len(digits), *answer.shape[1:]), answer.dtype)
            logits[start : start + _BATCH] = answer
    except Exception as error:  # somebody else's code can raise anything
        raise ExportError(f"the module cannot be run on pixels {dtype} [N, {PIXELS}] ({first_line(error)})") from error
    return logits
