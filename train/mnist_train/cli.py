"""The commands of the training room: `mnist-train` and `mnist-data`."""

import math
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
from mnist_runtime.console.command import Command, Group
from mnist_train.errors import GroupError
from mnist_train.settings import CHANGEABLE, Settings
from mnist_train.torchrun_env import Rank

# torch and NumPy are imported where they are used: --help answers at once, and mnist-data needs no torch.
if TYPE_CHECKING:
    import numpy as np

    from mnist_train.data.bundled import Split


F = TypeVar("F", bound=Callable[..., object])


class _Ranks(Command):
    """A command that torchrun may start many times over: rank 0 speaks for all.

    A machine's first rank also says what is wrong on that machine; an exception that nobody expected is seen of any.
    """

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """As `Command.main`."""
        try:
            place = Rank.told()
        except GroupError:
            place = None  # there may be nobody else to say so
        with ExitStack() as stack:
            nobody = stack.enter_context(Path(os.devnull).open("w"))
            if place and place.rank:
                stack.enter_context(redirect_stdout(nobody))
            if place and place.local_rank:
                stack.enter_context(redirect_stderr(nobody))
            super().main(*args, **extra)


class _PositiveFloat(click.ParamType[float]):
    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            self.fail(f"{value!r} is not a finite number above 0.", param, ctx)
        return number


class _Device(click.ParamType[str]):
    name = "auto|cpu|cuda|cuda:N|mps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", str(value)):
            self.fail(f"{value!r} is not {self.name}.", param, ctx)
        return str(value)


def _read_config(ctx: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Make the file's values the defaults, so that flags win and both are checked alike."""
    if path and not ctx.resilient_parsing:
        from mnist_train.settings import read_config

        ctx.default_map = {**(ctx.default_map or {}), **read_config(path)}
    return path


def _read_state(ctx: click.Context, _: click.Parameter, path: Path | None) -> Any:
    """Make the interrupted run's settings the defaults."""
    if not path or ctx.resilient_parsing:
        return None
    from mnist_train.resumable import load_state

    state = load_state(path)
    ctx.default_map = {**(ctx.default_map or {}), **asdict(state.settings)}
    return state


def _option(name: str, kind: Any, explanation: str, **extra: Any) -> Callable[[F], F]:
    """An option of `mnist-train` with the default that `Settings` gives it."""
    default = getattr(Settings, name.removeprefix("--").replace("-", "_"))
    shown = default is not False and default != ""
    return click.option(name, type=kind, default=default, show_default=shown, help=explanation, **extra)


@click.command("mnist-train", cls=_Ranks)
@_option(
    "--model", str, "linear, mlp, or package.module:Class, any nn.Module from [N, 784] to [N, 10].", metavar="NAME"
)
@_option("--data", str, "bundled, lab, a URL, a .pkl.gz, a .npz, or a folder of IDX or .npy files.", metavar="SOURCE")
@_option("--sha256", str, "Of a file to download that is not MNIST.", metavar="HEX")
@_option("--optimizer", click.Choice(["plain", "sgd", "adamw"]), "plain is the lab's update; the others torch.optim's.")
@_option("--lr", _PositiveFloat(), "Learning rate.", metavar="FLOAT")
@_option("--momentum", click.FloatRange(0, 1, max_open=True), "Of sgd.", metavar="SHARE")
@_option("--weight-decay", click.FloatRange(min=0), "Of sgd and adamw.", metavar="FLOAT")
@_option("--schedule", click.Choice(["constant", "cosine"]), "How the learning rate goes on.")
@_option("--epochs", click.IntRange(min=1), "Passes over the data.", metavar="N")
@_option("--batch-size", click.IntRange(min=1), "Digits a step.", metavar="N")
@_option("--shuffle", bool, "A new order every epoch, the same for the same seed.", is_flag=True)
@_option("--seed", click.IntRange(0, 2**63 - 1), "Of first weights, dropout and shuffle.", metavar="N")
@_option("--device", _Device(), "auto, cpu, cuda, cuda:N or mps; auto is a GPU if there is one.", metavar="NAME")
@_option("--output-dir", str, "Where mnist.safetensors and metrics.jsonl go.", metavar="DIR")
@_option(
    "--checkpoint-every",
    click.IntRange(min=0),
    "Steps between resumable checkpoints besides each epoch's.",
    metavar="N",
)
@_option("--tracker", click.Choice(["none", "tensorboard", "wandb"]), "Log curves, weights and digits there.")
@_option("--report", str, "Write curves, confusions, templates and errors there, as PNG and HTML.", metavar="DIR")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="A TOML file of these options; flags win.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    is_eager=True,
    callback=_read_state,
    help="Go on from a resumable checkpoint, with its settings.",
)
@click.option("--print-config", is_flag=True, help="Print the --config file of this command, and do nothing else.")
@click.version_option(__version__)
@click.pass_context
def train(ctx: click.Context, /, resume: Any, print_config: bool, **options: Any) -> None:
    """Train a digit classifier by the lab's loop and write a checkpoint.

    Ctrl-C and SIGTERM finish the step and save a resumable checkpoint.

    Exit codes: 0 trained and written; 1 it could not be; 2 wrong usage; 130 interrupted; 143 terminated.
    """
    settings = Settings(**options)
    _refuse_contradictions(settings, resume)
    if print_config:
        click.echo(settings.to_toml(), nl=False)
        return

    from mnist_train.distributed import join
    from mnist_train.run import Run, Stopped

    try:
        with join() as group:
            Run(settings, resume, click.echo, group).train()
    except Stopped as stopped:
        click.echo(stopped, err=True)
        ctx.exit(stopped.exit_code)


def _refuse_contradictions(settings: Settings, resumed: Any) -> None:
    if settings.momentum and settings.optimizer != "sgd":
        raise click.UsageError(f"--momentum belongs to --optimizer sgd, not to {settings.optimizer}.")
    if settings.weight_decay and settings.optimizer == "plain":
        raise click.UsageError("--weight-decay belongs to --optimizer sgd or adamw, not to plain.")
    for name, value in asdict(resumed.settings).items() if resumed else ():
        if name not in CHANGEABLE and getattr(settings, name) != value:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"{option} was {value!r} before the interruption and cannot change; leave it out.")


@click.group("mnist-data", cls=Group)
@click.version_option(__version__)
def data() -> None:
    """Look at MNIST: what is in it, what a digit looks like, and one of them to save.

    Exit codes: 0 done; 1 it could not be done; 2 wrong usage.
    """


class _OfDigit(Command):
    """A command on digit INDEX; one below 0 is told the digits there are, for -5 is no option that anybody mistyped."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ignore_unknown_options = any(re.fullmatch(r"-\d+", word) for word in args)
        return super().parse_args(ctx, args)


_split_option = click.option(
    "--split", type=click.Choice(["train", "valid", "test"]), default="test", show_default=True, help="Which digits."
)


@data.command()
@click.argument("source", default="lab")
@click.option("--sha256", metavar="HEX", help="Of a file that is not MNIST.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=2**30, show_default=True, metavar="BYTES", help="Largest size."
)
@click.option(
    "--timeout",
    type=_PositiveFloat(),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the server may be silent.",
)
def fetch(source: str, sha256: str | None, limit: int, timeout: float) -> None:
    """Download SOURCE, "lab" (the default) or a URL, into the cache, check it, and print its path.

    The cache is MNIST_EDGE_CACHE, or mnist-edge in your cache folder. Nothing is fetched twice.
    """
    from mnist_train.data.download import byte_bar
    from mnist_train.data.sources import fetch_source

    with byte_bar() as progress:
        path = fetch_source(source, sha256=sha256, limit=limit, timeout=timeout, progress=progress)
    click.echo(path)


@data.command()
def info() -> None:
    """Shapes, dtypes, class counts and digests."""
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


@data.command(cls=_OfDigit)
@click.argument("index", type=int, required=False)
@_split_option
@click.option("--seed", type=click.IntRange(min=0), help="Makes the random choice repeatable.")
def show(index: int | None, split: str, seed: int | None) -> None:
    """Draw digit INDEX, or a random one, with its label."""
    import random

    from mnist_runtime.console.drawing import draw_digit, has_colour
    from mnist_train.data.bundled import load_split

    digits = load_split(split)
    if index is None:
        index = random.Random(seed).randrange(len(digits))  # noqa: S311
    digit, label = _pick(digits, split, index)
    click.echo("\n".join(draw_digit(digit, colour=has_colour(sys.stdout))), color=True)
    click.echo(f"\n{split}[{index}] is a {label}")


@data.command(cls=_OfDigit)
@click.argument("index", type=int)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@_split_option
def save(index: int, path: Path, split: str) -> None:
    """Save digit INDEX to PATH as a .npy file, uint8 [28, 28], for mnist-infer."""
    import io

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
        raise click.UsageError(f"there is no digit {index}; the {split} digits are 0 to {len(digits) - 1}.")
    return digits.images[index], int(digits.labels[index])
