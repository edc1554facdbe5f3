"""The option --version: versions of the package, onnxruntime and the bundled models, without importing onnxruntime."""

import click

from mnist_runtime import __version__
from mnist_runtime.bundled import BUNDLED

_ENGINES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "ort-nightly")
"""Distributions that contain the module onnxruntime."""


def _print_versions(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001  # click's
    """Print one line each for the command's package, onnxruntime, and the SHA-256 of each bundled file."""
    if not value or ctx.resilient_parsing:
        return
    import hashlib

    files = [file for files in BUNDLED.values() for file in files]
    digests = [f"{file.name} sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    click.echo("\n".join([f"{ctx.info_name}, version {__version__}", _engine(), *digests]))
    ctx.exit()


version_option = click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_versions, help="Show the versions."
)


def _engine() -> str:
    from importlib.metadata import PackageNotFoundError, version

    for name in _ENGINES:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "onnxruntime is not installed"
