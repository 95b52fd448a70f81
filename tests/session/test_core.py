"""The life of a client: loops, closing, cancelling and forks."""

import asyncio
import functools
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from imagen_async import (
    AsyncImagen,
    Charge,
    ConfigurationError,
    DownloadError,
    ForkedClientError,
    Image,
    ImagenError,
    Limits,
    NotSentError,
    OutcomeUnknownError,
)
from imagen_async.policy.retry import RetryBudget
from tests.chaos.faults import FREE, raw
from tests.chaos.harness import chaos, client, leakless
from tests.chaos.server import ChaosServer, Exchange, fine, serving
from tests.scripted import Answer, Gateway, Post, answering, failed, scripted
from tests.virtual import now, virtually

if sys.platform == "win32":
    pytest.skip("forks and signals", allow_module_level=True)


def threaded(server: ChaosServer) -> tuple[str, Callable[[], None]]:
    """Serve from a thread with a loop of its own; return the base URL and how to stop."""
    ready = threading.Event()
    ending: list[Any] = []

    async def main() -> None:
        stop = asyncio.Event()
        ending.extend((asyncio.get_running_loop(), stop))
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.port = listener.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        listener.close()
        await server.aclose()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait(10)

    def end() -> None:
        ending[0].call_soon_threadsafe(ending[1].set)
        thread.join(10)

    return server.base_url, end


def runners() -> dict[str, Callable[[Callable[[], Awaitable[Any]]], Any]]:
    """Return the ways in which a program runs its loop."""
    found: dict[str, Any] = {
        "asyncio.run": lambda main: asyncio.run(main()),
        "anyio.run": anyio.run,
    }
    if sys.platform != "win32":
        import uvloop

        found["uvloop.run"] = lambda main: uvloop.run(main())
    return found


@pytest.mark.parametrize("runner", runners())
def test_a_client_outlives_its_loop(runner: str) -> None:
    """A client works in one loop after the other, and none of them warns of open sessions."""
    run = runners()[runner]
    server = ChaosServer()
    base_url, end = threaded(server)
    imagen = client(base_url)

    async def main(imagen: AsyncImagen) -> None:
        await imagen.generate("p")

    try:
        run(functools.partial(main, imagen))
        gc.collect()
        run(functools.partial(main, imagen))
        del imagen
        gc.collect()
    finally:
        end()
    assert server.ledger.charges["p"] == 2


@pytest.mark.parametrize("runner", runners())
def test_a_forgotten_client(runner: str) -> None:
    """A client that is dropped without aclose, in its loop or after it, leaves no warning."""
    server = ChaosServer()
    base_url, end = threaded(server)

    async def main() -> None:
        await client(base_url).generate("p")
        gc.collect()

    try:
        runners()[runner](main)
        gc.collect()
    finally:
        end()
    assert server.ledger.charges["p"] == 1


def test_a_loop_that_was_only_stopped() -> None:
    """A client moves from a loop that stands still to another one, and back."""
    server = ChaosServer()
    base_url, end = threaded(server)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    imagen = client(base_url)
    try:
        for loop in (first, second, first):
            loop.run_until_complete(imagen.generate("p"))
        first.run_until_complete(imagen.aclose())
    finally:
        for loop in (first, second):
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        end()
    assert server.ledger.charges["p"] == 3


async def test_a_second_live_loop() -> None:
    """From another running loop a client raises before it sends, and cannot be closed."""
    async with chaos() as (server, imagen):
        await imagen.generate("p")
        caught: list[BaseException] = []

        async def elsewhere() -> None:
            for call in (imagen.generate("q"), imagen.aclose()):
                try:
                    await call
                except ConfigurationError as error:
                    caught.append(error)

        thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
        thread.start()
        thread.join(10)
        assert len(caught) == 2
        assert all("another running event loop" in str(error) for error in caught)
        assert list(server.ledger.requests) == ["p"]
        await imagen.generate("r")


async def test_a_closed_client_takes_no_call() -> None:
    """After aclose, and while it waits, a call raises; closing again is fine."""
    release = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await release.wait()
        await fine(exchange)

    async with chaos({}, slow) as (server, imagen):
        call = asyncio.ensure_future(imagen.generate("p"))
        while not server.ledger.requests:
            await asyncio.sleep(0.001)
        closing = [asyncio.ensure_future(imagen.aclose()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ConfigurationError, match="closed"):
            await imagen.generate("q")
        release.set()
        assert (await call).images
        await asyncio.gather(*closing)
        await imagen.aclose()
        with pytest.raises(ConfigurationError, match="closed"):
            await imagen.generate("r")
        assert list(server.ledger.requests) == ["p"]


@virtually
async def test_closing_waits_for_calls_and_not_for_tasks() -> None:
    """aclose returns when the calls have ended, whatever their tasks do afterwards."""

    async def slow(post: Post) -> Answer:
        post.send()
        await asyncio.sleep(10)
        return post.image()

    async def busy(imagen: AsyncImagen) -> None:
        await imagen.generate("p")
        await asyncio.sleep(1000)

    async with scripted(slow) as (_, imagen):
        task = asyncio.ensure_future(busy(imagen))
        await asyncio.sleep(1)
        began = now()
        await imagen.aclose()
        assert now() - began == pytest.approx(9)
    await task


@pytest.mark.parametrize(
    ("phase", "kind", "charge"),
    [
        ("connect", NotSentError, Charge.NO),
        ("wait", OutcomeUnknownError, Charge.MAYBE),
        ("body", OutcomeUnknownError, Charge.MAYBE),
        ("sleep", NotSentError, Charge.NO),
        ("queue", NotSentError, Charge.NO),
        ("gate", NotSentError, Charge.NO),
    ],
)
@virtually
async def test_closing_cancels_after_its_grace(phase: str, kind: Any, charge: Charge) -> None:
    """A call that outlasts the grace ends as an error that knows its charge, in any phase."""

    async def handler(post: Post) -> Answer:
        if phase == "sleep":
            return failed({"retry-after": "50"})
        if phase == "gate":
            return Answer(429, headers={"retry-after": "50"})
        if phase != "connect":
            post.send()
        if phase == "body":
            return Answer(pieces=[(0, b'{"data": '), (1000, b"[]}")])
        await asyncio.sleep(1000)
        return post.image()

    limits = Limits(concurrency=1)
    async with scripted(handler, limits=limits) as (gateway, imagen):
        calls = [asyncio.ensure_future(imagen.generate("p", timeout=500))]
        await asyncio.sleep(0.1)
        if phase == "queue":
            calls.append(asyncio.ensure_future(imagen.generate("q")))
            await asyncio.sleep(0.1)
        began = now()
        await imagen._core.aclose(3)
        assert now() - began == pytest.approx(3)
        results = await asyncio.gather(*calls, return_exceptions=True)
        error_ = results[-1]
        assert type(error_) is kind
        assert isinstance(error_, ImagenError)
        assert "was closed" in str(error_)
        assert error_.charge is charge
        assert error_.idempotency_key
        assert gateway.closed == 1
        assert imagen.stats().dropped == 0
        assert imagen.stats().failed + imagen.stats().unknown == len(calls)


async def test_closing_ends_a_download() -> None:
    """A download that outlasts the grace ends as an error; nothing hangs until total."""

    stalled = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\n\x89PNG")
        stalled.set()
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(stall, "127.0.0.1", 0)
    origin = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with leakless(), client(f"{origin}/v1") as imagen:
        read = asyncio.ensure_future(imagen.read(Image(url=f"{origin}/x.png")))
        await stalled.wait()
        await imagen._core.aclose(0)
        with pytest.raises(DownloadError, match="was closed"):
            await read
    listener.close()
    await listener.wait_closed()


@virtually
async def test_a_cancelled_close_still_closes() -> None:
    """Cancelling aclose cuts its grace short; the calls end and the sockets are closed."""

    async def slow(post: Post) -> Answer:
        post.send()
        await asyncio.sleep(1000)
        return post.image()

    async with scripted(slow) as (gateway, imagen):
        call = asyncio.ensure_future(imagen.generate("p"))
        await asyncio.sleep(0.1)
        closing = asyncio.ensure_future(imagen.aclose())
        await asyncio.sleep(0.1)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with pytest.raises(OutcomeUnknownError):
            await call
        assert gateway.closed == 1


@virtually
async def test_a_users_cancellation_stays_one() -> None:
    """A task that its owner cancels while the client closes ends as cancelled."""

    async def reluctant(post: Post) -> Answer:
        post.send()
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1)
        return post.image()

    async with scripted(reluctant) as (_, imagen):
        call = asyncio.ensure_future(imagen.generate("p"))
        await asyncio.sleep(0.1)
        closing = asyncio.ensure_future(imagen._core.aclose(0))
        await asyncio.sleep(0.5)
        assert call.cancelling() == 1
        call.cancel()
        await closing
        with pytest.raises(asyncio.CancelledError):
            await call
        assert imagen.stats().dropped == 1


async def awaits(count: int, work: Callable[[], Awaitable[Any]]) -> tuple[bool, Any]:
    """Cancel work at its n-th turn of the loop; return whether it got that far, and its end."""
    task = asyncio.ensure_future(work())
    for _ in range(count):
        await asyncio.sleep(0)
        if task.done():
            break
    reached = task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    return reached, result


async def test_cancelled_at_every_await() -> None:
    """Cancelled at any point a call gives everything back, and is counted iff it was sent."""
    # Its first answer fails, so that a wait and a second attempt are among the points.
    points = 0
    options = {"limits": Limits(concurrency=2, requests_per_minute=60_000)}
    async with chaos(options=options) as (server, imagen):
        await imagen.generate("warm")
        for count in range(200):
            server.script[f"p{count}"] = deque([FREE["500"], fine])
            # Cancelled retries are not paid back.
            imagen._core._runner._budget._tokens = RetryBudget.CAPACITY
            before = imagen.stats()
            reached, result = await awaits(count, lambda n=count: imagen.generate(f"p{n}"))
            stats = imagen.stats()
            assert (stats.in_flight, stats.queued) == (0, 0)
            if isinstance(result, asyncio.CancelledError):
                points += 1
                assert stats.dropped - before.dropped in (0, 1)
            else:
                assert result.images
                if not reached:
                    break
        await asyncio.sleep(0.01)
        for prompt, charges in server.ledger.charges.items():
            assert charges == 1, prompt
        await imagen.generate("after")
        assert points > 10


@virtually
async def test_cancelled_before_and_after_sending() -> None:
    """A call cancelled before its body left was not sent; afterwards it counts as dropped."""

    async def handler(post: Post) -> Answer:
        await asyncio.sleep(5)
        post.send()
        await asyncio.sleep(5)
        return post.image()

    async with scripted(handler) as (_, imagen):
        for seconds, dropped in ((3, 0), (8, 1)):
            call = asyncio.ensure_future(imagen.generate("p"))
            await asyncio.sleep(seconds)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert imagen.stats().dropped == dropped
            assert imagen.stats().in_flight == 0


def in_child(work: Callable[[], None]) -> int:
    """Fork, do work in the child, end it at once; return its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told by the exit code
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(7)
        os._exit(0)
    signal.alarm(30)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        signal.alarm(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_fork_with_a_warm_pool(loop: str) -> None:
    """A forked child gets an error before a byte leaves, and the parent only its own answers."""
    server = ChaosServer()
    base_url, end = threaded(server)
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop

    async def parent() -> None:
        async with client(base_url, limits=Limits(concurrency=4)) as imagen:
            await asyncio.gather(*(imagen.generate(f"warm {n}") for n in range(4)))

            def child() -> None:
                async def calls() -> None:
                    with pytest.raises(ForkedClientError):
                        await imagen.generate("from the child")
                    await imagen.aclose()

                asyncio.run(calls())

            code = await asyncio.to_thread(in_child, child)
            assert code == 0
            for round_ in range(5):
                prompts = [f"{round_} {n}" for n in range(4)]
                results = await asyncio.gather(*map(imagen.generate, prompts))
                assert [result.images[0].revised_prompt for result in results] == prompts

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(parent(), 30))
    end()
    assert "from the child" not in server.ledger.requests
    assert server.ledger.connections == 4


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_collects_the_parents_client() -> None:
    """A child that frees an idle client, beside one in flight, does not deafen the parent."""
    server = ChaosServer()
    base_url, end = threaded(server)

    async def parent() -> None:
        clients, busy = [client(base_url)], client(base_url)
        await clients[0].generate("warm")
        server.default = raw(then="hang")
        call = asyncio.ensure_future(busy.generate("in flight"))
        while not server.ledger.requests["in flight"]:
            await asyncio.sleep(0.001)

        def child() -> None:
            freed = weakref.ref(clients[0])
            clients.clear()
            gc.collect()
            assert freed() is None

        assert in_child(child) == 0
        server.default = fine
        await clients[0].generate("after")
        assert server.ledger.connections == 2
        call.cancel()
        await busy.aclose()
        await clients[0].aclose()

    asyncio.run(asyncio.wait_for(parent(), 30))
    end()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_ends_as_programs_do(tmp_path: Path) -> None:
    """A child that ends by sys.exit, finalizers and all, leaves the parent's sockets alone."""
    server = ChaosServer()
    base_url, end = threaded(server)
    script = tmp_path / "forks.py"
    script.write_text(
        f"""
import asyncio, os, sys
from imagen_async import AsyncImagen

async def main():
    imagen = AsyncImagen(base_url={base_url!r})
    await imagen.generate("warm")
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
    async with asyncio.timeout(10):
        generation = await imagen.generate("after")
    assert generation.images[0].revised_prompt == "after"
    await imagen.aclose()

asyncio.run(main())
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    end()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert server.ledger.connections == 1


async def test_a_timeout_must_be_a_number_above_zero() -> None:
    """A call's own timeout is checked before anything is sent."""
    async with chaos() as (server, imagen):
        for timeout in (0, -1, float("nan"), float("inf"), "5", True):
            with pytest.raises(ConfigurationError, match="number above 0"):
                await imagen.generate("p", timeout=timeout)  # type: ignore[arg-type]
        assert server.ledger.connections == 0


async def test_a_client_is_made_outside_of_a_loop() -> None:
    """A client that never ran closes without a loop's help."""
    imagen = await asyncio.to_thread(client, "https://gateway.test/v1")
    await imagen.aclose()
    with pytest.raises(ConfigurationError, match="closed"):
        await imagen.generate("p")


@virtually
async def test_the_pace_outlives_a_loop() -> None:
    """The next loop goes on at the pace of the last: a new loop is no new allowance."""
    gateway = Gateway(answering())
    imagen = gateway.client(limits=Limits(requests_per_minute=1))
    await imagen.generate("p")
    imagen._core._gate.bind()
    await imagen.generate("q")
    await imagen.aclose()
    assert gateway.times[1] - gateway.times[0] == pytest.approx(60)


async def test_uncaught_faults_of_the_server_show() -> None:
    """The harness raises what its own handlers raise: a broken test server is no silent one."""

    async def broken(exchange: Exchange) -> None:
        raise LookupError("the test's own fault")

    async def main() -> None:
        async with serving({}, broken) as server, client(server.base_url) as imagen:
            with pytest.raises(OutcomeUnknownError):
                await imagen.generate("p")

    with pytest.raises(LookupError):
        await main()
