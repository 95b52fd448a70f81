"""litellm's ``aimage_generation`` as its defaults are, by its route to OpenAI-like gateways.

Images are decoded and written as with openai-python.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import job

IMPORT = "import litellm"


class LiteLLM:
    def __init__(self, generate: Any, base_url: str) -> None:
        self._aimage_generation = generate
        self._base_url = base_url

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
        # Its check of parameters knows no model of ours; this is its way around it.
        answer = await self._generate(prompt, extra_body={"response_format": "b64_json"})
        return [base64.b64decode(item.b64_json) for item in answer.data]

    async def _generate(self, prompt: str, **fields: Any) -> Any:
        return await self._aimage_generation(
            model="openai/imagen4", prompt=prompt, api_base=self._base_url, api_key="k", **fields
        )


@asynccontextmanager
async def connect(base_url: str, in_flight: int, variant: str) -> AsyncIterator[LiteLLM]:  # noqa: ARG001
    import litellm

    litellm.suppress_debug_info = True
    yield LiteLLM(litellm.aimage_generation, base_url)


if __name__ == "__main__":
    job.main(connect)
