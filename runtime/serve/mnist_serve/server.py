"""The server: the application on uvicorn, from the announcement of its address to the last response after SIGTERM."""

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import sys
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from mnist_serve.app import create_app
from mnist_serve.connection import Connection, check_deadlines
from mnist_serve.errors import ListenError
from mnist_serve.exchange import Gate, Limits
from mnist_serve.log import LogQueue, log_event
from mnist_serve.model import ServedModel
from mnist_serve.reload import watch

_BACKLOG = 2048
"""Connections that the system accepts before the server does."""
_UNSENT = 2**16
"""Bytes of unsent response that the system buffers per connection; more would hide slow readers."""
_M_ARENA_MAX = -8
"""`M_ARENA_MAX` of glibc's malloc.h."""
_KEEP_ALIVE = 75
"""Seconds that a connection may be idle: more than the 60 of common proxies, which should be the first to close."""


def run(
    model: ServedModel,
    listener: socket.socket,
    limits: Limits,
    max_batch: int,
    *,
    log: LogQueue,
    cors_origins: Sequence[str] = (),
    watched: Path | None = None,
) -> bool:
    """Serve until SIGTERM or SIGINT, and return True if every accepted request has been answered.

    Pages from `cors_origins` may send requests. A model that is published at `watched` replaces the served one.
    """
    _share_one_arena()
    app = create_app(model, limits=limits, max_batch=max_batch)
    log.on_drop = app.metrics.dropped.inc
    config = uvicorn.Config(
        _allow(app, cors_origins) if cors_origins else app,
        http=partial(Connection, timeout=limits.timeout, refusal=app.refusal),  # type: ignore[arg-type]  # a factory
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # otherwise a local client could forge its address in the log (X-Forwarded-For)
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=round(limits.timeout) + 10,
    )
    server = _Server(config, app.gate)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        interval = min(limits.timeout / 10, 1.0)
        background = [loop.create_task(check_deadlines(server.server_state.connections, interval))]
        if watched:
            background.append(loop.create_task(watch(model, watched, app.metrics)))
        loop.call_soon(_announce, model, listener)  # once the server has taken over the signals
        await server.serve([listener])
        for task in background:
            task.cancel()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serve())
    return not server.force_exit


class _Server(uvicorn.Server):
    """A uvicorn server that, before it stops, reports that it is not ready and answers all accepted requests."""

    def __init__(self, config: uvicorn.Config, gate: Gate) -> None:
        super().__init__(config)
        self._gate = gate

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Stop gracefully at the first signal, at once at the second."""
        self.force_exit = self.should_exit
        self._gate.is_stopping = self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer accepted requests while new ones get 503, then close."""
        pending = self._gate.in_flight
        log_event("stopping", f"Stopping; requests still being answered: {pending}.", in_flight=pending)
        while self._gate.in_flight and not self.force_exit:
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)
        log_event("stopped", "Stopped." if not self.force_exit else "Stopped at once, after a second signal.")


def listen(host: str, port: int) -> socket.socket:
    """Listen on a TCP port.

    Raises:
        ListenError: nothing can listen there.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except UnicodeError as error:  # of a host name with an empty part
        raise ListenError(f"cannot listen on {host}, because that is no host name; give another --host") from error
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise ListenError(f"cannot listen on {host} port {port} ({reason}); give another --host or --port") from error
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # connections inherit it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
    return listener


def listen_unix(path: Path) -> socket.socket:
    """Listen on a Unix socket, and replace one that a killed server has left.

    Raises:
        ListenError: nothing can listen there.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket() and listener.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink()
            listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        raise ListenError(f"cannot listen on {path} ({error.strerror or error}); give another --uds") from error
    return listener


def _allow(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Let pages from other origins use the protocol (CORS)."""
    length = "Inference-Header-Content-Length"
    return CORSMiddleware(
        app, origins, ("GET", "POST"), allow_headers=("Content-Encoding", length), expose_headers=(length,)
    )


def _share_one_arena() -> None:
    """Make all threads share one arena, because each arena keeps the memory of bodies, images and old models."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # musl has no mallopt
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _announce(model: ServedModel, listener: socket.socket) -> None:
    if listener.family == socket.AF_UNIX:
        url, is_local = f"unix:{listener.getsockname()}", True
    else:
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        is_local = ip_address(host).is_loopback
    reach = "this machine alone (--host 0.0.0.0 opens it to others)" if is_local else "other machines too"
    digests = model.classifier.digests
    message = f"Serving {model.name} (sha256 {digests[0][:12]}) at {url}, to {reach}."
    log_event("listening", message, url=url, model=model.name, sha256=digests)
