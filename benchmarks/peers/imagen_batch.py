"""imagen_async's batch of many small images, and ``generate_many`` beside it.

``batch`` journals each step durably, syncs each file, and writes its lists and gallery at the end;
``many`` keeps nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import job

from imagen_async import AsyncImagen, GenerationRequest, Limits


def requests(count: int) -> Iterator[GenerationRequest]:
    for number in range(count):
        yield GenerationRequest(job.prompt(number), response_format="b64_json")


async def many(imagen: AsyncImagen, count: int) -> None:
    async with imagen.generate_many(requests(count)) as outcomes:
        async for outcome in outcomes:
            assert outcome.ok, outcome.error


async def batch(imagen: AsyncImagen, count: int, out: Path) -> None:
    async with imagen.batch(requests(count), out=out) as run:
        async for outcome in run:
            assert outcome.ok, outcome.error
    assert run.report.ok


async def main() -> None:
    """Run one of the two and print its figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=("many", "batch"))
    parser.add_argument("base_url")
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path())
    chosen = parser.parse_args()
    limits = Limits(concurrency=chosen.in_flight)
    async with AsyncImagen(base_url=chosen.base_url, model="imagen4", limits=limits) as imagen:
        await many(imagen, 300)
        cpu, wall = job.usage()
        if chosen.work == "many":
            await many(imagen, chosen.calls)
        else:
            await batch(imagen, chosen.calls, chosen.out)
        cpu_after, wall_after = job.usage()
    figures = {"cpu": cpu_after - cpu, "wall": wall_after - wall, "calls": chosen.calls}
    print(json.dumps(figures | {"done": chosen.calls, "peak_mib": job.peak()}))


if __name__ == "__main__":
    asyncio.run(main())
