"""The commands of the training room: `mnist-train` and `mnist-data`."""

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnist_runtime import __version__
from mnist_runtime.command import Command, Group

# torch and NumPy are imported where they are used: --help answers at once, and mnist-data needs no torch.
if TYPE_CHECKING:
    import numpy as np
    import torch

    from mnist_train.data import Split


class _PositiveFloat(click.ParamType[float]):
    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            self.fail(f"{value!r} is not a finite number above 0.", param, ctx)
        return number


@click.command("mnist-train", cls=Command)
@click.option("--lr", type=_PositiveFloat(), default=0.5, show_default=True, help="Learning rate.")
@click.option("--epochs", type=click.IntRange(min=1), default=2, show_default=True, help="Passes over the data.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Digits a step.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the first weights.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train; auto is CUDA if there is one.",
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    default="artifacts",
    show_default=True,
    help="Where mnist.safetensors and metrics.jsonl go.",
)
@click.version_option(__version__)
def train(lr: float, epochs: int, batch_size: int, seed: int, device: str, output_dir: Path) -> None:
    """Train the lab's classifier on MNIST and write a checkpoint.

    Exit codes: 0 trained and written; 1 it could not be; 2 wrong usage; 130 interrupted, nothing written.
    """
    import torch

    from mnist_runtime.files import ensure_writable, write_atomically
    from mnist_train import checkpoint
    from mnist_train.data import DIGESTS, load_split
    from mnist_train.fit import CHANCE_LOSS, Epoch, evaluate, fit
    from mnist_train.models import MODELS

    chosen = _device(device)
    ensure_writable(output_dir)
    train_data, valid, test = (load_split(name).tensors(chosen) for name in ("train", "valid", "test"))
    torch.manual_seed(seed)
    model = MODELS["linear"]().to(chosen)
    parameters = sum(p.numel() for p in model.parameters())
    click.echo(f"Training a linear model of {parameters:,} parameters on {len(train_data[0]):,} digits ({chosen}).")
    untrained, _ = evaluate(model, valid)
    click.echo(f"untrained   validation loss {untrained:.4f}; guessing gives -ln(1/10) = {CHANCE_LOSS:.4f}")

    progress = _progress(epochs * math.ceil(len(train_data[0]) / batch_size))

    def report(epoch: Epoch) -> None:
        progress.clear()
        click.echo(
            f"epoch {epoch.epoch:>2}/{epochs:<2} training loss {epoch.train_loss:.4f}   "
            f"validation loss {epoch.valid_loss:.4f}   accuracy {epoch.valid_accuracy:.2%}"
        )

    with progress:
        options = {"lr": lr, "epochs": epochs, "batch_size": batch_size}
        history = fit(model, train_data, valid, **options, on_step=progress.update, on_epoch=report)  # type: ignore[arg-type]
    test_loss, test_accuracy = evaluate(model, test)
    click.echo(f"test        loss {test_loss:.4f}   accuracy {test_accuracy:.2%}")

    metrics = {**asdict(history[-1]), "test_loss": test_loss, "test_accuracy": test_accuracy}
    record = {
        "model": "linear",
        "hyperparameters": {**options, "seed": seed, "optimizer": "sgd"},
        "device": chosen.type,
        "data": {"name": "mnist", "sha256": DIGESTS},
        "metrics": metrics,
        "versions": {"mnist-edge": __version__, "torch": torch.__version__},
    }
    path = output_dir / "mnist.safetensors"
    digest = checkpoint.save(path, model, record)
    lines = [*map(asdict, history), {"test_loss": test_loss, "test_accuracy": test_accuracy}]
    write_atomically(output_dir / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    click.echo(f"Wrote {path} (sha256 {digest[:12]}) and {output_dir / 'metrics.jsonl'}.")


def _device(name: str) -> "torch.device":
    import torch

    from mnist_train.errors import DeviceError

    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda was asked for and torch finds no CUDA device; use --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _progress(steps: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=steps, unit=" steps", leave=False, disable=not sys.stderr.isatty(), mininterval=0.2)


@click.group("mnist-data", cls=Group)
@click.version_option(__version__)
def data() -> None:
    """Look at MNIST: what is in it, what a digit looks like, and one of them to save.

    Exit codes: 0 done; 1 it could not be done; 2 wrong usage.
    """


_split_option = click.option(
    "--split", type=click.Choice(["train", "valid", "test"]), default="test", show_default=True, help="Which digits."
)


@data.command()
def info() -> None:
    """Shapes, dtypes, class counts and digests."""
    import numpy as np

    from mnist_train.data import DIGESTS, SPLITS, load_split

    splits = {name: load_split(name) for name in SPLITS}
    click.echo("array    dtype  shape            SHA-256 of its bytes (checked)")
    for name, split in splits.items():
        for key, array in ((f"x_{name}", split.images), (f"y_{name}", split.labels)):
            click.echo(f"{key:<8} {array.dtype}  {array.shape!s:<16} {DIGESTS[key]}")
    click.echo("\ndigit " + "".join(f"{label:>7}" for label in range(10)))
    for name, split in splits.items():
        click.echo(f"{name:<6}" + "".join(f"{count:>7,}" for count in np.bincount(split.labels, minlength=10)))


@data.command()
@click.argument("index", type=int, required=False)
@_split_option
@click.option("--seed", type=click.IntRange(min=0), help="Makes the random choice repeatable.")
def show(index: int | None, split: str, seed: int | None) -> None:
    """Draw digit INDEX, or a random one, with its label."""
    import random

    from mnist_runtime.terminal import draw_digit, has_colour
    from mnist_train.data import load_split

    digits = load_split(split)
    if index is None:
        index = random.Random(seed).randrange(len(digits))  # noqa: S311
    digit, label = _pick(digits, split, index)
    click.echo("\n".join(draw_digit(digit, colour=has_colour(sys.stdout))), color=True)
    click.echo(f"\n{split}[{index}] is a {label}")


@data.command()
@click.argument("index", type=int)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@_split_option
def save(index: int, path: Path, split: str) -> None:
    """Save digit INDEX to PATH as a .npy file, uint8 [28, 28], for mnist-infer."""
    import io

    import numpy as np

    from mnist_runtime.files import write_atomically
    from mnist_train.data import load_split

    digit, label = _pick(load_split(split), split, index)
    buffer = io.BytesIO()
    np.save(buffer, digit)
    write_atomically(path, buffer.getvalue())
    click.echo(f"Wrote {path}: {split}[{index}], a {label}.")


def _pick(digits: "Split", split: str, index: int) -> "tuple[np.ndarray[Any, np.dtype[np.uint8]], int]":
    if not 0 <= index < len(digits):
        raise click.UsageError(f"there is no digit {index}; the {split} digits are 0 to {len(digits) - 1}.")
    return digits.images[index], int(digits.labels[index])
