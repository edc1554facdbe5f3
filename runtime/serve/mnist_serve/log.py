"""What the server says while it runs, a line each: requests answered and events, as text or as JSON."""

import contextlib
import json
import time
from typing import Any, Literal, TextIO, TypeAlias

Format: TypeAlias = Literal["text", "json"]


class Log:
    """Writes lines to one stream."""

    def __init__(self, stream: TextIO, form: Format = "text", *, requests: bool = True) -> None:
        """Write to `stream`; of single requests only if `requests`."""
        self._stream = stream
        self._form = form
        self.tells_requests = requests
        self._second = 0
        self._stamp = ""

    def say(self, event: str, sentence: str, **facts: Any) -> None:
        """Tell an event in one sentence, and in JSON its facts too."""
        if self._form == "json":
            self._write(json.dumps({"time": self._now(), "event": event, "message": sentence, **facts}))
        else:
            self._write(sentence)

    def request(self, client: str, method: str, path: str, status: int, seconds: float) -> None:
        """Tell of one request: who, what, how it ended and how long it took."""
        if not self.tells_requests:
            return
        if self._form == "json":
            facts = {"client": client, "method": method, "path": path, "status": status}
            duration = round(seconds * 1e3, 3)
            self._write(json.dumps({"time": self._now(), "event": "request", **facts, "duration_ms": duration}))
        else:
            self._write(f"{self._now()} {client} {method} {_printable(path)} {status} {seconds * 1e3:.1f} ms")

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError):  # who has closed the log wants none; requests are answered all the same
            self._stream.write(line + "\n")
            self._stream.flush()

    def _now(self) -> str:
        """The time in UTC, ISO 8601, to the millisecond."""
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        return f"{self._stamp}.{int(now % 1 * 1000):03d}Z"


def _printable(path: str) -> str:
    """A path that cannot break a line, nor colour a terminal."""
    return path if path.isprintable() and " " not in path else json.dumps(path)
