"""The network port: every failure has a kind, nothing of aiohttp leaves, proxies keep secrets."""

import asyncio
import errno
import inspect
import json
import socket
import ssl
import traceback
from collections.abc import Iterator
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp import http_exceptions
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from imagen_async import Charge, NotSentError, RejectedError
from imagen_async.policy.config import Masked
from imagen_async.session.config import Config
from imagen_async.session.connection import SentFlagPayload
from imagen_async.session.transport import (
    ExchangeError,
    Head,
    Transport,
    timeouts,
)
from imagen_async.session.transport_errors import classify
from imagen_async.wire.verdict import FailureKind, judge_failure
from tests.chaos.harness import KEY, chaos, client, leakless
from tests.chaos.server import serving

CANARY = "sk-canary-in-a-header"


def samples() -> Iterator[BaseException]:
    """Yield one of every exception that aiohttp, and what it stands on, may raise."""
    headers = CIMultiDictProxy(CIMultiDict({"Authorization": CANARY}))
    info = aiohttp.RequestInfo(URL(f"http://x/?sig={CANARY}"), "POST", headers, URL("http://x/"))
    key = ConnectionKey("x", 443, True, True, None, None, None)
    arguments: dict[str, Any] = {
        "request_info": info,
        "history": (),
        "connection_key": key,
        "os_error": OSError(errno.ECONNREFUSED, CANARY),
        "certificate_error": ssl.CertificateError(CANARY),
        "message": CANARY,
        "expected": b"1",
        "got": b"2",
        "host": "x",
        "port": 1,
        "url": f"http://x/?{CANARY}",
        "path": CANARY,
    }
    for module in (aiohttp, http_exceptions, aiohttp.client_exceptions):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if not issubclass(kind, Exception) or issubclass(kind, Warning):
                continue
            try:
                wanted = list(inspect.signature(kind).parameters.values())
            except ValueError:  # a signature in C
                wanted = []
            needed = [one.name for one in wanted if one.default is one.empty and one.kind < 2]
            yield kind(*[arguments.get(name, CANARY) for name in needed])
    yield from (OSError(number, CANARY) for number in errno.errorcode)
    yield from (
        ssl.SSLError(1, CANARY),
        ssl.SSLZeroReturnError(CANARY),
        socket.gaierror(socket.EAI_NONAME, CANARY),
        json.JSONDecodeError(CANARY, CANARY, 0),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, CANARY),
        UnicodeEncodeError("ascii", "\ud800", 0, 1, CANARY),
        RecursionError(CANARY),
        MemoryError(CANARY),
        TimeoutError(CANARY),
        ConnectionResetError(CANARY),
        asyncio.IncompleteReadError(b"", 5),
        asyncio.LimitOverrunError(CANARY, 5),
        RuntimeError(CANARY),
        ValueError(CANARY),
        LookupError(CANARY),
        EOFError(CANARY),
    )


def test_every_exception_has_a_kind() -> None:
    """Each exception becomes a kind, a printable line without foreign text, and a verdict."""
    seen = set()
    for error in samples():
        kind, detail = classify(error)
        seen.add(type(error))
        assert detail, error
        assert CANARY not in detail
        assert detail.isprintable()
        for sent in (False, True):
            judgement = judge_failure(kind, sent=sent, detail=detail)
            assert judgement.charge is (Charge.MAYBE if sent else Charge.NO)
    assert len(seen) > 50


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aiohttp.ServerDisconnectedError(), FailureKind.DROPPED),
        (aiohttp.ClientOSError(104, "reset"), FailureKind.DROPPED),
        (ConnectionResetError(), FailureKind.DROPPED),
        (aiohttp.ClientPayloadError(), FailureKind.CUT_BODY),
        (TimeoutError(), FailureKind.TIMEOUT),
        (aiohttp.SocketTimeoutError(), FailureKind.TIMEOUT),
        (aiohttp.ConnectionTimeoutError(), FailureKind.CONNECT_TIMEOUT),
        (aiohttp.InvalidURL("http://x:y"), FailureKind.BAD_URL),
        (aiohttp.NonHttpUrlClientError("ftp://x"), FailureKind.BAD_URL),
        (OSError(errno.EMFILE, "many"), FailureKind.TOO_MANY_FILES),
        (ValueError("newline"), FailureKind.BAD_HEADER),
        (RecursionError(), FailureKind.PROTOCOL),
    ],
)
def test_the_kind_of_a_failure(error: Exception, kind: FailureKind) -> None:
    """The failures that matter most have the kind that decides on sending again."""
    assert classify(error)[0] is kind


def test_too_many_files_hides_in_other_errors() -> None:
    """A full descriptor table is told from a host that is down, and says what to do."""
    key = ConnectionKey("x", 443, True, True, None, None, None)
    error = aiohttp.ClientConnectorError(key, OSError(errno.EMFILE, "Too many open files"))
    kind, detail = classify(error)
    assert kind is FailureKind.TOO_MANY_FILES
    assert "ulimit" in detail


def test_an_exchange_error_keeps_nothing_of_aiohttp() -> None:
    """The port's error has no cause, context or field that leads to the original."""
    error = ExchangeError(FailureKind.DROPPED, sent=True, detail="x", head=Head(200, {}))
    assert vars(error) == {
        "kind": FailureKind.DROPPED,
        "sent": True,
        "detail": "x",
        "head": Head(200, {}),
    }


def test_masked() -> None:
    """A masked value is its text to a socket and stars to whoever shows it."""
    value = Masked("Bearer secret")
    assert repr([value]) == "['***']"
    assert value.encode() == b"Bearer secret"


@pytest.mark.parametrize("seconds", [0, -5, 1e-9])
def test_no_timer_is_endless(seconds: float) -> None:
    """A time that is over gives the shortest timer: to aiohttp 0 means for ever."""
    timer = timeouts(seconds, connect=seconds)
    assert timer.total is not None
    assert timer.aiohttp.connect is not None
    assert timer.total > 0
    assert timer.aiohttp.connect > 0


@pytest.fixture
async def transport() -> Any:
    transport = Transport(Config(base_url="http://127.0.0.1"), None)
    yield transport
    await transport.aclose()


async def test_a_failed_exchange_keeps_no_original(transport: Transport) -> None:
    """No frame of the port's error holds it, or aiohttp's: each would be a cycle."""
    outgoing = SentFlagPayload(b"{}")
    with pytest.raises(ExchangeError) as caught:
        await transport.post(
            URL("http://127.0.0.1:1/"),
            outgoing,
            CIMultiDict(),
            timeouts(5, connect=5),
            None,  # type: ignore[arg-type]
        )
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    assert len(frames) > 1
    held = [value for frame in frames[1:] for value in frame.f_locals.values()]
    assert [value for value in held if isinstance(value, BaseException)] == []


@pytest.mark.parametrize("sent", [True, False])
async def test_time_that_ends_before_sending(transport: Transport, sent: bool) -> None:
    """A timer that ends before the body is handed over is a connection that did not come."""
    outgoing = SentFlagPayload(b"{}")

    async def late(*args: Any, **kwargs: Any) -> None:
        outgoing.sent = sent
        raise TimeoutError

    times = timeouts(1, connect=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(aiohttp.ClientSession, "request", late)
        with pytest.raises(ExchangeError) as caught:
            await transport.post(URL("http://x"), outgoing, CIMultiDict(), times, None)  # type: ignore[arg-type]
    assert caught.value.kind is (FailureKind.TIMEOUT if sent else FailureKind.CONNECT_TIMEOUT)
    assert caught.value.sent is sent


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\0b"])
async def test_a_header_that_cannot_be_sent(transport: Transport, value: str) -> None:
    """A header with a line break is stopped before the socket, and is not told."""
    async with serving() as server:
        outgoing = SentFlagPayload(b"{}")
        headers = CIMultiDict({"Authorization": Masked(value)})
        with pytest.raises(ExchangeError) as caught:
            await transport.post(
                URL(server.base_url),
                outgoing,
                headers,
                timeouts(5, connect=5),
                None,  # type: ignore[arg-type]
            )
        assert caught.value.kind is FailureKind.BAD_HEADER
        assert not outgoing.sent
        assert value not in str(caught.value)
        assert server.ledger.heads == []


def test_proxies() -> None:
    """A proxy is the one given; else the environment's, if it may be asked."""
    url = URL("https://gateway.test/v1")
    config = partial(Config, base_url="https://gateway.test/v1")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("https_proxy", "http://env.test:1")
        patched.setenv("no_proxy", "inside.test")
        assert config().proxy_for(url) is None
        assert config(proxy="http://p.test:2").proxy_for(url) == URL("http://p.test:2")
        assert config(trust_env=True).proxy_for(url) == URL("http://env.test:1")
        assert config(trust_env=True).proxy_for(URL("https://inside.test/")) is None
        assert config(trust_env=True).proxy_for(URL("http://plain.test/")) is None
    assert "secret" not in repr(config(proxy="http://user:secret@p.test"))


async def test_a_proxy_that_wants_a_password() -> None:
    """A plain proxy's 407 is a refusal for good; the proxy's password is in no text."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(b'{"prompt":"p"}'))
        writer.write(b"HTTP/1.1 407 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(proxy, "127.0.0.1", 0)
    url = f"http://user:secret@127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with leakless(), client("http://gateway.test/v1", api_key="", proxy=url) as imagen:
        with pytest.raises(RejectedError) as caught:
            await imagen.generate("p")
        assert "secret" not in str(caught.value)
    listener.close()
    await listener.wait_closed()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 502 Bad Gateway\r\n\r\n", b""])
async def test_a_proxy_that_opens_no_tunnel(answer: bytes) -> None:
    """A tunnel that is not opened leaves the request unsent; it is tried again."""
    heads: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    listener = await asyncio.start_server(proxy, "127.0.0.1", 0)
    url = f"http://user:secret@127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with leakless(), client("https://gateway.test/v1", proxy=url) as imagen:
        with pytest.raises(NotSentError) as caught:
            await imagen.generate("p")
        assert (caught.value.charge, caught.value.attempts) == (Charge.NO, 4)
        assert "secret" not in str(caught.value)
    assert len(heads) == 4
    assert all(head.startswith(b"CONNECT gateway.test:443") for head in heads)
    assert KEY.encode() not in b"".join(heads)
    listener.close()
    await listener.wait_closed()


async def test_sockets_are_kept_alive() -> None:
    """A silent connection sends probes, or a NAT forgets it while an image is drawn."""
    seen: list[int] = []
    real = socket.socket.setsockopt

    def setsockopt(self: socket.socket, level: int, option: int, value: Any) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            seen.append(value)
        real(self, level, option, value)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket.socket, "setsockopt", setsockopt)
        async with chaos() as (_, imagen):
            await imagen.generate("p")
    assert seen == [1]
