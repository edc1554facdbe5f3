"""The command `mnist-score`."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from mnist_runtime import __version__
from mnist_runtime.bundled import BUNDLED
from mnist_runtime.console.command import (
    FAILURE,
    TERMINATED,
    Command,
    native_imports,
    note,
    print_error,
)
from mnist_runtime.console.model_choice import max_error_option, model_option, open_classifier
from mnist_runtime.console.orientation import invert_option, transpose_option
from mnist_runtime.errors import DigitError, ExtraMissingError
from mnist_score.job import Part

# NumPy, onnxruntime and Ray are imported where they are used: --help and --version answer without them.


def _read_part(_: click.Context, __: click.Parameter, value: str | None) -> Part | None:
    """Read "2/8" as the second part of eight."""
    if value is None:
        return None
    index, _slash, count = value.partition("/")
    if not (index.isdecimal() and count.isdecimal() and len(value) < 40 and 1 <= int(index) <= int(count)):
        raise click.BadParameter(f"{value!r} is not I/N, such as 1/8 to 8/8")
    return Part(int(index), int(count))


@click.command("mnist-score", cls=Command)
@click.argument("given", metavar="INPUT")
@click.argument("output", metavar="OUTPUT")
@model_option
@max_error_option
@click.option("--probabilities", is_flag=True, help="Write the probabilities of all ten classes.")
@click.option(
    "--part",
    callback=_read_part,
    metavar="I/N",
    help="Score only the I-th of N parts of a .npy, into a file of its own.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="True labels of a .npy, as .npy, IDX, CSV or text: report the accuracy and the confusion matrix at the end.",
)
@invert_option
@transpose_option
@click.option(
    "--actors",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of scorers on Ray, of one CPU each.  [default: the number of CPUs]",
)
@click.option(
    "--address",
    envvar="RAY_ADDRESS",
    show_envvar=True,
    metavar="HOST:PORT",
    help="Address of a Ray cluster to join, or auto for the one on this machine; by default, a Ray is started here.",
)
@click.version_option(__version__)
def score(
    given: str,
    output: str,
    model: str | None,
    max_error: float | None,
    probabilities: bool,
    part: Part | None,
    labels: Path | None,
    invert: bool,
    transpose: bool,
    actors: int | None,
    address: str | None,
) -> int:
    """Score millions of digits: from .npy to .npy on this machine, or shards of Parquet and .npy on Ray.

    Where OUTPUT ends in .npy, INPUT is one .npy of any size, as mnist-infer takes them. OUTPUT gets one label (uint8)
    per digit, or with --probabilities ten float32. Memory use is constant, but for the labels of --labels. Run again
    after a kill, the command resumes where it stopped; run again after its end, it does nothing.

    Otherwise INPUT is a .parquet or .npy file (a shard) or a folder of them, and OUTPUT a folder: paths, or URIs such
    as s3://bucket/digits. The digits of a Parquet shard are its column pixels or image: 784 bytes, lists of 784
    numbers, or pictures. Each shard becomes one Parquet file: its rows in their order, with every other column, a
    label (uint8), its probability (float32) and a verdict: "digit", "unsure" or "no digit". Run again, the command
    scores what is missing or has changed. _manifest.json is written once all shards are scored. This needs Ray:
    pip install "ray[data]" aiohttp.

    The model has no default: give --model, or $MNIST_MODEL. cnn and linear come with the package.

    Exit codes: 0 all scored; 1 the model, an input, Ray or a shard failed (the other shards are scored); 2 wrong
    usage; 130 interrupted; 143 terminated.
    """
    if not model and not os.environ.get("MNIST_MODEL"):
        raise click.UsageError(f"Give --model FILE, FOLDER, or the name of a bundled model: {', '.join(BUNDLED)}.")
    is_local = output.endswith(".npy")
    if (part or labels) and not is_local:
        raise click.UsageError("--part and --labels are for one .npy; give an OUTPUT that ends in .npy.")
    address_source = click.get_current_context().get_parameter_source("address")
    if is_local and (actors or address_source is ParameterSource.COMMANDLINE):
        raise click.UsageError("--actors and --address are for Ray; give a folder as OUTPUT.")
    if is_local and max_error:
        raise click.UsageError("--max-error is for the column verdict; give a folder as OUTPUT.")
    if is_local and "://" in given + output:
        raise click.UsageError("A .npy is read and written on this machine; give paths, or a folder as OUTPUT.")
    with native_imports():
        from mnist_runtime.digits import Orientation

    options = {"orientation": Orientation(invert, transpose), "probabilities": probabilities}
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # Ray does the same once it is imported
    try:
        if is_local:
            _score_file(Path(given), Path(output), model, part or Part(), labels, **options)
        elif not _score_shards(given, output, model, max_error, address, actors, **options):
            return FAILURE
    except SystemExit as end:
        if end.code != signal.SIGTERM:
            raise
        print_error("terminated; no file is left half-written under its final name")
        sys.stderr.flush()
        os._exit(TERMINATED)  # because a SystemExit out of Ray may abort the interpreter at its end
    return 0


def _score_file(given: Path, output: Path, model: str | None, part: Part, labels: Path | None, **options: Any) -> None:
    """Score a part of one .npy into a .npy of its own, and report the accuracy if there are `labels`."""
    with native_imports():
        import numpy as np
        from tqdm import tqdm

        from mnist_runtime.infer.accuracy import Confusion
        from mnist_runtime.io.arrays import StoredArray
        from mnist_runtime.io.labels import read_labels
        from mnist_score import local

    with open_classifier(model) as classifier:
        digits = StoredArray.open(given)
        truth = read_labels(labels) if labels else None
        if truth is not None and len(truth) != len(digits):
            raise DigitError(
                f"there are {len(digits):,} digits and {len(truth):,} labels; give exactly one label per digit"
            )
        rows, target = part.rows(len(digits)), part.path(output)
        with tqdm(total=len(rows), desc=target.name, unit=" digits", unit_scale=True, disable=None) as bar:
            is_new = local.score(classifier, digits, target, rows, labels=labels, advance=bar.update, **options)
    note(f"{'Wrote' if is_new else 'Nothing to do: there already is'} {target}  ({len(rows):,} digits)")
    if truth is not None:
        answers = np.load(target, mmap_mode="r")
        confusion = Confusion(truth[rows.start : rows.stop])
        confusion.add(answers.argmax(axis=1) if answers.ndim > 1 else answers)
        click.echo(confusion.report())


def _score_shards(
    given: str,
    output: str,
    model: str | None,
    max_error: float | None,
    address: str | None,
    actors: int | None,
    **options: Any,
) -> bool:
    """Score the shards of an input on Ray, and return True if every one is scored."""
    try:
        with native_imports():
            from mnist_score import run
    except ImportError as error:
        raise ExtraMissingError(
            'scoring into a folder needs Ray, which is not installed; run: pip install "ray[data]" aiohttp; '
            "or give an OUTPUT that ends in .npy"
        ) from error
    with open_classifier(model, max_error=max_error) as classifier:
        plan = run.plan(classifier, given, output, **options)
        return run.run(plan, classifier, address, actors)


if __name__ == "__main__":
    score(prog_name="mnist-score")
