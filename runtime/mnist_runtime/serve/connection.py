"""One HTTP connection of uvicorn, with what uvicorn leaves to proxies: bounds on heads and on slowness."""

import asyncio
import json
from collections import deque
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

MAX_HEAD = 2**16
"""Bytes of the request line and headers of one request."""


class PatientConnection(HttpToolsProtocol):
    """Closes on a client that takes longer than `patience` seconds to send a request, or to read on."""

    def __init__(self, *args: Any, patience: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience = patience
        self._sending: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._began = self.loop.time()
        self._head_bytes = 0
        """Received since there last was an end of headers or something of a body."""
        self._is_in_head = True
        self._is_in_request = False
        self._has_gone_on = False
        """Whether the data that are being read hold either of these."""
        self._unanswered: deque[RequestResponseCycle] = deque()
        """The requests of which the answer is not complete, in their order."""
        self._refusal: tuple[int, str] | None = None
        """Status and sentence for what follows on the last request that makes sense, until that is answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Begin to wait for the first request."""
        super().connection_made(transport)
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
        self._has_gone_on = False
        super().data_received(data)
        if self._has_gone_on:
            self._head_bytes = 0
        else:  # all of the data are of headers, or of what may stand around the chunks of a body
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._refuse(431, f"the headers are larger than {MAX_HEAD:,} bytes; send fewer or shorter ones")
        if self._sending and not self._is_in_request:
            self._sending.cancel()
            self._sending = None
        elif self._is_in_request and not self._sending:
            self._sending = self.loop.call_later(self._patience, self._give_up_on_sender)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._began = self.loop.time()
        self._is_in_head = self._is_in_request = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header comes, or after a chunked body a trailer, which may be ignored (RFC 9110, section 6.5.1)."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """A part of the body comes."""
        self._has_gone_on = True
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """The body begins."""
        self._is_in_head, self._has_gone_on = False, True
        super().on_headers_complete()
        self._unanswered.append(self.cycle)

    def on_message_complete(self) -> None:
        """The request ends."""
        self._is_in_request = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Say in the protocol's way that this is not HTTP."""
        self._refuse(400, f"this is not a request of HTTP/1.1 ({msg.lower().rstrip('.')})")

    def pause_writing(self) -> None:
        """The client reads more slowly than it is sent to."""
        super().pause_writing()
        self._reading = self.loop.call_later(self._patience, self._abort)

    def resume_writing(self) -> None:
        """The client reads on."""
        super().resume_writing()
        if self._reading:
            self._reading.cancel()
            self._reading = None
        self._close_for_good()

    def on_response_complete(self) -> None:
        """A connection that is to be closed shall close, even if the client never reads what is left."""
        while self._unanswered and self._unanswered[0].response_complete:
            self._unanswered.popleft()
        super().on_response_complete()
        if self._refusal and not self._unanswered:
            self._refuse(*self._refusal)
        self._close_for_good()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        super().timeout_keep_alive_handler()
        self._close_for_good()

    def _close_for_good(self) -> None:
        if self.transport.is_closing() and not self._reading:
            self._reading = self.loop.call_later(self._patience, self._abort)

    def _abort(self) -> None:
        self._tell_that_client_has_gone()
        self.transport.abort()

    def _tell_that_client_has_gone(self) -> None:
        """Tell every request that waits in a row; uvicorn tells the last one alone."""
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()

    @property
    def _is_in_body(self) -> bool:
        return self._is_in_request and not self._is_in_head

    def _give_up_on_sender(self) -> None:
        left = self._began + self._patience - self.loop.time()
        if left > 0 or self.flow.read_paused:  # it began another request since, or is kept waiting itself
            self._sending = self.loop.call_later(max(left, 0.1), self._give_up_on_sender)
            return
        self._sending = None
        if not self._is_in_request or self._is_answering():
            self.transport.close()
            self._close_for_good()
            return
        self._refuse(408, f"the request did not come within {self._patience:g} seconds; send it faster, or less of it")
        if self._is_in_body:
            self.cycle.disconnected = True  # the application, which is waiting for more, is told so
            self.cycle.message_event.set()

    def _is_answering(self) -> bool:
        return not self._is_in_head and self.cycle.response_started

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer what never became a whole request, after those that came before it, and close."""
        if self.transport.is_closing():
            return
        broken = self.cycle if self._is_in_body else None
        if self._unanswered and self._unanswered[0] is not broken:
            self._refusal = status, sentence
            if broken:  # it is the last in the row, and shall not be begun
                self._unanswered.pop()
                self.pipeline.popleft()
            return
        if broken and broken.response_started:
            self.transport.close()
            self._close_for_good()
            return
        body = json.dumps({"error": sentence}).encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()
        self._close_for_good()
