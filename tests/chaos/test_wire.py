"""Odd but honest gateways, kept connections, and what must never cross between prompts.

Rows N6, N11, N13, H7, H8, H9, H14, I1 of the fault matrix.
"""

import asyncio
import gzip
import json
import random
import tracemalloc
import zlib
from collections import Counter
from typing import Any

import aiohttp
import pytest

from imagen_async import (
    ImagenError,
    InvalidRequestError,
    Limits,
    OutcomeUnknownError,
    SpoiledAnswerError,
)
from tests.chaos import naive
from tests.chaos.faults import CHARGED, FREE, ok_then_closed, overlong, sliced, twice_answered
from tests.chaos.harness import chaos
from tests.chaos.server import Exchange, fine, head, serving

pytestmark = pytest.mark.usefixtures("both_ways")


MIB = 1024 * 1024


async def test_segments_of_one_byte() -> None:
    """An answer that comes byte by byte, split inside characters, is the same answer."""
    async with chaos({}, sliced) as (server, imagen):
        prompt = "🌲 лес 森林"
        generation = await imagen.generate(prompt)
        assert generation.images[0].revised_prompt == prompt
        assert generation.problems == ()
        assert server.ledger.charges[prompt] == 1


async def _continues(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
    await fine(exchange)


async def _spaces(exchange: Exchange) -> None:
    body = exchange.generate()
    await exchange.send(head(200, None, "Transfer-Encoding: chunked"))
    for _ in range(50):
        await exchange.send(b"2\r\n \n\r\n")
    await exchange.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


async def _bom(exchange: Exchange) -> None:
    await exchange.answer(b"\xef\xbb\xbf" + exchange.generate())


async def _events(exchange: Exchange) -> None:
    await exchange.answer(exchange.generate(), 200, "Content-Type: text/event-stream")


async def _created(exchange: Exchange) -> None:
    await exchange.answer(exchange.generate(), 201)


async def _to_the_end(exchange: Exchange) -> None:
    await exchange.answer(exchange.generate(), 200, "Connection: close", length=None)
    exchange.close()


async def _gzip(exchange: Exchange) -> None:
    await exchange.answer(gzip.compress(exchange.generate()), 200, "Content-Encoding: gzip")


@pytest.mark.parametrize(
    "oddity", [_continues, _spaces, _bom, _events, _created, _to_the_end, _gzip]
)
async def test_oddities_are_borne(oddity: object) -> None:
    """What is unusual and harmless brings the image, in one attempt."""
    async with chaos({}, oddity) as (server, imagen):
        generation = await imagen.generate("p")
        assert generation.images[0].media_type == "image/png"
        assert server.ledger.charges["p"] == server.ledger.requests["p"] == 1


async def test_a_connection_closed_between_calls(record_property: Any) -> None:
    """A kept connection that the gateway closes never makes a prompt sent twice."""
    lost = 0
    async with chaos({}, ok_then_closed) as (server, imagen):
        for number in range(1000):
            try:
                await imagen.generate(str(number))
            except OutcomeUnknownError:
                lost += 1  # the race that a kept connection can always lose
        assert max(server.ledger.requests.values()) == 1
        assert len(server.ledger.requests) + lost == 1000
        record_property("lost races of 1000", lost)


async def test_a_connection_seen_to_be_closed() -> None:
    """A kept connection whose end has arrived is not used again: nothing is lost."""
    async with chaos({}, ok_then_closed) as (server, imagen):
        for number in range(100):
            await imagen.generate(str(number))
            while len(server._tasks) > 0:
                await asyncio.sleep(0)
            await asyncio.sleep(0.001)
        assert server.ledger.connections == server.ledger.requests.total() == 100


@pytest.mark.parametrize("fault", [twice_answered, overlong])
async def test_no_answer_crosses_to_another_prompt(fault: object) -> None:
    """Bytes after an answer's end spoil the connection, never the next prompt's image."""
    async with chaos({}, fault, options={"limits": Limits(concurrency=4)}) as (server, imagen):
        for number in range(40):
            try:
                generation = await imagen.generate(f"prompt {number}")
            except OutcomeUnknownError:
                continue
            assert generation.images[0].revised_prompt == f"prompt {number}"
        assert max(server.ledger.charges.values()) == 1


async def test_half_of_the_connections_break() -> None:
    """With every second request reset each item is accounted for, and none is sent twice."""
    dice = random.Random(7)
    reset = CHARGED["RST after the request"]
    results: Counter[str] = Counter()
    async with chaos(choose=lambda prompt: reset if dice.random() < 0.5 else fine) as (
        server,
        imagen,
    ):
        prompts = [str(number) for number in range(1000)]
        async with imagen.generate_many(prompts) as outcomes:
            async for outcome in outcomes:
                results[type(outcome.error).__name__] += 1
        assert sum(results.values()) == 1000
        assert set(results) == {"NoneType", "OutcomeUnknownError"}
        assert server.ledger.requests.total() == server.ledger.charges.total() == 1000
        assert 400 < results["NoneType"] < 600


async def test_half_of_the_answers_fail() -> None:
    """With every second answer a free failure the retries stay within the budget's share."""
    dice = random.Random(7)
    async with chaos(choose=lambda prompt: FREE["500"] if dice.random() < 0.5 else fine) as (
        server,
        imagen,
    ):
        calls = (imagen.generate(str(number)) for number in range(1000))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(not isinstance(e, Exception) or isinstance(e, ImagenError) for e in results)
        assert server.ledger.requests.total() <= 1200
        assert max(server.ledger.charges.values()) == 1
    async with (
        serving(choose=lambda prompt: FREE["500"] if dice.random() < 0.5 else fine) as server,
        aiohttp.ClientSession() as session,
    ):
        twins = (naive.generate(session, server.base_url, str(n)) for n in range(300))
        await asyncio.gather(*twins, return_exceptions=True)
        assert server.ledger.requests.total() > 450


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb(encoding: str) -> None:
    """A small answer that unpacks to 100 MB is dropped long before it is unpacked."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    packed = packer.compress(b'{"x": "')
    packed += b"".join(packer.compress(b"0" * MIB) for _ in range(100)) + packer.flush()

    async def bomb(exchange: Exchange) -> None:
        exchange.generate()
        await exchange.answer(packed, 200, f"Content-Encoding: {encoding}")

    async with chaos({}, bomb) as (_, imagen):
        tracemalloc.start()
        try:
            with pytest.raises(SpoiledAnswerError):
                await imagen.generate("p")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 20 * MIB


PROMPTS = {
    "NUL": "a\0b",
    "bidi": "left \u202e right",
    "format": "{0.__class__} %s ${HOME}",
    "path": "../../etc/passwd",
    "markup": "<script>alert(1)</script>",
    "formula": "=cmd()|' /C calc'!A0",
    "lines": "one\r\ntwo",
}


@pytest.mark.parametrize("name", PROMPTS)
async def test_a_prompt_goes_as_it_is(name: str) -> None:
    """Whatever a prompt holds reaches the gateway unchanged, and comes back unchanged."""
    prompt = PROMPTS[name]
    async with chaos() as (server, imagen):
        generation = await imagen.generate(prompt)
        assert list(server.ledger.charges) == [prompt]
        assert generation.images[0].revised_prompt == prompt


async def test_a_prompt_of_ten_megabytes() -> None:
    """A huge prompt is sent whole and without a warning."""
    prompt = "x" * (10 * MIB)
    async with chaos() as (server, imagen):
        await imagen.generate(prompt)
        (body,) = server.ledger.bodies[prompt]
        assert json.loads(body)["prompt"] == prompt


@pytest.mark.parametrize("prompt", ["", "  \n"])
async def test_an_empty_prompt_is_not_sent(prompt: str) -> None:
    """A prompt without a word is an error before any byte leaves."""
    async with chaos() as (server, imagen):
        with pytest.raises(InvalidRequestError, match="prompt is empty"):
            await imagen.generate(prompt)
        assert server.ledger.connections == 0


async def test_a_lone_surrogate() -> None:
    """A prompt that UTF-8 cannot carry still arrives, as JSON's own escape."""
    async with chaos() as (server, imagen):
        await imagen.generate("a\ud800b")
        assert list(server.ledger.charges) == ["a\ud800b"]
