"""Downloads of the links that a gateway gives instead of bytes.

The image is paid for, so a link is tried again where the POST never is; but the link is foreign
text, so where it leads is checked at every hop, and it sees neither key nor cookie.
"""

from __future__ import annotations

import errno
import random
import re
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

import anyio
import attrs
from anyio.lowlevel import current_token
from yarl import URL

from imagen_async.errors import Charge, DownloadError, ExpiredUrlError, SaveError, Verdict
from imagen_async.policy.retry import RetryPolicy, backoff
from imagen_async.policy.retry_after import retry_after
from imagen_async.policy.url_guard import address_problem, host_problem, url_problem
from imagen_async.session.network import origin_of
from imagen_async.session.transport import ExchangeError, timeouts
from imagen_async.storage.disk import TROUBLE
from imagen_async.storage.stores import Stored, StoreFailure
from imagen_async.wire.image import Image
from imagen_async.wire.mask import NO_MASK, MaskedHeaders
from imagen_async.wire.text import printable, shown_url
from imagen_async.wire.verdict import FailureKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imagen_async.policy.config import Limits, Timeouts
    from imagen_async.policy.deadline import Deadline
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
_DEAD = frozenset({401, 403, 410})
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
_SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]*:")
_refusals: ContextVar[list[str] | None] = ContextVar("imagen_async_refusals", default=None)


class Guard:
    """Keeps downloads away from addresses that are not public; a transport asks it.

    It sees the address of every socket before it connects, so no spelling, redirect or answer of
    a name server gets past it. A proxy looks names up itself: there it sees links alone.

    Raises:
        PermissionError: When called with an address that is not public.
    """

    def __call__(self, address: str) -> None:
        """Refuse an address that is not public.

        The refusal is noted for the download it belongs to: aiohttp may show another error.
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


@attrs.frozen
class _Failure:
    """Why one try brought no image."""

    reason: str
    again: bool = False
    missing: bool = False
    status: int | None = None
    asked: float | None = None
    error: type[DownloadError] = DownloadError


@attrs.frozen
class _Moved:
    """A redirect's target, as the server wrote it."""

    location: str


@attrs.frozen
class _Job:
    """What stays the same over the tries at one link."""

    transport: Transport
    store: ImageStore
    number: int | None
    deadline: Deadline


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
        headers = MaskedHeaders(head.headers, self._mask)
        encoding = headers.get("Content-Encoding", "identity").strip().lower()
        length = head.headers.get("Content-Length", "")
        if head.status == 200 and encoding not in ("identity", ""):
            # Undoing it could blow a small answer up to any size, and an image gains nothing.
            self._stop(f"it came encoded as {printable(encoding, 40)}")
        elif head.status == 200 and length.isdecimal() and int(length) > self._limit:
            self._stop(f"it is larger than {self._limit} bytes")
        elif head.status != 200:
            self.full = True
        return self

    def feed(self, chunk: bytes, /) -> None:
        """Take the next bytes."""
        if self.full:
            return
        self._size += len(chunk)
        if self._size > self._limit:
            self._stop(f"it is larger than {self._limit} bytes")
            return
        self._sink.write(chunk)

    def _stop(self, problem: str) -> None:
        self.problem = problem
        self.full = True


class Downloader:
    """Fetches links, several at a time, each with its own retries.

    Args:
        base_url: The API's base URL; relative links are resolved against it.
        times: Its ``connect``, ``stall`` and, for one try as a whole, ``answer``.
        limits: Its ``max_image_bytes`` and ``concurrency``, here the downloads at once.
        policy: Its ``backoff_base`` and ``backoff_cap``.
        allow_private: Whether links may lead to private addresses.
        mask: Over the client's secrets: a link may hold one.
        draw: Gives random numbers, 0 or more and below 1.
        sleep: Waits for seconds.
        clock: Gives the time that deadlines are made of; the loop's by default.

    Attributes:
        guard: For the transport too; None if private addresses may be reached.
    """

    def __init__(
        self,
        base_url: str,
        times: Timeouts,
        limits: Limits,
        *,
        policy: RetryPolicy | None = None,
        allow_private: bool = False,
        mask: Mask = NO_MASK,
        draw: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self.guard: Guard | None = None if allow_private else Guard()
        self._base = base_url.rstrip("/")
        self._origin = origin_of(base_url)
        self._times = times
        self._limits = limits
        self._policy = policy if policy is not None else RetryPolicy()
        self._mask = mask
        self._draw = draw
        self._sleep = sleep
        self._clock = clock
        self._slots: tuple[object, anyio.Semaphore] | None = None

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
        link = self._absolute(url.strip(" \t\r\n"))
        job = _Job(transport, store, number, deadline)
        tries = 1
        async with self._semaphore():
            try:
                outcome, tries = await self._insist(job, link)
            except TROUBLE as error:
                outcome = _Failure(f"this machine failed ({type(error).__name__})")
        if isinstance(outcome, Stored):
            return attrs.evolve(outcome, image=attrs.evolve(outcome.image, url=url))
        images = (Image(url=url),)
        if isinstance(outcome, StoreFailure):
            if outcome.image is not None:
                images = (attrs.evolve(outcome.image, url=url),)
            raise SaveError(
                f"The image is here, but we {outcome.problem}.",
                verdict=Verdict.DONE,
                charge=Charge.YES,
                images=images,
            )
        counted = f" ({tries} tries)" if tries > 1 else ""
        raise outcome.error(
            f"The image at {shown_url(self._mask.text(link))} did not come: "
            f"{outcome.reason}{counted}.",
            verdict=Verdict.DONE,
            charge=Charge.YES,
            status=outcome.status,
            retry_after=outcome.asked,
            images=images,
        )

    async def _insist(self, job: _Job, link: str) -> tuple[Stored | StoreFailure | _Failure, int]:
        failures = misses = 0
        while True:
            outcome = await self._follow(job, link)
            tries = 1 + failures + misses
            if not isinstance(outcome, _Failure):
                return outcome, tries
            if outcome.missing and misses < len(MISSING):
                wait = MISSING[misses]
                misses += 1
            elif outcome.again and failures < RETRIES:
                failures += 1
                wait = self._wait(outcome.asked, failures)
            else:
                return outcome, tries
            if wait >= job.deadline.left(self._clock()):
                late = attrs.evolve(outcome, reason=f"{outcome.reason}, and no time is left")
                return late, tries
            await self._sleep(wait)

    def _wait(self, asked: float | None, failures: int) -> float:
        if asked is None:
            return backoff(self._policy, failures, self._draw())
        return asked + self._draw() * min(1.0, asked / 10)  # never earlier than asked

    async def _follow(self, job: _Job, link: str) -> Stored | StoreFailure | _Failure:
        for _ in range(REDIRECTS + 1):
            outcome = await self._get(job, link)
            if not isinstance(outcome, _Moved):
                return outcome
            try:
                target = urljoin(link, outcome.location)
            except ValueError:
                return _Failure("it redirects to what is not a URL")
            if link.startswith("https:") and target.startswith("http:"):
                return _Failure("it redirects from https to http")
            link = target
        return _Failure(f"it redirects more than {REDIRECTS} times")

    async def _get(self, job: _Job, link: str) -> Stored | StoreFailure | _Failure | _Moved:
        problem = url_problem(link, api_scheme=self._origin.scheme)
        if problem is not None:
            return _Failure(f"the link {problem}")
        sink = job.store.open()
        body = _Body(sink, self._limits.max_image_bytes, self._mask)
        failure: _Failure | _Moved | None = _Failure("it was cancelled")
        try:
            failure = await self._exchange(job, link, body)
        finally:
            if failure is not None:
                sink.discard()
        if failure is not None:
            return failure
        sink.close()
        (result,) = await job.store.keep([sink], [job.number], linked=True)
        if isinstance(result, Stored) or result.disk:
            return result
        return _Failure(result.problem, again=result.cut, status=200)

    async def _exchange(self, job: _Job, link: str, body: _Body) -> _Failure | _Moved | None:
        left = job.deadline.left(self._clock())
        if left <= 0:
            return _Failure("no time is left")
        times = timeouts(
            min(left, self._times.answer), connect=self._times.connect, stall=self._times.stall
        )
        refusals: list[str] = []
        noted = _refusals.set(refusals)
        try:
            uri = _uri(link)
            if (refusal := self._refusal(uri)) is not None:
                return _Failure(refusal)
            head = await job.transport.get(uri, times, body.begin)
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
        if self.guard is None or (
            (uri.scheme, uri.host, uri.port) == (origin.scheme, origin.host, origin.port)
        ):
            return None
        host = uri.raw_host or ""
        problem = host_problem(host)
        return None if problem is None else _leads_astray(self._mask.text(host), problem)

    def _absolute(self, url: str) -> str:
        if _SCHEME.match(url) or url.startswith("~"):
            return url
        if url.startswith("//"):
            return f"{self._origin.scheme}:{url}"
        if url.startswith("/"):
            return f"{self._origin}{url}"
        return f"{self._base}/{url}" if url else ""

    def _semaphore(self) -> anyio.Semaphore:
        # A semaphore belongs to its loop, and a client may live through several.
        token = current_token()
        if self._slots is None or self._slots[0] != token:
            self._slots = (token, anyio.Semaphore(self._limits.concurrency))
        return self._slots[1]


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


def _judged(head: Head, body: _Body) -> _Failure | _Moved | None:
    """Return what an answer's head means for a download; None if the body is what was asked."""
    status = head.status
    if status == 200:
        return None if body.problem is None else _Failure(body.problem, status=status)
    location = head.headers.get("Location")
    if status in _MOVED and location:
        return _Moved(location)
    reason = f"the server answered {status}"
    if status in _DEAD or status == 404:
        return _Failure(reason, missing=status == 404, status=status, error=ExpiredUrlError)
    again = status in _BUSY or 500 <= status <= 599
    asked = retry_after(head.headers, time.time()) if again else None
    return _Failure(reason, again=again, status=status, asked=asked)
