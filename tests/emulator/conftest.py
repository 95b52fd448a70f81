"""A running emulator and a client that knows nothing of the SDK."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs
import pytest

from imagen_async.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@attrs.frozen
class Reply:
    """What came back, read to its end."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Raw:
    """A bare HTTP client."""

    def __init__(self, session: aiohttp.ClientSession, emulator: Emulator) -> None:
        self.session = session
        self.emulator = emulator

    async def get(self, url: str, **options: Any) -> Reply:
        return await self.send("GET", url, **options)

    async def send(self, method: str, url: str, **options: Any) -> Reply:
        options.setdefault("allow_redirects", False)
        if not url.startswith("http"):
            url = self.emulator.origin + url
        async with self.session.request(method, url, **options) as response:
            return Reply(response.status, response.headers, await response.read())

    async def post(
        self,
        prompt: Any = "A cat",
        *,
        fault: str = "",
        key: str = "",
        headers: Any = (),
        **body: Any,
    ) -> Reply:
        headers = dict(headers)
        if fault:
            headers["x-emulator-fault"] = fault
        if key:
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.emulator.base_url}/images/generations"
        return await self.send("POST", url, json={"prompt": prompt, **body}, headers=headers)


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[tuple[Emulator, Raw]]:
    """Run an emulator of small pictures with a bare client beside it."""
    settings.setdefault("draw", "tiny")
    async with Emulator(**settings) as emulator, aiohttp.ClientSession() as session:
        yield emulator, Raw(session, emulator)


@pytest.fixture
def run() -> Any:
    """How a test starts an emulator with settings of its own."""
    return running


@pytest.fixture
async def raw() -> AsyncIterator[Raw]:
    """A bare client of an emulator with small pictures."""
    async with running() as (_, client):
        yield client
