"""What blocking code pays: Imagen beside AsyncImagen, in turn, against one server process.

Run as ``python benchmarks/sync.py [calls|threads|many|exits ...]``; without names, all of them.
Each figure compares neighbouring rounds of both sides in one process, so that a loaded machine
slows both; the median of the rounds is printed with its bound.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from imagen_async import AsyncImagen, Imagen, Limits

PROMPT = "A person walking in the forest"
EXITS = {
    "closed": "imagen.generate('a'); imagen.close()",
    "not closed": "imagen.generate('a')",
    "after an exception": "imagen.generate('a'); raise SystemExit",
    "mid-call in a daemon thread": (
        "slow = Imagen(base_url=url.replace('/v1', '/slow/v1'))\n"
        "threading.Thread(target=slow.generate, args=('a',), daemon=True).start()\n"
        "while not slow.stats().in_flight: time.sleep(0.001)"
    ),
    "at exit, in atexit": "atexit.register(imagen.generate, 'a')",
}


@contextlib.contextmanager
def served() -> Iterator[str]:
    """Run benchmarks/server.py and yield its address."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    finally:
        server.stdin.close()
        server.wait(10)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the loop that Imagen would use here."""
    try:
        return importlib.import_module("uvloop").new_event_loop  # type: ignore[no-any-return]
    except ImportError:
        return asyncio.new_event_loop


class Sides:
    """Both clients of one server, ready to run.

    ``timed`` tells wall seconds, and keeps seconds of CPU in ``cpu``, which other processes that
    take the cores do not change.
    """

    def __init__(self, base_url: str, concurrency: int) -> None:
        limits = Limits(concurrency=concurrency)
        self.imagen = Imagen(base_url=base_url, api_key="k", limits=limits)
        self.async_imagen = AsyncImagen(base_url=base_url, api_key="k", limits=limits)
        self.runner = asyncio.Runner(loop_factory=loop_factory())
        self.cpu: list[tuple[float, float]] = []

    def close(self) -> None:
        self.imagen.close()
        self.runner.run(self.async_imagen.aclose())
        self.runner.close()

    def timed(
        self, blocking: Callable[[], object], awaited: Awaitable[object]
    ) -> tuple[float, float]:
        """Return the seconds that each side took, the blocking one first."""

        async def wait() -> None:
            await awaited

        marks = [(time.perf_counter(), time.process_time())]
        for side in (blocking, lambda: self.runner.run(wait())):
            side()
            marks.append((time.perf_counter(), time.process_time()))
        (wall, cpu), (wall_2, cpu_2), (wall_3, cpu_3) = marks
        self.cpu.append((cpu_2 - cpu, cpu_3 - cpu_2))
        return wall_2 - wall, wall_3 - wall_2


def show(name: str, value: float, bound: str, low: float, high: float) -> None:
    print(f"{name:58} {value:8.2f}  ({low:.2f} to {high:.2f}; bound {bound})")


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, low, high


def calls(url: str, rounds: int) -> None:
    """One call at a time: what a call costs more in blocking code.

    The bound is for answers that take a moment. A server that answers at once may share its core
    with the one thread of AsyncImagen, whose waits are then free; with two threads they never are.
    """
    bound = "<= 200" if "asyncio" in loop_factory().__module__ else "<= 150"
    one_by_one(f"{url}/1ms/v1", rounds, "answers after 1 ms", bound)
    one_by_one(f"{url}/v1", rounds, "at once", "none")


def one_by_one(base_url: str, rounds: int, name: str, bound: str) -> None:
    sides, count = Sides(base_url, 8), 100

    def blocking() -> None:
        for _ in range(count):
            sides.imagen.generate(PROMPT)

    async def awaited() -> None:
        for _ in range(count):
            await sides.async_imagen.generate(PROMPT)

    sides.timed(blocking, awaited())
    pairs = [sides.timed(blocking, awaited()) for _ in range(rounds)]
    sides.close()
    more = [(ours - theirs) / count * 1e6 for ours, theirs in pairs]
    middle, low, high = quartiles(more)
    show(f"us more a call, one at a time, {name}", middle, bound, low, high)
    alone = statistics.median(theirs / count * 1e6 for _, theirs in pairs)
    print(f"{'us a call with AsyncImagen':58} {alone:8.2f}")


def threads(url: str, rounds: int) -> None:
    """16 threads on one client beside 16 tasks, when an answer takes 50 ms."""
    sides, count = Sides(f"{url}/50ms/v1", 16), 12

    def one_thread() -> None:
        for _ in range(count):
            sides.imagen.generate(PROMPT)

    def blocking() -> None:
        started = [threading.Thread(target=one_thread) for _ in range(16)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()

    async def one_task() -> None:
        for _ in range(count):
            await sides.async_imagen.generate(PROMPT)

    async def awaited() -> None:
        await asyncio.gather(*(one_task() for _ in range(16)))

    sides.timed(blocking, awaited())
    pairs = [sides.timed(blocking, awaited()) for _ in range(max(rounds // 4, 3))]
    sides.close()
    middle, low, high = quartiles([theirs / ours for ours, theirs in pairs])
    show("throughput of 16 threads / 16 tasks, 50 ms", middle, ">= 0.95", low, high)


def many(url: str, rounds: int) -> None:
    """generate_many on both sides, when answers come at once."""
    for concurrency in (8, 32):
        sides, count = Sides(f"{url}/v1", concurrency), 1000

        def blocking(sides: Sides = sides, count: int = count) -> None:
            with sides.imagen.generate_many(PROMPT for _ in range(count)) as outcomes:
                assert sum(outcome.ok for outcome in outcomes) == count

        async def awaited(sides: Sides = sides, count: int = count) -> None:
            async with sides.async_imagen.generate_many(PROMPT for _ in range(count)) as outcomes:
                assert len([outcome async for outcome in outcomes if outcome.ok]) == count

        sides.timed(blocking, awaited())
        pairs = [sides.timed(blocking, awaited()) for _ in range(max(rounds // 3, 3))]
        sides.close()
        middle, low, high = quartiles([theirs / ours for ours, theirs in pairs])
        name = f"throughput of generate_many, {concurrency} in flight"
        show(f"{name}, sync / async", middle, ">= 0.8", low, high)
        middle, low, high = quartiles([theirs / ours for ours, theirs in sides.cpu[1:]])
        show("the same by CPU, for a loaded machine", middle, ">= 0.8", low, high)


def exits(url: str, _: int) -> None:
    """How long an interpreter takes to end, after its last statement."""
    for name, lines in EXITS.items():
        script = (
            "import atexit, sys, threading, time\n"
            "from imagen_async import Imagen\n"
            f"url = {url + '/v1'!r}\n"
            "imagen = Imagen(base_url=url)\n"
            f"{lines.replace('raise', 'print(time.time(), flush=True); raise')}\n"
            "print(time.time(), flush=True)\n"
        )
        took = []
        for _ in range(5):
            done = subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
            )
            ended = time.time()
            took.append(ended - float(done.stdout.split()[0]))
        show(f"s to exit: {name}", statistics.median(took), "<= 2", min(took), max(took))


PARTS = {"calls": calls, "threads": threads, "many": many, "exits": exits}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all, unless named")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--without-uvloop", action="store_true")
    options = parser.parse_args()
    if options.without_uvloop:
        sys.modules["uvloop"] = None  # type: ignore[assignment]
    print("loop:", loop_factory().__module__)
    with served() as url:
        for part in options.parts or PARTS:
            PARTS[part](url, options.rounds)


if __name__ == "__main__":
    main()
