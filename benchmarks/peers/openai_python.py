"""openai-python as its defaults are; variant ``aiohttp`` is its other transport.

Images are decoded and written as its documentation shows: ``base64.b64decode``, then a plain
write without a sync.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import job

IMPORT = "from openai import AsyncOpenAI"


class OpenAI:
    def __init__(self, client: Any) -> None:
        self._client = client

    async def link(self, prompt: str) -> None:
        answer = await self._generate(prompt)
        assert answer.data[0].url

    async def images(self, prompt: str) -> None:
        await self._decoded(prompt)

    async def files(self, prompt: str, folder: Path) -> None:
        for place, data in enumerate(await self._decoded(prompt)):
            path = folder / f"{prompt[-12:].strip().replace(' ', '-')}-{place}.png"
            path.write_bytes(data)

    async def download(self, prompt: str, folder: Path) -> None:
        raise NotImplementedError

    async def _decoded(self, prompt: str) -> list[bytes]:
        answer = await self._generate(prompt, response_format="b64_json")
        return [base64.b64decode(item.b64_json) for item in answer.data]

    async def _generate(self, prompt: str, **fields: Any) -> Any:
        return await self._client.images.generate(
            model="imagen4", prompt=prompt, extra_body={"aspect_ratio": "1:1"}, **fields
        )


@asynccontextmanager
async def connect(base_url: str, in_flight: int, variant: str) -> AsyncIterator[OpenAI]:  # noqa: ARG001
    from openai import AsyncOpenAI, DefaultAioHttpClient

    transport = DefaultAioHttpClient() if variant == "aiohttp" else None
    async with AsyncOpenAI(base_url=base_url, api_key="k", http_client=transport) as client:
        yield OpenAI(client)


if __name__ == "__main__":
    job.main(connect)
