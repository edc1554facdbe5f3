"""Resumable checkpoints: the whole state of a training run between two steps, in one safetensors file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mnist_runtime.errors import first_line
from mnist_runtime.io.files import read_whole, write_atomically
from mnist_train import checkpoint
from mnist_train.averaging import WeightAverage
from mnist_train.distributed import ALONE, ProcessGroup
from mnist_train.errors import CheckpointError
from mnist_train.fit import Epoch, Position
from mnist_train.optimizers import Optimizer
from mnist_train.settings import TrainingSettings

FILE = "mnist.resume.safetensors"
"""Name of the resumable checkpoint in the output folder."""

_KEY = "mnist_edge_state"
_LIMIT = 2**34  # bytes; enough for the weights and two buffers of the largest model that a checkpoint holds
_WANTED = f"give the {FILE} of an interrupted mnist-train"


@dataclass(frozen=True)
class State:
    """State of a training run between two steps."""

    settings: TrainingSettings
    data: dict[str, str]
    """SHA-256 of every array, by name."""
    tensors: dict[str, Tensor]
    """Weights as "model.*", their average as "average.*", the optimizer's buffers as "optimizer.*", the random number
    generators of each rank as "rng.*.RANK", and "losses"."""
    epoch: int
    step: int
    history: tuple[Epoch, ...]
    run_id: str
    """Id of the torchrun that started the run; empty without torchrun."""

    def restore(self, model: nn.Module, optimizer: Optimizer, average: WeightAverage, rank: int = 0) -> Position:
        """Restore weights, optimizer, average and the generators of `rank`; return the position to continue from.

        A rank that the saved run did not have keeps its generators.

        Raises:
            CheckpointError: the saved tensors do not fit.
        """
        try:
            model.load_state_dict(self._under("model."))
            optimizer.restore(self._under("optimizer."))
            average.restore(self._under("average."))
            if (cpu := self.tensors.get(f"rng.cpu.{rank}")) is not None:
                torch.set_rng_state(cpu)
            device = next(model.parameters()).device
            if device.type == "cuda" and (cuda := self.tensors.get(f"rng.cuda.{rank}")) is not None:
                torch.cuda.set_rng_state(cuda, device)
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"the resumable checkpoint does not fit ({reason}); {_WANTED}") from error
        return Position(self.epoch, self.step, self.tensors["losses"], list(self.history))

    def _under(self, prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: value for name, value in self.tensors.items() if name.startswith(prefix)}


def save_state(
    path: Path,
    settings: TrainingSettings,
    data: Mapping[str, str],
    model: nn.Module,
    optimizer: Optimizer,
    position: Position,
    *,
    average: WeightAverage,
    group: ProcessGroup = ALONE,
) -> bool:
    """Write the state of the run to `path`, atomically; return False and write nothing if a weight is not finite.

    Every rank of `group` must call this function; rank 0 writes.

    Raises:
        FileWriteError: `path` cannot be written.
    """
    parts = {"model": model.state_dict(), "optimizer": optimizer.tensors(), "average": average.tensors()}
    if not all(torch.isfinite(tensor).all() for tensor in parts["model"].values()):
        return False  # the last good checkpoint stays, and the loop reports the divergence
    tensors = {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
    generators = {"rng.cpu": torch.get_rng_state()}
    device = next(model.parameters()).device
    if device.type == "cuda":
        generators["rng.cuda"] = torch.cuda.get_rng_state(device)
    for name, generator in generators.items():
        tensors |= {f"{name}.{rank}": state for rank, state in enumerate(group.gather(generator))}
    tensors["losses"] = position.losses[: position.step]
    record = {
        "settings": asdict(settings),
        "data": dict(data),
        "epoch": position.epoch,
        "step": position.step,
        "history": [asdict(epoch) for epoch in position.history],
        "run_id": group.run_id,
    }
    if group.rank == 0:
        write_atomically(path, checkpoint.pack(tensors, _KEY, record))
    return True


def load_state(path: Path) -> State:
    """Read the resumable checkpoint at `path`; no code in the file can run.

    Raises:
        FileMissingError, FileReadError: the file is missing or cannot be read.
        CheckpointError: the file is cut short, or not ours.
    """
    data = read_whole(path, limit=_LIMIT, wanted=_WANTED)
    try:
        tensors, record = checkpoint.unpack(data, _KEY)
        history = tuple(Epoch(**{**epoch, "curve": tuple(epoch["curve"])}) for epoch in record["history"])
        losses, step = len(tensors["losses"]), record["step"]
        settings = TrainingSettings(**record["settings"])
        state = State(
            settings, dict(record["data"]), tensors, int(record["epoch"]), step, history, str(record["run_id"])
        )
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a resumable checkpoint ({first_line(error)}); {_WANTED}") from error
    if losses != step:
        raise CheckpointError(f"{path} holds {losses} losses of {step} steps; {_WANTED}")
    return state
