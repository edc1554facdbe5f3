"""The format `torchscript`: module in, canonical bytes out, for `torch.jit.load` and libtorch."""

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mnist_export.archive import canonical
from mnist_export.errors import ExportError
from mnist_export.formats import Recipe
from mnist_export.gate import Compute, compute_of
from mnist_export.golden import Expected
from mnist_runtime.errors import first_line

if TYPE_CHECKING:
    from mnist_export.bundle import Bundle

_CONSTANTS = re.compile(rb"(?:^  \w+ : Final\[.*\n)+", re.MULTILINE)
"""Adjacent declarations of constants in a class of TorchScript's code, one per line."""


class TorchScript(Recipe):
    """The scripted module, run by torch."""

    def build(self, bundle: "Bundle", expected: Expected) -> bytes:  # noqa: ARG002
        """Script the module."""
        return to_torchscript(bundle.checkpoint.module)

    def load(self, data: bytes) -> Compute:
        """Load `data` through `torch.jit.load`."""
        return compute_of(from_torchscript(data))


def to_torchscript(module: nn.Module) -> bytes:
    """Script `module`, which takes pixels float32 `[N, 784]` to logits float32 `[N, 10]`.

    Raises:
        ExportError: TorchScript's compiler cannot follow the module.
    """
    saved = io.BytesIO()
    try:
        with _not_deprecated():
            torch.jit.save(torch.jit.script(module), saved)
    except Exception as error:  # the compiler's exceptions have no common base but Exception
        raise ExportError(
            f"TorchScript's compiler cannot follow this module: {first_line(error)}; change the module, or leave out "
            "the format torchscript and name the others: --format onnx --format onnx-uint8"
        ) from error
    return canonical(saved.getvalue(), _sorted_constants)


def from_torchscript(data: bytes) -> Callable[[Tensor], Tensor]:
    """Load what `to_torchscript` made, as an application does."""
    with _not_deprecated():
        return torch.jit.load(io.BytesIO(data))  # type: ignore[no-any-return, no-untyped-call]


@contextlib.contextmanager
def _not_deprecated() -> Iterator[None]:
    """Suppress the warning that torch.jit is deprecated, because the user asked for this format and knows of `pt2`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        yield


def _sorted_constants(record: str, content: bytes) -> bytes:
    """Sort the constants that a class declares, because their order varies with the hash seed."""
    if not (record.startswith("code/") and record.endswith(".py")):
        return content
    return _CONSTANTS.sub(lambda found: b"".join(sorted(found[0].splitlines(keepends=True))), content)
