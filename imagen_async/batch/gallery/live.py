"""The gallery on loopback while a run goes on: its page, what comes as events, and buttons.

The server keeps nothing of the run: each reader has a place of its own in the batch's lists and is
sent what was added since. So one that never reads holds up neither the run nor the others, no
memory grows for it, and one that comes back goes on where it stopped.

Who may ask: whoever knows the token in the address, from a page of the server's own origin, under
the server's own name. So no other site can reach it through the reader's browser.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web

from imagen_async.batch.gallery import views
from imagen_async.batch.gallery.card import is_picture
from imagen_async.batch.gallery.columns import CardTable, script_json
from imagen_async.batch.gallery.document import document
from imagen_async.batch.gallery.tail import Tail
from imagen_async.errors import ConfigurationError
from imagen_async.session.shield import to_the_end
from imagen_async.storage import disk
from imagen_async.storage.offload import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import Self

HOST: Final = "127.0.0.1"
EVERY: Final = 0.25
"""Seconds between two events of one reader at least."""
READERS: Final = 8
"""Readers of events at once."""
SLOW: Final = 30.0
"""Seconds in which a reader takes an event, or it is let go."""
ALIVE: Final = 15.0
"""Seconds after which a reader is told that nothing is new."""
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Controls(Protocol):
    """A run that can be held; ``Run`` is one."""

    def pause(self) -> None:
        """Send nothing until ``resume``."""

    def resume(self) -> None:
        """Go on."""

    def stop(self) -> None:
        """Send nothing more."""


class LiveGallery:
    """Serves a folder's gallery on loopback; an async context manager.

    Args:
        folder: The batch's.
        run: What the buttons act on; None for a page without.
        progress: Returns how the run stands, as JSON values; the page knows the fields of the
            command line's snapshot, ``paused`` and ``stopping``.

    Attributes:
        url: Of the page, inside the block; whoever knows it can see the images.
    """

    def __init__(
        self,
        folder: Path,
        run: Controls | None = None,
        progress: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        self._folder = folder.absolute()
        self._run = run
        self._progress = progress
        self._token = secrets.token_urlsafe(24)
        self._readers = 0
        self._ended = asyncio.Event()
        self._origin = ""
        self.url: str = ""
        app = web.Application(middlewares=[self._guard], client_max_size=1024)
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/{token}/", self._page)
        app.router.add_get("/{token}/events", self._events)
        app.router.add_post("/{token}/{action:pause|resume|stop}", self._act)
        app.router.add_get(r"/{token}/{file:(?:shard-\d+-of-\d+/)?images/.+}", self._file)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, HOST, 0).start()
        except OSError as error:
            await self._runner.cleanup()
            why = disk.reason(error)
            raise ConfigurationError(f"The live gallery cannot listen on {HOST}: {why}.") from None
        self._origin = f"http://{HOST}:{self._runner.addresses[0][1]}"
        self.url = f"{self._origin}/{self._token}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended.set()  # readers hear of it: the cleanup leaves them a moment
        await to_the_end(self._runner.cleanup())

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Let in who knows the token, under our own name, and no page of another origin."""
        origins = request.headers.getall("Origin", [])
        foreign = origins != [self._origin] and (origins or request.method == "POST")
        if request.headers.getall("Host", []) != [self._origin.removeprefix("http://")] or foreign:
            raise web.HTTPForbidden
        token = request.match_info.get("token", "")
        if not hmac.compare_digest(token.encode(errors="replace"), self._token.encode()):
            raise web.HTTPNotFound
        return await handler(request)

    async def _page(self, _: web.Request) -> web.Response:
        told = {"controls": self._run is not None, "page": str(self._folder / "index.html")}
        about = await in_thread(partial(views.about, self._folder, views.Doubts(phase="running")))
        return web.Response(text=document(about, CardTable(), live=told), content_type="text/html")

    async def _act(self, request: web.Request) -> web.Response:
        if self._run is None:
            raise web.HTTPNotFound
        getattr(self._run, request.match_info["action"])()
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def _file(self, request: web.Request) -> web.FileResponse:
        name = request.match_info["file"]
        path = await in_thread(partial(_picture, self._folder, name))
        if path is None:
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Cache-Control": "private, max-age=86400"})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._readers >= READERS:
            raise web.HTTPServiceUnavailable
        self._readers += 1
        tail = Tail(self._folder, request.headers.get("Last-Event-ID", ""))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                await self._send_all(request, response, tail)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()  # what it did not take is not kept for it
        finally:
            tail.close()
            self._readers -= 1
        return response

    async def _send_all(
        self, request: web.Request, response: web.StreamResponse, tail: Tail
    ) -> None:
        """Send what comes until the reader leaves, the server ends, or the lists are other ones."""
        table, clock = CardTable(), asyncio.get_running_loop().time
        before: object = None
        alive = clock() + ALIVE
        while request.transport is not None:
            ended = self._ended.is_set()
            pages = await in_thread(partial(_read, tail, table)) if tail.waiting else []
            progress = {**self._progress(), "full": tail.full}
            event: dict[str, object] = {"pages": pages, "progress": progress}
            last = (ended or (self._run is None and tail.replaced)) and not tail.waiting
            if last:
                event["ended" if ended else "replaced"] = True
            if pages or progress != before or last or clock() > alive:
                text = f"id: {tail.place}\ndata: {script_json(event)}\n\n"
                async with asyncio.timeout(SLOW):
                    await response.write(text.encode())
                before, alive = progress, clock() + ALIVE
            if last:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), EVERY)


def _read(tail: Tail, table: CardTable) -> list[object]:
    for card in tail.read():
        table.add(card)
    return table.take()


def _picture(folder: Path, name: str) -> Path | None:
    """Return the file of a card's image; None unless it is one, and lies among the images."""
    if not is_picture(name):
        return None
    home = folder / name.partition("images/")[0] / "images"
    try:
        path = (folder / name).resolve(strict=True)
        inside = path.is_relative_to(home.resolve(strict=True)) and path.is_file()
    except (OSError, ValueError, RuntimeError):
        return None
    kind = path.suffix.lower() == Path(name).suffix.lower()  # else a link would rename it
    return path if inside and kind else None


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
