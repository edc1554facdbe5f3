"""TorchScript: module in, canonical bytes out.

`torch.jit.save` writes more than the program: the file's own name as the archive's root, `.debug_pkl` files with the
source paths of the machine, a `serialization_id`, and each class's constants in an order that varies with the hash
seed. What is left without them, and with the constants sorted, loads with `torch.jit.load` and libtorch as before.
"""

import contextlib
import io
import re
import warnings
import zipfile
from collections.abc import Iterator

import torch
from torch import nn

ROOT = "mnist"
_ALIGNMENT = 64  # bytes; torch aligns every record so that tensors can be used where they lie in the file
_LOCAL_HEADER = 30  # bytes of a ZIP entry's header before its name (APPNOTE.TXT, 4.3.7)
_CONSTANTS = re.compile(rb"(?:^  \w+ : Final\[.*\n)+", re.MULTILINE)
"""Neighbouring declarations of constants in a class of TorchScript's code, a line each."""
_PADDING_ID = b"FB"  # torch's own id for the padding in a ZIP entry's extra field


def to_torchscript(module: nn.Module) -> bytes:
    """Script `module`, which takes pixels float32 `[N, 784]` to logits float32 `[N, 10]`."""
    saved = io.BytesIO()
    with _deprecated():
        torch.jit.save(torch.jit.script(module), saved)
    return _canonical(saved.getvalue())


def from_torchscript(archive: bytes) -> nn.Module:
    """Load a scripted module back, as `torch.jit.load` does."""
    with _deprecated():
        module: nn.Module = torch.jit.load(io.BytesIO(archive))  # type: ignore[no-untyped-call]
    return module


@contextlib.contextmanager
def _deprecated() -> Iterator[None]:
    """Keep to ourselves that torch would rather have us use torch.export; any other warning passes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.", category=DeprecationWarning)
        yield


def _canonical(archive: bytes) -> bytes:
    """The same records without the machine's traces, in the order of their names, at aligned offsets."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(packed, "w") as target:
        for name in sorted(source.namelist()):
            record = name.split("/", 1)[1]
            if record.endswith(".debug_pkl") or record == ".data/serialization_id":
                continue
            entry = zipfile.ZipInfo(f"{ROOT}/{record}")  # its date is ZIP's first, 1980-01-01
            entry.extra = _padding(packed.tell() + _LOCAL_HEADER + len(entry.filename))
            target.writestr(entry, _sorted_constants(source.read(name)) if _is_code(record) else source.read(name))
    return packed.getvalue()


def _is_code(record: str) -> bool:
    return record.startswith("code/") and record.endswith(".py")


def _sorted_constants(code: bytes) -> bytes:
    return _CONSTANTS.sub(lambda found: b"".join(sorted(found[0].splitlines(keepends=True))), code)


def _padding(offset: int) -> bytes:
    """An extra field that moves the data, which would begin at `offset`, to the next multiple of 64."""
    field_header = len(_PADDING_ID) + 2
    length = -(offset + field_header) % _ALIGNMENT
    return _PADDING_ID + length.to_bytes(2, "little") + b"Z" * length
