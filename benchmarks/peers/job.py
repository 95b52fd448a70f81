"""What every client's script is made of: one job in a process of its own, measured from inside.

A script gives ``main`` a way to connect; ``main`` drives it with workers and prints one line of
JSON: CPU and wall seconds, calls, images that came, peak memory. Standard library alone, for it
runs in every client's environment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol


class Client(Protocol):
    """What a client can do; each raises what its library raises."""

    async def link(self, prompt: str) -> None:
        """Ask for one image as a link, and check that one came."""

    async def files(self, prompt: str, folder: Path) -> None:
        """Ask for images as base64 and leave them in files of the folder."""

    async def download(self, prompt: str, folder: Path) -> None:
        """Ask for an image as a link and leave it in a file of the folder."""

    async def images(self, prompt: str) -> None:
        """Ask for images as base64 and hold their bytes."""


Connect = Callable[[str, int, str], AbstractAsyncContextManager[Client]]
"""Takes the base URL, how many calls are in flight, and the variant of the client."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=("link", "files", "download", "images"))
    parser.add_argument("base_url")
    parser.add_argument("--calls", type=int, default=1)
    parser.add_argument("--warm", type=int, default=0, help="calls before the measured ones")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--discard", action="store_true", help="remove files as they come")
    parser.add_argument("--variant", default="")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--faults", action="store_true", help="a call that raises is no error")
    parser.add_argument("--callbacks", action="store_true", help="time each callback of the loop")
    return parser.parse_args()


def usage() -> tuple[float, float]:
    """Return CPU and wall seconds so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, time.perf_counter()


def peak() -> float:
    """Return the most MiB that this process held so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def act(client: Client, chosen: argparse.Namespace) -> Callable[[int], Awaitable[None]]:
    """Return what one call does."""

    async def link(number: int) -> None:
        await client.link(prompt(number))

    async def images(number: int) -> None:
        await client.images(prompt(number))

    async def to_files(number: int) -> None:
        folder = chosen.out / f"{number % 64:02}" if chosen.discard else chosen.out
        save = client.files if chosen.work == "files" else client.download
        await save(prompt(number), folder)

    return {"link": link, "images": images}.get(chosen.work, to_files)


def prompt(number: int) -> str:
    return f"A person walking in the forest, number {number}"


async def drive(
    call: Callable[[int], Awaitable[None]], numbers: range, chosen: argparse.Namespace
) -> int:
    """Make the calls with as many workers as calls in flight; return how many succeeded."""
    remaining = iter(numbers)
    done = 0

    async def worker() -> None:
        nonlocal done
        for number in remaining:
            try:
                await call(number)
            except Exception:
                if not chosen.faults:
                    raise
            else:
                done += 1

    async with sweeping(chosen):
        await asyncio.gather(*(worker() for _ in range(min(chosen.in_flight, len(numbers)))))
    return done


@contextlib.asynccontextmanager
async def sweeping(chosen: argparse.Namespace) -> AsyncIterator[None]:
    """Remove finished files meanwhile, if that was asked: only memory is of interest then."""

    async def sweep() -> None:
        while True:
            await asyncio.sleep(0.2)
            for path in await asyncio.to_thread(lambda: list(chosen.out.rglob("*.png"))):
                path.unlink()

    if not chosen.discard:
        yield
        return
    task = asyncio.create_task(sweep())
    try:
        yield
    finally:
        task.cancel()


class Callbacks:
    """The longest callback of the loop: nothing else runs there meanwhile.

    Attributes:
        wall: Its seconds by the clock.
        cpu: The most CPU seconds of the loop's thread in one callback.
    """

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def watch(self) -> None:
        """Time every callback from now on; asyncio's own loop alone."""
        run = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            wall, cpu = time.perf_counter(), time.thread_time()
            run(handle)
            self.wall = max(self.wall, time.perf_counter() - wall)
            self.cpu = max(self.cpu, time.thread_time() - cpu)

        setattr(asyncio.Handle, "_run", timed)  # noqa: B010 - it is asyncio's own


async def work(connect: Connect, chosen: argparse.Namespace) -> dict[str, float]:
    """Do the job and return its figures."""
    async with connect(chosen.base_url, chosen.in_flight, chosen.variant) as client:
        call = act(client, chosen)
        await drive(call, range(-chosen.warm, 0), chosen)
        callbacks = Callbacks()
        if chosen.callbacks:
            callbacks.watch()
        cpu, wall = usage()
        done = await drive(call, range(chosen.calls), chosen)
        cpu_after, wall_after = usage()
    return {
        "cpu": cpu_after - cpu,
        "wall": wall_after - wall,
        "calls": chosen.calls,
        "done": done,
        "peak_mib": peak(),
        "longest_ms": callbacks.wall * 1e3,
        "longest_cpu_ms": callbacks.cpu * 1e3,
    }


def main(connect: Connect) -> None:
    """Run the job that the command line asks for, and print its figures."""
    chosen = options()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if chosen.work in ("files", "download"):
        chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.uvloop:
        import uvloop

        figures = uvloop.run(work(connect, chosen))
    else:
        figures = asyncio.run(work(connect, chosen))
    print(json.dumps(figures))
