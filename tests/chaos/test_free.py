"""Faults before anything was made: what is sent again until it succeeds, and what never is.

Rows N1, N2, N3, N4, H1, H2, H4 and H13 of the fault matrix.
"""

import asyncio
import datetime as dt
import socket
import ssl
from typing import Any

import aiohttp
import pytest
import trustme

from imagen_async import (
    Charge,
    ImagenError,
    NotSentError,
    QuotaError,
    RefusedError,
    RejectedError,
    Retrying,
    RetryPolicy,
    ServerFailedError,
    Timeouts,
    Verdict,
)
from imagen_async.policy import retry
from tests.chaos import naive
from tests.chaos.faults import FREE, early, error, repeated, status
from tests.chaos.harness import KEY, QUICK, chaos, client, leakless
from tests.chaos.server import ChaosServer, Exchange, fine, serving

pytestmark = pytest.mark.usefixtures("both_ways")


@pytest.mark.parametrize("name", FREE)
async def test_a_refusal_is_sent_again(name: str) -> None:
    """What was turned away twice is sent a third time, same key and bytes, and paid once."""
    async with chaos({"p": repeated(FREE[name], 2, fine)}) as (server, imagen):
        generation = await imagen.generate("p")
        assert generation.attempts == server.ledger.requests["p"] == 3
        assert server.ledger.charges["p"] == 1
        assert set(server.ledger.keys["p"]) == {generation.idempotency_key}
        assert len(server.ledger.bodies["p"]) == 1


@pytest.mark.parametrize("name", FREE)
async def test_refused_to_the_end(name: str) -> None:
    """What is turned away four times ends as an error without a charge."""
    async with chaos({}, FREE[name]) as (server, imagen):
        with pytest.raises(ImagenError, match=r"4 (attempts|refusals|times)") as e:
            await imagen.generate("p")
        assert e.value.verdict in (Verdict.REFUSED, Verdict.FAILED)
        assert (e.value.charge, e.value.attempts) == (Charge.NO, 4)
        assert ("Nothing was charged" in str(e.value)) is (e.value.sends == 0)
        assert (server.ledger.requests["p"], server.ledger.charges["p"]) == (4, 0)
        assert imagen.stats().failed == 1


@pytest.mark.parametrize("code", [500, 503, 529])
async def test_server_errors_may_be_stated_free(code: int) -> None:
    """By the user's statement a failure is sent again, at most max_sends times, never "free"."""
    policy = RetryPolicy(server_errors_charged=False, max_attempts=9, max_sends=3)
    async with chaos({}, status(code), options={"retry": policy}) as (server, imagen):
        with pytest.raises(ServerFailedError, match=r"max_sends.*counts as not charged") as caught:
            await imagen.generate("p")
        assert (caught.value.charge, caught.value.sends) == (Charge.NO, 3)
        assert server.ledger.requests["p"] == 3


FINAL: dict[str, tuple[Any, type[ImagenError]]] = {
    **{str(code): (status(code), RejectedError) for code in (400, 401, 403, 404, 405, 410)},
    **{str(code): (status(code), RejectedError) for code in (409, 413, 415, 418, 422, 451)},
    "402": (status(402), QuotaError),
    "quota 429": (error(429, code="insufficient_quota", message="quota"), QuotaError),
    "billing 403": (error(403, message="billing hard limit reached"), QuotaError),
    "policy 400": (error(400, code="content_policy_violation"), RejectedError),
    "policy 500": (error(500, message="blocked by our safety system"), RejectedError),
    "web page": (status(200, b"<!DOCTYPE html><html>Welcome"), RejectedError),
    "early 413": (early, RejectedError),
}


@pytest.mark.parametrize("name", FINAL)
async def test_a_refusal_for_good(name: str) -> None:
    """What the server will never take is asked once and costs nothing."""
    fault, kind = FINAL[name]
    async with chaos({}, fault) as (server, imagen):
        with pytest.raises(ImagenError) as caught:
            await imagen.generate("p")
        assert type(caught.value) is kind
        assert (caught.value.charge, caught.value.attempts) == (Charge.NO, 1)
        assert (server.ledger.requests["p"], server.ledger.charges["p"]) == (1, 0)


ECHO = "a neon sign: queue is full"
MADE: dict[str, Any] = {
    "a quoted prompt": error(500, charged=True, message=f"Cannot store '{ECHO}'"),
    "a cost": status(429, b"", "x-litellm-response-cost: 0.04", charged=True),
    "a task": status(429, b'{"error": "busy", "task_id": "t-1"}', charged=True),
    "a bill": error(429, charged=True, message="Slow down: this image was billed"),
    "a filter": error(400, charged=True, message="Generated image was filtered"),
    "a lost answer": status(
        503, b'{"error": "model is overloaded", "raw": "upstream timed out"}', charged=True
    ),
    "see other": status(303, b"", "Location: /v1/images/1", charged=True),
}


@pytest.mark.parametrize("name", MADE)
async def test_a_refusal_that_shows_work_is_not_sent_again(name: str) -> None:
    """An answer that looks like a refusal, after the image was made, is paid for once."""
    async with chaos({}, MADE[name]) as (server, imagen):
        with pytest.raises(ImagenError) as caught:
            await imagen.generate(ECHO)
        assert caught.value.charge is Charge.MAYBE
        assert server.ledger.charges[ECHO] == server.ledger.requests[ECHO] == 1


async def test_a_refusal_that_holds_an_image_is_paid_for() -> None:
    """What looks like a refusal and brings an image is that image, bought once."""
    body = b'{"error": "queue is full", "data": [{"url": "u"}]}'
    async with chaos({}, status(503, body, charged=True)) as (server, imagen):
        generation = await imagen.generate("p")
        assert [image.url for image in generation.images] == ["u"]
        assert generation.problems == ("the gateway answered 503",)
        assert server.ledger.charges["p"] == server.ledger.requests["p"] == 1


async def test_a_batch_of_refusals_that_are_charged_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that charges for each 429 is not paid without end, though calls wait for it."""
    monkeypatch.setattr(retry, "BATCH_REFUSALS", 20)
    async with chaos({}, status(429, charged=True)) as (server, imagen):
        async with imagen.generate_many(["p"]) as outcomes:
            (outcome,) = [outcome async for outcome in outcomes]
        assert isinstance(outcome.error, RefusedError)
        assert server.ledger.charges["p"] == outcome.error.attempts == 20


@pytest.mark.parametrize("code", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(code: int) -> None:
    """A redirected POST goes nowhere: neither prompt nor key reach the other host."""
    async with serving() as foreign:
        location = f"Location: {foreign.base_url}/images/generations?signature=hidden"
        async with chaos({}, status(code, b"", location)) as (server, imagen):
            with pytest.raises(RejectedError, match=str(foreign.port)) as caught:
                await imagen.generate("p")
            assert "hidden" not in str(caught.value)
            assert server.ledger.requests["p"] == 1
        assert foreign.ledger.connections == 0


async def test_a_redirect_would_be_followed_by_others() -> None:
    """Bare aiohttp carries prompt and Idempotency-Key to the foreign host: it can be seen."""
    async with serving() as foreign:
        location = f"Location: {foreign.base_url}/images/generations"
        fault = status(307, b"", location)
        async with serving({}, fault) as server, aiohttp.ClientSession() as session:
            url = f"{server.base_url}/images/generations"
            headers = {"Idempotency-Key": "k"}
            async with session.post(url, json={"prompt": "p"}, headers=headers) as response:
                assert response.status == 200
        assert foreign.ledger.keys["p"] == ["k"]


async def test_refused_twice_then_up() -> None:
    """A gateway that starts to listen at the third attempt serves it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server = ChaosServer()
        waits = []

        def on_event(event: object) -> None:
            if isinstance(event, Retrying):
                waits.append(event)
                if len(waits) == 2:
                    listener.listen()

        async with leakless(), client(url, on_event=on_event) as imagen:
            serving_ = await asyncio.start_server(
                server.serve, sock=listener.dup(), start_serving=False
            )
            call = asyncio.ensure_future(imagen.generate("p"))
            while len(waits) < 2:
                await asyncio.sleep(0)
            await serving_.start_serving()
            generation = await call
            assert generation.attempts == 3
            assert [event.verdict for event in waits] == [Verdict.NOT_SENT] * 2
            assert server.ledger.requests["p"] == 1
            await imagen.aclose()
            serving_.close()
            await server.aclose()


async def test_nobody_listens() -> None:
    """A refused connection is tried four times and named."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        async with leakless(), client(url) as imagen:
            with pytest.raises(NotSentError, match="ECONNREFUSED") as caught:
                await imagen.generate("p")
            assert (caught.value.charge, caught.value.attempts) == (Charge.NO, 4)


async def test_a_black_hole() -> None:
    """A host that never accepts ends at the connect timeout, and is tried again."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(address)
        await asyncio.sleep(0.01)
        times = Timeouts(total=5, connect=0.04)
        policy = RetryPolicy(max_attempts=2, backoff_base=0.002)
        url = f"http://127.0.0.1:{address[1]}/v1"
        async with leakless(), client(url, timeouts=times, retry=policy) as imagen:
            with pytest.raises(NotSentError, match=r"no connection within 0\.04 s") as caught:
                await imagen.generate("p")
            assert (caught.value.charge, caught.value.attempts) == (Charge.NO, 2)
        for one in crowd:
            one.close()


def resolver(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> list[str]:
    """Let host names resolve by a script; return the names that were asked."""
    asked: list[str] = []
    left = list(answers)

    async def resolve(self: Any, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        asked.append(host)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, OSError):
            raise answer
        if answer is None:
            await asyncio.sleep(60)
        found = {"hostname": host, "host": "127.0.0.1", "port": port}
        return [found | {"family": socket.AF_INET, "proto": 0, "flags": 0}]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    return asked


async def test_a_name_that_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has no name is tried four times, and nothing is charged."""
    asked = resolver(monkeypatch, socket.gaierror(socket.EAI_NONAME, "no such host"))
    async with leakless(), client("http://gateway.test/v1", api_key="") as imagen:
        with pytest.raises(NotSentError, match="name was not found") as caught:
            await imagen.generate("p")
    assert asked == ["gateway.test"] * caught.value.attempts == ["gateway.test"] * 4


async def test_a_name_that_is_found_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that stumbles twice costs two attempts and no image."""
    stumble = socket.gaierror(socket.EAI_AGAIN, "try again")
    resolver(monkeypatch, stumble, stumble, True)
    async with (
        serving() as server,
        client(f"http://gateway.test:{server.port}/v1", api_key="") as imagen,
    ):
        generation = await imagen.generate("p")
        assert generation.attempts == 3
        assert server.ledger.charges["p"] == 1


async def test_a_name_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup counts against the connect timeout."""
    resolver(monkeypatch, None)
    times = Timeouts(total=5, connect=0.03)
    async with leakless(), client("http://gateway.test/v1", api_key="", timeouts=times) as imagen:
        with pytest.raises(NotSentError, match=r"no connection within 0\.03 s"):
            await imagen.generate("p")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def presenting(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


async def test_tls(authority: trustme.CA) -> None:
    """A trusted certificate works, and keeps the connection for the next call."""
    context = presenting(authority.issue_cert("127.0.0.1"))
    async with chaos({}, context=context, options={"ssl": trusting(authority)}) as (server, imagen):
        await imagen.generate("p")
        await imagen.generate("q")
        assert server.ledger.connections == 1


@pytest.mark.parametrize("fault", ["wrong host", "expired", "unknown authority"])
async def test_a_certificate_that_is_no_good(authority: trustme.CA, fault: str) -> None:
    """A bad certificate is asked once; not a byte of the request is sent."""
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = {
        "wrong host": lambda: authority.issue_cert("other.test"),
        "expired": lambda: authority.issue_cert("127.0.0.1", not_after=past),
        "unknown authority": lambda: trustme.CA().issue_cert("127.0.0.1"),
    }[fault]()
    options = {"ssl": trusting(authority)}
    async with chaos({}, context=presenting(certificate), options=options) as (server, imagen):
        with pytest.raises(NotSentError, match="certificate") as caught:
            await imagen.generate("p")
        assert (caught.value.charge, caught.value.attempts) == (Charge.NO, 1)
        assert (server.ledger.begun, server.ledger.heads) == (0, [])


async def test_tls_to_a_plain_port(authority: trustme.CA) -> None:
    """A gateway that speaks no TLS is asked once; neither key nor prompt leave in the clear."""
    seen = bytearray()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await reader.read(4096))
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(plain, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    async with leakless(), client(url, ssl=trusting(authority)) as imagen:
        with pytest.raises(NotSentError, match="does not speak TLS") as caught:
            await imagen.generate("p")
        assert (caught.value.charge, caught.value.attempts) == (Charge.NO, 1)
    assert seen
    assert KEY.encode() not in seen
    listener.close()
    await listener.wait_closed()


async def test_a_handshake_that_is_cut(authority: trustme.CA) -> None:
    """A connection that breaks in the handshake is a network's fault, and tried again."""
    seen = bytearray()

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await reader.read(100))
        writer.transport.abort()

    listener = await asyncio.start_server(cut, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    async with client(url, ssl=trusting(authority)) as imagen:
        with pytest.raises(NotSentError) as caught:
            await imagen.generate("p")
    assert (caught.value.charge, caught.value.attempts) == (Charge.NO, QUICK.max_attempts)
    assert KEY.encode() not in seen
    listener.close()
    await listener.wait_closed()


async def test_an_answer_before_the_request_was_read() -> None:
    """A refusal that comes while the body is still sent is read, and nothing is sent again."""

    async def impatient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(impatient, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    async with leakless(), client(url) as imagen:
        with pytest.raises(RejectedError, match="413"):
            await imagen.generate("p" * 10_000_000)
    listener.close()
    await listener.wait_closed()


async def test_a_naive_client_is_right_about_refusals() -> None:
    """Where nothing is made before the answer, sending again costs nothing: the books agree."""

    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(b"", 503)

    async with serving({"p": [refuse, refuse, fine]}) as server, aiohttp.ClientSession() as session:
        await naive.generate(session, server.base_url, "p")
        assert (server.ledger.requests["p"], server.ledger.charges["p"]) == (3, 1)
