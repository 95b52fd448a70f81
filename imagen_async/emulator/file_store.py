"""The images that were made, kept as recipes and drawn when they are fetched."""

from __future__ import annotations

import asyncio
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import attrs

from imagen_async.emulator import proxy_pages
from imagen_async.emulator.answers import DROPPED, Answer, Framing, index_page
from imagen_async.emulator.drawing.recipe import Recipe, draw, media_type
from imagen_async.emulator.requests import FORMATS

if TYPE_CHECKING:
    from imagen_async.emulator.faults import Fault
    from imagen_async.emulator.ledger import Account

NOT_FOUND = Answer(404, b"Not Found\n", "text/plain")
EXPIRED = Answer(403, proxy_pages.EXPIRED_XML, "application/xml")


class Studio:
    """Draws in threads of its own, as many as there are processors."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    async def draw(self, recipe: Recipe) -> bytes:
        """Return the picture's bytes."""
        if recipe.style in ("tiny", "text"):
            return draw(recipe)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(os.cpu_count() or 1, "imagen-emulator-draw")
        return await asyncio.get_running_loop().run_in_executor(self._pool, draw, recipe)

    def close(self) -> None:
        """End the threads; drawings not begun are dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


@attrs.define
class Picture:
    """One image behind a link.

    Args:
        name: The link's last part.
        recipe: What to draw.
        account: Whom to count its downloads for.
        expires: When its link dies, on the emulator's clock, in seconds; None for never.
        fault: What happens to those who fetch it.
        fetches: How often it was asked for.
    """

    name: str
    recipe: Recipe
    account: Account
    expires: float | None = None
    fault: Fault | None = None
    fetches: int = 0

    @property
    def etag(self) -> str:
        """The validator of its bytes, which never change."""
        return f'"{self.name.partition(".")[0]}"'


class Gallery:
    """Pictures by the last part of their links.

    Args:
        seed: Decides the names.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._count = 0
        self._pictures: dict[str, Picture] = {}
        self.studio: Studio = Studio()

    def add(
        self, recipe: Recipe, account: Account, expires: float | None, fault: Fault | None
    ) -> Picture:
        """Keep a picture under a new name."""
        self._count += 1
        digest = hashlib.sha256(f"{self._seed}/file/{self._count}".encode()).hexdigest()
        name = f"{digest[:20]}.{FORMATS[recipe.image_format]}"
        picture = self._pictures[name] = Picture(name, recipe, account, expires, fault)
        return picture

    def clear(self) -> None:
        """Take every picture down."""
        self._pictures.clear()

    async def fetch(self, name: str, *, now: float, etag: str | None, direct: bool) -> Answer:
        """Return the answer to one who follows a link.

        Args:
            name: The link's last part.
            now: The emulator's clock, in seconds.
            etag: The ``If-None-Match`` header.
            direct: Whether the link is the one that ``file_redirect`` leads to.
        """
        picture = self._pictures.get(name)
        if picture is None:
            return NOT_FOUND
        picture.fetches += 1
        if picture.expires is not None and now >= picture.expires:
            return EXPIRED
        if not direct and (instead := _instead(picture)) is not None:
            return instead
        if etag is not None and etag in (picture.etag, "*"):
            return Answer(304, headers={"ETag": picture.etag})
        data = await self.studio.draw(picture.recipe)
        headers = {"ETag": picture.etag, "Cache-Control": "private, max-age=3600"}
        answer = Answer(200, data, media_type(data), headers)
        framing = _HALF.get(picture.fault.name) if picture.fault is not None else None
        if framing is None:
            return answer
        return attrs.evolve(answer, framing=framing, sent=len(data) // 2)

    def delivered(self, name: str) -> None:
        """Count a download that left whole."""
        picture = self._pictures.get(name)
        if picture is not None:
            picture.account.downloads += 1


def _instead(picture: Picture) -> Answer | None:
    """Return what a fault answers in place of the file; None if it lets the file through."""
    if picture.fault is None:
        return None
    match picture.fault.name:
        case "file_404_first" if picture.fetches <= picture.fault.number:
            return NOT_FOUND
        case "file_503_first" if picture.fetches <= picture.fault.number:
            return Answer(503, b"Slow down\n", "text/plain")
        case "file_expired":
            return EXPIRED
        case "file_drop":
            return DROPPED
        case "file_html":
            return index_page()
        case "file_redirect":
            return Answer(302, headers={"Location": f"/files/{picture.name}?direct=1"})
    return None


_HALF = {"file_truncated": Framing.CUT, "file_stall": Framing.STALLED}
"""Faults that send half of the file."""
