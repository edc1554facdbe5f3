"""The command of the export room: `mnist-export`."""

from pathlib import Path

import click

from mnist_runtime import __version__
from mnist_runtime.command import Command

_FORMATS = ("onnx", "onnx-uint8", "torchscript")


@click.command("mnist-export", cls=Command)
@click.argument("checkpoint", type=click.Path(path_type=Path), default="artifacts/mnist.safetensors")
@click.option(
    "--format",
    "formats",
    type=click.Choice(_FORMATS),
    multiple=True,
    default=_FORMATS,
    help="What to write; repeat it for several. All three by default.",
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    default="artifacts",
    show_default=True,
    help="Where the artifacts and manifest.json go.",
)
@click.version_option(__version__)
def export(checkpoint: Path, formats: tuple[str, ...], output_dir: Path) -> None:
    """Turn CHECKPOINT (default artifacts/mnist.safetensors) into artifacts that carry their own proof.

    Each artifact is loaded back and held against the trained module; one that differs by more than rounding is never
    published.

    Exit codes: 0 all published; 1 none; 2 wrong usage; 130 interrupted.
    """
    from mnist_runtime.files import ensure_writable
    from mnist_train.checkpoint import load

    trained = load(checkpoint)
    ensure_writable(output_dir)

    from mnist_export.bundle import Bundle, publish
    from mnist_runtime.parity import table
    from mnist_train.data import load_split

    bundle = Bundle(trained, load_split("valid"))
    gated = []
    for form in dict.fromkeys(formats):
        gated.append(bundle.build(form))
        click.echo(f"{form}\n{table(gated[-1].comparisons)}\n")
    publish(bundle, gated, output_dir)
    for artifact in gated:
        click.echo(f"Wrote {output_dir / artifact.file}  ({len(artifact.data):,} bytes, sha256 {artifact.sha256[:12]})")
    click.echo(f"Wrote {output_dir / 'manifest.json'}")
