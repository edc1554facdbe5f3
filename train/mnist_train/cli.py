"""The commands of the training room: `mnist-train` and `mnist-data`."""

import os
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from mnist_runtime import __version__
from mnist_runtime.console.command import Command, Group, native_imports, require_a_thread
from mnist_runtime.console.finite_float import FiniteFloat
from mnist_train.errors import GroupError
from mnist_train.settings import CHANGEABLE, TrainingSettings, read_config
from mnist_train.torchrun_env import Rank

# torch and NumPy are imported where they are used, so that --help is fast and mnist-data needs no torch.
if TYPE_CHECKING:
    import numpy as np

    from mnist_train.data.bundled import Split


F = TypeVar("F", bound=Callable[..., object])


class _TorchrunCommand(Command):
    """A command that torchrun may start many times: rank 0 prints results, the first rank of each machine errors.

    Tracebacks of unexpected exceptions come from any rank.
    """

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run the command, as `Command.main` does."""
        try:
            rank = Rank.from_environment()
        except GroupError:
            rank = None  # the command reports the error
        with ExitStack() as stack:
            devnull = stack.enter_context(Path(os.devnull).open("w"))
            if rank and rank.rank:
                stack.enter_context(redirect_stdout(devnull))
            if rank and rank.local_rank:
                stack.enter_context(redirect_stderr(devnull))
            super().main(*args, **extra)


class _Device(click.ParamType[str]):
    name = "auto|cpu|cuda|cuda:N|mps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", str(value)):
            self.fail(f"{value!r} is not {self.name}.", param, ctx)
        return str(value)


def _read_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Make the file's values the defaults, so that flags win and click checks both."""
    if path and not ctx.resilient_parsing:
        ctx.default_map = {**(ctx.default_map or {}), **read_config(path)}


def _read_state(ctx: click.Context, _: click.Parameter, path: Path | None) -> Any:
    """Make the interrupted run's settings the defaults."""
    if not path or ctx.resilient_parsing:
        return None
    require_a_thread()
    from mnist_train.resumable import load_state

    state = load_state(path)
    ctx.default_map = {**(ctx.default_map or {}), **asdict(state.settings)}
    return state


def _option(name: str, kind: Any, explanation: str, **extra: Any) -> Callable[[F], F]:
    """Declare an option of `mnist-train`; its default is that of `TrainingSettings`."""
    default = getattr(TrainingSettings, name.removeprefix("--").replace("-", "_"))
    shown = default is not False and default != ""
    return click.option(name, type=kind, default=default, show_default=shown, help=explanation, **extra)


@click.command("mnist-train", cls=_TorchrunCommand)
@_option("--model", str, "Model to train: linear, mlp, cnn, or package.module:Class of yours.", metavar="NAME")
@_option(
    "--data",
    str,
    "Data: bundled, lab, a URL, a .pkl.gz, .npz or .csv, or a folder of IDX, .csv or .npy files.",
    metavar="SOURCE",
)
@_option("--sha256", str, "SHA-256 of a download other than MNIST.", metavar="HEX")
@_option("--optimizer", click.Choice(["plain", "sgd", "adamw"]), "Update rule: the lab's, or one of torch.optim.")
@_option("--lr", FiniteFloat(min=0, min_open=True), "Learning rate.", metavar="FLOAT")
@_option("--momentum", FiniteFloat(0, 1, max_open=True), "Momentum (sgd only).", metavar="SHARE")
@_option("--weight-decay", FiniteFloat(min=0), "Weight decay (sgd and adamw only).", metavar="FLOAT")
@_option("--schedule", click.Choice(["constant", "cosine", "one-cycle"]), "Schedule of the learning rate.")
@_option("--label-smoothing", FiniteFloat(0, 1, max_open=True), "Share of each label to spread.", metavar="SHARE")
@_option("--average", FiniteFloat(0, 1, max_open=True), "Decay of the average of the weights.", metavar="SHARE")
@_option("--augment", bool, "Vary shape, stroke, resolution, tone and noise of every picture.", is_flag=True)
@_option("--epochs", click.IntRange(min=1), "Passes over the training digits.", metavar="N")
@_option("--batch-size", click.IntRange(min=1), "Digits per step.", metavar="N")
@_option("--shuffle", bool, "Shuffle the digits in every epoch, in an order fixed by the seed.", is_flag=True)
@_option("--seed", click.IntRange(0, 2**63 - 1), "Seed of initial weights and all randomness.", metavar="N")
@_option("--device", _Device(), "Device: cpu, cuda, cuda:N, mps, or auto for a GPU if there is one.", metavar="NAME")
@_option("--output-dir", str, "Folder for mnist.safetensors and metrics.jsonl.", metavar="DIR")
@_option(
    "--checkpoint-every",
    click.IntRange(min=0),
    "Steps between resumable checkpoints; 0 writes one per epoch.",
    metavar="N",
)
@_option("--tracker", click.Choice(["none", "tensorboard", "wandb"]), "Tracker that logs curves, weights and digits.")
@_option("--report", str, "Folder for a report: curves, confusions, weights and errors as PNG and HTML.", metavar="DIR")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="TOML file with any of these options; flags win.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    is_eager=True,
    callback=_read_state,
    help="Resumable checkpoint to continue from, with its settings.",
)
@click.option("--print-config", is_flag=True, help="Print these options as TOML for --config, and exit.")
@click.version_option(__version__)
@click.pass_context
def train(ctx: click.Context, /, resume: Any, print_config: bool, **options: Any) -> None:
    """Train a digit classifier with the lab's loop and write a checkpoint.

    Ctrl-C and SIGTERM finish the step and save a resumable checkpoint.

    Exit codes: 0 trained; 1 failed; 2 wrong usage; 130 interrupted; 143 terminated.
    """
    settings = TrainingSettings(**options)
    _refuse_contradictions(settings, resume)
    if print_config:
        click.echo(settings.to_toml(), nl=False)
        return

    require_a_thread()
    from mnist_train.distributed import join
    from mnist_train.run import Stopped, TrainingRun

    try:
        with join() as group:
            TrainingRun(settings, resume, click.echo, group).train()
    except Stopped as stopped:
        click.echo(stopped, err=True)
        ctx.exit(stopped.exit_code)


def _refuse_contradictions(settings: TrainingSettings, resumed: Any) -> None:
    if settings.momentum and settings.optimizer != "sgd":
        raise click.UsageError(f"--momentum belongs to --optimizer sgd, not to {settings.optimizer}.")
    if settings.weight_decay and settings.optimizer == "plain":
        raise click.UsageError("--weight-decay belongs to --optimizer sgd or adamw, not to plain.")
    if resumed:
        _refuse_changes(settings, resumed)


def _refuse_changes(settings: TrainingSettings, resumed: Any) -> None:
    """Refuse what would make the resumed run another one than its settings say."""
    for name, value in asdict(resumed.settings).items():
        is_fixed = name not in CHANGEABLE or (name == "epochs" and settings.schedule != "constant")
        if is_fixed and getattr(settings, name) != value:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(
                f"{option} was {value!r} before the interruption and cannot change; omit it, in --config too."
            )
    begun = resumed.epoch if resumed.step else resumed.epoch - 1
    if settings.epochs < begun:
        raise click.UsageError(f"--epochs is {settings.epochs}, and the run has begun its epoch {begun}; give more.")


@click.group("mnist-data", cls=Group)
@click.version_option(__version__)
def data() -> None:
    """Download, describe and draw MNIST, or save one of its digits.

    Exit codes: 0 done; 1 failed; 2 wrong usage.
    """


class _DigitCommand(Command):
    """A command that accepts a negative INDEX, so that the error names the valid ones instead of an option -5."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ignore_unknown_options = any(re.fullmatch(r"-\d+", word) for word in args)
        return super().parse_args(ctx, args)


_split_option = click.option(
    "--split", type=click.Choice(["train", "valid", "test"]), default="test", show_default=True, help="Part of MNIST."
)


@data.command()
@click.argument("source", default="lab")
@click.option("--sha256", metavar="HEX", help="SHA-256 of a file other than MNIST.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=2**30, show_default=True, metavar="BYTES", help="Largest download."
)
@click.option(
    "--timeout",
    type=FiniteFloat(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds the server may take to connect, or between two reads.",
)
def fetch(source: str, sha256: str | None, limit: int, timeout: float) -> None:
    """Download SOURCE, "lab" (the default) or a URL, into the cache, check it, and print its path.

    The cache is MNIST_EDGE_CACHE, or mnist-edge in your cache folder. A file in the cache is not downloaded again.
    """
    with native_imports():
        from mnist_train.data.sources import fetch_source

    click.echo(fetch_source(source, sha256=sha256, limit=limit, timeout=timeout))


@data.command()
def info() -> None:
    """Print shapes, dtypes, class counts and digests."""
    with native_imports():
        import numpy as np

        from mnist_train.data.bundled import DIGESTS, SPLITS, load_split

    splits = {name: load_split(name) for name in SPLITS}
    click.echo("array    dtype  shape            SHA-256 of its bytes (checked)")
    for name, split in splits.items():
        for key, array in ((f"x_{name}", split.images), (f"y_{name}", split.labels)):
            click.echo(f"{key:<8} {array.dtype}  {array.shape!s:<16} {DIGESTS[key]}")
    click.echo("\ndigit " + "".join(f"{label:>7}" for label in range(10)))
    for name, split in splits.items():
        click.echo(f"{name:<6}" + "".join(f"{count:>7,}" for count in np.bincount(split.labels, minlength=10)))


@data.command(cls=_DigitCommand)
@click.argument("index", type=int, required=False)
@_split_option
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the random choice.")
def show(index: int | None, split: str, seed: int | None) -> None:
    """Draw digit INDEX, or a random digit, with its label."""
    import random

    with native_imports():
        from mnist_runtime.console.drawing import draw_digit, has_colour
        from mnist_train.data.bundled import load_split

    digits = load_split(split)
    if index is None:
        index = random.Random(seed).randrange(len(digits))  # noqa: S311
    digit, label = _pick(digits, split, index)
    click.echo("\n".join(draw_digit(digit, colour=has_colour(sys.stdout))), color=True)
    click.echo(f"\n{split}[{index}] is a {label}")


@data.command(cls=_DigitCommand)
@click.argument("index", type=int)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@_split_option
def save(index: int, path: Path, split: str) -> None:
    """Save digit INDEX to PATH as a .npy file, uint8 [28, 28], for mnist-infer."""
    import io

    with native_imports():
        import numpy as np

        from mnist_runtime.io.files import write_atomically
        from mnist_train.data.bundled import load_split

    digit, label = _pick(load_split(split), split, index)
    buffer = io.BytesIO()
    np.save(buffer, digit)
    write_atomically(path, buffer.getvalue())
    click.echo(f"Wrote {path}: {split}[{index}], a {label}.")


def _pick(digits: "Split", split: str, index: int) -> "tuple[np.ndarray[Any, np.dtype[np.uint8]], int]":
    if not 0 <= index < len(digits):
        raise click.UsageError(f"there is no digit {index}; {split} has digits 0 to {len(digits) - 1}.")
    return digits.images[index], int(digits.labels[index])


if __name__ == "__main__":
    train(prog_name="mnist-train")
