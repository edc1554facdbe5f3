"""Checkpoints: safetensors files that hold the weights and, in their metadata, the whole record of the run."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor, nn

from mnist_runtime.io.files import read_whole, write_atomically
from mnist_train.errors import CheckpointError, ModelError
from mnist_train.models import build

# One metadata key: safetensors keeps several in a hash map, whose order would change the bytes from run to run.
_KEY = "mnist_edge"
_SIZE_LIMIT = 2**31  # bytes: what does not fit in one ONNX file cannot be exported
_WANTED = "give a checkpoint that mnist-train wrote"


@dataclass(frozen=True)
class Checkpoint:
    """A trained module and how it came to be."""

    module: nn.Module
    """In evaluation mode, on the CPU."""
    record: dict[str, Any]
    """model, hyperparameters, metrics, data digests and versions."""
    sha256: str
    """Of the file, in hex."""
    size: int
    """Of the file, in bytes."""


def save(path: str | os.PathLike[str], module: nn.Module, record: dict[str, Any]) -> str:
    """Write weights and record to `path`, atomically, and return the SHA-256; equal runs give equal bytes.

    Raises:
        FileWriteError: naming `path`.
    """
    data = pack(module.state_dict(), _KEY, record)
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the checkpoint at `path`; no code in it can run.

    A checkpoint of `--model package.module:Class` names that class, and it is imported from your Python path.

    Raises:
        FileMissingError, FileReadError: it is not there, or cannot be read.
        CheckpointError: it is cut short, not ours, or does not fit the model it names, or that model is not there.
    """
    path = Path(path)
    data = read_whole(path, limit=_SIZE_LIMIT, wanted=_WANTED)
    try:
        weights, record = unpack(data, _KEY)
        module = build(record["model"])
        module.load_state_dict(weights)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error}); {_WANTED}") from error
    except ModelError as error:
        raise CheckpointError(f"{path} says how it was trained, and that cannot be made again: {error}") from error
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} does not say how it was trained ({error!r}); {_WANTED}") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit its model ({reason}); {_WANTED}") from error
    return Checkpoint(module.eval(), record, hashlib.sha256(data).hexdigest(), len(data))


def pack(tensors: Mapping[str, Tensor], key: str, record: Mapping[str, Any]) -> bytes:
    """A safetensors file of `tensors`, wherever they are, with `record` as JSON under `key` of its metadata."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.save(copies, metadata={key: json.dumps(record, sort_keys=True)})


def unpack(data: bytes, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file, and the record under `key`; the library does not give metadata from bytes.

    Raises:
        SafetensorError: it is damaged, or another kind of file.
        KeyError, ValueError: there is no such record.
    """
    tensors = safetensors.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, json.loads(header["__metadata__"][key])
