"""A process that runs one batch and prints what it cost in memory.

Args on the command line: base URL, list of prompts, output folder.
"""

import asyncio
import json
import sys
from pathlib import Path

from imagen_async import AsyncImagen, Limits
from imagen_async.batch.prompts import read_source


def resident() -> int:
    """Return the bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def main(base_url: str, source: str, out: str) -> None:
    """Count outcomes, and look at the memory after each tenth of them."""
    held: list[int] = []
    seen = 0
    async with (
        AsyncImagen(base_url=base_url, limits=Limits(concurrency=16)) as imagen,
        imagen.batch(read_source(source), out=out) as run,
    ):
        async for outcome in run:
            seen += outcome.ok
            if seen % 160 == 0:
                held.append(resident())
    report = run.report
    print(json.dumps({"done": report.done, "images": report.images, "held": held}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
