"""One call's life: each step on record before it is taken, each end with its whole charge."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from imagen_async import (
    Charge,
    Downloaded,
    DownloadError,
    Event,
    Generation,
    GenerationRequest,
    ImagenError,
    Limits,
    NotSentError,
    OutcomeUnknownError,
    RejectedError,
    RetryPolicy,
    SaveError,
    SpoiledAnswerError,
    Verdict,
)
from imagen_async.storage.stores import FolderStore, MemoryStore
from imagen_async.wire.verdict import FailureKind
from tests.chaos.faults import FREE, document, error
from tests.chaos.harness import chaos
from tests.chaos.server import PNG, Exchange, fine
from tests.scripted import Answer, Post, answering, failed, scripted
from tests.virtual import now, virtually

B64 = base64.b64encode(PNG).decode()
LINKS = Answer(200, json.dumps({"data": [{"url": "https://gateway.test/x.png"}]}).encode())


class RecordBook:
    """A Record that writes down what it is told and what the gateway had seen by then."""

    def __init__(self, client: Any = None, breaks_at: str = "") -> None:
        self.steps: list[tuple[Any, ...]] = []
        self.in_flight: list[int] = []
        self.client = client
        self.breaks_at = breaks_at

    def _note(self, *step: Any) -> None:
        if step[0] == self.breaks_at:
            raise OSError("the journal's disk is full")
        self.steps.append(step)
        if self.client is not None:
            self.in_flight.append(self.client.stats().in_flight)

    async def sending(self, idempotency_key: str) -> None:
        self._note("sending", idempotency_key)

    async def returned(self, charge: Charge, sends: int) -> None:
        self._note("returned", charge, sends)

    async def received(self, generation: Generation) -> None:
        self._note("received", len(generation.images))

    async def settled(self, result: Generation | ImagenError) -> None:
        self._note("settled", type(result).__name__)

    @property
    def names(self) -> list[str]:
        return [step[0] for step in self.steps]


async def run(imagen: Any, book: RecordBook, **options: Any) -> Generation:
    options = {"store": MemoryStore()} | options
    generation: Generation = await imagen._core.generate(
        GenerationRequest("p"), record=book, **options
    )
    return generation


@virtually
async def test_each_step_is_on_record_while_the_slot_is_held() -> None:
    """Attempts and their ends are recorded in their order, before another call may enter."""
    answers = [failed(), FailureKind.CONNECT, Answer(429), None]
    async with scripted(answering(*answers)) as (_, imagen):
        book = RecordBook(imagen)
        await run(imagen, book, idempotency_key="k")
    assert book.steps == [
        *[("sending", "k"), ("returned", Charge.NO, 1)] * 3,
        ("sending", "k"),
        ("settled", "Generation"),
    ]
    assert set(book.in_flight) == {1}


@virtually
async def test_what_may_be_charged_is_not_returned() -> None:
    """An attempt that may be charged stays on record as sending until the call settles."""

    async def handler(post: Post) -> Answer:
        post.send()
        if post.number == 1:
            raise post.broken()
        return failed() if post.number == 2 else Answer(400)

    async with scripted(handler, retry=RetryPolicy(max_charges=2)) as (_, imagen):
        book = RecordBook()
        with pytest.raises(RejectedError) as caught:
            await run(imagen, book)
    assert book.names == ["sending", "sending", "returned", "sending", "settled"]
    assert ("returned", Charge.MAYBE, 2) in book.steps
    assert caught.value.charge is Charge.MAYBE
    assert caught.value.verdict is Verdict.REJECTED
    assert "may have been charged" in str(caught.value)


@virtually
async def test_the_charge_of_an_earlier_run_stays() -> None:
    """A call that was in doubt before is at least in doubt after, whatever happens now."""
    async with scripted(answering(Answer(400))) as (_, imagen):
        with pytest.raises(RejectedError) as caught:
            await run(imagen, RecordBook(), charge=Charge.MAYBE)
        assert caught.value.charge is Charge.MAYBE


@pytest.mark.parametrize("step", ["sending", "returned", "settled"])
@virtually
async def test_a_journal_that_fails(step: str) -> None:
    """A step that cannot be recorded ends the call; nothing is sent without its record."""
    async with scripted(answering(failed())) as (gateway, imagen):
        with pytest.raises(ImagenError, match=r"machine failed .*OSError") as caught:
            await run(imagen, RecordBook(breaks_at=step))
        assert "disk is full" in str(caught.value.__cause__)
        assert len(gateway.posts) == {"sending": 0, "returned": 1, "settled": 2}[step]
        assert imagen.stats().in_flight == 0
        await imagen.generate("after")


@virtually
async def test_time_that_runs_out_is_recorded() -> None:
    """A call that ends in the queue settles on record too."""
    async with scripted(answering(), limits=Limits(requests_per_minute=1)) as (_, imagen):
        await imagen.generate("before")
        book = RecordBook()
        with pytest.raises(NotSentError):
            await run(imagen, book, timeout=5)
    assert book.steps == [("settled", "NotSentError")]


@virtually
async def test_time_that_runs_out_behind_the_gate_tells_both() -> None:
    """A refused call whose time ends at the closed gate tells the refusal and the end."""

    async def handler(post: Post) -> Answer:
        if post.prompt == "p":
            return Answer(429, headers={"retry-after": "10"})
        await asyncio.sleep(5)
        return Answer(429, headers={"retry-after": "40"})

    async with scripted(handler) as (_, imagen):
        other = asyncio.ensure_future(imagen.generate("other", timeout=20))
        await asyncio.sleep(0)
        began = now()
        with pytest.raises(ImagenError, match=r"429.*total of 20 s ran out in the queue") as e:
            await imagen.generate("p", timeout=20)
        assert now() - began == pytest.approx(20)
        assert (e.value.status, e.value.charge, e.value.retry_after) == (429, Charge.NO, 10)
        await asyncio.gather(other, return_exceptions=True)


@pytest.mark.parametrize("idempotency", [True, False])
async def test_a_key_that_the_gateway_remembers(idempotency: bool) -> None:
    """A 409 after an attempt with the same key leaves the outcome open; without one it does not."""
    script = {"p": [FREE["500"], error(409, message="in progress")], "q": [error(409, code="x")]}
    async with chaos(script, options={"idempotency": idempotency}) as (server, imagen):
        with pytest.raises(OutcomeUnknownError if idempotency else RejectedError) as caught:
            await imagen.generate("p")
        assert caught.value.charge is (Charge.MAYBE if idempotency else Charge.NO)
        assert caught.value.idempotency_key
        with pytest.raises(RejectedError):
            await imagen.generate("q")
        assert (server.ledger.keys["p"][0] == caught.value.idempotency_key) is idempotency


@virtually
async def test_links_are_received_before_they_are_fetched(tmp_path: Path) -> None:
    """An answer of links is on record, and the slot is free, before the first download."""
    book = RecordBook()
    async with scripted(answering(LINKS)) as (_, imagen):
        with pytest.raises(DownloadError) as caught:
            await run(imagen, book, store=FolderStore(tmp_path, "p", "0" * 12), downloads=True)
    assert book.names == ["sending", "received", "settled"]
    assert caught.value.charge is Charge.YES
    assert [image.url for image in caught.value.images] == ["https://gateway.test/x.png"]
    assert caught.value.idempotency_key == book.steps[0][1]
    assert caught.value.attempts == 1


@pytest.mark.parametrize("listens", [True, False])
async def test_links_and_images_side_by_side(tmp_path: Path, listens: bool) -> None:
    """Links are downloaded beside what came inside the answer; one that fails costs no other."""

    async def answer(exchange: Exchange) -> None:
        exchange.generate()
        base = exchange.server.base_url
        items = [{"b64_json": B64}, {"url": f"{base}/a.png"}, {"url": "ftp://nowhere/b.png"}]
        count = 3 if exchange.prompt == "three" else 2
        await exchange.answer(json.dumps({"data": items[:count]}).encode())

    async def get(exchange: Exchange) -> None:
        await exchange.answer(PNG)

    events: list[Event] = []
    options = {"on_event": events.append if listens else None}
    async with chaos({}, answer, options=options) as (server, imagen):
        server.gets = get
        generation = await imagen.generate_to(tmp_path, "two")
        assert all(image.path and image.path.exists() for image in generation.images)
        assert server.ledger.charges["two"] == 1
        fetched = [event.image for event in events if isinstance(event, Downloaded)]
        assert fetched == ([generation.images[1]] if listens else [])
        with pytest.raises(DownloadError) as caught:
            await imagen.generate_to(tmp_path, "three")
        first, second, third = caught.value.images
        assert first.path is not None
        assert second.path is not None
        assert first.path.read_bytes() == second.path.read_bytes() == PNG
        assert third.path is None
        assert third.url == "ftp://nowhere/b.png"
        assert caught.value.charge is Charge.YES
        assert server.ledger.charges["three"] == 1


async def test_an_image_that_cannot_be_written(tmp_path: Path) -> None:
    """A disk that takes nothing ends a paid call as a SaveError; nothing is ordered again."""
    (tmp_path / "file").write_text("in the way")
    async with chaos() as (server, imagen):
        with pytest.raises(SaveError, match="cannot be written") as caught:
            await imagen.generate_to(tmp_path / "file", "p")
        assert (caught.value.charge, caught.value.attempts) == (Charge.YES, 1)
        assert caught.value.idempotency_key == server.ledger.keys["p"][0]
        assert server.ledger.charges["p"] == 1


async def test_part_of_the_images_is_an_answer() -> None:
    """Whole images count whatever stands beside them; what is wrong is noted."""
    items = [{"b64_json": "!!"}, {"b64_json": B64}, {}, {"url": "https://x.test/i"}]
    async with chaos({}, document(data=items)) as (_, imagen):
        generation = await imagen.generate("p", n=1)
        assert [image.data or image.url for image in generation.images] == [PNG, "https://x.test/i"]
        assert any("item 1 is spoiled" in problem for problem in generation.problems)
        assert any("item 3 holds no image" in problem for problem in generation.problems)


async def test_bytes_that_are_no_image() -> None:
    """What came as base64 is paid for and kept as it came, even a web page."""
    page = base64.b64encode(b"<html>").decode()
    async with chaos({}, document(data=[{"b64_json": page}])) as (_, imagen):
        generation = await imagen.generate("p")
    assert generation.images[0].data == b"<html>"
    assert generation.problems == ("image 1: not a raster image that can be checked: kept as .bin",)


async def test_an_image_that_is_cut_is_spoiled_and_handed_over() -> None:
    """Half an image is no image, and still it was paid for: its bytes are on the error."""
    cut = base64.b64encode(PNG[:-1]).decode()
    async with chaos({}, document(data=[{"b64_json": cut}])) as (_, imagen):
        with pytest.raises(SpoiledAnswerError, match="cut short") as caught:
            await imagen.generate("p")
    assert [image.data for image in caught.value.images] == [PNG[:-1]]
    whole = base64.b64encode(PNG).decode()
    async with chaos({}, document(data=[{"b64_json": cut}, {"b64_json": whole}])) as (_, imagen):
        generation = await imagen.generate("p")
    assert [image.data for image in generation.images] == [PNG[:-1], PNG]
    assert generation.problems == ("image 1: the image/png is cut short: kept as it came",)


@virtually
async def test_a_success_pays_the_budget_back() -> None:
    """A retry that succeeds is refunded, so that a client that heals may go on retrying."""

    async def every_second(post: Post) -> Answer:
        return failed() if post.number == 1 else post.image()

    async with scripted(every_second) as (_, imagen):
        for number in range(60):
            assert (await imagen.generate(str(number))).attempts == 2


@virtually
async def test_an_empty_budget_ends_single_calls() -> None:
    """Without budget a failed call raises at once and says so."""

    async def failing(post: Post) -> Answer:
        return failed()

    async with scripted(failing) as (gateway, imagen):
        for number in range(4):
            with pytest.raises(ImagenError):
                await imagen.generate(str(number))
        assert len(gateway.posts) == 4 + 10
        began = now()
        with pytest.raises(ImagenError, match="retry budget is empty"):
            await imagen.generate("last")
        assert now() - began < 1e-3
        assert imagen.stats().attempts == 15


@virtually
async def test_a_call_that_waits_holds_no_slot() -> None:
    """While one call backs off another one uses the only slot."""

    async def handler(post: Post) -> Answer:
        if post.prompt == "p" and post.number == 1:
            return failed({"retry-after": "30"})
        post.send()
        await asyncio.sleep(1)
        return post.image()

    async with scripted(handler, limits=Limits(concurrency=1)) as (gateway, imagen):
        waiting = asyncio.ensure_future(imagen.generate("p"))
        await asyncio.sleep(1)
        await asyncio.gather(*(imagen.generate(str(n)) for n in range(5)))
        assert not waiting.done()
        await waiting
        assert gateway.peak == 1


@pytest.mark.parametrize("end", ["cancelled", "answered", "broken"])
@virtually
async def test_how_a_probe_ends(end: str) -> None:
    """A probe that says nothing lets the next one go at once; any answer opens the gate."""

    async def handler(post: Post) -> Answer:
        if post.prompt == "first" and post.number == 1:
            return Answer(429, headers={"retry-after": "10"})
        if len(gateway.posts) > 2:
            await asyncio.sleep(4)
            return post.image()
        await asyncio.sleep(1)
        if end == "broken":
            raise post.broken()
        if end == "answered":
            return Answer(400)
        await asyncio.sleep(100)
        return post.image()

    async with scripted(handler) as (gateway, imagen):
        first = asyncio.ensure_future(imagen.generate("first"))
        await asyncio.sleep(0.1)
        calls = [asyncio.ensure_future(imagen.generate(str(n))) for n in range(4)]
        while len(gateway.posts) < 2:
            await asyncio.sleep(0.1)
        probe = gateway.posts[1]
        await asyncio.sleep(1.05)
        if end == "cancelled":
            {"first": first, **dict(zip("0123", calls, strict=True))}[probe.prompt].cancel()
        await asyncio.gather(first, *calls, return_exceptions=True)
        assert gateway.posts[2].at - probe.at < 1.5
        # Opened, all others go within a second; else one probe goes, and they wait for it.
        behind = gateway.posts[3].at - gateway.posts[2].at
        assert behind < 1 if end == "answered" else behind >= 4


async def test_a_sink_is_dropped_with_its_call(tmp_path: Path) -> None:
    """A call cancelled in the middle of its image leaves no file behind."""
    half = asyncio.Event()

    async def stall(exchange: Exchange) -> None:
        exchange.generate()
        await exchange.send(b"HTTP/1.1 200 X\r\nContent-Length: 1000000\r\n\r\n")
        begun = base64.b64encode(PNG + bytes(600_000))[:600_000]
        await exchange.send(b'{"data": [{"b64_json": "' + begun)
        half.set()
        await exchange.add()

    async with chaos({}, stall) as (_, imagen):
        call = asyncio.ensure_future(imagen.generate_to(tmp_path, "p"))
        await half.wait()
        while not list(tmp_path.iterdir()):
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert list(tmp_path.iterdir()) == []
        assert imagen.stats().dropped == 1


async def test_a_call_after_the_storm() -> None:
    """After every kind of end the same client serves the next call."""
    script = {"p": [error(429), FREE["500"], fine]}
    async with chaos(script) as (_, imagen):
        assert (await imagen.generate("p")).attempts == 3
