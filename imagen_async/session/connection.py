"""Whether a request was sent, and read by a gateway that closed its connection.

A gateway closes an idle connection just as it is used again. The request went to the socket, so
nothing that aiohttp says tells it from one that was read, drawn, charged and dropped. Linux can
tell, often.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.payload import BytesPayload, Payload

from imagen_async.wire.tcp import CLOSED, ended_by_fin, never_read

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import TIOCOUTQ

PATIENCE = (0.0, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.4)
"""Seconds between looks at a connection that a FIN ended: an RST takes a round trip."""


class Connection(ResponseHandler):
    """aiohttp's end of a connection; a request under which it ends gets hold of the socket."""

    outgoing: SentFlagPayload | None = None

    def is_connected(self) -> bool:
        """Return whether it can be used; not after bytes that no request asked for.

        aiohttp would take them for the answer to the next request.
        """
        return super().is_connected() and not self.should_close

    def data_received(self, data: bytes) -> None:
        """Take what came; a head on its own, so that junk after its body does not cost it too."""
        # aiohttp's parser drops all that came with the bytes at which it stumbles.
        end = data.find(b"\r\n\r\n") + 4 if data.startswith(b"HTTP/") else 0
        super().data_received(data[:end] if end > 4 else data)
        if 4 < end < len(data):
            super().data_received(data[end:])

    def set_exception(  # pyright: ignore[reportIncompatibleMethodOverride] - as it is called
        self, exc: BaseException, *cause: BaseException
    ) -> None:
        """End a body whose framing broke, too: aiohttp lets that wait for a timeout."""
        super().set_exception(exc, *cause)
        payload = self._payload
        if payload is not None and isinstance(exc, HttpProcessingError) and not payload.is_eof():
            # In its turn: what came before is read first.
            self._loop.call_soon(payload.set_exception, ClientPayloadError())

    def eof_received(self) -> None:
        """Pass on the socket: the loop closes its own next, and the kernel forgets it."""
        super().eof_received()
        if self.outgoing is not None and self.transport is not None and sys.platform == "linux":
            with suppress(OSError):  # no descriptor is left: then nobody can tell
                self.outgoing.ended = Ended(self.transport.get_extra_info("socket").dup())


class Ended:
    """A connection that the other side closed before it answered.

    Args:
        kept: The socket; it is closed by ``close``.
    """

    def __init__(self, kept: socket.socket) -> None:
        self._kept = kept
        self._fin = False
        with suppress(OSError):
            self._look()  # at once: a farewell of TLS that the loop sends takes the error away

    async def unread(self, size: float) -> bool:
        """Return whether it is proven that nobody read what was sent last.

        Args:
            size: Bytes that were sent last.
        """
        for pause in PATIENCE:
            await asyncio.sleep(pause)
            try:
                state, left = self._look(), self._unacknowledged()
            except OSError:  # a kernel that only looks like Linux
                return False
            if never_read(size, fin=self._fin, state=state, unacknowledged=left):
                return True
            if state == CLOSED or left < size:
                return False
        return False

    def close(self) -> None:
        """Let the socket go."""
        self._kept.close()

    def _look(self) -> int:
        """Return the state, and note a FIN; over TLS the farewell may come before it."""
        state = self._kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        error = self._kept.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if state == CLOSED else 0
        self._fin = self._fin or ended_by_fin(state, error)
        return state

    def _unacknowledged(self) -> int:
        return int(struct.unpack("i", ioctl(self._kept, TIOCOUTQ, bytes(4)))[0])


class SentFlagPayload(BytesPayload):
    """A JSON body, sent once, that remembers whether and when it was handed to the socket.

    aiohttp 3.14 never calls it for a refused connection, a DNS or TLS failure or a wait for the
    pool, and always for whatever happens later. A TraceConfig tells the same for 8 times the cost.
    """

    def __init__(self, value: bytes) -> None:
        # Not BytesPayload's own: it warns of bodies over 1 MiB, and a prompt may be one.
        Payload.__init__(self, value, content_type="application/json")
        self._size = len(value)
        self.sent: bool = False
        self.sent_at: float | None = None
        self._written = math.inf
        self._connection: Connection | None = None
        self.ended: Ended | None = None

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body; aiohttp calls this once it has a connection.

        Raises:
            BrokenPipeError: If the connection has ended meanwhile; nothing was written then.
        """
        connection = getattr(writer, "protocol", None)
        if isinstance(connection, Connection):
            self._bind(connection)
        self.sent, self.sent_at = True, time.time()
        await writer.write(self._value)
        self._written = writer.output_size

    def send(self, connection: Connection, head: str) -> None:
        """Write a request's head and this body at once, with no session between.

        Raises:
            BrokenPipeError: If the connection has ended meanwhile; nothing was written then.
        """
        transport = self._bind(connection)
        self._written = len(head) + len(self._value)
        self.sent, self.sent_at = True, time.time()
        transport.write(head.encode("ascii") + self._value)

    def _bind(self, connection: Connection) -> asyncio.Transport:
        transport = connection.transport
        if transport is None or transport.is_closing():
            raise BrokenPipeError
        self._connection = connection
        connection.outgoing = self
        return transport

    async def write_with_length(
        self,
        writer: AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - aiohttp's signature
    ) -> None:
        """Write the body; aiohttp calls this once it has a connection."""
        await self.write(writer)

    async def unread(self) -> bool:
        """Return whether it is proven that nobody read it."""
        return self.ended is not None and await self.ended.unread(self._written)

    def end(self) -> None:
        """Let connection and socket go."""
        if self._connection is not None and self._connection.outgoing is self:
            self._connection.outgoing = None
        if self.ended is not None:
            self.ended.close()


def keep_alive(opened: socket.socket) -> None:
    """Have a silent connection probed: minutes are normal, and NATs forget it after about two."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
    for option, value in (
        (idle, 30),
        (getattr(socket, "TCP_KEEPINTVL", None), 10),
        (getattr(socket, "TCP_KEEPCNT", None), 3),
    ):
        if option is not None:
            opened.setsockopt(socket.IPPROTO_TCP, option, value)
