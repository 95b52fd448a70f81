"""What a client tells: its hook, its log, its statistics."""

import logging

import attrs
import pytest

from imagen_async import (
    Charge,
    Done,
    Event,
    Failed,
    ImagenError,
    Limits,
    Queued,
    Retrying,
    Sent,
    Throttled,
    Verdict,
)
from tests.scripted import Answer, answering, failed, scripted
from tests.virtual import virtually


def kinds(events: list[Event]) -> list[type]:
    return [type(event) for event in events]


@virtually
async def test_the_order_of_events() -> None:
    """A call tells each step in its order, with its key and what it knows."""
    events: list[Event] = []
    answers = answering(failed(), Answer(429, headers={"retry-after": "2"}))
    async with scripted(answers, on_event=events.append) as (_, imagen):
        generation = await imagen.generate("p")
    assert kinds(events) == [Queued, Sent, Retrying, Sent, Throttled, Retrying, Sent, Done]
    sent = [event.attempt for event in events if isinstance(event, Sent)]
    assert sent == [1, 2, 3]
    first, second = [event for event in events if isinstance(event, Retrying)]
    assert (first.verdict, first.charge, first.attempt) == (Verdict.FAILED, Charge.NO, 1)
    assert (second.verdict, second.attempt) == (Verdict.REFUSED, 2)
    assert second.wait >= 2
    assert "429" in second.reason
    keys = {event.idempotency_key for event in events if not isinstance(event, Throttled)}
    assert keys == {generation.idempotency_key}
    done = events[-1]
    assert isinstance(done, Done)
    assert done.generation is generation


@virtually
async def test_a_failure_is_an_event() -> None:
    """The last event of a failed call holds the very error that it raises."""
    events: list[Event] = []
    async with scripted(answering(Answer(400)), on_event=events.append) as (_, imagen):
        with pytest.raises(ImagenError) as caught:
            await imagen.generate("p")
    assert kinds(events) == [Queued, Sent, Failed]
    assert isinstance(events[-1], Failed)
    assert events[-1].error is caught.value


@virtually
async def test_events_are_frozen() -> None:
    """A hook cannot change what another one, or the call, sees."""
    events: list[Event] = []
    async with scripted(answering(), on_event=events.append) as (_, imagen):
        await imagen.generate("p")
    for event in events:
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            event.idempotency_key = "x"  # type: ignore[misc, union-attr]


@virtually
async def test_a_hook_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """A broken hook is logged and costs no image."""

    def hook(event: Event) -> None:
        raise ZeroDivisionError("the hook's own")

    async with scripted(answering(), on_event=hook) as (_, imagen):
        assert (await imagen.generate("p")).images
    assert caplog.text.count("on_event raised") == 3
    assert "the hook's own" in caplog.text


@virtually
async def test_the_log_tells_no_prompt_at_info(caplog: pytest.LogCaptureFixture) -> None:
    """Retries, pauses and failures are logged at INFO without the prompt; at DEBUG with it."""
    caplog.set_level(logging.INFO, "imagen_async")
    answers = [failed(), Answer(429), Answer(400)] * 2
    async with scripted(answering(*answers)) as (_, imagen):
        with pytest.raises(ImagenError):
            await imagen.generate("a private prompt")
        assert [record.levelname for record in caplog.records] == ["INFO"] * 4
        assert "retrying in" in caplog.text
        assert "all requests wait" in caplog.text
        assert "failed with charge no" in caplog.text
        assert "private" not in caplog.text
        caplog.set_level(logging.DEBUG, "imagen_async")
        with pytest.raises(ImagenError):
            await imagen.generate("a private prompt")
        assert "private" in caplog.text


def test_the_log_is_silent_by_default() -> None:
    """The package's logger has a handler that does nothing, as libraries should."""
    handlers = logging.getLogger("imagen_async").handlers
    assert [type(handler) for handler in handlers] == [logging.NullHandler]


@virtually
async def test_statistics() -> None:
    """The snapshot counts calls by how they ended, images, attempts, and what waits."""
    answers = answering(None, failed(), None, Answer(400), Answer(504))
    async with scripted(answers, limits=Limits(concurrency=1)) as (_, imagen):
        for _ in range(2):
            await imagen.generate("p")
        for _ in range(2):
            with pytest.raises(ImagenError):
                await imagen.generate("p")
        stats = imagen.stats()
        assert (stats.done, stats.failed, stats.unknown, stats.images) == (2, 1, 1, 2)
        assert (stats.attempts, stats.dropped, stats.queued, stats.in_flight) == (5, 0, 0, 0)
