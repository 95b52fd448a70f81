"""What a call costs beside a plain aiohttp script: CPU per request, link answers, 64 in flight.

Run as ``python benchmarks/overhead.py``. Both sides run in turn, each in a process of its own,
against one server process; the figure is the median ratio of neighbouring runs.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import subprocess
import sys
import time

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


SIDES = {"plain": plain, "ours": ours}


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
    """Compare the two sides."""
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
    costs: dict[str, list[float]] = {side: [] for side in SIDES}
    try:
        for _ in range(options.rounds):
            for side in SIDES:
                command = [sys.executable, __file__, "--calls", str(options.calls)]
                done = subprocess.run(
                    [*command, "--child", side, port], check=True, capture_output=True, text=True
                )
                costs[side].append(float(done.stdout.split()[0]))
    finally:
        server.stdin.close()
        server.wait(10)
    ratios = [o / p for o, p in zip(costs["ours"], costs["plain"], strict=True)]
    for side, figures in costs.items():
        print(f"{side:6} {statistics.median(figures):7.1f} us of CPU per request")
    print(f"ratio  {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
