"""The network port: with ``connection`` and ``transport_errors`` all that knows aiohttp's client.

An exchange ends as a Head, after its body went to a receiver, or as an ExchangeError that
knows whether the request was sent. Nothing of aiohttp leaves this module: its exceptions
carry request headers, and a malformed answer looks like a status 400 in them.
"""

from __future__ import annotations

import asyncio
import os
import socket
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import aiohttp
import anyio

from imagen_async.session.alarm import Alarm
from imagen_async.session.connection import Connection, keep_alive
from imagen_async.session.exchange import Exchange, Response, usable
from imagen_async.session.transport_errors import classify, only_once
from imagen_async.wire.verdict import FailureKind

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from multidict import CIMultiDict
    from yarl import URL

    from imagen_async.session.config import Config
    from imagen_async.session.connection import SentFlagPayload

KEEPALIVE = 4.0
"""Seconds an idle socket is kept: uvicorn closes it after 5, and a lost race is a lost answer."""
TICK = 0.001
"""Seconds; the shortest timer, because aiohttp takes 0 and less for none at all."""
UNREAD = "the other side closed it, and had not read the request"
PIECE = 64 * 1024
"""aiohttp's read buffer in bytes; it pauses the socket at twice this."""


class Timer(NamedTuple):
    """How long one exchange may take.

    Args:
        total: Seconds from its start to the answer's last byte.
        aiohttp: The times that aiohttp keeps: to connect, and between two reads.
    """

    total: float
    aiohttp: aiohttp.ClientTimeout


class Receiver(Protocol):
    """What takes an answer's body as it arrives."""

    full: bool
    """Whether the rest may be left unread."""

    def feed(self, chunk: bytes, /) -> None:
        """Take the next bytes, cut anywhere."""


class Head(NamedTuple):
    """An answer's status and headers; the headers are a case-insensitive mapping."""

    status: int
    headers: Mapping[str, str]


class ExchangeError(Exception):
    """An exchange that broke.

    Args:
        kind: How it broke.
        sent: Whether a byte of the request may have left.
        detail: One printable line, free of headers, keys and queries.
        head: The answer's head, if it had come.
    """

    def __init__(
        self, kind: FailureKind, *, sent: bool, detail: str, head: Head | None = None
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.sent = sent
        self.detail = detail
        self.head = head


class Transport:
    """The sessions of one running loop.

    Args:
        config: Of the client; only its API's own origin is reached without the guard.
        guard: Raises OSError for an address that a download must not reach.

    Attributes:
        downloads: What downloads wait for.
    """

    def __init__(self, config: Config, guard: Callable[[str], None] | None) -> None:
        # glibc gives the heap's top back after each large read, and faults it in again for the
        # next; having freed one larger block, it keeps that much (mallopt(3), M_TRIM_THRESHOLD).
        bytes(16 * 1024 * 1024)
        origin = config.origin
        self._origin_parts = (origin.scheme, origin.host, origin.port)
        self._config = config
        self.downloads: anyio.Semaphore = anyio.Semaphore(config.limits.concurrency)
        self._api_connector = _connector(config.ssl, None)
        self._api = _session(self._api_connector)
        self._own_files = _session(self._api_connector, download=True)
        # Tools that watch requests put trace configurations into every session.
        direct = usable() and not self._api.trace_configs
        self._direct = Exchange(self._api_connector, origin, PIECE) if direct else None
        self._guard = guard
        self._files: aiohttp.ClientSession | None = None
        _open.add(self)

    async def aclose(self) -> None:
        """Close every session and socket."""
        for connector in self._detached():
            await connector.close()

    def drop(self) -> None:
        """Close the sockets without their loop, which runs no more."""
        for connector in self._detached():
            connector.__exit__()  # its close() would leave a task to a loop that never runs it

    def disown(self) -> None:
        """Never touch the sockets again: after a fork they are the parent's.

        Closing one here would take it off the parent's own selector, which a fork shares.
        """
        for connector in self._detached():
            connector._closed = True  # noqa: SLF001 - its finalizer, too, would close them

    def _detached(self) -> list[aiohttp.BaseConnector]:
        connectors: list[aiohttp.BaseConnector] = []
        self._direct = None
        for session in (self._api, self._own_files, self._files):
            if session is not None and session.connector is not None:
                connectors.append(session.connector)
                session.detach()
        return connectors

    def post(
        self,
        url: URL,
        outgoing: SentFlagPayload,
        headers: CIMultiDict[str],
        timer: Timer,
        on_head: Callable[[Head], Receiver],
    ) -> Coroutine[Any, Any, Head]:
        """Send one POST and feed its answer to the receiver that ``on_head`` gives.

        Redirects are not followed.

        Raises:
            ExchangeError: If the exchange broke; it says whether the request was sent.
        """
        return self._exchange("POST", url, timer, on_head, outgoing, headers)

    def get(
        self,
        url: URL,
        timer: Timer,
        on_head: Callable[[Head], Receiver],
        headers: CIMultiDict[str] | None = None,
    ) -> Coroutine[Any, Any, Head]:
        """Send one GET without cookies or hidden retry; redirects are not followed.

        Args:
            url: Where to.
            timer: How long it may take.
            on_head: Gives what takes the body.
            headers: With the API's key, which goes to the API itself alone.

        Raises:
            ExchangeError: If the exchange broke, or the key would go to another origin.
        """
        if headers is not None and (url.scheme, url.host, url.port) != self._origin_parts:
            raise ExchangeError(FailureKind.BAD_URL, sent=False, detail="it is not the API's")
        return self._exchange("GET", url, timer, on_head, None, headers)

    async def _exchange(
        self,
        method: str,
        url: URL,
        timer: Timer,
        on_head: Callable[[Head], Receiver],
        outgoing: SentFlagPayload | None,
        headers: CIMultiDict[str] | None,
    ) -> Head:
        head: Head | None = None
        broken: ExchangeError | None = None
        alarm = Alarm(timer.total, outgoing)
        try:
            response = await self._request(method, url, timer, outgoing, headers)
            head = Head(response.status, response.headers)
            await _receive(response, on_head(head), alarm)
        except asyncio.CancelledError:
            if not alarm.stop():
                raise
            broken = _mapped(TimeoutError(), outgoing, head)
        except Exception as error:  # noqa: BLE001 - raised below, without a reference to it
            broken = _mapped(error, outgoing, head)
        else:
            return head
        finally:
            alarm.stop()
            if outgoing is not None and broken is None:
                outgoing.end()
        assert broken is not None
        try:
            raise await self._judged(broken, url, outgoing)
        finally:
            del broken  # its traceback holds this frame

    def _request(
        self,
        method: str,
        url: URL,
        timer: Timer,
        outgoing: SentFlagPayload | None,
        headers: CIMultiDict[str] | None,
    ) -> Awaitable[aiohttp.ClientResponse | Response]:
        session, proxy = self._api, self._config.proxy_for(url)
        if outgoing is None or headers is None:
            session = self._session_for(url)
        elif proxy is None and self._direct is not None and self._direct.takes(headers):
            return self._direct.post(url, outgoing, headers, timer.aiohttp)
        return session.request(
            method,
            url,
            data=outgoing,
            headers=headers,
            timeout=timer.aiohttp,
            allow_redirects=False,
            proxy=proxy,
        )

    async def _judged(
        self, broken: ExchangeError, url: URL, outgoing: SentFlagPayload | None
    ) -> ExchangeError:
        """Return how an exchange broke, after asking whether the request was read, and end it."""
        if outgoing is None:
            return broken
        try:
            unread = broken.head is None and await outgoing.unread()
        finally:
            outgoing.end()
        if unread and self._config.proxy_for(url) is None:  # a proxy's kernel is not asked
            return ExchangeError(FailureKind.DROPPED, sent=False, detail=UNREAD)
        return broken

    def _session_for(self, url: URL) -> aiohttp.ClientSession:
        own = (url.scheme, url.host, url.port) == self._origin_parts
        # Through a proxy only the proxy's own address is seen here, and that one is trusted.
        if own or self._guard is None or self._config.proxy_for(url) is not None:
            return self._own_files
        if self._files is None:
            self._files = _session(_connector(self._config.ssl, self._guard), download=True)
        return self._files


def timeouts(total: float, *, connect: float, stall: float | None = None) -> Timer:
    """Return the timer for one exchange, exact to the tick; all in seconds."""
    kept = aiohttp.ClientTimeout(
        total=None,
        connect=max(connect, TICK),
        sock_read=stall,
        ceil_threshold=float("inf"),
    )
    return Timer(max(total, TICK), kept)


async def _receive(
    response: aiohttp.ClientResponse | Response, receiver: Receiver, alarm: Alarm
) -> None:
    complete = False
    alarm.heard += 1
    try:
        content = response.content
        # Not read(): what came before a cut would be lost, and it may hold a whole image.
        while not content.at_eof():
            receiver.feed(await content.readany())
            alarm.heard += 1
            if receiver.full:
                return
        complete = True
    finally:
        if complete:
            response.release()
        else:
            response.close()


def _session(connector: aiohttp.TCPConnector, *, download: bool = False) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=not download,
        read_bufsize=PIECE,
        headers={"Accept-Encoding": "identity"} if download else None,
        middlewares=(only_once,) if download else (),
        trust_env=False,
    )


def _connector(
    context: ssl.SSLContext | None, guard: Callable[[str], None] | None
) -> aiohttp.TCPConnector:
    def open_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        if guard is not None:
            guard(str(address[0]))
        opened = socket.socket(family=family, type=kind, proto=protocol)
        keep_alive(opened)
        return opened

    connector = aiohttp.TCPConnector(
        limit=0,  # the gate bounds what is in flight; a second queue would wait unseen
        keepalive_timeout=KEEPALIVE,
        resolver=aiohttp.ThreadedResolver(),  # aiodns, if installed, ignores split DNS
        ssl=context if context is not None else True,
        socket_factory=open_socket,
    )
    factory: Any = partial(Connection, loop=asyncio.get_running_loop())
    connector._factory = factory  # noqa: SLF001 - aiohttp has no open way to watch a socket
    return connector


def _mapped(
    error: BaseException, outgoing: SentFlagPayload | None, head: Head | None
) -> ExchangeError:
    """Return our error for any of aiohttp's, without a reference to it."""
    sent = outgoing is None or outgoing.sent
    kind, detail = classify(error)
    if kind is FailureKind.TIMEOUT and not sent:
        kind = FailureKind.CONNECT_TIMEOUT
    return ExchangeError(kind, sent=sent, detail=detail, head=head)


_open: weakref.WeakSet[Transport] = weakref.WeakSet()
_inherited: list[Transport] = []


def _after_fork() -> None:
    for transport in _open:
        transport.disown()
        _inherited.append(transport)  # never freed: finalizers of sockets would run


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
