"""A process that stood still: what came meanwhile is read, and what did not is waited for no more.

Row P12 of the fault matrix, over real sockets on a clock that jumps.
"""

import asyncio
import base64
import json
import struct
from zlib import crc32

import pytest

from imagen_async import AsyncImagen, Charge, OutcomeUnknownError, SpoiledAnswerError, Timeouts
from imagen_async.session.alarm import Alarm
from imagen_async.session.connection import SentFlagPayload
from tests.chaos.harness import chaos
from tests.chaos.server import PNG, Exchange, head
from tests.virtual import VirtualLoop, now, virtually

PAUSE = 5000.0
"""Seconds: more than a call's total."""
ANSWER = Timeouts().answer


DUST = b"teSt" + bytes(2**24)
LARGE = PNG[:33] + struct.pack(">I", 2**24) + DUST + struct.pack(">I", crc32(DUST)) + PNG[33:]
"""The same picture with a chunk that no buffer holds."""


def stand_still() -> None:
    """Let the clock run on while nothing else does."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.jump(PAUSE)


async def answered(exchange: Exchange) -> None:
    """Answer, and stop the process before it can read."""
    await exchange.answer(exchange.generate())
    stand_still()


async def linked(exchange: Exchange) -> None:
    """Answer with a link, and stop the process before it can read."""
    exchange.generate()
    document = {"data": [{"url": exchange.server.base_url + "/image.png"}]}
    await exchange.answer(json.dumps(document).encode())
    stand_still()


async def closed(exchange: Exchange) -> None:
    """Answer and close, and stop the process before it can read."""
    await exchange.answer(exchange.generate(), 200, "Connection: close")
    exchange.close()
    stand_still()


async def large(exchange: Exchange) -> None:
    """Answer with more than all buffers hold."""
    exchange.generate()
    answer = json.dumps({"data": [{"b64_json": base64.b64encode(LARGE).decode()}]}).encode()
    exchange.writer.write(head(200, len(answer)) + answer)
    stand_still()
    await exchange.writer.drain()


async def halved(exchange: Exchange) -> None:
    """Send half of an answer before the pause, and the rest as a slow line would after it."""
    answer = exchange.generate()
    await exchange.send(head(200, len(answer)) + answer[:40])
    stand_still()
    for start in range(40, len(answer), 20):
        await asyncio.sleep(0.5)
        await exchange.send(answer[start : start + 20])


@pytest.mark.parametrize("fault", [answered, closed, large, halved])
@virtually
async def test_an_answer_that_came_in_a_pause(fault: object) -> None:
    """An answer that lay in the buffers when the timer rang late is read, all of it."""
    async with chaos({}, fault) as (server, imagen):
        data = (await imagen.generate("p")).images[0].data
        assert data == (LARGE if fault is large else PNG)
        assert server.ledger.charges == {"p": 1}


@virtually
async def test_links_that_came_in_a_pause(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Links that were read after the call's end are downloaded all the same."""

    async def picture(exchange: Exchange) -> None:
        await exchange.answer(PNG)
        stand_still()

    async with chaos({}, linked) as (server, imagen):
        server.gets = picture
        folder = tmp_path_factory.mktemp("out")
        generation = await imagen.generate_to(folder, "p")
        assert generation.images[0].path is not None
        assert generation.images[0].path.read_bytes() == PNG


async def waited(imagen: AsyncImagen, error: type[Exception]) -> float:
    """Return how long a call took that ends in an error, and holds it to one charge."""
    began = now()
    with pytest.raises(error, match="no whole answer within 600 s") as caught:
        await imagen.generate("p")
    assert caught.value.charge is not Charge.NO  # type: ignore[attr-defined]
    return now() - began


@virtually
async def test_nothing_that_came_in_a_pause() -> None:
    """A late timer that finds nothing gives a second, and the order is unknown."""

    async def silent(exchange: Exchange) -> None:
        exchange.generate()
        stand_still()
        await exchange.add()

    async with chaos({}, silent) as (server, imagen):
        assert PAUSE <= await waited(imagen, OutcomeUnknownError) <= PAUSE + 1.5
        assert server.ledger.requests == {"p": 1}


@virtually
async def test_an_answer_that_breaks_off_in_a_pause() -> None:
    """Half an answer that gets no further is given up as soon."""

    async def half(exchange: Exchange) -> None:
        await exchange.send(head(200, 5000) + exchange.generate()[:40])
        stand_still()
        await exchange.add()

    async with chaos({}, half) as (_, imagen):
        assert PAUSE <= await waited(imagen, SpoiledAnswerError) <= PAUSE + 1.5


@virtually
async def test_silence_without_a_pause() -> None:
    """A timer that rings in time gives nothing: the attempt ends at the answer timeout."""

    async def silent(exchange: Exchange) -> None:
        exchange.generate()
        await exchange.add()

    async with chaos({}, silent) as (_, imagen):
        assert await waited(imagen, OutcomeUnknownError) == pytest.approx(ANSWER, abs=0.01)


@virtually
async def test_an_order_that_is_not_out_gets_no_grace() -> None:
    """A timer that rings late before the order was sent ends it: it could only be lost."""
    outgoing = SentFlagPayload(b"{}")
    alarm = Alarm(5, outgoing)
    stand_still()
    began = now()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(PAUSE)
    assert alarm.stop()
    assert now() - began < 1


@pytest.mark.parametrize("rings", [True, False])
@virtually
async def test_a_cancellation_from_outside_stays_one(rings: bool) -> None:
    """Only the alarm's own cancellation is undone, even if both come at once."""
    task = asyncio.current_task()
    assert task is not None
    alarm = Alarm(5, None)
    asyncio.get_running_loop().call_later(5 if rings else 4, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(100)
    assert not alarm.stop()
    assert not alarm.stop()
    assert task.cancelling() == 1
    task.uncancel()
    await asyncio.sleep(100)
