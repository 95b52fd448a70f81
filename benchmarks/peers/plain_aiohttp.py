"""The script that people write by hand: one aiohttp session, no retries, no checks.

Links are read with ``response.json()``. Images are read whole, parsed by orjson, decoded by
pybase64 and written with ``write_bytes``; nothing is synced. Variants: ``fsync`` syncs each
file in a thread; ``retry`` sends a failed call again, three attempts in all.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import job

IMPORT = "import aiohttp"


class Plain:
    def __init__(self, session: Any, base_url: str, variant: str) -> None:
        self._session = session
        self._url = f"{base_url}/images/generations"
        self._attempts = 3 if variant == "retry" else 1
        self._sync = variant == "fsync"

    async def link(self, prompt: str) -> None:
        await self._link(prompt)

    async def _link(self, prompt: str) -> str:
        import aiohttp

        for left in reversed(range(self._attempts)):
            try:
                async with self._session.post(self._url, json=_body(prompt)) as response:
                    response.raise_for_status()
                    url: str = (await response.json())["data"][0]["url"]
                    return url
            except aiohttp.ClientError:
                if not left:
                    raise
                await asyncio.sleep(0.1)
        raise AssertionError

    async def images(self, prompt: str) -> None:
        await self._decoded(prompt)

    async def files(self, prompt: str, folder: Path) -> None:
        for place, data in enumerate(await self._decoded(prompt)):
            path = folder / f"{prompt[-12:].strip().replace(' ', '-')}-{place}.png"
            if self._sync:
                await asyncio.to_thread(_write_synced, path, data)
            else:
                path.write_bytes(data)

    async def _decoded(self, prompt: str) -> list[bytes]:
        import orjson
        import pybase64

        body = _body(prompt) | {"response_format": "b64_json"}
        async with self._session.post(self._url, json=body) as response:
            answer = orjson.loads(await response.read())
        return [pybase64.b64decode(item["b64_json"], validate=True) for item in answer["data"]]

    async def download(self, prompt: str, folder: Path) -> None:
        url = await self._link(prompt)
        path = folder / f"{prompt[-12:].strip().replace(' ', '-')}.png"
        async with self._session.get(url) as response:
            with path.open("wb") as file:
                async for chunk in response.content.iter_chunked(65536):
                    file.write(chunk)


def _body(prompt: str) -> dict[str, str]:
    return {"model": "imagen4", "prompt": prompt, "aspect_ratio": "1:1"}


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@asynccontextmanager
async def connect(base_url: str, in_flight: int, variant: str) -> AsyncIterator[Plain]:
    import aiohttp

    # aiohttp's own 100 would queue the rest.
    connector = aiohttp.TCPConnector(limit=in_flight)
    headers = {"Authorization": "Bearer k"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        yield Plain(session, base_url, variant)


if __name__ == "__main__":
    job.main(connect)
