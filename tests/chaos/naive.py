"""The client that people write: it sends again whatever went wrong.

It is the twin of every fault that can cost money: where it buys twice, the harness has seen it.
"""

import asyncio
from typing import Any

import aiohttp

ATTEMPTS = 4


async def generate(session: aiohttp.ClientSession, base_url: str, prompt: str) -> Any:
    """Post until an answer can be used, four times at most; return its document."""
    failure: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            async with session.post(
                f"{base_url}/images/generations",
                json={"prompt": prompt},
                headers={"Idempotency-Key": prompt},
                timeout=aiohttp.ClientTimeout(total=0.3),
            ) as response:
                response.raise_for_status()
                document = await response.json()
                item = document["data"][0]
                if item.get("url") or item.get("b64_json"):
                    return document
        except (
            aiohttp.ClientError,
            ValueError,
            LookupError,
            TypeError,
            OSError,
            RecursionError,
        ) as error:
            failure = error
            await asyncio.sleep(0)
    raise failure or RuntimeError("no image came")
