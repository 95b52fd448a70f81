"""generate_many and batch in blocking code: bounded, lazy, and never held up by their source."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagen_async import ConfigurationError, Imagen, Limits
from imagen_async.batch.prompts import Row
from imagen_async.blocking.stream import BlockingStream
from imagen_async.emulator import Emulator, FaultRule
from imagen_async.session.events import Event, Sent
from imagen_async.session.stream import AHEAD
from imagen_async.wire.request import GenerationRequest

CONCURRENCY = 4
BOUND = CONCURRENCY + AHEAD


class Counted:
    """A source that knows how far it is ahead of what was yielded."""

    def __init__(self, count: int, pause: float = 0.0) -> None:
        self.count = count
        self.pause = pause
        self.pulled = 0
        self.yielded = 0
        self.most_ahead = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[str]:
        for number in range(self.count):
            self._pull()
            time.sleep(self.pause)
            yield f"Forest {number}"

    async def later(self) -> AsyncIterator[str]:
        for number in range(self.count):
            self._pull()
            yield f"Forest {number}"

    def _pull(self) -> None:
        self.threads.add(threading.get_ident())
        self.pulled += 1
        self.most_ahead = max(self.most_ahead, self.pulled - self.yielded)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("later", [False, True])
def test_the_source_is_never_far_ahead(imagen: Imagen, later: bool, ordered: bool) -> None:
    """At most concurrency + 2 items are between being pulled and being yielded, at any time."""
    source = Counted(60)
    with imagen.generate_many(source.later() if later else source, ordered=ordered) as outcomes:
        for outcome in outcomes:
            source.yielded += 1
            assert outcome.ok

    assert source.yielded == 60
    assert CONCURRENCY <= source.most_ahead <= BOUND
    assert (source.threads == {threading.get_ident()}) is not later


@pytest.mark.parametrize("later", [False, True])
def test_a_reader_that_stops_reading_stops_the_source(imagen: Imagen, later: bool) -> None:
    """Back-pressure: with one outcome read and no more, the source rests within the bound."""
    source = Counted(500)
    with imagen.generate_many(source.later() if later else source) as outcomes:
        next(outcomes)
        source.yielded = 1
        while imagen.stats().in_flight:
            time.sleep(0.001)
        assert source.pulled <= BOUND + 1


def test_outcomes_come_in_order_if_asked(imagen: Imagen, gateway: Emulator) -> None:
    """ordered=True yields in input order, errors among the images."""
    gateway.fail(FaultRule(fault="400", pattern="*Forest 3"))
    with imagen.generate_many((f"Forest {n}" for n in range(20)), ordered=True) as outcomes:
        brought = list(outcomes)

    assert [outcome.index for outcome in brought] == list(range(20))
    assert [outcome.index for outcome in brought if not outcome.ok] == [3]


def test_a_blocking_source_does_not_hold_up_what_is_in_flight() -> None:
    """While the source blocks, calls that were sent go on to their ends."""
    with Emulator(draw="tiny") as gateway, Imagen(base_url=gateway.base_url) as imagen:

        def source() -> Iterator[str]:
            yield "first"
            yield "second"
            while imagen.stats().done < 2:  # blocks this thread until both are done
                time.sleep(0.001)
            yield "third"

        with imagen.generate_many(source()) as outcomes:
            assert [outcome.ok for outcome in outcomes] == [True] * 3


def test_a_slow_source_still_fills_all_slots() -> None:
    """Items that come one by one, slowly, are under way together as far as the limits allow."""
    most = 0

    def on_event(event: Event) -> None:
        nonlocal most
        if isinstance(event, Sent):
            most = max(most, imagen.stats().in_flight)

    with (
        Emulator(draw="tiny", latency=0.4) as gateway,
        Imagen(
            base_url=gateway.base_url, limits=Limits(concurrency=CONCURRENCY), on_event=on_event
        ) as imagen,
        imagen.generate_many(Counted(8, pause=0.02)) as outcomes,
    ):
        assert all(outcome.ok for outcome in outcomes)

    assert most == CONCURRENCY


@pytest.mark.parametrize("later", [False, True])
def test_errors_of_the_source_come_after_what_it_gave(imagen: Imagen, later: bool) -> None:
    """What the source raises reaches the reader after the outcomes of all its items."""

    def broken() -> Iterator[str]:
        yield from ("A fox", "A crow", "An owl")
        raise OSError("the disk is gone")

    async def broken_later() -> AsyncIterator[str]:
        for prompt in broken():
            yield prompt

    with imagen.generate_many(broken_later() if later else broken()) as outcomes:
        assert [next(outcomes).ok for _ in range(3)] == [True] * 3
        with pytest.raises(OSError, match="the disk is gone"):
            next(outcomes)
        assert list(outcomes) == []


def test_leaving_early_cancels_and_counts_what_was_dropped() -> None:
    """Leaving generate_many ends what is in flight; what may be paid for is in stats().dropped."""
    with (
        Emulator(draw="tiny") as gateway,
        Imagen(base_url=gateway.base_url, limits=Limits(concurrency=CONCURRENCY)) as imagen,
    ):
        with imagen.generate_many(f"Forest {n}" for n in range(100)) as outcomes:
            assert next(outcomes).ok
        stats = imagen.stats()

        assert stats.in_flight == 0
        assert stats.queued == 0
        charged = gateway.ledger.total.charged
        assert charged - 1 <= stats.dropped <= BOUND - 1
        assert imagen.generate("A fox").images


def test_an_outcome_taken_and_never_yielded_is_dropped(imagen: Imagen) -> None:
    """Outcomes that had crossed the threads when the block was left count as dropped."""
    with imagen.generate_many(f"Forest {n}" for n in range(CONCURRENCY)) as outcomes:
        assert next(outcomes).ok
        while imagen.stats().done < CONCURRENCY:
            time.sleep(0.001)

    assert imagen.stats().dropped == CONCURRENCY - 1


def test_outside_its_block_a_stream_says_how_to_use_it(imagen: Imagen) -> None:
    """Iterating before or after the block is a clear error."""
    outcomes = imagen.generate_many(["A fox"])
    with pytest.raises(ConfigurationError, match="with block"):
        next(outcomes)
    with outcomes:
        assert len(list(outcomes)) == 1
        assert list(outcomes) == []
    with pytest.raises(ConfigurationError, match="with block"):
        next(outcomes)


def test_a_stream_keeps_its_client_alive(gateway: Emulator) -> None:
    """A stream of a client that nobody else refers to runs to its end."""
    with Imagen(base_url=gateway.base_url).generate_many(["A fox"] * 20) as outcomes:
        assert sum(outcome.ok for outcome in outcomes) == 20


def test_nothing_in_nothing_out(imagen: Imagen) -> None:
    """An empty source yields nothing and sends nothing."""
    with imagen.generate_many([]) as outcomes:
        assert list(outcomes) == []


def test_a_batch_runs_resumes_and_reports(
    imagen: Imagen, gateway: Emulator, tmp_path: Path
) -> None:
    """A batch brings each prompt once; rows that are done cost a resumed run nothing."""
    prompts = [f"Forest {number}" for number in range(40)]
    with imagen.batch(prompts[:30], out=tmp_path / "shots") as run:
        assert sum(outcome.ok for outcome in run) == 30
        assert run.report.done == 30
    with imagen.batch(iter(prompts), out=tmp_path / "shots") as run:
        assert sorted(outcome.index for outcome in run) == list(range(30, 40))

    assert run.report.ok
    assert run.report.done == 40
    assert run.folder == tmp_path / "shots"
    assert len(gateway.requests) == 40
    gateway.assert_charged_once()


def test_a_batch_pulls_no_more_than_its_limit(imagen: Imagen, tmp_path: Path) -> None:
    """With a limit, an iterator that can be read only once keeps the rest."""
    prompts = (f"Forest {number}" for number in range(10))
    with imagen.batch(prompts, out=tmp_path / "shots", limit=3) as run:
        assert len(list(run)) == 3

    assert next(prompts) == "Forest 3"


def test_a_batch_plans_without_sending(imagen: Imagen, gateway: Emulator, tmp_path: Path) -> None:
    """plan() reads a plain or an async input and sends nothing."""
    plain = imagen.batch((f"Forest {n}" for n in range(2000)), out=tmp_path / "shots")
    later = imagen.batch(Counted(5).later(), out=tmp_path / "shots")

    assert plain.plan().to_send == 2000
    assert later.plan().to_send == 5
    assert len(gateway.requests) == 0


def test_a_batch_is_paused_and_resumed(imagen: Imagen, gateway: Emulator, tmp_path: Path) -> None:
    """From any thread a run is held, and nothing is sent until it goes on."""
    prompts = [f"fox {number}" for number in range(40)]
    with imagen.batch(prompts, out=tmp_path / "shots") as run:
        next(run)
        run.pause()
        assert run.paused
        time.sleep(0.15)  # what was in flight ends
        sent = gateway.ledger.total.posts
        time.sleep(0.15)
        assert gateway.ledger.total.posts == sent < 40
        run.resume()
        assert not run.paused
        assert sum(1 for _ in run) == 39
    gateway.ledger.assert_charged_once()


def test_leaving_a_batch_finishes_what_is_in_flight(tmp_path: Path) -> None:
    """What was sent when the block is left is journalled as done, not dropped."""
    with (
        Emulator(draw="tiny", latency=0.05) as gateway,
        Imagen(base_url=gateway.base_url, limits=Limits(concurrency=CONCURRENCY)) as imagen,
    ):
        with imagen.batch((f"Forest {n}" for n in range(50)), out=tmp_path / "shots") as run:
            next(run)
        report = run.report

        assert report.stopped_by == "left"
        assert report.unknown == 0
        assert report.done == gateway.ledger.total.charged
    assert len(list((tmp_path / "shots").glob("images/*/*.png"))) == report.done


@pytest.mark.parametrize("wrong", ["A fox", b"A fox", 7, {"prompt": "A fox"}])
def test_what_is_no_input_is_refused_as_in_coroutines(
    imagen: Imagen, gateway: Emulator, tmp_path: Path, wrong: Any
) -> None:
    """A single text, a mapping or a number is a clear error, not a source of letters."""
    with (
        pytest.raises(ConfigurationError),
        imagen.batch(wrong, out=tmp_path / "shots") as run,
    ):
        list(run)
    assert len(gateway.requests) == 0


def test_a_single_text_is_no_list_of_letters(imagen: Imagen, gateway: Emulator) -> None:
    """generate_many of one text is refused: it would buy an image of each letter."""
    with pytest.raises(ConfigurationError, match="list of prompts"):
        imagen.generate_many("A fox")
    assert len(gateway.requests) == 0


def test_a_folder_in_use_is_refused_at_the_door(imagen: Imagen, tmp_path: Path) -> None:
    """What keeps a batch from starting is raised where it is entered."""
    (tmp_path / "shots").mkdir()
    (tmp_path / "shots" / "letter.txt").write_text("mine")

    with pytest.raises(ConfigurationError), imagen.batch(["A fox"], out=tmp_path / "shots"):
        pytest.fail("entered")
    assert imagen.generate("A fox").images


def test_progress_is_read_while_it_runs(imagen: Imagen, tmp_path: Path) -> None:
    """A report may be read by any thread at any moment; it never sees a change half made."""
    problems: list[Exception] = []
    over = threading.Event()
    with imagen.batch([f"Forest {n}" for n in range(60)], out=tmp_path / "shots") as run:

        def watch() -> None:
            while not over.is_set():
                try:
                    report = run.report
                    assert report.total == report.done + report.pending
                except Exception as error:  # noqa: BLE001
                    problems.append(error)
                    return

        thread = threading.Thread(target=watch)
        thread.start()
        assert sum(outcome.ok for outcome in run) == 60
        over.set()
        thread.join()

    assert problems == []


def test_a_run_shows_its_counts_and_newest_images(imagen: Imagen, tmp_path: Path) -> None:
    """In a notebook a run is its counts over a capped grid of small images."""
    with imagen.batch([f"Forest {n}" for n in range(20)], out=tmp_path / "shots") as run:
        empty = run._repr_mimebundle_()[0]
        list(run)
    full = run._repr_mimebundle_()[0]

    assert "<img" not in empty["text/html"]
    assert full["text/html"].count("<img") == 12
    assert "20 done, 0 failed" in full["text/html"]
    assert "20 done, 0 failed" in full["text/plain"]
    assert run._repr_mimebundle_(include={"text/plain"})[0].keys() == {"text/plain"}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    fates=st.lists(st.sampled_from("dsn"), max_size=40),
    ordered=st.booleans(),
    later=st.booleans(),
)
def test_any_mix_of_rows_ends(
    imagen: Imagen,
    tmp_path_factory: pytest.TempPathFactory,
    fates: list[str],
    ordered: bool,
    later: bool,
) -> None:
    """Rows that are done, rows that are wrong and new rows, in any order, all settle: no hang."""
    out = tmp_path_factory.mktemp("mix") / "shots"
    done = [f"done {place}" for place, fate in enumerate(fates) if fate == "d"]
    with imagen.batch(done, out=out, gallery=False) as run:
        assert len(list(run)) == len(done)

    def rows() -> Iterator[Row]:
        for place, fate in enumerate(fates):
            if fate == "s":
                yield Row(place, error=None, request=None)
            else:
                prompt = f"done {place}" if fate == "d" else f"new {place}"
                yield Row(place, request=GenerationRequest(prompt))

    async def rows_later() -> AsyncIterator[Row]:
        for row in rows():
            yield row

    source = rows_later() if later else rows()
    with imagen.batch(source, out=out, ordered=ordered, gallery=False) as run:
        brought = [outcome.index for outcome in run]

    expected = [place for place, fate in enumerate(fates) if fate != "d"]
    assert (brought if ordered else sorted(brought)) == expected


def test_an_interrupted_source_loses_no_item(imagen: Imagen) -> None:
    """Items pulled before a Ctrl-C in the source are sent if the reader goes on."""

    class Interrupted:
        def __init__(self) -> None:
            self.number = -1

        def __iter__(self) -> Iterator[str]:
            return self

        def __next__(self) -> str:
            self.number += 1
            if self.number == 2:
                raise KeyboardInterrupt
            if self.number == 5:
                raise StopIteration
            return f"Forest {self.number}"

    with imagen.generate_many(Interrupted()) as outcomes:
        with pytest.raises(KeyboardInterrupt):
            next(outcomes)
        prompts = {outcome.request.prompt for outcome in outcomes if outcome.request}

    assert prompts == {"Forest 0", "Forest 1", "Forest 3", "Forest 4"}


def test_the_stream_is_its_own_iterator(imagen: Imagen) -> None:
    """The context manager yields itself, and iter() of it is itself."""
    stream = imagen.generate_many(["A fox"])
    with stream as outcomes:
        assert isinstance(outcomes, BlockingStream)
        assert outcomes is stream
        assert iter(outcomes) is outcomes
