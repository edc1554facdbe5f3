"""One HTTP connection of uvicorn, with what uvicorn leaves to proxies: bounds on heads and on slowness."""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sized
from enum import Enum, auto
from typing import Any, TypeAlias

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

MAX_HEAD = 2**16
"""Bytes of the request line and headers of one request."""

Refused: TypeAlias = Callable[[str, int, float], None]
"""Is told of what never became a request: its client, the status that it got, and the seconds that were spent on it."""


class _Phase(Enum):
    """What is read next."""

    IDLE = auto()
    """A request, of which nothing has come."""
    HEAD = auto()
    BODY = auto()


class _FlowControl(FlowControl):
    """uvicorn's, but that it reads on only once no request waits for others: what it would read is not bounded."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class PatientConnection(HttpToolsProtocol):
    """Closes on a client that takes longer than `patience` seconds to send a request, or to read on."""

    def __init__(self, *args: Any, patience: float, refused: Refused, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience = patience
        self._refused = refused
        self._phase = _Phase.IDLE
        self._began = self.loop.time()
        self._sending: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._unread = 0
        """Bytes that the client had not taken when it was last looked at."""
        self._size = 0
        """Of the data that are being read."""
        self._reads_of_head = 0
        """Bytes of all data that hold something of the head that is being read: it is no larger."""
        self._head_bytes = 0
        """Received since there last was an end of headers or something of a body."""
        self._has_gone_on = False
        """Whether the data that are being read hold either of these."""
        self._unanswered: deque[RequestResponseCycle] = deque()
        """The requests of which the answer is not complete, in their order."""
        self._refusal: tuple[int, str] | None = None
        """Status and sentence for what follows on the last request that makes sense, until that is answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.flow = _FlowControl(transport, self.pipeline)
        self._sending = self.loop.call_later(self._patience, self._give_up_on_sender)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._tell_that_client_has_gone()
        super().connection_lost(exc)
        for timer in (self._sending, self._reading):
            if timer:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Read on; what a whole request takes is one call and no timer."""
        if self._refusal:
            return
        self._has_gone_on, self._size = False, len(data)
        self._reads_of_head += self._size
        try:
            self._parse(data)
        except HttpParserError as error:
            reason = "invalid URL" if isinstance(error, HttpParserCallbackError) else str(error).lower()
            self._refuse(400, f"this is not a request of HTTP/1.1 ({reason})")
        if self._has_gone_on:
            self._head_bytes = 0
        else:  # all of the data are of headers, or of what may stand around the chunks of a body
            self._head_bytes += self._size
            if self._head_bytes > MAX_HEAD:
                self._refuse_head()
        if self._sending and self._phase is _Phase.IDLE and self._has_gone_on:
            self._sending.cancel()
            self._sending = None
        elif not self._sending and self._phase is not _Phase.IDLE:
            self._sending = self.loop.call_later(self._patience, self._give_up_on_sender)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._unset_keepalive_if_required()  # and not at any data: empty lines may come before a request
        self._began = self.loop.time()
        self._reads_of_head = self._size
        self._phase = _Phase.HEAD

    def on_headers_complete(self) -> None:
        """The body begins."""
        if self.parser.should_upgrade():
            if self.parser.get_method() != b"CONNECT":
                return  # `_parse` sees to it
            self._refuse(400, "CONNECT is for proxies, and this is none; the protocol begins at /v2")
            raise HttpParserError  # ends the reading, with all that the data still hold
        self._has_gone_on = True
        if self._reads_of_head > MAX_HEAD and self._size_of_head() > MAX_HEAD:
            self._refuse_head()
            raise HttpParserError
        super().on_headers_complete()
        self.headers = []  # trailers would come here, and may be ignored (RFC 9110, section 6.5.1)
        self._phase = _Phase.BODY
        self._unanswered.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """A part of the body comes."""
        self._has_gone_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request ends."""
        if self._phase is _Phase.BODY:
            self._phase, self._has_gone_on = _Phase.IDLE, True
            super().on_message_complete()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is sent to."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """The client has read nearly all."""
        super().resume_writing()
        if self._reading:
            self._reading.cancel()
            self._reading = None
        self._see_it_closed()

    def on_response_complete(self) -> None:
        """A connection that is to be closed shall close, even if the client never reads what is left."""
        while self._unanswered and self._unanswered[0].response_complete:
            self._unanswered.popleft()
        super().on_response_complete()
        if self._refusal and not self._unanswered:
            self._say_refusal(*self._refusal)
        self._see_it_closed()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        super().timeout_keep_alive_handler()
        self._see_it_closed()

    def _parse(self, data: bytes) -> None:
        """Read HTTP/1.1 alone, whatever else a client would go on in (RFC 9110, section 7.8, lets a server).

        The parser stops behind the head of a request with the header Upgrade, which `curl --http2` and Java's client
        send with their first one. That head is then read again without it, and what follows is as always.
        """
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
            except HttpParserUpgrade as stop:
                rest, head = memoryview(rest)[stop.args[0] :], self._head_without_upgrade()
                self.parser = HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
                began = self._began
                self.parser.feed_data(head)
                self._began = began
            else:
                return

    def _size_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _wait_for_reader(self) -> None:
        """Wait on, as long as the client takes something of what it is sent every `patience` seconds."""
        self._unread = self.transport.get_write_buffer_size()
        self._reading = self.loop.call_later(self._patience, self._give_up_on_reader)

    def _give_up_on_reader(self) -> None:
        if self.transport.get_write_buffer_size() < self._unread:
            self._wait_for_reader()
        else:
            self._tell_that_client_has_gone()
            self.transport.abort()

    def _close(self) -> None:
        self.transport.close()
        self._see_it_closed()

    def _see_it_closed(self) -> None:
        """Wait for a client to read what is left on a connection that then closes, but not for ever."""
        if self.transport.is_closing() and not self._reading:
            self._wait_for_reader()

    def _tell_that_client_has_gone(self) -> None:
        """Tell every request that waits in a row; uvicorn tells the last one alone."""
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()

    def _give_up_on_sender(self) -> None:
        left = self._began + self._patience - self.loop.time()
        if left > 0 or self.flow.read_paused:  # it began another request since, or is kept waiting itself
            self._sending = self.loop.call_later(max(left, 0.1), self._give_up_on_sender)
            return
        self._sending = None
        if self._phase is _Phase.IDLE:
            self._close()
        else:
            self._refuse(
                408, f"the request did not come within {self._patience:g} seconds; send it faster, or less of it"
            )

    def _refuse_head(self) -> None:
        self._refuse(431, f"the headers are larger than {MAX_HEAD:,} bytes; send fewer or shorter ones")

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer what never became a whole request, after those that came before it, and close."""
        if self.transport.is_closing() or self._refusal:
            return
        self._refusal = status, sentence
        broken = self.cycle if self._phase is _Phase.BODY else None
        if self._unanswered and self._unanswered[0] is not broken:
            if broken:  # it is the last in the row, and shall not be begun
                self._unanswered.pop()
                self.pipeline.popleft()
        elif broken and broken.response_started:
            self._close()
        else:
            self._say_refusal(status, sentence)

    def _say_refusal(self, status: int, sentence: str) -> None:
        if self.transport.is_closing():
            return
        if self._unanswered:  # the application has begun with it, waits for the rest, and accounts for it
            self.cycle.scope["state"]["refused"] = status
            self._tell_that_client_has_gone()
        else:
            self._refused(self.client[0] if self.client else "-", status, self.loop.time() - self._began)
        body = json.dumps({"error": sentence}).encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self._close()
