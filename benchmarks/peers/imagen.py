"""imagen_async as its defaults are: only the concurrency is set.

Images go from the socket to files by ``generate_to``: each is checked, synced and renamed into
place, and its folder is synced. Variant ``two`` allows a second charge: ``max_charges=2``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import job

IMPORT = "from imagen_async import AsyncImagen"


class Ours:
    def __init__(self, imagen: Any) -> None:
        self._imagen = imagen

    async def link(self, prompt: str) -> None:
        generation = await self._imagen.generate(prompt, aspect_ratio="1:1")
        assert generation.images[0].url

    async def images(self, prompt: str) -> None:
        generation = await self._imagen.generate(prompt, response_format="b64_json")
        assert generation.images[0].data

    async def files(self, prompt: str, folder: Path) -> None:
        generation = await self._imagen.generate_to(
            folder, prompt, aspect_ratio="1:1", response_format="b64_json"
        )
        assert all(image.path for image in generation.images)

    async def download(self, prompt: str, folder: Path) -> None:
        generation = await self._imagen.generate_to(folder, prompt, aspect_ratio="1:1")
        assert generation.images[0].path


@asynccontextmanager
async def connect(base_url: str, in_flight: int, variant: str) -> AsyncIterator[Ours]:
    from imagen_async import AsyncImagen, Limits, RetryPolicy

    retry = RetryPolicy(max_charges=2) if variant == "two" else None
    async with AsyncImagen(
        base_url=base_url,
        api_key="k",
        model="imagen4",
        limits=Limits(concurrency=in_flight),
        retry=retry,
    ) as imagen:
        yield Ours(imagen)


if __name__ == "__main__":
    job.main(connect)
