"""The log on standard error: one line per event or request, as text or as JSON, written by a thread of its own.

The package logs through `logging`, so that an application that embeds it decides where the lines go.
"""

import contextlib
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from logging.handlers import QueueHandler, QueueListener
from typing import Any, Literal, TypeAlias

from mnist_serve.errors import SlowReaderError

LogFormat: TypeAlias = Literal["text", "json"]

CAPACITY = 10_000
"""Lines that wait while standard error stalls; further lines are dropped and counted."""
_GRACE = 2.0
"""Seconds that a stopping server waits for its last lines to be written."""

_events = logging.getLogger("mnist_serve")
_requests = logging.getLogger("mnist_serve.request")
_uvicorn = logging.getLogger("uvicorn.error")


def log_event(event: str, message: str, **facts: Any) -> None:
    """Log one sentence, and in JSON also the facts."""
    _events.info(message, extra={"event": event, "facts": facts})


def log_request(client: str, method: str, path: str, status: int, seconds: float) -> None:
    """Log one request and the status of its response."""
    if _requests.isEnabledFor(logging.INFO):
        ms = round(seconds * 1e3, 3)
        facts = {"client": client, "method": method, "path": path, "status": status, "duration_ms": ms}
        # Quoted, a path can neither break the line nor control a terminal.
        shown = path if path.isprintable() and " " not in path else json.dumps(path)
        text = f"{_timestamp(time.time())} {client} {method} {shown} {status} {ms:.1f} ms"
        _requests.info("%s", text, extra={"event": "request", "facts": facts})


@contextlib.contextmanager
def logging_to_stderr(log_format: LogFormat, *, requests: bool) -> Iterator["LogQueue"]:
    """Write this package's log and uvicorn's errors to standard error; single requests only if `requests`."""
    formatter = _JsonFormatter() if log_format == "json" else logging.Formatter()
    records = LogQueue(sys.stderr.fileno(), formatter)
    for logger, level in ((_events, logging.INFO), (_uvicorn, logging.ERROR)):
        logger.addHandler(records)
        logger.setLevel(level)
        logger.propagate = False
    _requests.setLevel(logging.NOTSET if requests else logging.WARNING)
    try:
        yield records
    finally:
        records.drain()


class LogQueue(QueueHandler):
    """A bounded queue of log records, so that a stalled reader of the log holds up no request."""

    def __init__(self, fd: int, formatter: logging.Formatter) -> None:
        """Write to the file descriptor `fd`."""
        self._records: queue.Queue[Any] = queue.Queue(CAPACITY)
        super().__init__(self._records)
        self.addFilter(_is_wanted)
        self.on_drop: Callable[[], None] = lambda: None
        """Called for each line that is dropped."""
        _Writer(self._records, fd, formatter).start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return the record unchanged, because it stays in this process."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record, or drop it if the queue is full."""
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self.on_drop()

    def drain(self) -> None:
        """Wait until the lines are written, at most `_GRACE` seconds, because a reader may have stalled."""
        waiting = threading.Thread(target=self._records.join, daemon=True)
        waiting.start()
        waiting.join(_GRACE)


class _Writer(QueueListener):
    """Thread that writes, without locks and buffers, because the interpreter waits for those when it exits."""

    def __init__(self, records: "queue.Queue[Any]", fd: int, formatter: logging.Formatter) -> None:
        super().__init__(records)
        self._fd = fd
        self._formatter = formatter

    def handle(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # the reader may have closed the log; requests are answered all the same
            os.write(self._fd, f"{self._formatter.format(record)}\n".encode(errors="backslashreplace"))


class _JsonFormatter(logging.Formatter):
    """One JSON object: time, event, message and facts; for a request, no message."""

    def format(self, record: logging.LogRecord) -> str:
        event, facts = getattr(record, "event", "error"), getattr(record, "facts", {})
        message = {} if event == "request" else {"message": super().format(record)}
        return json.dumps({"time": _timestamp(record.created), "event": event, **message, **facts})


def _is_wanted(record: logging.LogRecord) -> bool:
    """Return False for errors of slow readers, which uvicorn reports as failures of the application."""
    return not (record.exc_info and isinstance(record.exc_info[1], SlowReaderError))


def _timestamp(seconds: float) -> str:
    """Return a time in UTC, in ISO 8601 with milliseconds."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1000):03d}Z"
