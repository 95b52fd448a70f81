"""Downloads of the links that a gateway gives instead of bytes.

The image is paid for, so a link is tried again where the POST never is; but the link is foreign
text, so where it leads is checked at every hop, and it sees neither key nor cookie.
"""

from __future__ import annotations

import errno
import random
import re
import time
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

import anyio
import attrs
from yarl import URL

from imagen_async.errors import (
    Charge,
    DownloadError,
    ExpiredUrlError,
    ImagenError,
    SaveError,
    Verdict,
)
from imagen_async.policy.retry import backoff
from imagen_async.policy.retry_after import retry_after
from imagen_async.policy.url_guard import address_problem, host_problem, url_problem
from imagen_async.session.transport import ExchangeError, timeouts
from imagen_async.storage.disk import TROUBLE
from imagen_async.storage.stores import Stored
from imagen_async.wire.image import Image
from imagen_async.wire.mask import MaskedHeaders
from imagen_async.wire.text import printable, shown_url
from imagen_async.wire.verdict import FailureKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imagen_async.policy.deadline import Deadline
    from imagen_async.session.config import Config
    from imagen_async.session.transport import Head, Transport
    from imagen_async.storage.stores import ImageStore
    from imagen_async.wire.decoder import Sink
    from imagen_async.wire.mask import Mask

RETRIES = 3
"""How often a download is tried again after a failure that may pass."""
MISSING = (0.5, 1.0, 1.5)
"""Seconds between tries at a 404: a signed link may be known before its file is."""
REDIRECTS = 5
"""Hops that are followed."""

_MOVED = frozenset({301, 302, 303, 307, 308})
_DEAD = frozenset({401, 403, 404, 410})
_BUSY = frozenset({408, 425, 429})
_HOPELESS = frozenset(
    {
        FailureKind.CERTIFICATE,
        FailureKind.BAD_URL,
        FailureKind.BAD_HEADER,
        FailureKind.BAD_ENCODING,
    }
)
_ASCII = "".join(map(chr, range(128)))
_COMPLETE = re.compile("[A-Za-z][A-Za-z0-9+.-]*:|~|$")
"""What a link begins with that is not relative; a local path is not made one of the API's."""
_refusals: ContextVar[list[str] | None] = ContextVar("imagen_async_refusals", default=None)


def guard(address: str) -> None:
    """Keep a download away from an address that is not public; a transport asks it.

    It sees the address of every socket before it connects, so no spelling, redirect or answer of
    a name server gets past it. A proxy looks names up itself: there links alone are seen. The
    refusal is noted for the download it belongs to: aiohttp may show another error.

    Raises:
        PermissionError: If it is not public.
    """
    problem = address_problem(address)
    if problem is None:
        return
    noted = _refusals.get()
    if noted is not None:
        noted.append(_leads_astray(address, problem))
    raise PermissionError(errno.EACCES, "not a public address")


def _leads_astray(host: str, problem: str) -> str:
    permit = "allow_private=True or --allow-private permits it"
    return f"it leads to {printable(host, 100)}, which {problem} ({permit})"


class _Failure(NamedTuple):
    """Why one try brought no image; of a redirect also its target, as the server wrote it."""

    reason: str
    again: bool = False
    status: int | None = None
    asked: float | None = None
    error: type[ImagenError] = DownloadError
    image: Image | None = None
    location: str = ""


class _Body:
    """Feeds a 200's bytes to a sink, up to the largest image taken."""

    def __init__(self, sink: Sink, limit: int, mask: Mask) -> None:
        self._sink = sink
        self._limit = limit
        self._mask = mask
        self._size = 0
        self.full = False
        self.problem: str | None = None

    def begin(self, head: Head) -> _Body:
        """Judge an answer by its head."""
        self.full = head.status != 200
        if not self.full:
            headers = MaskedHeaders(head.headers, self._mask)
            encoding = headers.get("Content-Encoding", "identity").strip().lower()
            length = head.headers.get("Content-Length", "")
            if encoding not in ("identity", ""):
                # Undoing it could blow a small answer up to any size, and an image gains nothing.
                self._stop(f"it came encoded as {printable(encoding, 40)}")
            elif length.isdecimal():
                self._bound(int(length))
        return self

    def feed(self, chunk: bytes, /) -> None:
        """Take the next bytes."""
        self._size += len(chunk)
        self._bound(self._size)
        if not self.full:
            self._sink.write(chunk)

    def _bound(self, size: int) -> None:
        if size > self._limit:
            self._stop(f"it is larger than {self._limit} bytes")

    def _stop(self, problem: str) -> None:
        self.problem = self.problem or problem
        self.full = True


class Downloader:
    """Fetches links, several at a time, each with its own retries.

    Args:
        config: Of the client; relative links are resolved against its base URL, and one try as a
            whole may take as long as an answer.
        sleep: Waits for seconds.
        draw: Gives random numbers, 0 or more and below 1.
    """

    def __init__(
        self,
        config: Config,
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._origin = config.origin
        self._sleep = sleep
        self._draw = draw

    async def fetch(
        self,
        transport: Transport,
        url: str,
        store: ImageStore,
        number: int | None,
        deadline: Deadline,
    ) -> Stored:
        """Download one image to a store.

        Args:
            transport: Of the running loop.
            url: The link as the gateway gave it; its query is sent byte by byte as it is.
            store: Where the image goes.
            number: The image's number for its name; None if the call brought only one.
            deadline: After which no new try begins.

        Raises:
            ExpiredUrlError: If the link is dead.
            DownloadError: If the image cannot be fetched, or what came is not a whole image.
            SaveError: If the disk does not take it.
        """
        link, tries = url.strip(" \t\r\n"), 1
        if not _COMPLETE.match(link):
            with suppress(ValueError):  # it is judged as it is
                link = urljoin(f"{self._config.base_url}/", link)

        async def get(link: str) -> Stored | _Failure:
            return await self._get(transport, link, store, number, deadline)

        async with transport.downloads:
            try:
                outcome, tries = await self._insist(get, link, deadline)
            except TROUBLE as error:
                outcome = _Failure(f"this machine failed ({type(error).__name__})")
        if isinstance(outcome, Stored):
            return attrs.evolve(outcome, image=attrs.evolve(outcome.image, url=url))
        counted = f" ({tries} tries)" if tries > 1 else ""
        shown = shown_url(self._config.mask.text(link))
        told = f"The image at {shown} did not come: {outcome.reason}{counted}."
        if outcome.error is SaveError:
            told = f"The image is here, but we {outcome.reason}."
        raise outcome.error(
            told,
            verdict=Verdict.DONE,
            charge=Charge.YES,
            status=outcome.status,
            retry_after=outcome.asked,
            images=(attrs.evolve(outcome.image or Image(), url=url),),
        )

    async def _insist(
        self,
        get: Callable[[str], Awaitable[Stored | _Failure]],
        link: str,
        deadline: Deadline,
    ) -> tuple[Stored | _Failure, int]:
        """Try again while that may help; return how it ended, and the number of tries."""
        failures = misses = 0
        while True:
            outcome = await _follow(get, link)
            tries = 1 + failures + misses
            if isinstance(outcome, Stored):
                return outcome, tries
            if outcome.status == 404 and misses < len(MISSING):
                wait = MISSING[misses]
                misses += 1
            elif outcome.again and failures < RETRIES:
                failures += 1
                asked, draw = outcome.asked, self._draw()
                # Never earlier than asked.
                wait = backoff(self._config.retry, failures, draw)
                wait = wait if asked is None else asked + draw * min(1.0, asked / 10)
            else:
                return outcome, tries
            if wait >= deadline.left(anyio.current_time()):
                late = outcome._replace(reason=f"{outcome.reason}, and no time is left")
                return late, tries
            await self._sleep(wait)

    async def _get(
        self,
        transport: Transport,
        link: str,
        store: ImageStore,
        number: int | None,
        deadline: Deadline,
    ) -> Stored | _Failure:
        problem = url_problem(link, api_scheme=self._origin.scheme)
        if problem is not None:
            return _Failure(f"the link {problem}")
        sink = store.open()
        body = _Body(sink, self._config.limits.max_image_bytes, self._config.mask)
        failure: _Failure | None = _Failure("it was cancelled")
        try:
            failure = await self._exchange(transport, link, body, deadline)
        finally:
            if failure is not None:
                sink.discard()
        if failure is not None:
            return failure
        sink.close()
        (result,) = await store.keep([sink], [number], linked=True)
        if isinstance(result, Stored):
            return result
        if result.disk:
            return _Failure(result.problem, error=SaveError, image=result.image)
        return _Failure(result.problem, again=result.cut, status=200)

    async def _exchange(
        self, transport: Transport, link: str, body: _Body, deadline: Deadline
    ) -> _Failure | None:
        left, times = deadline.left(anyio.current_time()), self._config.timeouts
        if left <= 0:
            return _Failure("no time is left")
        timer = timeouts(min(left, times.answer), connect=times.connect, stall=times.stall)
        refusals: list[str] = []
        noted = _refusals.set(refusals)
        try:
            uri = _uri(link)
            if (refusal := self._refusal(uri)) is not None:
                return _Failure(refusal)
            head = await transport.get(uri, timer, body.begin)
        except ExchangeError as error:
            if refusals:
                return _Failure(refusals[0])
            if error.head is None or error.head.status == 200:
                return _Failure(error.detail, again=error.kind not in _HOPELESS)
            head = error.head  # a refusal's own text may be cut: its status says enough
        except ValueError:
            return _Failure("the link is not a URL")
        finally:
            _refusals.reset(noted)
        return _judged(head, body)

    def _refusal(self, uri: URL) -> str | None:
        origin = self._origin
        if self._config.allow_private or (
            (uri.scheme, uri.host, uri.port) == (origin.scheme, origin.host, origin.port)
        ):
            return None
        host = uri.raw_host or ""
        problem = host_problem(host)
        return None if problem is None else _leads_astray(self._config.mask.text(host), problem)


async def _follow(
    get: Callable[[str], Awaitable[Stored | _Failure]], link: str
) -> Stored | _Failure:
    for _ in range(REDIRECTS + 1):
        outcome = await get(link)
        if isinstance(outcome, Stored) or not outcome.location:
            return outcome
        try:
            target = urljoin(link, outcome.location)
        except ValueError:
            return _Failure("it redirects to what is not a URL")
        if link.startswith("https:") and target.startswith("http:"):
            return _Failure("it redirects from https to http")
        link = target
    return _Failure(f"it redirects more than {REDIRECTS} times")


def _uri(link: str) -> URL:
    """Return a link as it goes over the wire: the host as IDNA, all ASCII as it is.

    Raises:
        ValueError: If its host is none.
    """
    parts = urlsplit(link)
    if not parts.netloc.isascii():
        origin = URL.build(scheme=parts.scheme, host=parts.hostname or "", port=parts.port)
        link = f"{origin}{link[len(f'{parts.scheme}://{parts.netloc}') :]}"
    return URL(quote(link.replace(" ", "%20"), safe=_ASCII), encoded=True)


def _judged(head: Head, body: _Body) -> _Failure | None:
    """Return what an answer's head means for a download; None if the body is what was asked."""
    status = head.status
    if status == 200:
        return None if body.problem is None else _Failure(body.problem, status=status)
    reason = f"the server answered {status}"
    location = head.headers.get("Location")
    if status in _MOVED and location:
        return _Failure(reason, location=location)
    if status in _DEAD:
        return _Failure(reason, status=status, error=ExpiredUrlError)
    again = status in _BUSY or 500 <= status <= 599
    asked = retry_after(head.headers, time.time()) if again else None
    return _Failure(reason, again=again, status=status, asked=asked)
