"""Checkpoints: safetensors files of the weights, with the record of the training run as metadata."""

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

from mnist_runtime.errors import first_line
from mnist_runtime.io.files import read_whole, write_atomically
from mnist_train.errors import CheckpointError, ModelError
from mnist_train.models import build, unwrapped

# One metadata key, because safetensors keeps several in a hash map, whose order changes the bytes from run to run.
_KEY = "mnist_edge"
SIZE_LIMIT = 2**31
"""Largest file of weights, in bytes; more does not fit in one ONNX file, and could not be exported."""
_WANTED = "give a checkpoint that mnist-train wrote, or name the class of other weights with mnist-export --model"


@dataclass(frozen=True)
class Checkpoint:
    """A trained module and the record of its training."""

    module: nn.Module
    """Module in evaluation mode, on the CPU."""
    record: dict[str, Any]
    """Model, hyperparameters, metrics, digests of the data, and versions."""
    sha256: str
    """SHA-256 of the file, in hex."""
    size: int
    """Size of the file, in bytes."""


def save(path: str | os.PathLike[str], module: nn.Module, record: dict[str, Any]) -> str:
    """Write weights and record to `path`, atomically, and return the SHA-256 in hex; equal runs write equal bytes.

    Raises:
        FileWriteError: `path` cannot be written.
    """
    data = pack(unwrapped(module).state_dict(), _KEY, record)
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the checkpoint at `path`; no code in the file can run.

    The class of a checkpoint of `--model package.module:Class` is imported from your Python path.

    Raises:
        FileMissingError, FileReadError: the file is missing or cannot be read.
        CheckpointError: the file is cut short, not ours, does not fit its model, or its model cannot be imported.
    """
    path = Path(path)
    data = read_whole(path, limit=SIZE_LIMIT, wanted=_WANTED)
    try:
        weights, record = unpack(data, _KEY)
        module = build(record["model"])
        unwrapped(module).load_state_dict(weights)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({first_line(error)}); {_WANTED}"
        ) from error
    except ModelError as error:
        raise CheckpointError(f"the model of {path} cannot be built: {error}") from error
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} has no record of how it was trained ({first_line(error)}); {_WANTED}") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit its model ({reason}); {_WANTED}") from error
    return Checkpoint(module.eval(), record, hashlib.sha256(data).hexdigest(), len(data))


def pack(tensors: Mapping[str, Tensor], key: str, record: Mapping[str, Any]) -> bytes:
    """Return a safetensors file of `tensors`, from any device, with `record` as JSON under `key` in its metadata."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.save(copies, metadata={key: json.dumps(record, sort_keys=True)})


def unpack(data: bytes, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a safetensors file, and the record under `key`.

    The header is parsed here, because safetensors returns metadata of files only, not of bytes.

    Raises:
        SafetensorError: the file is damaged, or of another kind.
        KeyError, ValueError, TypeError, RecursionError: there is no such record.
    """
    tensors = safetensors.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    record = json.loads(header["__metadata__"][key])
    if not isinstance(record, dict) or not isinstance(record.get("model", ""), str):
        raise TypeError("the record is no object, or its model no text")
    return tensors, record
