"""The settings of a training run, and the TOML file that holds them."""

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mnist_runtime.errors import first_line
from mnist_runtime.io.files import read_whole
from mnist_train.errors import ConfigError

_LIMIT = 2**14  # bytes; all options take 500, and tomllib takes minutes for a dotted key of a megabyte
_TYPES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The options of `mnist-train`, each with its default."""

    model: str = "linear"
    data: str = "bundled"
    sha256: str = ""
    """SHA-256 of a download in hex; empty for MNIST, whose arrays are known."""
    optimizer: str = "plain"
    lr: float = 0.5
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    label_smoothing: float = 0.0
    average: float = 0.0
    """Decay of the average of the weights; 0 takes the last weights."""
    augment: bool = False
    epochs: int = 2
    batch_size: int = 64
    shuffle: bool = False
    seed: int = 0
    device: str = "auto"
    output_dir: str = "artifacts"
    checkpoint_every: int = 0
    """Steps between resumable checkpoints; 0 writes one per epoch only."""
    tracker: str = "none"
    report: str = ""
    """Folder of the report; empty writes none."""

    def hyperparameters(self) -> dict[str, Any]:
        """Return the settings that, with the model and the data, determine the weights."""
        names = (
            *("optimizer", "lr", "momentum", "weight_decay", "schedule", "label_smoothing", "average", "augment"),
            *("epochs", "batch_size", "shuffle", "seed"),
        )
        return {name: getattr(self, name) for name in names}

    def to_toml(self) -> str:
        """Return the TOML file from which `--config` reads the same settings."""
        import tomli_w

        return tomli_w.dumps(asdict(self))


CHANGEABLE = frozenset({"epochs", "device", "output_dir", "checkpoint_every", "tracker", "report"})
"""Settings that may change when a run is resumed; the epochs only with a constant schedule."""


def read_config(path: Path) -> dict[str, Any]:
    """Read the TOML file at `path`, whose keys are options with "-" or "_".

    Types are checked here; click checks ranges when it takes the values as the options' defaults.

    Raises:
        FileMissingError, FileReadError: the file is missing or cannot be read.
        ConfigError: the file is not TOML, names an unknown option, or gives a value of another type.
    """
    data = read_whole(path, limit=_LIMIT, wanted="give a TOML file as mnist-train --print-config writes it")
    try:
        values = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # 5,000 digits raise ValueError, 2,000 brackets RecursionError
        raise ConfigError(
            f"{path} is not TOML ({first_line(error)}); mnist-train --print-config writes an example"
        ) from error
    for key in values:
        if "-" in key and key.replace("-", "_") in values:
            raise ConfigError(f"{path} sets both {key} and {key.replace('-', '_')}, which are the same; keep one")
    values = {key.replace("-", "_"): value for key, value in values.items()}
    unknown = values.keys() - {field.name for field in fields(TrainingSettings)}
    if unknown:
        raise ConfigError(
            f"{path} sets {', '.join(sorted(unknown))}, which mnist-train does not know; "
            "mnist-train --print-config lists all options"
        )
    for key, value in values.items():
        default = getattr(TrainingSettings, key)
        wanted = type(default)
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise ConfigError(f"{path} sets {key} to {value!r}, and it takes {_TYPES[wanted]}; change the file")
        if value == "" and default:
            raise ConfigError(f"{path} sets {key} to an empty text; give a value, or remove the line")
    return values
