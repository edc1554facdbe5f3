"""The command of the server: `mnist-serve`."""

import re
from pathlib import Path
from typing import Literal

import click

from mnist_runtime.console.command import FAILURE, Command, native_imports
from mnist_runtime.console.finite_float import FiniteFloat
from mnist_runtime.console.model_choice import choose_model, max_error_option, model_option, with_accuracy
from mnist_runtime.console.version import version_option

# The server's libraries are imported where they are used, so that --help and --version answer at once.

_COUNT = click.IntRange(1)


def _check_name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", value):
        raise click.BadParameter(f"{value!r} may only contain letters, digits, '.', '_' and '-'", ctx, param)
    return value


def _check_origins(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/?#\s]+", value):
            raise click.BadParameter(f"{value!r} is no origin; give one such as https://example.org", ctx, param)
    return values


@click.command("mnist-serve", cls=Command, context_settings={"show_default": True})
@model_option
@max_error_option
@click.option("--name", default="mnist", callback=_check_name, help="Model name in URLs.")
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 means all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="Port to listen on; 0 picks a free one.")
@click.option(
    "--uds", type=click.Path(path_type=Path), metavar="PATH", help="Unix socket to listen on, instead of host and port."
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    callback=_check_origins,
    metavar="URL",
    help="Origin whose pages may send requests, such as https://example.org; * means all. Repeat for several.",
)
@click.option(
    "--max-batch",
    type=_COUNT,
    default=64,
    metavar="N",
    help="Digits per run of the model; 1 turns batching off.",
)
@click.option(
    "--max-body",
    type=_COUNT,
    default=2**24,
    metavar="BYTES",
    help="Largest request body, compressed or not; larger ones get 413.",
)
@click.option(
    "--max-concurrency",
    type=_COUNT,
    default=256,
    metavar="N",
    help="Requests answered at the same time; more get 503.",
)
@click.option(
    "--timeout",
    type=FiniteFloat(min=0, min_open=True),
    default=20.0,
    metavar="SECONDS",
    help="Seconds a client may take to send a request, or between reads of the answer.",
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", help="Format of the log, on standard error."
)
@click.option("--reload", is_flag=True, help="Load each newly published model at --model once it has proven itself.")
@click.option("--access-log/--no-access-log", default=True, help="Log every request.")
@version_option
def serve(
    model: str | None,
    max_error: float | None,
    name: str,
    host: str,
    port: int,
    uds: Path | None,
    cors_origins: tuple[str, ...],
    max_batch: int,
    max_body: int,
    max_concurrency: int,
    timeout: float,
    reload: bool,
    log_format: Literal["text", "json"],
    access_log: bool,
) -> int:
    """Serve a model by the Open Inference Protocol (KServe V2): POST /v2/models/mnist/infer.

    Without --model: $MNIST_MODEL, else artifacts/mnist.onnx, else cnn, which comes with the package.

    SIGTERM or Ctrl-C stops the server once every accepted request is answered; a second signal stops it at once.

    Exit codes: 0 stopped, everything answered; 1 could not start, or was stopped at once; 2 wrong usage.
    """
    with native_imports():
        from mnist_serve.exchange import Limits
        from mnist_serve.log import log_event, logging_to_stderr
        from mnist_serve.model import ServedModel
        from mnist_serve.reload import load_proven
        from mnist_serve.server import listen, listen_unix, run

    with logging_to_stderr(log_format, requests=access_log) as log:
        chosen, choice = choose_model(model)
        if reload and isinstance(chosen, str):
            raise click.UsageError("--reload needs a --model FILE or FOLDER to watch.")
        served = ServedModel(load_proven(chosen, max_error), name)
        if choice:
            log_event("model", with_accuracy(choice, served.classifier))
        limits = Limits(max_body, max_concurrency, timeout)
        watched = chosen if reload and isinstance(chosen, Path) else None
        listener = listen_unix(uds) if uds else listen(host, port)
        try:
            answered = run(served, listener, limits, max_batch, log=log, cors_origins=cors_origins, watched=watched)
        finally:
            if uds:
                uds.unlink(missing_ok=True)
    return 0 if answered else FAILURE


if __name__ == "__main__":
    serve(prog_name="mnist-serve")
