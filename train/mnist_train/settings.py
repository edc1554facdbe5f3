"""Everything that decides how a training run comes out, and the TOML file that says it."""

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mnist_runtime.io.files import read_whole
from mnist_train.errors import ConfigError

_LIMIT = 2**20  # bytes
_TYPES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `mnist-train`, each with its default."""

    model: str = "linear"
    data: str = "bundled"
    sha256: str = ""
    """Of a download; empty for MNIST, whose arrays are known."""
    optimizer: str = "plain"
    lr: float = 0.5
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    epochs: int = 2
    batch_size: int = 64
    shuffle: bool = False
    seed: int = 0
    device: str = "auto"
    output_dir: str = "artifacts"
    checkpoint_every: int = 0
    """Steps between resumable checkpoints; 0 for the ends of epochs alone."""
    tracker: str = "none"
    report: str = ""
    """Folder of the report; empty for none."""

    def hyperparameters(self) -> dict[str, Any]:
        """What decides the weights, besides the model and the data."""
        names = ("optimizer", "lr", "momentum", "weight_decay", "schedule", "epochs", "batch_size", "shuffle", "seed")
        return {name: getattr(self, name) for name in names}

    def to_toml(self) -> str:
        """The file that `--config` reads back to the same settings."""
        import tomli_w

        return tomli_w.dumps(asdict(self))


CHANGEABLE = frozenset({"epochs", "device", "output_dir", "checkpoint_every", "tracker", "report"})
"""What a resumed run may do otherwise than the one it goes on from."""


def read_config(path: Path) -> dict[str, Any]:
    """Read the TOML file at `path`: keys as the options, with "-" or "_"; the values are checked as options are.

    Raises:
        FileMissingError, FileReadError: it is not there, or cannot be read.
        ConfigError: it is no TOML, or names an option that there is not.
    """
    data = read_whole(path, limit=_LIMIT, wanted="give a TOML file as mnist-train --print-config writes it")
    try:
        values = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML ({error}); mnist-train --print-config shows what is") from error
    _refuse_doubles(path, values)
    values = {key.replace("-", "_"): value for key, value in values.items()}
    unknown = values.keys() - {field.name for field in fields(Settings)}
    if unknown:
        raise ConfigError(
            f"{path} sets {', '.join(sorted(unknown))}, which mnist-train does not know; "
            "mnist-train --print-config shows what it knows"
        )
    for key, value in values.items():
        _check_type(path, key, value)
    return values


def _refuse_doubles(path: Path, values: dict[str, Any]) -> None:
    for key in values:
        if "-" in key and key.replace("-", "_") in values:
            raise ConfigError(f"{path} sets both {key} and {key.replace('-', '_')}, which are the same; keep one")


def _check_type(path: Path, key: str, value: object) -> None:
    """Hold a value against its default: what a flag's text is turned into must not turn 1.5 into 1 in a file."""
    wanted = type(getattr(Settings, key))
    if type(value) is not wanted and not (wanted is float and type(value) is int):
        raise ConfigError(f"{path} sets {key} to {value!r}, and it takes {_TYPES[wanted]}; mend the file")
