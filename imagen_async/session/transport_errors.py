"""What each of aiohttp's exceptions means; their own texts may hold headers, keys and queries."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError

from imagen_async.wire.verdict import FailureKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CERTIFICATES = (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch)


class LostError(aiohttp.ClientError):
    """Hides a lost connection from aiohttp, which sends a GET again on its own."""


class MalformedError(aiohttp.ClientError):
    """The head of an answer cannot be read; it may be quoted nowhere."""


async def only_once(
    request: aiohttp.ClientRequest,
    handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
) -> aiohttp.ClientResponse:
    """Send a request, and never again: a middleware of aiohttp."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise LostError from None


_KINDS: tuple[tuple[tuple[type[BaseException], ...], FailureKind, str], ...] = (
    (CERTIFICATES, FailureKind.CERTIFICATE, "it is expired, self-signed or for another host"),
    ((aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError), FailureKind.BAD_URL, "the URL is bad"),
    (
        (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError),
        FailureKind.PROXY,
        "the proxy did not connect",
    ),
    (
        (aiohttp.ConnectionTimeoutError,),
        FailureKind.CONNECT_TIMEOUT,
        "no connection in time",
    ),
    ((aiohttp.ClientConnectorDNSError,), FailureKind.CONNECT, "the host's name was not found"),
    ((aiohttp.ClientConnectorSSLError,), FailureKind.TLS, "the TLS handshake failed"),
    ((aiohttp.ClientConnectorError,), FailureKind.CONNECT, "the host was not reached"),
    ((asyncio.TimeoutError,), FailureKind.TIMEOUT, "no answer in time"),
    (
        (aiohttp.ServerDisconnectedError, LostError, ConnectionError, aiohttp.ClientOSError),
        FailureKind.DROPPED,
        "the other side closed it",
    ),
    ((ContentEncodingError,), FailureKind.BAD_ENCODING, "its Content-Encoding cannot be undone"),
    ((aiohttp.ClientPayloadError,), FailureKind.CUT_BODY, "it ended too early"),
    (
        (aiohttp.ClientResponseError, MalformedError),
        FailureKind.PROTOCOL,
        "its head or framing is malformed",
    ),
    ((OSError, aiohttp.ClientConnectionError), FailureKind.DROPPED, "the connection failed"),
)


_TLS = frozenset({FailureKind.CERTIFICATE, FailureKind.TLS})


def classify(error: BaseException) -> tuple[FailureKind, str]:
    """Return how an exchange broke, and one line about it that holds no foreign text."""
    if isinstance(error.__cause__, ContentEncodingError):
        error = error.__cause__
    number = getattr(error, "errno", None)
    if number in (errno.EMFILE, errno.ENFILE):
        return FailureKind.TOO_MANY_FILES, "too many open files; raise `ulimit -n`"
    for classes, kind, detail in _KINDS:
        if isinstance(error, classes):
            # OpenSSL has numbers of its own.
            told = isinstance(number, int) and kind not in _TLS
            reason = errno.errorcode.get(int(number or 0), "") if told else ""
            return kind, f"{detail} ({reason})" if reason else detail
    if isinstance(error, ValueError):
        return FailureKind.BAD_HEADER, "a header's value cannot be sent"
    return FailureKind.PROTOCOL, f"the exchange failed ({type(error).__name__})"
