"""Calls in blocking code: threads, loops, callbacks, and the life of a client."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imagen_async import (
    Charge,
    ConfigurationError,
    Imagen,
    InvalidRequestError,
    Limits,
    OutcomeUnknownError,
    RejectedError,
)
from imagen_async.blocking.portal import Portal
from imagen_async.emulator import Emulator
from imagen_async.session.events import Event, Queued


def threads_of_clients() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "imagen-async"]


def test_the_methods_do_what_they_do_in_coroutines(
    imagen: Imagen, gateway: Emulator, tmp_path: Path
) -> None:
    """generate, read, save and generate_to bring images, each bought once."""
    generation = imagen.generate("A fox", response_format="b64_json")
    path = imagen.save(generation.images[0], tmp_path / "fox")
    link = imagen.generate("A crow", response_format="url").images[0]
    kept = imagen.generate_to(tmp_path / "shots", "An owl").images[0]

    assert path.read_bytes() == generation.images[0].data
    assert imagen.read(link).startswith(b"\x89PNG")
    assert kept.path is not None
    assert kept.path.parent == tmp_path / "shots"
    assert imagen.stats().done == 3
    gateway.assert_charged_once()


def test_errors_come_as_they_are(imagen: Imagen, gateway: Emulator) -> None:
    """An error keeps its class and charge across the threads."""
    gateway.fail_next("drop")
    with pytest.raises(OutcomeUnknownError) as caught:
        imagen.generate("A fox")
    assert caught.value.charge is Charge.MAYBE

    with pytest.raises(InvalidRequestError):
        imagen.generate("")


def test_one_client_serves_many_threads(gateway: Emulator) -> None:
    """16 threads share one client and one thread of its own; each gets its own prompt's images."""
    prompts = [f"Forest {number}" for number in range(64)]
    before = len(threads_of_clients())
    with (
        Imagen(base_url=gateway.base_url, limits=Limits(concurrency=16)) as imagen,
        ThreadPoolExecutor(16) as pool,
    ):
        generations = list(pool.map(imagen.generate, prompts))
        assert len(threads_of_clients()) == before + 1

    assert [generation.request.prompt for generation in generations] == prompts
    gateway.assert_charged_once()


async def test_inside_a_running_loop_it_works_and_warns_once(gateway: Emulator) -> None:
    """From a loop's own thread calls work; the first one says who would not block the loop."""
    with Imagen(base_url=gateway.base_url) as imagen:
        with pytest.warns(UserWarning, match="AsyncImagen") as caught:
            generation = imagen.generate("A fox")
        with imagen.generate_many(["A crow"]) as outcomes:
            rest = list(outcomes)

    assert generation.images
    assert rest[0].ok
    assert [one.filename for one in caught] == [__file__]


async def test_every_way_in_blames_its_caller(gateway: Emulator, tmp_path: Path) -> None:
    """The warning about a blocked loop names the line that blocks it, whatever was called."""
    ways = (
        lambda imagen: imagen.generate_many(["A fox"]).__enter__().__exit__(None, None, None),
        lambda imagen: imagen.batch(["A fox"], out=tmp_path).plan(),
        lambda imagen: imagen.generate_to(tmp_path / "shots", "A fox"),
    )
    for way in ways:
        with (
            Imagen(base_url=gateway.base_url) as imagen,
            pytest.warns(UserWarning, match="AsyncImagen") as caught,
        ):
            way(imagen)
        assert [one.filename for one in caught] == [__file__]


def test_without_a_running_loop_nothing_is_said(imagen: Imagen) -> None:
    """Plain scripts see no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert imagen.generate("A fox").images


def test_no_thread_before_the_first_call(gateway: Emulator) -> None:
    """A client that was never used has no thread, and closes all the same."""
    before = threads_of_clients()
    imagen = Imagen(base_url=gateway.base_url)
    assert imagen.stats().attempts == 0
    assert threads_of_clients() == before
    imagen.close()

    with pytest.raises(ConfigurationError, match="closed; make a new one"):
        imagen.generate("A fox")
    assert threads_of_clients() == before
    assert len(gateway.requests) == 0


def test_a_forgotten_client_ends_its_thread(gateway: Emulator) -> None:
    """A client that is collected takes its thread with it, without being told."""
    before = threads_of_clients()
    imagen = Imagen(base_url=gateway.base_url)
    imagen.generate("A fox")
    seen = weakref.ref(imagen)
    del imagen
    gc.collect()

    assert seen() is None
    assert threads_of_clients() == before


def test_a_client_collected_on_its_own_thread_ends_it(gateway: Emulator) -> None:
    """A finalizer that runs on the loop's thread does not wait for that very thread."""
    holder = [Imagen(base_url=gateway.base_url)]
    portal = holder[0]._portal
    holder[0].generate("A fox")
    thread = portal._thread
    assert thread is not None

    def forget() -> None:
        holder.clear()
        gc.collect()

    portal.soon(forget)
    thread.join(10)

    assert not thread.is_alive()


def test_closed_twice_and_used_after(gateway: Emulator) -> None:
    """Closing again is harmless; a call after it is refused before a byte is sent."""
    imagen = Imagen(base_url=gateway.base_url)
    imagen.generate("A fox")
    imagen.close()
    imagen.close()

    for use in (
        lambda: imagen.generate("A crow"),
        lambda: imagen.generate_many(["A crow"]).__enter__(),
        lambda: imagen.batch(["A crow"], out="never").__enter__(),
    ):
        with pytest.raises(ConfigurationError, match="closed; make a new one"):
            use()
    assert len(gateway.requests) == 1


def test_closing_waits_for_calls_of_other_threads() -> None:
    """A call under way when another thread closes the client brings its image."""
    with Emulator(draw="tiny", latency=0.05) as gateway, ThreadPoolExecutor(1) as pool:
        imagen = Imagen(base_url=gateway.base_url)
        call = pool.submit(imagen.generate, "A fox")
        while not gateway.requests:
            pass
        imagen.close()

        assert call.result(10).images


def test_a_call_cut_by_closing_says_so(gateway: Emulator) -> None:
    """What is neither a request nor done when the client closes ends in a clear error."""

    async def nothing(grace: float) -> None:
        assert grace == 0.0

    portal = Portal(nothing)
    with ThreadPoolExecutor(1) as pool:
        begun = threading.Event()

        async def endless() -> None:
            begun.set()
            await asyncio.Event().wait()

        call = pool.submit(portal.call, endless)
        assert begun.wait(10)
        portal.close(0.0)
        with pytest.raises(ConfigurationError, match="closed"):
            call.result(10)


def test_on_event_may_not_wait_for_its_own_loop(
    gateway: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback that calls its own client gets a clear error at once, and the call goes on."""
    errors: list[Exception] = []
    uses: list[object] = [
        lambda: imagen.generate("again"),
        lambda: imagen.close(),
        lambda: next(outcomes),
        lambda: imagen.generate_many(["again"]).__enter__(),
    ]

    def on_event(event: Event) -> None:
        if isinstance(event, Queued) and uses:
            use = uses.pop()
            assert callable(use)
            try:
                use()
            except ConfigurationError as error:
                errors.append(error)

    caplog.set_level(logging.CRITICAL)
    with (
        Imagen(base_url=gateway.base_url, on_event=on_event) as imagen,
        imagen.generate_many(f"A fox {number}" for number in range(6)) as outcomes,
    ):
        brought = list(outcomes)

    assert [outcome.ok for outcome in brought] == [True] * 6
    assert len(errors) == 4
    assert all("own event loop" in str(error) for error in errors)
    assert len(gateway.requests) == 6


def test_on_event_may_stop_a_batch(gateway: Emulator, tmp_path: Path) -> None:
    """Stopping waits for nothing, so a callback may do it."""

    def on_event(event: Event) -> None:
        run.stop("enough")

    with (
        Imagen(base_url=gateway.base_url, on_event=on_event) as imagen,
        imagen.batch([f"A fox {n}" for n in range(50)], out=tmp_path / "shots") as run,
    ):
        brought = list(run)

    assert run.report.stopped_by == "enough"
    assert len(brought) < 50


def test_context_variables_reach_the_callback(gateway: Emulator) -> None:
    """A caller's context, such as a trace's id, is the context of its call."""
    trace = contextvars.ContextVar("trace", default="none")
    seen: set[str] = set()
    with Imagen(base_url=gateway.base_url, on_event=lambda _: seen.add(trace.get())) as imagen:
        trace.set("mine")
        imagen.generate("A fox")

    assert seen == {"mine"}


def test_a_system_exit_on_the_loop_reaches_the_caller(imagen: Imagen) -> None:
    """An exit that code on the loop asks for leaves the caller, and the loop's thread goes on."""

    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        imagen._portal.call(leave)
    assert imagen.generate("A crow").images


def test_failures_leave_no_cycles(imagen: Imagen, gateway: Emulator) -> None:
    """An error and the images on it are freed with the last reference, not by a collection."""
    gateway.fail_next("400")
    gc.collect()
    gc.disable()
    try:
        try:
            imagen.generate("A fox")
        except RejectedError as error:
            seen = weakref.ref(error)
        else:
            pytest.fail("no error")
        assert seen() is None
    finally:
        gc.enable()
