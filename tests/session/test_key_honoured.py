"""What may have been charged is sent again where the gateway honours its key, and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from imagen_async import (
    AsyncImagen,
    Charge,
    ConfigurationError,
    GenerationRequest,
    Imagen,
    ImagenError,
    OutcomeUnknownError,
    RejectedError,
    RetryPolicy,
    SpoiledAnswerError,
    Timeouts,
)
from imagen_async.emulator import Emulator
from tests.scripted import Answer, Post, scripted
from tests.virtual import now, virtually

QUICK = RetryPolicy(backoff_base=0.002, backoff_cap=0.02)
IN_USE = Answer(409, b'{"error": {"message": "A request with this key is in progress"}}')
FOX = GenerationRequest("A fox", response_format="b64_json")


@asynccontextmanager
async def honouring(
    *, key_honoured: bool = True, retry: RetryPolicy = QUICK, timeouts: Any = None, **settings: Any
) -> AsyncIterator[tuple[Emulator, AsyncImagen]]:
    """Run a client on an emulator that honours keys unless told otherwise."""
    settings = {"honour_idempotency": True, "draw": "tiny", **settings}
    async with (
        Emulator(**settings) as emulator,
        AsyncImagen(
            base_url=emulator.base_url, retry=retry, timeouts=timeouts, key_honoured=key_honoured
        ) as imagen,
    ):
        yield emulator, imagen


LOST = ["drop", "reset", "502", "504", "524", "cut", "cut_chunked"]


@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_answer_comes_again_under_its_key(fault: str) -> None:
    """The image that a lost answer held is here after all, and was charged once."""
    async with honouring() as (emulator, imagen):
        emulator.fail_next(fault, times=2)
        generation = await imagen.generate(FOX)
        assert generation.images[0].data
        assert generation.attempts == 3
        account = emulator.ledger["A fox"]
    assert (account.posts, account.charged) == (3, 1)
    assert account.keys == [generation.idempotency_key]


async def test_silence_is_asked_again() -> None:
    """An answer that never comes is asked for again once the attempt's time is over."""
    async with honouring(timeouts=Timeouts(answer=0.2)) as (emulator, imagen):
        emulator.fail_next("stall")
        assert (await imagen.generate(FOX)).attempts == 2
        assert emulator.ledger["A fox"].charged == 1


@pytest.mark.parametrize("front", ["nginx", "cloudflare"])
async def test_a_front_that_gives_up_while_the_image_is_made(front: str) -> None:
    """After the front's 504 the key is in use; the call waits, and takes the first one's image."""
    settings = {"front": front, "front_timeout": 0.1, "latency": 0.4}
    async with honouring(**settings) as (emulator, imagen):
        generation = await imagen.generate(FOX)
        statuses = [exchange.status for exchange in emulator.requests]
        account = emulator.ledger["A fox"]
    assert generation.images[0].data
    assert statuses[0] == {"nginx": 504, "cloudflare": 524}[front]
    assert statuses[-1] == 200
    assert set(statuses[1:-1]) == {409}
    assert len(statuses) > QUICK.max_attempts, "waiting for the first request costs no attempt"
    assert account.charged == 1


async def test_two_callers_of_one_key_get_one_image() -> None:
    """A caller who finds the key in use by another waits, and both have the image, paid once."""
    async with honouring(latency=0.1) as (emulator, imagen):
        both = [imagen.generate(FOX, idempotency_key="order 66") for _ in range(2)]
        first, second = await asyncio.gather(*both)
        assert first.images[0].data == second.images[0].data
        assert {exchange.status for exchange in emulator.requests} == {200, 409}
        assert emulator.ledger["A fox"].charged == 1


async def test_a_key_of_another_request_is_rejected() -> None:
    """A 422 that names the key is final, costs nothing, and says what to do."""
    async with honouring() as (emulator, imagen):
        await imagen.generate(FOX, idempotency_key="order 66")
        with pytest.raises(RejectedError, match="give this one a new key") as caught:
            await imagen.generate("An owl", idempotency_key="order 66")
        assert (caught.value.charge, caught.value.attempts) == (Charge.NO, 1)
        assert emulator.ledger.total.charged == 1


@pytest.mark.parametrize("fault", LOST)
async def test_nothing_is_sent_again_unless_the_user_says_so(fault: str) -> None:
    """Without key_honoured a lost answer ends the call, whatever the gateway would do."""
    async with honouring(key_honoured=False) as (emulator, imagen):
        emulator.fail_next(fault)
        with pytest.raises(ImagenError) as caught:
            await imagen.generate(FOX)
        assert caught.value.charge is not Charge.NO
        assert emulator.ledger["A fox"].posts == 1


@pytest.mark.parametrize("max_sends", [1, 2, 4])
@pytest.mark.parametrize(("fault", "error"), [("drop", OutcomeUnknownError), ("504", ImagenError)])
async def test_a_gateway_that_does_not_honour_its_keys(
    max_sends: int, fault: str, error: type[ImagenError]
) -> None:
    """If the user is wrong, the request is bought max_sends times, and the error counts them."""
    retry = RetryPolicy(backoff_base=0.002, max_sends=max_sends, max_attempts=99)
    async with honouring(honour_idempotency=False, retry=retry) as (emulator, imagen):
        emulator.fail(fault)
        with pytest.raises(error) as caught:
            await imagen.generate(FOX)
        assert (caught.value.sends, caught.value.charge) == (max_sends, Charge.MAYBE)
        assert emulator.ledger["A fox"].charged == max_sends


async def test_a_cut_answer_that_is_never_whole() -> None:
    """An answer that is cut each time ends as paid for, after the attempts that are allowed."""
    async with honouring() as (emulator, imagen):
        emulator.fail("cut")
        with pytest.raises(SpoiledAnswerError) as caught:
            await imagen.generate(FOX)
        assert (caught.value.sends, caught.value.charge) == (4, Charge.YES)
        assert emulator.ledger["A fox"].charged == 1


async def test_a_task_comes_again_under_its_key() -> None:
    """A lost receipt of a task is handed out again, and its image collected."""
    settings = {"tasks": "202", "time_scale": 100.0}
    async with honouring(**settings) as (emulator, imagen):
        emulator.fail_next("drop")
        assert (await imagen.generate(FOX)).images[0].data
        assert emulator.ledger["A fox"].charged == 1


@virtually
async def test_a_key_that_stays_in_use() -> None:
    """A key that never comes free ends with the call's total, in doubt; it went out once."""

    async def handler(post: Post) -> Answer:
        post.send()
        if post.number == 1:
            raise post.broken()
        return IN_USE

    async with scripted(handler, key_honoured=True) as (gateway, imagen):
        began = now()
        with pytest.raises(OutcomeUnknownError, match=r"still in the making.*no time left") as e:
            await imagen.generate("p")
        assert 860 <= now() - began <= 900
        assert (e.value.charge, e.value.sends) == (Charge.MAYBE, 1)
        assert len({post.key for post in gateway.posts}) == 1
        assert 45 <= len(gateway.posts) <= 150


@virtually
async def test_the_wait_that_a_conflict_asks_for() -> None:
    """A 409 with Retry-After is asked again then; other calls go on meanwhile."""

    async def handler(post: Post) -> Answer:
        if post.prompt == "other":
            return post.image()
        if post.number == 1:
            post.send()
            raise post.broken()
        if post.number < 4:
            return Answer(409, IN_USE.body, {"Retry-After": "30"})
        return post.image()

    async with scripted(handler, key_honoured=True) as (_, imagen):
        began = now()
        call = asyncio.ensure_future(imagen.generate("p"))
        await asyncio.sleep(5)
        await imagen.generate("other")
        assert now() - began < 6, "the gate stays open"
        assert (await call).attempts == 4
        assert 60 <= now() - began <= 65


@virtually
async def test_waiting_for_a_key_counts_as_no_attempt() -> None:
    """An answer that is lost after a long wait is the second failure, however often was asked."""

    async def handler(post: Post) -> Answer:
        post.send()
        if post.number in (1, 7):
            raise post.broken()
        return IN_USE if post.number < 7 else post.image()

    async with scripted(handler, key_honoured=True) as (_, imagen):
        assert (await imagen.generate("p")).attempts == 8


@virtually
async def test_waiting_for_a_key_is_not_refunded() -> None:
    """The budget of retries gets back what was taken from it, and a wait took nothing."""
    named = Answer(409, b'{"error": {"message": "in progress", "code": "idempotency_key_in_use"}}')

    async def handler(post: Post) -> Answer:
        return named if post.number == 1 else post.image()

    async with scripted(handler, key_honoured=True) as (_, imagen):
        budget = imagen._core._runner._budget
        assert budget.take()
        await imagen.generate("p")
        for _ in range(9):
            assert budget.take()
        assert budget.empty, "1 for a success that was not a retry, and not 14"


@virtually
async def test_a_front_that_says_409_counts_as_sent() -> None:
    """A 409 that is no JSON is not the API's word: each of them counts as a send."""

    async def handler(post: Post) -> Answer:
        return Answer(504 if post.number == 1 else 409, b"<html><title>409 Conflict</title></html>")

    retry = RetryPolicy(max_attempts=9)
    async with scripted(handler, key_honoured=True, retry=retry) as (gateway, imagen):
        with pytest.raises(OutcomeUnknownError) as caught:
            await imagen.generate("p")
        assert (len(gateway.posts), caught.value.sends) == (4, 4)


@pytest.mark.parametrize("kind", [AsyncImagen, Imagen])
def test_honoured_keys_must_be_sent(kind: Any) -> None:
    """A client that is to leave keys out cannot count on them."""
    with pytest.raises(ConfigurationError, match="key_honoured=True needs"):
        kind(base_url="http://127.0.0.1:9/v1", idempotency=False, key_honoured=True)
