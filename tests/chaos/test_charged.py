"""Faults after the image was made: the call ends once, says what it cost, and buys nothing more.

Rows N5, N7, N8, N9, N10, H3, H7, H8, H9, H10, H11 and H12 of the fault matrix.
"""

import asyncio
import base64
import copy
import json
import pickle

import aiohttp
import pytest

from imagen_async import (
    Cancelled,
    Charge,
    ImagenError,
    OutcomeUnknownError,
    RetryPolicy,
    SpoiledAnswerError,
    Verdict,
)
from tests.chaos import naive
from tests.chaos.faults import CHARGED, SECRET_HEADER, body, cut, dripping, raw, repeated, status
from tests.chaos.harness import KEY, SHORT, chaos
from tests.chaos.server import PNG, fine, head, serving

pytestmark = pytest.mark.usefixtures("both_ways")


SPOILED = {
    *("cut by length", "cut in a chunk", "cut without length", "RST in the body"),
    *("truncated gzip", "null", "a list", "100,000 brackets", "no data", "nulls"),
    *("a number of 5,000 digits", "empty data", "an item without image", "bad base64"),
    "half an image",
}
SAVED = {"broken JSON"}
SILENT = {
    "silence": raw(then="hang"),
    "silence after spaces": cut("length", 0, "hang", b"   "),
    "silence in the body": cut("length", then="hang"),
    "a drip of spaces": dripping(0.02),
}
LOST = sorted(set(CHARGED) - SAVED)
BLIND = {"bad base64", "half an image"}
"""Which a client that does not look into its images takes for good."""


_TEXT = base64.b64encode(PNG).decode()
ELSEWHERE = {
    "the image itself": PNG,
    "an array of one": json.dumps([{"data": [{"b64_json": _TEXT}]}]).encode(),
    "below a wrapper": json.dumps({"result": {"data": [{"b64_json": _TEXT}]}}).encode(),
    "a list of texts": json.dumps({"images": [_TEXT]}).encode(),
    "predictions": json.dumps({"predictions": [{"bytesBase64Encoded": _TEXT}]}).encode(),
}


@pytest.mark.parametrize("name", ELSEWHERE)
async def test_an_image_is_kept_wherever_it_stands(name: str) -> None:
    """A paid image in another place than the usual is not thrown away."""
    async with chaos({}, body(ELSEWHERE[name])) as (server, imagen):
        generation = await imagen.generate("p")
        assert [image.data for image in generation.images] == [PNG]
        assert server.ledger.charges["p"] == 1


async def test_a_bare_image_that_was_cut_is_not_whole() -> None:
    """What came of it is on the error, which says that it was charged."""
    answer = raw(head(200, len(PNG)) + PNG[:-20])
    async with chaos({}, answer) as (server, imagen):
        with pytest.raises(SpoiledAnswerError) as caught:
            await imagen.generate("p")
        assert caught.value.charge is Charge.YES
        assert [image.data for image in caught.value.images] == [PNG[:-20]]
        assert server.ledger.charges["p"] == 1


@pytest.mark.parametrize("closing", [False, True])
async def test_a_task_that_is_given_up_can_be_found(
    closing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever is cancelled while a task is polled is told its id: the gateway has the image."""
    ends: list[Cancelled] = []
    receipt = body(b'{"task_id": "t-42", "status": "queued"}', code=202)
    options = {"on_event": lambda event: ends.append(event) if type(event) is Cancelled else None}
    async with chaos({}, receipt, options=options) as (server, imagen):
        server.gets = status(200, b'{"status": "processing"}')
        call = asyncio.ensure_future(imagen.generate("p"))
        while not any(head.startswith("GET") for head in server.ledger.heads):
            await asyncio.sleep(0)
        if closing:
            await imagen._core.aclose(grace=0)
            with pytest.raises(ImagenError) as caught:
                await call
            assert (caught.value.task_id, caught.value.charge) == ("t-42", Charge.YES)
            return
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert [(end.task_id, end.charge) for end in ends] == [("t-42", Charge.YES)]
        assert "task t-42" in caplog.text


@pytest.mark.parametrize("name", LOST)
async def test_paid_and_lost(name: str) -> None:
    """An image that was made and lost is charged once, and its error says so."""
    async with chaos({}, CHARGED[name]) as (server, imagen):
        with pytest.raises(ImagenError) as caught:
            await imagen.generate("p")
        error = caught.value
        spoiled = name in SPOILED
        assert type(error) is (SpoiledAnswerError if spoiled else OutcomeUnknownError)
        assert error.verdict is (Verdict.SPOILED if spoiled else Verdict.UNKNOWN)
        assert error.charge is (Charge.YES if spoiled else Charge.MAYBE)
        assert error.attempts == 1
        assert server.ledger.keys["p"] == [error.idempotency_key]
        assert server.ledger.requests["p"] == server.ledger.charges["p"] == 1
        assert imagen.stats().unknown == 1
        for shown in (str(error), repr(error), repr(copy.copy(error)), str(vars(error))):
            assert KEY not in shown
            assert "server-secret" not in shown
            assert shown.isprintable()
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("name", sorted(set(LOST) - BLIND))
async def test_the_naive_client_pays_again(name: str) -> None:
    """The same fault makes a client that sends again pay four times: the harness sees it."""
    async with serving({}, CHARGED[name]) as server, aiohttp.ClientSession() as session:
        with pytest.raises(Exception):  # noqa: B017 - whatever it ends in
            await naive.generate(session, server.base_url, "p")
        assert server.ledger.charges["p"] == naive.ATTEMPTS


@pytest.mark.parametrize("name", SILENT)
async def test_silence(name: str) -> None:
    """A gateway that falls silent, or drips for ever, is left at the answer timeout, once."""
    async with chaos({}, SILENT[name], options={"timeouts": SHORT}) as (server, imagen):
        with pytest.raises(ImagenError, match=r"0\.15 s \(answer\)") as caught:
            await imagen.generate("p")
        kind = SpoiledAnswerError if name == "silence in the body" else OutcomeUnknownError
        assert type(caught.value) is kind
        assert server.ledger.charges["p"] == server.ledger.requests["p"] == 1


async def test_the_naive_client_and_silence() -> None:
    """A client that sends again after a timeout pays again."""
    async with serving({}, SILENT["silence"]) as server, aiohttp.ClientSession() as session:
        with pytest.raises(TimeoutError):
            await naive.generate(session, server.base_url, "p")
        assert server.ledger.charges["p"] == naive.ATTEMPTS


async def test_the_whole_images_of_a_broken_answer() -> None:
    """An image that came whole in an answer that is not counts: it is paid for."""
    async with chaos({}, CHARGED["broken JSON"]) as (server, imagen):
        generation = await imagen.generate("p")
        assert generation.images[0].media_type == "image/png"
        assert "not whole" in generation.problems[0]
        assert server.ledger.charges["p"] == 1


@pytest.mark.parametrize("name", ["502", "504", "520", "524", "RST after the request"])
async def test_a_second_charge_that_was_allowed(name: str) -> None:
    """With max_charges=2 one more attempt is made, with the same key and bytes."""
    policy = RetryPolicy(max_charges=2, backoff_base=0.002)
    script = {"p": repeated(CHARGED[name], 1, fine), "q": repeated(CHARGED[name], 3, fine)}
    async with chaos(script, options={"retry": policy}) as (server, imagen):
        generation = await imagen.generate("p")
        assert generation.attempts == 2
        with pytest.raises(OutcomeUnknownError, match="the charge cap of 2") as caught:
            await imagen.generate("q")
        assert (caught.value.attempts, caught.value.charge) == (2, Charge.MAYBE)
        assert server.ledger.charges == {"p": 2, "q": 2}
        for prompt in "pq":
            assert len(set(server.ledger.keys[prompt])) == len(server.ledger.bodies[prompt]) == 1


async def test_no_header_of_a_torn_head_is_told() -> None:
    """What came of a torn head is in no text and no field of the error."""
    assert "server-secret-4711" in SECRET_HEADER
    async with chaos({}, CHARGED["half the headers"]) as (_, imagen):
        with pytest.raises(OutcomeUnknownError) as caught:
            await imagen.generate("p")
        assert "server-secret" not in f"{caught.value} {vars(caught.value)}"


async def test_a_blank_answer_that_was_cut_keeps_its_request_id() -> None:
    """An outcome that cannot be known still names the request that support can look up."""
    torn = raw(b"HTTP/1.1 200 OK\r\nx-request-id: req-9\r\nContent-Length: 5\r\n\r\n ")
    async with chaos({}, torn) as (_, imagen):
        with pytest.raises(OutcomeUnknownError) as caught:
            await imagen.generate("p")
        assert (caught.value.status, caught.value.request_id) == (200, "req-9")
