"""What a call costs beside a plain aiohttp script: CPU per request, link answers, 64 in flight.

Run as ``python benchmarks/overhead.py``. All sides run in turn, each in a process of its own,
against one server process; a figure is the median ratio of neighbouring runs.

The heap's state counts: glibc gives its top back after a large read and faults it in again, twice
a request. A client of ours frees one large block when it starts, and the whole process keeps its
heap; ``same heap`` is the plain script after the same line. Peers that are not installed are left
out.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.util import find_spec

CALLS = 6000
IN_FLIGHT = 64
BODY = {"model": "imagen4", "prompt": "A person walking in the forest", "aspect_ratio": "1:1"}


async def plain(base_url: str, calls: int) -> None:
    """The script that people write: one session, post, json."""
    import aiohttp

    async with aiohttp.ClientSession(headers={"Authorization": "Bearer k"}) as session:
        remaining = iter(range(calls))

        async def worker() -> None:
            for _ in remaining:
                async with session.post(f"{base_url}/images/generations", json=BODY) as response:
                    answer = await response.json()
                    assert answer["data"][0]["url"]

        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


async def ours(base_url: str, calls: int) -> None:
    """The same through AsyncImagen.generate."""
    from imagen_async import AsyncImagen, Limits

    async with AsyncImagen(
        base_url=base_url, api_key="k", model="imagen4", limits=Limits(concurrency=IN_FLIGHT)
    ) as imagen:
        remaining = iter(range(calls))

        async def worker() -> None:
            for _ in remaining:
                generation = await imagen.generate(str(BODY["prompt"]), aspect_ratio="1:1")
                assert generation.images[0].url

        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


async def same_heap(base_url: str, calls: int) -> None:
    """The plain script after the line that a client of ours begins with."""
    bytes(16 * 1024 * 1024)
    await plain(base_url, calls)


async def many(base_url: str, calls: int) -> None:
    """The same through AsyncImagen.generate_many."""
    from imagen_async import AsyncImagen, GenerationRequest, Limits

    request = GenerationRequest(str(BODY["prompt"]), aspect_ratio="1:1")
    async with (
        AsyncImagen(
            base_url=base_url, api_key="k", model="imagen4", limits=Limits(concurrency=IN_FLIGHT)
        ) as imagen,
        imagen.generate_many(request for _ in range(calls)) as outcomes,
    ):
        async for outcome in outcomes:
            assert outcome.generation


async def tenacity(base_url: str, calls: int) -> None:
    """The plain script with retries, as people write it next."""
    import aiohttp
    from tenacity import AsyncRetrying, stop_after_attempt, wait_random_exponential

    async with aiohttp.ClientSession(headers={"Authorization": "Bearer k"}) as session:

        async def call() -> None:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(4), wait=wait_random_exponential(), reraise=True
            ):
                with attempt:
                    url = f"{base_url}/images/generations"
                    async with session.post(url, json=BODY) as response:
                        response.raise_for_status()
                        assert (await response.json())["data"][0]["url"]

        await _shared(call, calls)


async def httpx(base_url: str, calls: int) -> None:
    """The same script over httpx."""
    from httpx import AsyncClient, Limits

    limits = Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    async with AsyncClient(headers={"Authorization": "Bearer k"}, limits=limits) as client:

        async def call() -> None:
            response = await client.post(f"{base_url}/images/generations", json=BODY)
            assert response.json()["data"][0]["url"]

        await _shared(call, calls)


async def niquests(base_url: str, calls: int) -> None:
    """The same script over niquests."""
    from niquests import AsyncSession

    async with AsyncSession(pool_maxsize=IN_FLIGHT) as session:
        session.headers["Authorization"] = "Bearer k"

        async def call() -> None:
            response = await session.post(f"{base_url}/images/generations", json=BODY)
            assert response.json()["data"][0]["url"]

        await _shared(call, calls)


async def pycurl(base_url: str, calls: int) -> None:
    """libcurl's own loop without asyncio: a floor for what one process can do in Python."""
    import io
    import json

    import pycurl as curl

    multi, remaining, busy = curl.CurlMulti(), iter(range(calls)), 0
    body = json.dumps(BODY).encode()
    headers = ["Authorization: Bearer k", "Content-Type: application/json"]

    def send(handle: curl.Curl) -> int:
        if next(remaining, None) is None:
            return 0
        handle.buffer = io.BytesIO()
        handle.setopt(curl.WRITEDATA, handle.buffer)
        multi.add_handle(handle)
        return 1

    for _ in range(IN_FLIGHT):
        handle = curl.Curl()
        handle.setopt(curl.URL, f"{base_url}/images/generations")
        handle.setopt(curl.HTTPHEADER, headers)
        handle.setopt(curl.POSTFIELDS, body)
        busy += send(handle)
    while busy:
        multi.perform()
        for handle in multi.info_read()[1]:
            assert json.loads(handle.buffer.getvalue())["data"][0]["url"]
            multi.remove_handle(handle)
            busy += send(handle) - 1
        multi.select(1.0)


async def _shared(call: Callable[[], Awaitable[None]], calls: int) -> None:
    remaining = iter(range(calls))

    async def worker() -> None:
        for _ in remaining:
            await call()

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


SIDES: Mapping[str, Callable[[str, int], Awaitable[None]]] = {
    "plain": plain,
    "same heap": same_heap,
    "ours": ours,
    "many": many,
    "tenacity": tenacity,
    "httpx": httpx,
    "niquests": niquests,
    "pycurl": pycurl,
}
"""``ours`` and ``many`` are also set beside ``same heap``."""
PEERS = ("tenacity", "httpx", "niquests", "pycurl")


def child(side: str, port: int, calls: int) -> None:
    """Run one side and print CPU microseconds and wall microseconds per request."""

    async def run() -> tuple[float, float]:
        base_url = f"http://127.0.0.1:{port}/v1"
        await SIDES[side](base_url, 300)
        cpu, wall = _cpu(), time.perf_counter()
        await SIDES[side](base_url, calls)
        return (_cpu() - cpu) / calls * 1e6, (time.perf_counter() - wall) / calls * 1e6

    print(*asyncio.run(run()))


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Compare the sides."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "PORT"))
    options = parser.parse_args()
    if options.child:
        child(options.child[0], int(options.child[1]), options.calls)
        return
    server = subprocess.Popen(
        [sys.executable, __file__.replace("overhead", "server")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert server.stdin is not None
    port = server.stdout.readline().strip()
    sides = [side for side in SIDES if side not in PEERS or find_spec(side)]
    costs: dict[str, list[float]] = {side: [] for side in sides}
    try:
        for _ in range(options.rounds):
            for side in sides:
                command = [sys.executable, __file__, "--calls", str(options.calls)]
                done = subprocess.run(
                    [*command, "--child", side, port], check=True, capture_output=True, text=True
                )
                costs[side].append(float(done.stdout.split()[0]))
    finally:
        server.stdin.close()
        server.wait(10)
    print(f"{'':10} {'CPU a call':>10} {'x plain':>8} {'x same heap':>12}")
    for side, figures in costs.items():
        ratios = [f"{_ratio(figures, costs[base]):.2f}" for base in ("plain", "same heap")]
        print(f"{side:10} {statistics.median(figures):7.1f} us {ratios[0]:>8} {ratios[1]:>12}")


def _ratio(figures: list[float], base: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(figures, base, strict=True))


if __name__ == "__main__":
    main()
