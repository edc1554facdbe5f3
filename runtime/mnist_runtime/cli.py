"""The commands of the runtime: `mnist-infer` and `mnist-parity`."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnist_runtime import __version__
from mnist_runtime.command import FAILURE, Command, complain, note, uninterrupted
from mnist_runtime.selection import choose_model

# NumPy and onnxruntime are imported where they are used: --help and --version answer without them.
if TYPE_CHECKING:
    from mnist_runtime.verification import Finding


class _Shard(click.ParamType):  # type: ignore[type-arg]  # older clicks have no generic one
    """I/N on the command line."""

    name = "I/N"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Read "2/8" as (2, 8)."""
        if isinstance(value, tuple):
            return value
        index, _, count = value.partition("/")
        if not (index.isdecimal() and count.isdecimal() and len(value) < 40 and 1 <= int(index) <= int(count)):
            self.fail(f"{value!r} is not I/N, such as 1/8 to 8/8", param, ctx)
        return int(index), int(count)


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from mnist_runtime.version import describe

    click.echo(describe(ctx.info_name or "mnist-infer"))
    ctx.exit()


@click.command("mnist-infer", cls=Command)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="A .onnx file, or a folder that mnist-export published.",
)
@click.option("--recursive", "-r", is_flag=True, help="Look into the folders of folders.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "jsonl", "csv"]),
    default="text",
    show_default=True,
    help="How to print the predictions.",
)
@click.option("--top-k", type=click.IntRange(1, 10), default=1, metavar="K", help="Tell the K most probable classes.")
@click.option(
    "--probabilities", is_flag=True, help="Tell all ten probabilities in text too, and write them with --output."
)
@click.option("--show", is_flag=True, help="Draw every digit as the model saw it.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="True labels, a .npy of N: report the accuracy and the confusion matrix instead of the predictions.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the labels of one .npy of any size to this .npy; a killed run is taken up where it was.",
)
@click.option("--shard", type=_Shard(), help="With --output: only the I-th of N parts, into a file of its own.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the versions."
)
def infer(
    paths: tuple[str, ...],
    model: Path | None,
    recursive: bool,
    form: str,
    top_k: int,
    probabilities: bool,
    show: bool,
    labels: Path | None,
    output: Path | None,
    shard: tuple[int, int] | None,
) -> int:
    """Recognise the digits in files: .npy and .npz arrays, and PNG, JPEG, BMP or WebP images of one digit each.

    PATH may be a file, a folder, a quoted glob, or "-" for standard input. Arrays are uint8 0-255 or floats within
    [0, 1], 28x28 or 784 pixels, white ink on black. Images may be of any size, dark on light or light on dark; they
    need Pillow: pip install "mnist-runtime[image]".

    Without --model: $MNIST_MODEL, else artifacts/mnist.onnx, else the model that comes with the package.

    Exit codes: 0 all answered; 1 the model or some input failed (the other inputs are still answered); 2 wrong
    usage; 130 interrupted.
    """
    if shard and not output:
        raise click.UsageError("--shard needs --output, which names the files of the parts.")
    if output and (show or form != "text" or top_k > 1):
        raise click.UsageError("--output writes a .npy; --format, --top-k and --show are for printing.")
    if labels and (show or form != "text" or top_k > 1 or (probabilities and not output)):
        raise click.UsageError(
            "--labels prints the accuracy; --format, --top-k, --probabilities and --show are without it."
        )
    if show and form != "text":
        raise click.UsageError(
            "--show draws for people, and json, jsonl and csv are for programs; leave one of them out."
        )
    # This command multiplies no matrices in NumPy; the threads of its BLAS would cost a quarter of the start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with uninterrupted():
        from mnist_runtime import inference
        from mnist_runtime.classifier import Classifier
        from mnist_runtime.formats import Detail

    failed: list[str] = []
    model = choose_model(model, note)
    with Classifier(model) as classifier:
        if output:
            inference.score_file(classifier, paths, output, shard or (1, 1), labels, model, probabilities=probabilities)
            return 0
        answers = inference.answer(classifier, paths, failed, recursive=recursive)
        if labels:
            click.echo(inference.evaluate(answers, labels).report())
        else:
            inference.print_answers(answers, form, Detail(top_k, probabilities), show=show)
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
    with uninterrupted():
        from mnist_runtime.artifact import BUNDLED
        from mnist_runtime.verification import verify_file, verify_folder

    path = choose_model(path, note) or BUNDLED
    findings = verify_folder(path) if path.is_dir() else [verify_file(path)]
    if form == "json":
        click.echo(json.dumps([finding.to_dict() for finding in findings], indent=2))
    else:
        _print_findings(path, [finding for finding in findings if finding.listed])
    for finding in findings:
        if finding.problem:
            complain(finding.problem)
        if not finding.listed:
            note(f"Note: {finding.file} is not in manifest.json, and was not checked.")
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
