"""The commands of the runtime: `mnist-infer` and `mnist-parity`."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnist_runtime import __version__
from mnist_runtime.command import FAILURE, Command, complain
from mnist_runtime.errors import DigitError, MnistRuntimeError

# NumPy and onnxruntime are imported where they are used: --help and --version answer without them.
if TYPE_CHECKING:
    from mnist_runtime.artifact import Artifact
    from mnist_runtime.formats import Answer
    from mnist_runtime.verification import Finding

_LOCAL_MODEL = Path("artifacts/mnist.onnx")
_CHUNK = 4096  # digits held in memory at a time


@click.command("mnist-infer", cls=Command)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--model", type=click.Path(path_type=Path), metavar="FILE", help="The .onnx file to use.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "jsonl", "csv"]),
    default="text",
    show_default=True,
    help="How to print the predictions.",
)
@click.version_option(__version__)
def infer(paths: tuple[str, ...], model: Path | None, form: str) -> int:
    """Recognise the digits in .npy files; PATH "-" reads one file from standard input.

    A file holds one digit or many: uint8 0-255 or floats within [0, 1], 28x28 or 784 pixels, white ink on black.

    Without --model: $MNIST_MODEL, else artifacts/mnist.onnx, else the model that comes with the package.

    Exit codes: 0 all answered; 1 the model or some input failed (the other inputs are still answered); 2 wrong
    usage; 130 interrupted.
    """
    from mnist_runtime.formats import WRITERS

    artifact = _load(model)
    failed: list[str] = []
    WRITERS[form](_answers(paths, artifact, failed), sys.stdout)
    return FAILURE if failed else 0


@click.command("mnist-parity", cls=Command)
@click.argument("path", type=click.Path(path_type=Path), metavar="[MODEL|FOLDER]", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print what was found.",
)
@click.version_option(__version__)
def parity(path: Path | None, form: str) -> int:
    """Prove that this machine computes what was trained: replay the golden digits inside MODEL, without PyTorch.

    Of a FOLDER that mnist-export wrote, every file is held against manifest.json, and every .onnx file replayed.

    Without either: $MNIST_MODEL, else artifacts/mnist.onnx, else the model that comes with the package.

    Exit codes: 0 parity holds; 1 it does not, or something is damaged or missing; 2 wrong usage.
    """
    from mnist_runtime.verification import verify_file, verify_folder

    path = path or _chosen_model()
    findings = verify_folder(path) if path.is_dir() else [verify_file(path)]
    if form == "json":
        click.echo(json.dumps([finding.to_dict() for finding in findings], indent=2))
    else:
        _print_findings(path, findings)
    for finding in findings:
        if finding.problem:
            complain(finding.problem)
    if any(finding.problem for finding in findings):
        return FAILURE
    if form == "text":
        click.echo("Parity holds: this machine computes what was trained.")
    return 0


def _print_findings(path: Path, findings: "list[Finding]") -> None:
    """A table of all files; of one alone, its digest too; a drawing of the worst digit where the numbers are wrong."""
    from dataclasses import replace

    from mnist_runtime.parity import draw_worst, table
    from mnist_runtime.terminal import has_colour

    loaded = [finding.artifact for finding in findings if finding.artifact]
    if loaded:
        click.echo(f"engine  {loaded[0].engine}")
    if path.is_dir():
        click.echo(f"folder  {path}, {len(findings)} files in manifest.json")
    elif loaded:
        click.echo(f"model   {loaded[0].name}, {loaded[0].dtype} pixels\nsha256  {loaded[0].sha256}, seal intact")
    compared = [replace(found.comparison, name=Path(found.file).name) for found in findings if found.comparison]
    if compared:
        click.echo(f"\n{table(compared)}")
    for finding in findings:
        if not finding.comparison and not finding.problem:
            click.echo(f"ok    {finding.file}: as published; only .onnx files are replayed")
        if finding.problem:
            click.echo(f"FAIL  {finding.file}: found by the {finding.spoke} check")
        if finding.problem and finding.artifact and finding.comparison:
            drawn = draw_worst(finding.comparison, finding.artifact.golden, colour=has_colour(sys.stdout))
            click.echo(f"\n{drawn}", color=True)
    click.echo()


def _load(model: Path | None) -> "Artifact":
    from mnist_runtime.artifact import Artifact

    return Artifact.load(model or _chosen_model())


def _chosen_model() -> Path:
    """The model to use where none is named; says which on stderr."""
    from mnist_runtime.artifact import BUNDLED

    named = os.environ.get("MNIST_MODEL")
    if named:
        path, why = Path(named), "$MNIST_MODEL"
    elif _LOCAL_MODEL.exists():
        path, why = _LOCAL_MODEL, "found here"
    else:
        path, why = BUNDLED, f"no {_LOCAL_MODEL} here"
    click.echo(f"Using {'the bundled model' if path == BUNDLED else path} ({why}).", err=True)
    return path


def _answers(paths: tuple[str, ...], artifact: "Artifact", failed: list[str]) -> Iterator["Answer"]:
    """Answer every digit of every path; complain of a path that fails, note it in `failed`, and go on."""
    for path in paths:
        try:
            yield from _answers_of(path, artifact)
        except MnistRuntimeError as error:
            complain(f"{path}: {error}" if path not in str(error) else str(error))
            failed.append(path)


def _answers_of(path: str, artifact: "Artifact") -> Iterator["Answer"]:
    from mnist_runtime.classifier import predictions
    from mnist_runtime.digits import as_batch
    from mnist_runtime.formats import Answer
    from mnist_runtime.npy import open_npy, read_npy

    if path == "-" and sys.stdin.isatty():
        raise DigitError("standard input is a terminal; pipe a .npy file into it, as in: mnist-infer - < digit.npy")
    digits = as_batch(read_npy(sys.stdin.buffer, "standard input") if path == "-" else open_npy(path))
    for start in range(0, len(digits), _CHUNK):
        chunk = artifact.prepare(digits[start : start + _CHUNK])
        for offset, prediction in enumerate(predictions(artifact, chunk)):
            yield Answer(path, start + offset, chunk[offset], prediction)
