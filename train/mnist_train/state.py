"""Resumable checkpoints: all that a training run is made of between two steps, in one safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor, nn

from mnist_runtime.files import read_whole, write_atomically
from mnist_train.errors import CheckpointError
from mnist_train.fit import Epoch, Position
from mnist_train.optimizers import Optimizer
from mnist_train.settings import Settings

FILE = "mnist.resume.safetensors"
"""Its name in the output folder."""

_KEY = "mnist_edge_state"
_LIMIT = 2**34  # bytes: weights and two buffers of the largest model that a checkpoint holds, and more
_WANTED = f"give the {FILE} of an interrupted mnist-train"


@dataclass(frozen=True)
class State:
    """A training run between two steps."""

    settings: Settings
    data: dict[str, str]
    """SHA-256 of every array."""
    tensors: dict[str, Tensor]
    """Weights as "model.*", what the optimizer remembers as "optimizer.*", generators as "rng.*", and "losses"."""
    epoch: int
    step: int
    history: tuple[Epoch, ...]

    def restore(self, model: nn.Module, optimizer: Optimizer, device: torch.device) -> Position:
        """Put weights, optimizer and generators where they were; return where to go on.

        Raises:
            CheckpointError: they do not fit.
        """
        try:
            model.load_state_dict(self._under("model."))
            optimizer.restore(self._under("optimizer."))
            torch.set_rng_state(self.tensors["rng.cpu"])
            if device.type == "cuda" and "rng.cuda" in self.tensors:
                torch.cuda.set_rng_state(self.tensors["rng.cuda"], device)
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"the resumable checkpoint does not fit ({reason}); {_WANTED}") from error
        return Position(self.epoch, self.step, self.tensors["losses"], list(self.history))

    def _under(self, prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: value for name, value in self.tensors.items() if name.startswith(prefix)}


def save_state(
    path: Path, settings: Settings, data: Mapping[str, str], model: nn.Module, optimizer: Optimizer, position: Position
) -> bool:
    """Write the run as it stands to `path`, atomically; False, and nothing written, if a weight is not finite.

    Raises:
        FileWriteError: naming `path`.
    """
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        return False  # the loop will say so; what is on disk is the last that is good
    tensors = weights | {f"optimizer.{name}": tensor for name, tensor in optimizer.tensors().items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    device = next(model.parameters()).device
    if device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    tensors["losses"] = position.losses[: position.step]
    record = {
        "settings": asdict(settings),
        "data": dict(data),
        "epoch": position.epoch,
        "step": position.step,
        "history": [asdict(epoch) for epoch in position.history],
    }
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.save(copies, metadata={_KEY: json.dumps(record, sort_keys=True)}))
    return True


def load_state(path: Path) -> State:
    """Read the resumable checkpoint at `path`; no code in it can run.

    Raises:
        FileMissingError, FileReadError: it is not there, or cannot be read.
        CheckpointError: it is cut short, or not ours.
    """
    data = read_whole(path, limit=_LIMIT, wanted=_WANTED)
    try:
        tensors = safetensors.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        record = json.loads(header["__metadata__"][_KEY])
        history = tuple(Epoch(**{**epoch, "curve": tuple(epoch["curve"])}) for epoch in record["history"])
        losses, step = len(tensors["losses"]), record["step"]
        state = State(Settings(**record["settings"]), record["data"], tensors, record["epoch"], step, history)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a resumable checkpoint ({error}); {_WANTED}") from error
    if losses != step:
        raise CheckpointError(f"{path} holds {losses} losses of {step} steps; {_WANTED}")
    return state
