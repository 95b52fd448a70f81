"""The items of a success, drawn and put into words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.emulator.answers import AS_BASE64, AS_LINK, base64_of
from imagen_async.emulator.drawing.png import with_comment
from imagen_async.emulator.drawing.recipe import OTHERS, Recipe, drawn_format, media_type
from imagen_async.emulator.requests import MAX_IMAGES

if TYPE_CHECKING:
    from imagen_async.emulator.faults import Fault
    from imagen_async.emulator.file_store import Gallery
    from imagen_async.emulator.ledger import Account, Exchange
    from imagen_async.emulator.requests import Order
    from imagen_async.emulator.settings import Settings


@attrs.frozen
class Job:
    """An order that is let in.

    Args:
        exchange: The order's request.
        order: What is to be made.
        fault: The fault that struck it.
        file_fault: The fault laid on its links.
    """

    exchange: Exchange
    order: Order
    fault: Fault | None
    file_fault: Fault | None

    @property
    def images(self) -> int:
        """How many images are made."""
        return self.order.n + (self.fault is not None and self.fault.name == "more")


class ItemMaker:
    """Makes the rows of ``data``.

    Args:
        settings: Of the emulator.
        gallery: Where the images of links hang.
    """

    def __init__(self, settings: Settings, gallery: Gallery) -> None:
        self._settings = settings
        self._dialect = settings.voice
        self._gallery = gallery

    async def items(
        self, job: Job, account: Account, *, origin: str, now: float
    ) -> list[dict[str, Any]]:
        """Return the items of an order.

        Args:
            job: The order.
            account: Where downloads of its links count.
            origin: Where its links lead.
            now: The gateway's time.
        """
        order, name = job.order, job.fault.name if job.fault else ""
        recipes = [self._recipe(order, name, index) for index in range(job.images)]
        if not self._as_links(order, name):
            return [await self._inline(order, name, recipe) for recipe in recipes]
        ttl = self._settings.url_ttl
        expires = None if ttl is None else now + ttl
        pictures = [self._gallery.add(each, account, expires, job.file_fault) for each in recipes]
        urls = [f"{origin}/files/{picture.name}" for picture in pictures]
        return [self._dialect.item(url=url, b64_json=None, prompt=order.prompt) for url in urls]

    def _recipe(self, order: Order, fault: str, index: int) -> Recipe:
        settings = self._settings
        size = order.size
        if fault == "wrong_size":
            size = (640, 640) if size != (640, 640) else (512, 512)
        style = "text" if fault == "not_an_image" else settings.draw
        style = fault if fault in OTHERS else style
        seed = settings.seed + order.seed
        return Recipe(order.prompt, size, index, seed, style, self.format_of(order))

    def format_of(self, order: Order) -> str:
        """Return the image format of an order."""
        own = order.output_format if self._dialect.name == "openai" else None
        return drawn_format(self._settings.draw, own or self._settings.image_format)

    async def partials(self, order: Order) -> list[str] | None:
        """Return the partial images of an answer that is streamed, as base64; None for any other.

        Each is another picture than the final one, so that nobody takes it for that.
        """
        if not self._dialect.streams(order):
            return None
        recipe = self._recipe(order, "", MAX_IMAGES)
        recipes = [attrs.evolve(recipe, index=MAX_IMAGES + n) for n in range(order.partial_images)]
        return [base64_of(await self._gallery.studio.draw(each)) for each in recipes]

    def _as_links(self, order: Order, fault: str) -> bool:
        if fault in AS_LINK or fault in AS_BASE64:
            return fault in AS_LINK
        if self._dialect.streams(order):
            return False
        links = self._dialect.sends_links(order.model, order.response_format)
        return links is not (fault == "wrong_format")

    async def _inline(self, order: Order, fault: str, recipe: Recipe) -> dict[str, Any]:
        data = await self._gallery.studio.draw(recipe)
        if fault == "b64_unpadded" and len(data) % 3 == 0 and media_type(data) == "image/png":
            data = with_comment(data, "")
        return self._dialect.item(url=None, b64_json=base64_of(data), prompt=order.prompt)
