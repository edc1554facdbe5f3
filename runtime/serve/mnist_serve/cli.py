"""The command of the server: `mnist-serve`."""

import math
import re
import sys
from pathlib import Path

import click

from mnist_runtime.console.command import FAILURE, Command, uninterrupted
from mnist_runtime.console.model_choice import choose_model
from mnist_runtime.console.version import describe

# What the server needs is imported where it is used: --help and --version answer without it.


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(describe("mnist-serve"))
        ctx.exit()


def _check_name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", value):
        raise click.BadParameter(f"{value!r} is not letters, digits, '.', '_' and '-' alone", ctx, param)
    return value


def _check_timeout(ctx: click.Context, param: click.Parameter, value: float) -> float:
    if not 0 < value < math.inf:
        raise click.BadParameter(f"{value:g} is no number of seconds above 0", ctx, param)
    return value


@click.command("mnist-serve", cls=Command)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="A .onnx file, or a folder that mnist-export published.",
)
@click.option("--name", default="mnist", show_default=True, callback=_check_name, help="Of the model, in its URL.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every one.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one, and says which."
)
@click.option(
    "--max-batch", type=click.IntRange(1), default=64, show_default=True, metavar="N", help="Digits of one run."
)
@click.option(
    "--max-delay-us",
    type=click.IntRange(0),
    default=500,
    show_default=True,
    metavar="N",
    help="Microseconds that a request waits for others that are on their way; 0 runs each alone.",
)
@click.option(
    "--max-body",
    type=click.IntRange(1),
    default=2**24,
    show_default=True,
    metavar="BYTES",
    help="Of a request, as it comes and unpacked; a larger one gets 413.",
)
@click.option(
    "--max-concurrency",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    metavar="N",
    help="Requests answered at a time; more get 503.",
)
@click.option(
    "--timeout",
    type=float,
    callback=_check_timeout,
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="That a client may take to send a request, or to read on.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Of the log, on standard error.",
)
@click.option("--reload", is_flag=True, help="Take up a model that is newly published at --model, if it is proven.")
@click.option("--access-log/--no-access-log", default=True, show_default=True, help="Log every request.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the versions."
)
def serve(
    model: Path | None,
    name: str,
    host: str,
    port: int,
    max_batch: int,
    max_delay_us: int,
    max_body: int,
    max_concurrency: int,
    timeout: float,
    reload: bool,
    log_format: str,
    access_log: bool,
) -> int:
    """Serve a model by the Open Inference Protocol (KServe V2): POST /v2/models/mnist/infer.

    Without --model: $MNIST_MODEL, else artifacts/mnist.onnx, else the model that comes with the package.

    SIGTERM or Ctrl-C stops it once every request that it has accepted is answered; a second one, at once.

    Exit codes: 0 stopped, everything answered; 1 it could not start, or was stopped at once; 2 wrong usage.
    """
    with uninterrupted():
        from mnist_serve import Batching, Limits, Log, ServedModel, load_proven, run

    log = Log(sys.stderr, log_format, requests=access_log)  # type: ignore[arg-type]  # click has checked it
    path = choose_model(model, lambda sentence: log.say("model", sentence))
    if reload and path is None:
        raise click.UsageError("--reload needs a --model FILE or FOLDER to watch.")
    answered = run(
        ServedModel(load_proven(path), name),
        host,
        port,
        log,
        limits=Limits(max_body, max_concurrency),
        timeout=timeout,
        batching=Batching(max_batch, max_delay_us),
        watched=path if reload else None,
    )
    return 0 if answered else FAILURE
