"""Ctrl-C where it is hardest: on a busy loop, at every line, and again; and exits on the loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import anyio
import anyio.to_thread
import pytest

from benchmarks import ctrl_c
from imagen_async import ConfigurationError, Imagen, Limits
from imagen_async.blocking import portal, stream
from imagen_async.emulator import Emulator
from imagen_async.session.events import Event, Sent
from tests.sync.test_processes import WAIT, interrupt

Spawn = Callable[..., subprocess.Popen[str]]


def one(imagen: Imagen) -> None:
    imagen.generate("A fox")


def some(imagen: Imagen) -> None:
    with imagen.generate_many(["A fox", "A crow"]) as outcomes:
        for _ in outcomes:
            pass


@pytest.mark.parametrize(
    "lines",
    [
        "imagen.generate('a crow')",
        "imagen.generate_many(['a crow']).__enter__()",
        "imagen.batch(['a crow'], out='shots').__enter__()",
    ],
    ids=["generate", "generate_many", "batch"],
)
def test_a_call_that_meets_a_busy_loop_ends_by_one_ctrl_c(
    spawn: Spawn, gateway: Emulator, lines: str
) -> None:
    """A call that Ctrl-C meets before its first step is never sent, and does not hang."""
    process = spawn(
        f"""
        import asyncio, sys, time
        from imagen_async import Imagen
        def busy():
            sys.stdout.write("busy\\n")
            sys.stdout.flush()
            time.sleep(1.5)
        def on_event(event):
            if type(event).__name__ == "Done":
                loop = asyncio.get_running_loop()
                loop.call_soon(loop.call_soon, busy)  # after the call has come back
        with Imagen(on_event=on_event) as imagen:
            imagen.generate("a fox")
            try:
                {lines}
            except KeyboardInterrupt:
                imagen.generate("an owl")
                stats = imagen.stats()
                sys.stdout.write(f"usable {{stats.in_flight + stats.queued}}\\n")
        """
    )
    interrupt(process, "busy")
    out, complaints = process.communicate(timeout=WAIT)

    assert (process.returncode, complaints) == (0, "")
    assert "usable 0" in out
    assert "a crow" not in gateway.ledger


def test_busy_loops_end_by_one_ctrl_c() -> None:
    """Of some tries of ``benchmarks/ctrl_c.py`` all end, and leave no call running."""
    assert ctrl_c.tries(4, seed=7) == {"ends": 4}


@pytest.mark.parametrize("use", [one, some])
def test_ctrl_c_at_any_line_hangs_nothing(gateway: Emulator, use: Callable[[Imagen], None]) -> None:
    """Wherever Ctrl-C meets the facade, the client is usable and closes, and nothing is sent on."""
    line = 0
    while interrupted(gateway, use, line):
        line += 1
    assert line > 30


def interrupted(gateway: Emulator, use: Callable[[Imagen], None], line: int) -> bool:
    """Whether there is such a line to be interrupted, counted from the call of ``use`` on."""
    left, files = line, {portal.__file__, stream.__file__}

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    with Imagen(base_url=gateway.base_url, limits=Limits(concurrency=2)) as imagen:
        if line % 2:
            imagen.generate("There is a thread")
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            use(imagen)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        assert imagen.generate("An end").images
    assert imagen.stats().in_flight == imagen.stats().queued == 0
    return left < 0


def test_tasks_are_freed_on_their_loop(imagen: Imagen) -> None:
    """No callback of a weak reference to a task runs in the caller, where it swallows a Ctrl-C."""
    freed: list[int] = []
    references: list[weakref.ref[Any]] = []

    async def call() -> int:
        task = asyncio.current_task()
        references.append(weakref.ref(task, lambda _: freed.append(threading.get_ident())))
        return threading.get_ident()

    threads = {imagen._portal.call(call) for _ in range(100)}

    assert len(freed) >= 50
    assert set(freed) == threads


def test_an_exit_on_the_loop_ends_its_stream_alone() -> None:
    """Code on the loop that exits reaches the reader; other calls and the client go on."""
    exits = True

    def on_event(event: Event) -> None:
        if exits and isinstance(event, Sent) and event.request.prompt != "Slow":
            raise SystemExit(3)

    with (
        Emulator(draw="tiny", latency=0.3) as gateway,
        Imagen(base_url=gateway.base_url, on_event=on_event) as imagen,
        ThreadPoolExecutor(1) as pool,
    ):
        slow = pool.submit(imagen.generate, "Slow")
        with pytest.raises(BaseExceptionGroup) as caught:
            some(imagen)
        exits = False

        assert caught.group_contains(SystemExit)
        assert slow.result(WAIT).images
        some(imagen)


def test_calls_that_meet_the_closing_end(gateway: Emulator) -> None:
    """Whatever moment a client is closed at, calls of other threads bring images or the reason."""
    for _ in range(20):
        imagen = Imagen(base_url=gateway.base_url, limits=Limits(concurrency=8))
        with ThreadPoolExecutor(4) as pool:
            ended = [pool.submit(endless, imagen) for _ in range(4)]
            while imagen.stats().done < 8:
                pass
            imagen.close()
            for end in ended:
                with pytest.raises(ConfigurationError, match="closed; make a new one"):
                    end.result(WAIT)


def endless(imagen: Imagen) -> None:
    while True:
        one(imagen)


async def test_a_worker_of_another_loop_keeps_its_cancellation_to_itself() -> None:
    """In a worker thread of anyio's, whose host is cancelled, a call still brings its image."""
    with (
        Emulator(draw="tiny", latency=0.3) as gateway,
        Imagen(base_url=gateway.base_url) as imagen,
    ):
        brought = []
        async with anyio.create_task_group() as group:

            def work() -> None:
                brought.append(imagen.generate("A fox"))

            group.start_soon(anyio.to_thread.run_sync, work)
            while not imagen.stats().in_flight:
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()

        assert brought[0].images
