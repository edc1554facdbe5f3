"""The command `mnist-parity`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnist_runtime import __version__
from mnist_runtime.bundled import BUNDLED
from mnist_runtime.console.command import FAILURE, Command, native_imports, note, print_error
from mnist_runtime.console.model_choice import choose_model
from mnist_runtime.io.files import reading

# NumPy and onnxruntime are imported where they are used: --help and --version answer without them.
if TYPE_CHECKING:
    from mnist_runtime.digits import Intensities, Pixels
    from mnist_runtime.parity.findings import Finding


@click.command("mnist-parity", cls=Command)
@click.argument("model", type=click.Path(readable=False), metavar="[MODEL|FOLDER]", required=False)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of the report.",
)
@click.option(
    "--digits",
    "digits_file",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE.npy",
    help="Also print the SHA-256 of MODEL's logits of these digits, so that two machines can compare one line.",
)
@click.version_option(__version__)
def parity(model: str | None, format_: str, digits_file: Path | None) -> int:
    """Prove that this machine computes what was trained: replay the golden digits inside MODEL, without PyTorch.

    MODEL is a .onnx file, the name of a bundled model, a mnist.h, which $CC or cc compiles into a temporary folder, or
    a mnist.mjs or mnist.html, which node runs. For a FOLDER that mnist-export wrote, compare every file with
    manifest.json, and replay every model.

    Default: $MNIST_MODEL, else artifacts/mnist.onnx, else cnn, which comes with the package.

    Exit codes: 0 parity holds; 1 parity does not hold, or a file is damaged or missing; 2 wrong usage.
    """
    with native_imports():
        from mnist_runtime.model.artifact import WANTED
        from mnist_runtime.parity.findings import verify_file, verify_folder

    chosen, choice = choose_model(model)
    if choice:
        note(choice)
    files = BUNDLED[chosen] if isinstance(chosen, str) else (chosen,)
    with reading(files[0], WANTED):
        is_folder = files[0].is_dir()
    if is_folder and digits_file:
        raise click.UsageError("--digits is for one model, and this is a folder; give one of its files.")
    digits = _read(digits_file)
    findings = verify_folder(files[0]) if is_folder else [verify_file(file, digits) for file in files]
    if format_ == "json":
        click.echo(json.dumps([finding.to_dict() for finding in findings], indent=2))
    else:
        _print_findings(files[0] if is_folder else None, [finding for finding in findings if finding.listed])
    for finding in findings:
        if finding.problem:
            print_error(finding.problem)
        if not finding.listed:
            note(f"Note: {finding.file} is not in manifest.json and was not checked.")
    if any(finding.problem for finding in findings):
        return FAILURE
    if format_ == "text":
        click.echo("Parity holds: this machine computes what was trained.")
    return 0


def _print_findings(folder: Path | None, findings: "list[Finding]") -> None:
    """Print a table of all files, the digest of each file outside a folder, and the worst digit of wrong numbers."""
    from dataclasses import replace

    from mnist_runtime.parity.table import table

    loaded = [finding.artifact for finding in findings if finding.artifact]
    if loaded:
        click.echo(f"engine  {loaded[0].engine}")
    if folder:
        click.echo(f"folder  {folder}, {len(findings)} files in manifest.json")
    for artifact in () if folder else loaded:
        click.echo(f"model   {artifact.name}, {artifact.dtype} pixels\nsha256  {artifact.sha256}, seal intact")
    named = [(found.file if folder else Path(found.file).name, found.comparison) for found in findings]
    compared = [replace(comparison, name=name) for name, comparison in named if comparison]
    if compared:
        click.echo(f"\n{table(compared)}")
    for finding in findings:
        _print_finding(finding)
    click.echo()


def _read(path: Path | None) -> "Intensities | Pixels | None":
    """Return the digits of a .npy file, if there is one."""
    from mnist_runtime.digits import as_digits
    from mnist_runtime.io.arrays import StoredArray

    return as_digits(StoredArray.open(path).array()) if path else None


def _print_finding(finding: "Finding") -> None:
    """Print what the table does not show."""
    from mnist_runtime.console.drawing import has_colour
    from mnist_runtime.parity.table import draw_worst

    if finding.proof:
        click.echo(f"ok    {Path(finding.file).name}: {finding.proof}")
    elif not finding.comparison and not finding.problem:
        click.echo(f"ok    {finding.file}: as published; not replayed here")
    if finding.problem:
        click.echo(f"FAIL  {finding.file}: found by the {finding.failed_check} check")
    if finding.problem and finding.artifact and finding.comparison:
        drawn = draw_worst(finding.comparison, finding.artifact.golden, colour=has_colour(sys.stdout))
        click.echo(f"\n{drawn}", color=True)
    if finding.logits_sha256:
        click.echo(f"logits  {finding.logits_sha256}")


if __name__ == "__main__":
    parity(prog_name="mnist-parity")
