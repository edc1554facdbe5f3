"""The command of the cluster: `mnist-score`."""

import os
import signal
import sys
from pathlib import Path

import click

from mnist_runtime import __version__
from mnist_runtime.console.command import FAILURE, TERMINATED, Command, complain, note, uninterrupted
from mnist_runtime.console.model_choice import choose_model
from mnist_runtime.errors import ExtraMissingError


@click.command("mnist-score", cls=Command)
@click.argument("given", metavar="INPUT")
@click.argument("output", metavar="OUTPUT")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="A .onnx file, or a folder that mnist-export published.",
)
@click.option("--probabilities", is_flag=True, help="Write all ten, as columns probability_0 to probability_9.")
@click.option(
    "--actors", type=click.IntRange(min=1), metavar="N", help="Scorers at a time, of one CPU each.  [default: the CPUs]"
)
@click.option(
    "--address",
    envvar="RAY_ADDRESS",
    show_envvar=True,
    metavar="HOST:PORT",
    help="A Ray to join, or auto for the one of this machine; without it, one is started here for as long as it takes.",
)
@click.version_option(__version__)
def score(
    given: str, output: str, model: Path | None, probabilities: bool, actors: int | None, address: str | None
) -> int:
    """Score shards of digits, on every CPU of this machine or of a Ray cluster.

    INPUT is a .parquet or .npy file, or a folder of them, and OUTPUT a folder: paths, or URIs such as
    s3://bucket/digits. The digits of a Parquet shard are its column pixels, fixed_size_binary(784) or lists of 784
    uint8; those of a .npy shard are as mnist-infer takes them.

    Each shard becomes one Parquet file, rows in their order, with every column but the pixels, a label (uint8) and its
    probability (float32). Run again, it scores what is missing or has changed. _manifest.json stands there once all
    is done.

    Without --model: $MNIST_MODEL, else artifacts/mnist.onnx, else the model that comes with the package.

    Exit codes: 0 all scored; 1 the model, Ray or some shard failed (the other shards are scored); 2 wrong usage;
    130 interrupted; 143 terminated.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as Ray has it, and before Ray has
    try:
        return _score(given, output, model, address, actors, probabilities=probabilities)
    except SystemExit as end:
        if end.code != signal.SIGTERM:
            raise
        complain("terminated; nothing half-written stands under its final name")
        sys.stderr.flush()
        os._exit(TERMINATED)  # what a SystemExit out of Ray leaves of it may abort the interpreter at its end


def _score(
    given: str, output: str, model: Path | None, address: str | None, actors: int | None, *, probabilities: bool
) -> int:
    try:
        with uninterrupted():
            from mnist_runtime.classifier import Classifier
            from mnist_score import run
    except ImportError as error:
        raise ExtraMissingError('mnist-score needs Ray; install it with pip install "mnist-score[ray]"') from error
    with Classifier(choose_model(model, note)) as classifier:
        plan = run.plan(classifier, given, output, probabilities=probabilities)
        return 0 if run.run(plan, classifier, address, actors) else FAILURE
