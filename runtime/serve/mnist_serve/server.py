"""The server: the application on uvicorn, from the announcement of its address to the last answer after SIGTERM."""

import asyncio
import contextlib
import ctypes
import logging
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import FrameType

import uvicorn

from mnist_runtime.errors import OptionError
from mnist_serve.admission import Gate
from mnist_serve.app import Limits, create_app
from mnist_serve.batching import Batching
from mnist_serve.connection import PatientConnection
from mnist_serve.log import Log
from mnist_serve.model import ServedModel
from mnist_serve.page import routes
from mnist_serve.reload import Reloader

_BACKLOG = 2048
_UNSENT = 2**16
"""Bytes of answers that the system keeps for a client that reads slowly. Of more we would not see that it reads on."""
_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""
_KEEP_ALIVE = 75
"""Seconds that a connection may be idle, more than the 60 of common proxies, which should be the first to close."""


def run(
    model: ServedModel,
    host: str,
    port: int,
    log: Log,
    *,
    limits: Limits,
    timeout: float,
    batching: Batching,
    watched: Path | None = None,
) -> bool:
    """Serve until SIGTERM or SIGINT; True if every request that was accepted has been answered.

    A client that takes longer than `timeout` seconds to send a request, or to read on, is left. What is published at
    `watched` meanwhile replaces the model.

    Raises:
        OptionError: nothing can listen on that host and port.
    """
    listener = _listen(host, port)
    _share_one_arena()
    page = routes(lambda: model.classifier)
    app = create_app(model, limits=limits, batching=batching, log=log, routes=page)

    def refused(client: str, status: int, seconds: float) -> None:
        app.state.metrics.answered("other", status, seconds)
        log.request(client, "-", "-", status, seconds)

    config = uvicorn.Config(
        app,
        http=partial(PatientConnection, patience=timeout, refused=refused),  # type: ignore[arg-type]  # it makes what is wanted
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # or whoever is on this machine could write into the log who he is
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=round(timeout) + 10,
    )
    uvicorn_log = logging.getLogger("uvicorn.error")
    uvicorn_log.addHandler(_Handler(log))
    uvicorn_log.setLevel(logging.ERROR)
    reloader = Reloader(model, watched, app.state.metrics, log) if watched else None
    server = _Server(config, app.state.gate, log, partial(_announce, model, listener, log), reloader)
    server.run(sockets=[listener])
    return not server.force_exit


class _Server(uvicorn.Server):
    """uvicorn, which says that it is no longer ready before it stops, and answers what it has accepted."""

    def __init__(
        self, config: uvicorn.Config, gate: Gate, log: Log, announce: Callable[[], None], reloader: Reloader | None
    ) -> None:
        super().__init__(config)
        self._gate = gate
        self._log = log
        self._announce = announce
        self._reloader = reloader

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watching = asyncio.create_task(self._reloader.watch()) if self._reloader else None
        self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # as uvicorn calls it
        """Stop at the first signal, and at once at the second."""
        self.force_exit = self.should_exit
        self._gate.is_stopping = self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is inside while new requests are told to go elsewhere; then close."""
        if self._watching:
            self._watching.cancel()
        inside = self._gate.in_flight
        self._log.say("stopping", f"Stopping; requests still being answered: {inside}.", in_flight=inside)
        while self._gate.in_flight and not self.force_exit:
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)
        self._log.say("stopped", "Stopped." if not self.force_exit else "Stopped at once, as told twice.")


class _Handler(logging.Handler):
    """Brings what uvicorn has to say into our log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.say("error", self.format(record))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise OptionError(f"cannot listen on {host} port {port} ({reason}); give another --host or --port") from error
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # connections inherit it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
    return listener


def _share_one_arena() -> None:
    """Have all threads take their memory from one arena of malloc's, where that is glibc's.

    Each thread has one of its own otherwise, and keeps in it what bodies, pictures and former models once took.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # as of musl, which has no arenas
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _announce(model: ServedModel, listener: socket.socket, log: Log) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    is_local = ip_address(host).is_loopback
    reach = "this machine alone (--host 0.0.0.0 opens it to others)" if is_local else "other machines too"
    digests = model.classifier.digests
    log.say(
        "listening",
        f"Serving {model.name} (sha256 {digests[0][:12]}) at {url}, to {reach}.",
        url=url,
        model=model.name,
        sha256=digests,
    )
