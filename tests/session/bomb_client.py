"""A process that opens one bomb after another, and prints what each did to it.

Args on the command line: base URL, ``max_image_bytes``, then one prompt for each bomb.
"""

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

from imagen_async import AsyncImagen, ImagenError, Limits, RetryPolicy


def peak() -> int:
    """Return the most bytes of memory that this process ever held."""
    status = Path("/proc/self/status")
    if status.exists():  # rusage would begin with what the parent held
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


async def main(base_url: str, cap: int, prompts: list[str]) -> None:
    limits = Limits(max_image_bytes=cap)
    async with AsyncImagen(
        base_url=base_url, limits=limits, retry=RetryPolicy(max_attempts=1)
    ) as imagen:
        for prompt in ("fine", *prompts):
            before, began, error = peak(), time.monotonic(), None
            try:
                generation = await imagen.generate(prompt)
                if generation.images[0].url is not None:
                    await imagen.read(generation.images[0])
            except ImagenError as caught:
                error = caught
            told = {
                "prompt": prompt,
                "error": type(error).__name__ if error else None,
                "charge": str(error.charge) if error else None,
                "message": str(error),
                "growth": peak() - before,
                "seconds": round(time.monotonic() - began, 2),
            }
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
