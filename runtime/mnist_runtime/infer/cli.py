"""The command `mnist-infer`."""

from pathlib import Path

import click

from mnist_runtime.console.command import FAILURE, Command, native_imports
from mnist_runtime.console.model_choice import max_error_option, model_option, open_classifier
from mnist_runtime.console.orientation import invert_option, transpose_option
from mnist_runtime.console.version import version_option

# NumPy and onnxruntime are imported where they are used: --help and --version answer without them.


@click.command("mnist-infer", cls=Command)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(readable=False))
@model_option
@max_error_option
@click.option("--recursive", "-r", is_flag=True, help="Read subfolders too.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json", "jsonl", "csv"]),
    default="text",
    show_default=True,
    help="Format of the predictions.",
)
@click.option("--top-k", type=click.IntRange(1, 10), default=1, metavar="K", help="Print the K most probable classes.")
@click.option("--probabilities", is_flag=True, help="Print all ten probabilities in text too.")
@click.option("--show", is_flag=True, help="Draw each digit as the model sees it.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="True labels (.npy, IDX, CSV or text); print accuracy and confusion matrix instead of the predictions.",
)
@invert_option
@transpose_option
@version_option
def infer(
    paths: tuple[str, ...],
    model: str | None,
    max_error: float | None,
    recursive: bool,
    format_: str,
    top_k: int,
    probabilities: bool,
    show: bool,
    labels: Path | None,
    invert: bool,
    transpose: bool,
) -> int:
    """Recognise the digits in files: arrays (.npy, .npz, IDX, CSV) and images of one digit each.

    PATH may be a file, gzipped or not, a .zip, a folder, a quoted glob, or "-" for standard input. Arrays are uint8
    0-255 or floats within [0, 1], 28x28 or 784 pixels, white ink on black. Images may be of any size, dark on light or
    light on dark; they need Pillow: pip install Pillow.

    Each prediction has a verdict: "digit"; "unsure", if more labels like it are wrong than --max-error allows; or
    "no digit".

    Default model: $MNIST_MODEL, else artifacts/mnist.onnx, else cnn, which comes with the package.

    Exit codes: 0 all digits recognised; 1 the model or an input failed (other inputs are still read); 2 wrong
    usage; 130 interrupted.
    """
    if labels and (show or format_ != "text" or top_k > 1 or probabilities):
        raise click.UsageError(
            "--labels prints no predictions, so it takes no --format, --top-k, --probabilities or --show."
        )
    if show and format_ != "text":
        raise click.UsageError(
            "--show draws for people, and json, jsonl and csv are for programs; give only one of them."
        )
    with native_imports():
        from mnist_runtime.digits import Orientation
        from mnist_runtime.infer.answers import Answers, evaluate, print_answers
        from mnist_runtime.infer.inputs import Reading
        from mnist_runtime.infer.records import Detail

    with open_classifier(model, max_error=max_error) as classifier:
        answers = Answers(classifier, paths, Reading(recursive, Orientation(invert, transpose)))
        if labels:
            click.echo(evaluate(answers, labels).report())
        else:
            print_answers(answers, format_, Detail(top_k, probabilities), show=show)
    return FAILURE if answers.failed else 0


if __name__ == "__main__":
    infer(prog_name="mnist-infer")
