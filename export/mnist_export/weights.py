"""Weights of any origin: state dicts of `torch.save` and safetensors files, for a class that the user names."""

import difflib
import hashlib
import io
import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from mnist_runtime.errors import first_line
from mnist_runtime.io.files import read_whole
from mnist_train.checkpoint import SIZE_LIMIT, Checkpoint
from mnist_train.errors import CheckpointError
from mnist_train.models import build, unwrapped

_SAVE = 'save its weights alone: torch.save(model.state_dict(), "mnist.pt")'
_NESTED = ("model", "state_dict", "model_state_dict")
"""Keys under which training scripts save the state dict beside other things."""
_PREFIXES = ("module.", "_orig_mod.")
"""Prefixes of the names that DataParallel and torch.compile add."""
_NEAR = 0.7
"""Least similarity of a name that an error suggests: that of "fc.weight" and "fc1.weight" is 0.95."""
_SHOWN = 3
"""Most names of each kind that an error lists."""

Weights = Mapping[str, Any]
"""A state dict: tensors by name, and whatever `get_extra_state` returned."""


def load_weights(path: str | os.PathLike[str], model: str) -> Checkpoint:
    """Build `model` and load the state dict at `path` into it; no code in the file can run.

    Args:
        path: File by `torch.save` of a state dict, alone or under "model", "state_dict" or "model_state_dict", or
            safetensors. The prefixes of DataParallel and torch.compile are removed.
        model: Name for `mnist_train.models.build`: "package.module:Class".

    Raises:
        ModelError: the class cannot be built, or does not classify digits.
        FileMissingError, FileReadError: the file is missing, too large, or cannot be read.
        CheckpointError: the file holds no state dict, or one that does not fit the class.
    """
    path = Path(path)
    module = build(model)
    data = read_whole(path, limit=SIZE_LIMIT, wanted="give a state dict of torch.save, or a safetensors file")
    own = unwrapped(module)
    wanted = own.state_dict()
    if data[8:9] == b"{":  # safetensors: eight bytes of length, then JSON
        weights = _without_prefixes(_safetensors(path, data), wanted)
        _require_fit(path, weights, model, wanted)
    else:
        _require_state_dict(path, data)
        claimed = _without_prefixes(_unpickled(path, data, "meta"), wanted)  # takes no memory for its tensors
        _require_fit(path, claimed, model, wanted)
        weights = _without_prefixes(_unpickled(path, data, "cpu"), wanted)
    try:
        own.load_state_dict(weights)
    except Exception as error:  # set_extra_state is the user's code
        raise CheckpointError(
            f"{path} does not fit {model} ({first_line(error)}); give the class it was saved from"
        ) from error
    return Checkpoint(module.eval(), {"model": model}, hashlib.sha256(data).hexdigest(), len(data))


def _safetensors(path: Path, data: bytes) -> Weights:
    try:
        weights: Weights = safetensors.load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is a damaged safetensors file ({first_line(error)}); save it again") from error
    return weights


def _require_state_dict(path: Path, data: bytes) -> None:
    """Raise if the archive `data` is a program, or unpacks to more than a checkpoint may take."""
    if not data.startswith(b"PK"):
        return  # the format of torch before 1.6, or none of torch's, which torch.load finds out
    try:
        members = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is damaged ({first_line(error)}); save it again") from error
    names = [member.filename for member in members]
    if any("/code/" in name or name.endswith(("/constants.pkl", "/archive_format")) for name in names):
        raise CheckpointError(
            f"{path} is a program of TorchScript or torch.export, not a state dict; load the module that it was made "
            f"from, and {_SAVE}"
        )
    if sum(member.file_size for member in members) > SIZE_LIMIT:
        raise CheckpointError(f"{path} unpacks to more than {SIZE_LIMIT >> 20:,} MiB; {_SAVE}")


def _unpickled(path: Path, data: bytes, device: str) -> Weights:
    """Return the state dict in a file of `torch.save`, on `device`."""
    try:
        found = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except Exception as error:  # torch.load lets every error of its parsing through
        if isinstance(error, pickle.UnpicklingError) and (named := re.search(r"GLOBAL (\S+)", str(error))):
            raise CheckpointError(
                f"{path} holds an object of {named[1]}, as torch.save(model) writes it, and loading that could run any "
                f"code; load the model where it was trained, and {_SAVE}"
            ) from error
        raise CheckpointError(f"{path} is damaged, or no file of torch.save ({first_line(error)}); {_SAVE}") from error
    if device == "meta" and _claimed(found) > SIZE_LIMIT:
        raise CheckpointError(f"{path} claims tensors of more than {SIZE_LIMIT >> 20:,} MiB; {_SAVE}")
    if isinstance(found, Mapping):
        found = next((found[key] for key in _NESTED if isinstance(found.get(key), Mapping)), found)
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{path} holds no state dict but a {type(found).__name__}; {_SAVE}")
    return found


def _claimed(value: object) -> int:
    """Return the size in bytes of all tensors in `value`, at any depth."""
    if isinstance(value, Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, Mapping):
        return sum(map(_claimed, value.values()))
    return sum(map(_claimed, value)) if isinstance(value, list | tuple) else 0


def _without_prefixes(weights: Weights, wanted: Weights) -> Weights:
    """Remove prefixes that all names have, until one of the names is known."""
    while not weights.keys() & wanted.keys():
        prefix = next((each for each in _PREFIXES if all(str(name).startswith(each) for name in weights)), None)
        if prefix is None:
            break
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _require_fit(path: Path, weights: Weights, model: str, wanted: Weights) -> None:
    """Raise if names or shapes differ from those of the class; the error suggests the nearest names."""
    missing = [name for name in wanted if name not in weights]
    unexpected = [str(name) for name in weights if name not in wanted]
    others = [
        f"{name!r} {list(weights[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if isinstance(tensor, Tensor) and isinstance(weights.get(name), Tensor) and weights[name].shape != tensor.shape
    ]
    parts = {
        "missing": [_with_nearest(name, unexpected) for name in missing],
        "unexpected": [_with_nearest(name, missing) for name in unexpected],
        "of another shape": others,
    }
    differences = "; ".join(f"{what} {_listed(names)}" for what, names in parts.items() if names)
    if differences:
        raise CheckpointError(f"{path} does not fit {model}: {differences}; give the class that it was saved from")


def _with_nearest(name: str, others: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, others, n=1, cutoff=_NEAR)
    return f"{name!r} (nearest {near[0]!r})" if near else repr(name)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
