"""A POST over a connector's own connections, without what a session of aiohttp does for others.

Two thirds of a session's work are merged headers, cookies, redirects, middlewares and a task for
the body, of which this client uses nothing. What is left is a connection of the pool, aiohttp's
parser on it, and one write; redirects are not followed, and nothing is sent twice.

It leans on parts of aiohttp that may move. ``usable`` tries them when a client starts, and
``intercepted`` tells whether somebody replaced the session's requests, as test tools do; then
requests go through a session.
"""

from __future__ import annotations

import asyncio
from functools import cache, cached_property
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import aiohttp
from aiohttp import client
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, istr
from yarl import URL

from imagen_async.policy.config import Masked
from imagen_async.session.connection import Connection, SentFlagPayload
from imagen_async.session.transport_errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from typing import Self

    from aiohttp.client_reqrep import ConnectionKey

T = TypeVar("T")

_AIOHTTP = vars(client)
_OWN = tuple(
    map(
        istr,
        (
            *("Host", "Content-Type", "Content-Length"),
            *("Content-Encoding", "Transfer-Encoding", "Expect"),
        ),
    )
)
"""Headers that are written here, or mean more than a line."""


class _Target(aiohttp.ClientRequest):
    """Tells a connector where to connect; it is never sent itself."""

    # Its parts never change here, and a connector asks for it again and again.
    @cached_property
    def connection_key(self) -> ConnectionKey:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().connection_key


class Response:
    """An answer whose body is yet to be read; ``release`` or ``close`` must follow.

    Args:
        status: Of the answer.
        headers: Case-insensitive.
        content: Its body.
        connection: That it comes over.
    """

    __slots__ = ("_connection", "content", "headers", "status")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        content: aiohttp.StreamReader,
        connection: aiohttp.connector.Connection,
    ) -> None:
        self.status: int = status
        self.headers: Mapping[str, str] = headers
        self.content: aiohttp.StreamReader = content
        self._connection = connection

    def release(self) -> None:
        """Give the connection back, unless something of the request is still to leave."""
        transport = self._connection.transport
        if transport is None or transport.get_write_buffer_size():
            self._connection.close()
        else:
            self._connection.release()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Exchange:
    """Sends POSTs to one origin.

    Args:
        connector: Gives connections.
        origin: Where they lead.
        read_bufsize: As aiohttp's sessions take it.
    """

    def __init__(self, connector: aiohttp.BaseConnector, origin: URL, read_bufsize: int) -> None:
        self._connector = connector
        self._read_bufsize = read_bufsize
        self._target = _Target("POST", origin, loop=asyncio.get_running_loop())

    def takes(self, headers: CIMultiDict[str]) -> bool:
        """Return whether a request may be sent here, and not through a session."""
        return not intercepted() and not any(map(headers.__contains__, _OWN))

    async def post(
        self,
        url: URL,
        outgoing: SentFlagPayload,
        headers: CIMultiDict[str],
        timeout: aiohttp.ClientTimeout,
    ) -> Response:
        """Send one POST and return the answer once its head has come; 1xx are passed over.

        Raises:
            Exception: As a session of aiohttp does, but MalformedError for a head that is none.
        """
        head = _head(url, headers, outgoing.size or 0)
        try:
            connection = await self._connector.connect(self._target, traces=[], timeout=timeout)
        except TimeoutError:
            raise aiohttp.ConnectionTimeoutError from None
        try:
            protocol = connection.protocol
            assert isinstance(protocol, Connection)
            protocol.set_response_params(read_until_eof=True, read_bufsize=self._read_bufsize)
            outgoing.send(protocol, head)
            while True:
                message, payload = await protocol.read()
                if not 100 <= message.code < 200 or message.code == 101:
                    return Response(message.code, message.headers, payload, connection)
        except HttpProcessingError:
            connection.close()
            raise MalformedError from None
        except BaseException:
            connection.close()
            raise


def intercepted() -> bool:
    """Return whether somebody replaced what sends the requests of aiohttp's sessions."""
    for one in (aiohttp.ClientSession.request, aiohttp.ClientSession._request):  # noqa: SLF001 - it is what they replace
        if type(one) is not FunctionType or one.__globals__ is not _AIOHTTP:
            return True
    return False


@cache
def usable() -> bool:
    """Return whether aiohttp's parts still fit: one exchange is rehearsed, without a network."""
    arguments = aiohttp.BaseConnector.connect.__code__.co_varnames[:4]
    if arguments != ("self", "req", "traces", "timeout"):
        return False
    try:
        return _Rehearsal().succeeds()
    except Exception:  # noqa: BLE001 - whatever it is, the session is there
        return False


class _Rehearsal:
    """A connector, its connection and its transport, with a gateway behind that answers at once."""

    answer = (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    )

    def __init__(self) -> None:
        self.released = False
        self.transport = self
        self.protocol = Connection(asyncio.get_running_loop())
        self.protocol.connection_made(cast("asyncio.Transport", self))

    def succeeds(self) -> bool:
        url, fake = URL("http://gateway.test/v1"), cast("aiohttp.BaseConnector", self)
        post = Exchange(fake, url, 2**16).post(
            url, SentFlagPayload(b"[]"), CIMultiDict({"A": "b"}), aiohttp.ClientTimeout()
        )
        response: Response = _at_once(post)
        body = _at_once(response.content.readany())
        whole = (response.status, response.headers["x"], body) == (200, "y", b"{}")
        response.release()
        return (
            whole and response.content.at_eof() and self.released and self.protocol.is_connected()
        )

    async def connect(self, request: aiohttp.ClientRequest, **_: object) -> Self:
        assert request.connection_key.host == "gateway.test"
        return self

    def write(self, _: bytes) -> None:
        self.protocol.data_received(self.answer)

    def release(self) -> None:
        self.released = True

    def close(self) -> None: ...

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None: ...


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise TimeoutError


def _head(url: URL, headers: CIMultiDict[str], length: int) -> Masked:
    """Return a request's line and headers.

    Raises:
        ValueError: If a header would end early.
    """
    if not all(map(str.isprintable, headers.values())):
        raise ValueError
    lines = [
        f"POST {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}",
        *map(": ".join, headers.items()),
        f"Content-Length: {length}\r\nContent-Type: application/json\r\n\r\n",
    ]
    return Masked("\r\n".join(lines))
