"""A running emulator and a client that knows nothing of the SDK."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs
import pytest

from imagen_async.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from imagen_async.emulator import Account


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

    async def leave(self, when: Callable[[Account], bool], *, fault: str = "") -> None:
        """Ask for a cat, and go away as soon as its account says so."""
        post = asyncio.create_task(self.post("A cat", fault=fault))
        while not when(self.emulator.ledger["A cat"]):
            await asyncio.sleep(0.002)
        post.cancel()
        with pytest.raises(asyncio.CancelledError):
            await post
        await asyncio.sleep(0.02)  # until the emulator has noticed

    async def settled(self) -> Account:
        """The cat's account, once it was charged and its handler has ended."""
        while not self.emulator.ledger["A cat"].charged:
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.02)
        return self.emulator.ledger["A cat"]


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
