"""The command `mnist-export`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnist_export.errors import UnknownFormatError
from mnist_export.formats import ALL, DEFAULT, FORMATS, named
from mnist_export.normalisation import Normalisation
from mnist_runtime import __version__
from mnist_runtime.console.command import Command, require_a_thread
from mnist_runtime.console.finite_float import FiniteFloat
from mnist_runtime.errors import OptionError

if TYPE_CHECKING:
    from mnist_export.bundle import Gated
    from mnist_export.gate import ParityError, Verdict
    from mnist_train.checkpoint import Checkpoint

_BOUNDS = {
    "exact": "none: every logit equal, bit for bit, to the integers of the exact network",
    "analytic": "from the weights: how far float32 may round (Higham & Mary 2019)",
    "derived": "8 x the largest difference of the module in float32 and in float64",
}
_LOSSY = ", ".join(format_.name for format_ in FORMATS.values() if format_.lossy)


def _known(_: click.Context, __: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    try:
        named(names)
    except UnknownFormatError as error:
        raise click.BadParameter(str(error)) from error
    return names


@click.command("mnist-export", cls=Command)
@click.argument("checkpoint", type=click.Path(path_type=Path), default="artifacts/mnist.safetensors")
@click.option(
    "--model",
    metavar="NAME",
    help="Class of a CHECKPOINT that torch.save or safetensors wrote: package.module:Class.",
)
@click.option(
    "--mean", type=float, metavar="MEAN", help="Mean that training subtracted from pixels in 0..1 (intensity / 255)."
)
@click.option("--std", type=float, metavar="STD", help="Deviation that training then divided by.")
@click.option(
    "--format",
    "formats",
    metavar=f"[{'|'.join([*FORMATS, ALL])}]",
    multiple=True,
    default=DEFAULT,
    callback=_known,
    help=f"Format to write; repeat for several. By default {', '.join(DEFAULT)}.",
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    default="artifacts",
    show_default=True,
    help="Folder for the artifacts and manifest.json.",
)
@click.option(
    "--opset", type=click.IntRange(13, 18), default=18, show_default=True, help="ONNX opset; lower for older targets."
)
@click.option(
    "--max-accuracy-drop",
    type=FiniteFloat(min=0),
    default=0.1,
    show_default=True,
    metavar="POINTS",
    help=f"Accuracy that {_LOSSY} may lose on the validation digits.",
)
@click.option(
    "--report",
    "report_dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for index.html, with pictures, and report.md; needs matplotlib.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON, one array.")
@click.version_option(__version__)
def export(
    checkpoint: Path,
    model: str | None,
    mean: float | None,
    std: float | None,
    formats: tuple[str, ...],
    output_dir: Path,
    opset: int,
    max_accuracy_drop: float,
    report_dir: Path | None,
    as_json: bool,
) -> None:
    """Turn CHECKPOINT (default artifacts/mnist.safetensors) into artifacts that carry their own proof.

    CHECKPOINT is a file of mnist-train, or with --model a state dict of torch.save or safetensors. --mean and --std put
    a normalisation into the artifacts.

    Each artifact is loaded back, run as a device will run it, and compared with the trained module. If one artifact
    differs by more than rounding, none is published. Artifacts of an earlier export of the same checkpoint stay; those
    of another checkpoint are removed.

    Exit codes: 0 all published; 1 none; 2 wrong usage; 130 interrupted.
    """
    from mnist_runtime.io.files import ensure_writable

    require_a_thread()
    try:
        Normalisation.of(mean, std)
    except OptionError as error:
        raise click.UsageError(f"--mean and --std: {error}.") from error
    trained = _load(checkpoint, model)
    ensure_writable(output_dir)
    if report_dir:
        from mnist_export import model_card  # before the work, because matplotlib may be missing

        ensure_writable(report_dir)

    from mnist_export import bundle
    from mnist_export.gate import ParityError
    from mnist_export.summary import NOTE, summarise, to_text

    try:
        gated = bundle.export(
            trained,
            formats,
            output_dir,
            mean=mean,
            std=std,
            opset=opset,
            max_accuracy_drop=max_accuracy_drop,
            on_gated=(lambda _: None) if as_json else _print_gated,
        )
    except ParityError as error:
        _print_refused(error, as_json=as_json)
        raise
    summary = summarise(gated) if report_dir or ALL in formats else None
    if report_dir and summary:
        model_card.write_model_card(report_dir, gated, trained.sha256, summary)
    if as_json:
        click.echo(json.dumps([_as_json(artifact) for artifact in gated], indent=2))
        return
    for file in (file for artifact in gated for file in artifact.files):
        click.echo(f"Wrote {output_dir / file.name}  ({len(file.data):,} bytes, sha256 {file.sha256[:12]})")
    click.echo(f"Wrote {output_dir / 'manifest.json'}")
    if report_dir:
        click.echo(f"Wrote {report_dir / 'index.html'} and {report_dir / 'report.md'}")
    if summary:
        click.echo(f"\n{to_text(summary)}\n{NOTE}")


def _load(checkpoint: Path, model: str | None) -> "Checkpoint":
    if model is None:
        from mnist_train.checkpoint import load

        return load(checkpoint)
    from mnist_export.weights import load_weights

    return load_weights(checkpoint, model)


def _print_gated(artifact: "Gated") -> None:
    click.echo(f"{artifact.format.name}  ({len(artifact.data):,} bytes)\n{_verdict(artifact.verdict)}\n")


def _print_refused(error: "ParityError", *, as_json: bool) -> None:
    """Print the verdict and draw the worst digit; the error itself goes to stderr."""
    from mnist_runtime.console.drawing import has_colour
    from mnist_runtime.parity.table import draw_worst

    if as_json:
        refused = {"format": error.format, "published": False, **error.verdict.to_dict()}
        click.echo(json.dumps([refused], indent=2))
        return
    click.echo(_verdict(error.verdict))
    failure = error.verdict.failure
    if failure:
        name = next(name for name in error.expected.sets if failure.name.startswith(name))
        drawn = draw_worst(failure, error.expected.sets[name], colour=has_colour(sys.stdout))
        click.echo(f"\n{drawn}\n", color=True)


def _verdict(verdict: "Verdict") -> str:
    """Return the table of comparisons and its explanation, at most 80 columns wide."""
    from mnist_runtime.parity.table import table

    lines = [table(verdict.comparisons), f"      bound: {_BOUNDS[verdict.proof.bound]}"]
    if verdict.proof.obstacle:
        lines.append(f"      no analytic bound, because of {verdict.proof.obstacle}")
    if verdict.proof.reference == "graph" and verdict.proof.bound == "analytic":
        lines.append("      reference: the graph in float64")
    if verdict.failure:
        return "\n".join(lines)
    last = verdict.comparisons[-1]
    if last.certified:
        lines.append(
            f"      {last.certified:,} of {last.count:,} labels certified: no rounding, on any machine, can change them"
        )
    elif verdict.proof.bound == "analytic":
        lines.append("      no label certified: the worst case of rounding is above every margin")
    lines.append(
        f"      accuracy {verdict.accuracy:.2%}, of the module {verdict.module_accuracy:.2%}; "
        f"{verdict.agreement:.2%} of its labels, {verdict.bit_equal:.0%} bit-equal logits"
    )
    return "\n".join(lines)


def _as_json(artifact: "Gated") -> dict[str, object]:
    return {
        "format": artifact.format.name,
        "published": True,
        "files": {file.name: {"size": len(file.data), "sha256": file.sha256} for file in artifact.files},
        **artifact.verdict.to_dict(),
    }


if __name__ == "__main__":
    export(prog_name="mnist-export")
