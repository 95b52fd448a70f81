"""The exchange over the connection itself: it falls back in time, and an adversary finds no gap."""

import asyncio
import functools
import json
from typing import Any
from unittest import mock

import aiohttp
import pytest
from aioresponses import aioresponses

from imagen_async import AsyncImagen, Cancelled, Charge, Event, OutcomeUnknownError, Timeouts
from imagen_async.session import exchange, transport
from imagen_async.session.connection import Connection
from tests.chaos.faults import raw
from tests.chaos.harness import chaos
from tests.chaos.server import Exchange, Fault, head

usable = exchange.usable.__wrapped__


async def test_this_aiohttp_is_as_the_exchange_needs_it() -> None:
    """If this fails, aiohttp has moved: requests go through a session, and cost twice as much."""
    assert exchange._Rehearsal().succeeds()
    assert usable()
    async with chaos() as (_, imagen):
        await imagen.generate("p")
        bound = imagen._core._lifecycle._transport
        assert bound is not None
        assert bound._direct is not None


async def _moved(self: Any, request: Any, timeout: Any) -> None: ...


@pytest.mark.parametrize(
    ("owner", "name", "moved"),
    [
        (aiohttp.BaseConnector, "connect", _moved),
        (Connection, "set_response_params", None),
        (Connection, "read", lambda self: (200, {}, b"")),
        (aiohttp.StreamReader, "readany", None),
        (aiohttp.ClientRequest, "__init__", lambda self, url: None),
    ],
)
async def test_an_aiohttp_that_moved(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, moved: Any
) -> None:
    """Any part of aiohttp that is not as it was sends the client back to a session."""
    monkeypatch.setattr(owner, name, moved)
    assert not usable()


async def test_without_the_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that cannot use the exchange sends through a session, once."""
    monkeypatch.setattr(transport, "usable", lambda: False)
    monkeypatch.setattr(exchange.Exchange, "post", mock.Mock(side_effect=AssertionError))
    async with chaos() as (server, imagen):
        await imagen.generate("p")
        assert server.ledger.charges == {"p": 1}


async def test_aioresponses_catches_what_is_sent() -> None:
    """A test that mocks aiohttp's sessions catches the requests of a client that ran before."""
    async with chaos() as (server, imagen):
        await imagen.generate("real")
        with aioresponses() as mocked:
            answer = {"data": [{"url": "https://files.test/mocked.png"}]}
            mocked.post(f"{server.base_url}/images/generations", payload=answer)
            generation = await imagen.generate("mocked")
            assert generation.images[0].url == "https://files.test/mocked.png"
        await imagen.generate("real again")
        assert server.ledger.charges == {"real": 1, "real again": 1}


@pytest.mark.parametrize("name", ["request", "_request"])
async def test_who_wraps_a_session_sees_what_is_sent(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A wrapper that looks like the original is told of every request."""
    seen: list[str] = []
    original = getattr(aiohttp.ClientSession, name)

    @functools.wraps(original)
    def watched(self: Any, method: str, url: Any, **rest: Any) -> Any:
        seen.append(method)
        return original(self, method, url, **rest)

    async with chaos() as (_, imagen):
        await imagen.generate("before")
        monkeypatch.setattr(aiohttp.ClientSession, name, watched)
        await imagen.generate("watched")
        assert seen == ["POST"]


async def test_who_traces_every_session_sees_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing tools put a configuration into each new session: it hears of the request."""
    seen: list[str] = []
    original = aiohttp.ClientSession.__init__

    async def started(session: Any, context: Any, params: Any) -> None:
        seen.append(params.method)

    def traced(self: Any, *args: Any, **rest: Any) -> None:
        tracing = aiohttp.TraceConfig()
        tracing.on_request_start.append(started)
        original(self, *args, trace_configs=[tracing], **rest)

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", traced)
    async with chaos() as (_, imagen):
        await imagen.generate("p")
        assert seen == ["POST"]


async def test_both_ways_send_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exchange writes the same line, headers and body as a session does."""
    heads, bodies = [], []
    options = {"headers": {"X-Own": "a b", "Cookie": "c=d"}}
    for way in (True, False):
        monkeypatch.setattr(transport, "usable", lambda way=way: way)
        async with chaos(options=options) as (server, imagen):
            await imagen.generate("p", n=2, idempotency_key="k", extra={"é": "ü"})
            port = str(server.port)
            line, *headers = server.ledger.heads[0].replace(port, "PORT").split("\r\n")
            heads.append((line, sorted(headers)))
            bodies.append(server.ledger.bodies)
    assert heads[0] == heads[1]
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize(("name", "value"), [("Host", "x.test"), ("content-type", "text/x")])
async def test_a_header_that_means_more(name: str, value: str) -> None:
    """A header of the user's in the place of one of HTTP's own is sent once, as it was given."""
    async with chaos(options={"headers": {name: value}}) as (server, imagen):
        await imagen.generate("p")
        lines = server.ledger.heads[0].lower().split("\r\n")
        found = [line for line in lines if line.startswith(f"{name.lower()}:")]
        assert found == [f"{name.lower()}: {value}"]


HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("pieces", [(HINTS,), (CONTINUE, HINTS), (HINTS, b"HTTP/1.1 2")])
@pytest.mark.parametrize("then", ["close", "reset"])
async def test_hints_and_no_answer(both_ways: str, pieces: tuple[bytes, ...], then: str) -> None:
    """A gateway that says it goes on, and goes away, may have drawn: the order is sent once."""
    async with chaos({}, raw(*pieces, then=then)) as (server, imagen):
        with pytest.raises(OutcomeUnknownError) as caught:
            await imagen.generate("p")
        assert (caught.value.charge, caught.value.attempts) == (Charge.MAYBE, 1)
        assert server.ledger.requests == {"p": 1}


async def _late(exchange: Exchange) -> None:
    """Answer, and once more when the connection lies idle."""
    await exchange.answer(exchange.generate())
    if exchange.prompt == "0":
        await asyncio.sleep(0.02)
        await exchange.answer(exchange.generate())


async def test_an_answer_between_two_requests(both_ways: str) -> None:
    """An answer that nobody asked for is not taken for that to the next prompt."""
    async with chaos({}, _late) as (server, imagen):
        for number in range(3):
            generation = await imagen.generate(str(number))
            assert generation.images[0].revised_prompt == str(number)
            await asyncio.sleep(0.05)
        assert server.ledger.requests == {"0": 1, "1": 1, "2": 1}
        assert server.ledger.connections == 2


@pytest.mark.parametrize("length", ["exact", "chunked", "chunked and broken"])
async def test_junk_after_an_answer(both_ways: str, length: str) -> None:
    """A paid image is kept whatever comes with it after its end, and nobody waits for more."""

    async def fault(exchange: Exchange) -> None:
        body = exchange.generate()
        answer = head(200, len(body)) + body + b"junk"
        if length != "exact":
            end = b"XX\r\n" if length == "chunked and broken" else b"0\r\n\r\njunk"
            answer = head(200, None, "Transfer-Encoding: chunked")
            answer += b"%x\r\n%s\r\n%s" % (len(body), body, end)
        await exchange.send(answer)

    async with chaos({}, fault, options={"timeouts": Timeouts(answer=60)}) as (server, imagen):
        async with asyncio.timeout(30):
            generation = await imagen.generate("p")
        assert generation.images[0].media_type == "image/png"
        assert server.ledger.charges == {"p": 1}


async def test_an_answer_before_the_order_is_out(both_ways: str) -> None:
    """A connection on which a part of the order still waits is not used for the next."""
    connections, left = 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"data": [{"url": "https://x.test/1.png"}]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await left.wait()  # it reads no more
        writer.transport.abort()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    base_url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    async with AsyncImagen(base_url=base_url) as imagen:
        assert (await imagen.generate("x" * 2**24)).images
        assert (await imagen.generate("small")).images
        assert connections == 2
    left.set()
    await asyncio.sleep(0.02)
    listener.close()
    await listener.wait_closed()


def _slowly(*headers: bytes) -> Fault:
    """Return what sends hints, a head and a body in pieces, each in a step of its own."""

    async def send(exchange: Exchange) -> None:
        body = exchange.generate()
        lines = (b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers, b"", b"")
        head = b"\r\n".join(lines)
        for piece in (HINTS, head[:20], head[20:], body[:10], body[10:90], body[90:]):
            await exchange.send(piece)
            await asyncio.sleep(0)
        exchange.alive = not headers

    return send


@pytest.mark.parametrize("headers", [(), (b"Connection: close",)], ids=["kept", "fresh"])
async def test_cancelled_at_every_step(both_ways: str, headers: tuple[bytes, ...]) -> None:
    """Wherever a call is cancelled, its charge is told and no one else gets its answer."""
    told: dict[str, Charge] = {}

    def hear(event: Event) -> None:
        if isinstance(event, Cancelled):
            told[event.request.prompt] = event.charge

    async with chaos({}, _slowly(*headers), options={"on_event": hear}) as (server, imagen):
        for steps in range(30):
            task = asyncio.create_task(imagen.generate(f"cut {steps}"))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            generation = await imagen.generate(f"next {steps}")
            assert generation.images[0].revised_prompt == f"next {steps}"
        assert set(server.ledger.requests.values()) == {1}
        reached = {prompt for prompt in server.ledger.requests if prompt in told}
        assert reached
        assert Charge.NO not in {told[prompt] for prompt in reached}
        if headers:
            assert Charge.NO in told.values()
