"""The format `pt2`: the archive of `torch.export`, TorchScript's successor; module in, canonical bytes out.

Each node of the graph carries a stack trace with the machine's source paths. Without these traces, and packed
canonically, equal modules give equal bytes.
"""

import io
import json
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mnist_export.archive import canonical
from mnist_export.errors import ExportError
from mnist_export.formats import Recipe
from mnist_export.gate import Compute, compute_of
from mnist_export.golden import Expected
from mnist_runtime.digits import PIXELS
from mnist_runtime.errors import first_line

if TYPE_CHECKING:
    from mnist_export.bundle import Bundle


class Pt2(Recipe):
    """The exported program, run by torch."""

    def build(self, bundle: "Bundle", expected: Expected) -> bytes:  # noqa: ARG002
        """Export the module."""
        return to_pt2(bundle.checkpoint.module)

    def load(self, data: bytes) -> Compute:
        """Load `data` through `torch.export.load`."""
        return compute_of(from_pt2(data))


def to_pt2(module: nn.Module) -> bytes:
    """Export `module`, which takes pixels float32 `[N, 784]` to logits float32 `[N, 10]`, for any N.

    Raises:
        ExportError: torch.export cannot follow the module.
    """
    saved = io.BytesIO()
    try:
        program = torch.export.export(
            module,
            (torch.zeros(2, PIXELS),),  # not 1: torch.export takes a dimension of 1 for a constant
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        with warnings.catch_warnings():  # about weights in channels_last order, which are saved whole nevertheless
            warnings.filterwarnings("ignore", message="No complete tensor found")
            torch.export.save(program, saved)
    except Exception as error:  # torch.export's exceptions have no common base but Exception
        raise ExportError(
            f"torch.export cannot follow this module: {first_line(error)}; change the module, or leave out the "
            "format pt2 and name others: --format torchscript"
        ) from error
    return canonical(saved.getvalue(), _without_traces)


def from_pt2(data: bytes) -> Callable[[Tensor], Tensor]:
    """Load what `to_pt2` made, as an application does."""
    return torch.export.load(io.BytesIO(data)).module()


def _without_traces(record: str, content: bytes) -> bytes:
    if record.startswith("data/sample_inputs/"):  # an archive of torch's within the archive
        return canonical(content, lambda _, inner: inner)
    if not record.startswith("models/"):
        return content
    return json.dumps(_untraced(json.loads(content)), sort_keys=True).encode()


def _untraced(value: Any) -> Any:
    match value:
        case dict():
            return {key: _untraced(item) for key, item in value.items() if key != "stack_trace"}
        case list():
            return [_untraced(item) for item in value]
    return value
