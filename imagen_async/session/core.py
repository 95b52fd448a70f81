"""The session core: one client's configuration, gate and sessions, bound to one loop at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import attrs
from multidict import CIMultiDict
from yarl import URL

from imagen_async.errors import (
    Charge,
    ConfigurationError,
    DownloadError,
    ForkedClientError,
    ImagenError,
    InvalidRequestError,
    Verdict,
)
from imagen_async.policy.config import Masked
from imagen_async.policy.deadline import Deadline
from imagen_async.policy.retry import History
from imagen_async.session import events
from imagen_async.session.attempt import Attempt, prepare
from imagen_async.session.call import Call
from imagen_async.session.call_runner import CallRunner
from imagen_async.session.config import checked_key, checked_total, new_key
from imagen_async.session.download import Downloader
from imagen_async.session.gate import Gate
from imagen_async.session.loop import running_loop
from imagen_async.session.record import NO_RECORD
from imagen_async.session.stats import Ends
from imagen_async.session.transport import Transport
from imagen_async.storage.disk import TROUBLE
from imagen_async.wire.decoder import AnswerLimits

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from imagen_async.session.config import Config
    from imagen_async.session.patience import SharedPatience
    from imagen_async.session.record import Record
    from imagen_async.session.stats import Stats
    from imagen_async.session.stream import Outcome
    from imagen_async.storage.stores import ImageStore, Stored
    from imagen_async.wire.generation import Generation, Image
    from imagen_async.wire.request import GenerationRequest

T = TypeVar("T")

GRACE = 30.0
"""Seconds that closing waits for calls in flight: they may be paid for."""
CLEANUP = 5.0
"""Seconds that closing waits for the calls it cancelled: they may be saving an image."""


class Core:
    """Runs calls; what AsyncImagen and batches are made of.

    Args:
        config: All that the client was told.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._url = URL(f"{config.base_url}/images/generations")
        self._headers = _headers(config)
        self._listener = events.Listener(config.on_event)
        self._fetcher = Downloader(
            config.base_url,
            config.timeouts,
            config.limits,
            policy=config.retry,
            allow_private=config.allow_private,
            mask=config.mask,
        )
        self._gate = Gate(config.limits)
        self._sender = CallRunner(
            gate=self._gate,
            policy=config.retry,
            attempt=Attempt(
                url=self._url,
                times=config.timeouts,
                limits=AnswerLimits(max_image_bytes=config.limits.max_image_bytes),
                server_errors_charged=config.retry.server_errors_charged,
                mask=config.mask,
            ),
            fetcher=self._fetcher,
            draw=random.random,
            listener=self._listener,
        )
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: Transport | None = None
        self._keeper: AsyncGenerator[None, None] | None = None
        self._closed = False
        self._active: set[asyncio.Task[object]] = set()
        self._stopped: set[asyncio.Task[object]] = set()
        self._left: anyio.Event | None = None
        self._ends = Ends(self._listener)

    def resolve(self, request: GenerationRequest) -> GenerationRequest:
        """Return a request with the client's model, if it names none."""
        if request.model is None and self.config.model is not None:
            return attrs.evolve(request, model=self.config.model)
        return request

    async def run(
        self,
        request: GenerationRequest,
        *,
        shelf: ImageStore,
        record: Record = NO_RECORD,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        waits: bool = False,
        fetches: bool = False,
        charge: Charge = Charge.NO,
        sends: int = 0,
        patience: SharedPatience | None = None,
    ) -> Generation:
        """Carry one call to its end.

        Args:
            request: What is asked; the client's model is filled in.
            shelf: Where images go.
            record: Who follows the call.
            idempotency_key: Instead of a new one.
            timeout: Seconds, instead of the client's total.
            waits: Whether it waits for the gate without end, as in generate_many and batch.
            fetches: Whether links are downloaded to the shelf.
            charge: The worst of earlier runs.
            sends: How often its body went out in earlier runs.
            patience: Of the run that it belongs to.

        Raises:
            ImagenError: How it ended without an image.
        """
        transport, request = self._bound(), self.resolve(request)
        key = new_key() if idempotency_key is None else checked_key(idempotency_key)
        call = Call(
            request=request,
            body=request.encode(),
            headers=self._call_headers(key),
            idempotency_key=key,
            shelf=shelf,
            record=record,
            total=self.config.timeouts.total if timeout is None else checked_total(timeout),
            waits=waits,
            fetches=fetches,
            heard=self._listener.wants,
            charge=charge,
            history=History(sends=sends),
            patience=patience,
            keyless=not self.config.names_caller,
        )
        return await self._carried(call, transport)

    async def _carried(self, call: Call, transport: Transport) -> Generation:
        try:
            generation = await self._tracked(self._carry(call, transport), call.closed)
        except ImagenError as error:
            self._ends.failed(call, error)
            raise
        except BaseException:
            if os.getpid() == self._pid:  # a forked child collects the parent's calls
                self._ends.cancelled(call)
            raise
        self._ends.done(call, generation)
        return generation

    async def _carry(self, call: Call, transport: Transport) -> Generation:
        try:
            return await self._sender.send(call, transport)
        except TROUBLE as error:
            raise call.broken(error) from error

    async def download(
        self,
        generation: Generation,
        *,
        shelf: ImageStore,
        record: Record = NO_RECORD,
        idempotency_key: str = "",
    ) -> Generation:
        """Fetch the links of an answer that came earlier; nothing is ordered.

        Args:
            generation: Its images in the answer's order; those with a media type are here.
            shelf: Where images go.
            record: Told of the end.
            idempotency_key: Of the call that brought the answer.

        Raises:
            DownloadError: If one is not to be had; the others are on its images.
            SaveError: If one cannot be written.
        """
        transport = self._bound()
        total = self.config.timeouts.total
        deadline = Deadline(asyncio.get_running_loop().time() + total, total)
        named = events.new_id(), generation.request, idempotency_key
        result = await self._tracked(
            self._sender.fetch_links(generation, shelf, transport, deadline, named),
            _unfetched_error,
        )
        await record.settled(result)
        if isinstance(result, ImagenError):
            raise result
        return result

    async def fetch(self, image: Image, shelf: ImageStore) -> Stored:
        """Fetch one image's link to a shelf.

        Raises:
            DownloadError: If it is not to be had.
            SaveError: If it cannot be written.
            InvalidRequestError: If it has none.
        """
        if image.url is None:
            raise InvalidRequestError("This image has neither bytes nor a file nor a link.")
        total = self.config.timeouts.total
        deadline = Deadline(running_loop().time() + total, total)
        return await self._tracked(
            self._fetcher.fetch(self._bound(), image.url, shelf, None, deadline), _unfetched_error
        )

    def drop(self, outcome: Outcome) -> None:
        """Count an outcome that was settled and never read, and warn if it may be paid for."""
        self._ends.unread(outcome)

    def stats(self) -> Stats:
        """Return what happened so far."""
        return self._ends.stats(queued=self._gate.queued, in_flight=self._gate.in_flight)

    async def aclose(self, grace: float = GRACE) -> None:
        """Refuse new calls, wait for those in flight, then cancel them and close all sockets.

        Args:
            grace: Seconds to wait for calls in flight.

        Raises:
            ConfigurationError: If the client is in use on another running loop.
        """
        if os.getpid() != self._pid:
            return  # nothing here is this process's to close
        loop = running_loop()
        self._check_loop()
        self._closed = True
        if self._loop is not loop:
            self._forget()
            return
        try:
            with anyio.move_on_after(grace):
                await self._idle()
        finally:
            with anyio.CancelScope(shield=True):
                await self._cut_off()

    async def _idle(self) -> None:
        while self._active:
            self._left = self._left or anyio.Event()
            await self._left.wait()

    async def _cut_off(self) -> None:
        for task in self._active - self._stopped:
            self._stopped.add(task)
            task.cancel()
        with anyio.move_on_after(CLEANUP):
            await self._idle()
        keeper, self._keeper, self._transport = self._keeper, None, None
        if keeper is not None:
            await keeper.aclose()

    async def _tracked(self, work: Coroutine[Any, Any, T], closed: Callable[[], ImagenError]) -> T:
        """Do work that closing waits for, then cancels: it then raises ``closed``."""
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._active.add(task)
        try:
            return await work
        except asyncio.CancelledError:
            if task not in self._stopped or task.uncancel() > cancelling:
                raise
        finally:
            self._active.discard(task)
            self._stopped.discard(task)
            if self._left is not None:
                self._left.set()
                self._left = None
        raise closed()

    def _bound(self) -> Transport:
        """Return the sessions of the running loop; make them if the last loop has ended."""
        if os.getpid() != self._pid:
            raise ForkedClientError(
                "This client was made before a fork, in another process; make a new one here."
            )
        if self._closed:
            raise ConfigurationError("This client is closed; make a new one.")
        loop = running_loop()
        if loop is self._loop and self._transport is not None:
            return self._transport
        self._check_loop()
        prepare()
        self._forget()
        self._gate.bind()
        self._loop = loop
        transport = Transport(self._url.origin(), self.config.network, self._fetcher.guard)
        self._keeper = _keep(transport)
        with contextlib.suppress(StopIteration):
            # Its first step, by hand: from here the loop closes it when it shuts down.
            self._keeper.asend(None).send(None)
        self._transport = transport
        return transport

    def _check_loop(self) -> None:
        theirs = self._loop
        if theirs is not None and theirs is not asyncio.get_running_loop() and theirs.is_running():
            raise ConfigurationError(
                "This client is in use on another running event loop; "
                "make one client for each loop, or use Imagen from threads."
            )

    def _forget(self) -> None:
        """Let go of the sessions of a loop that runs no more."""
        if self._transport is not None:
            self._transport.drop()
        self._transport = self._keeper = self._loop = None
        self._active.clear()

    def _call_headers(self, key: str) -> CIMultiDict[str]:
        headers = self._headers.copy()
        if self.config.idempotency:
            headers["Idempotency-Key"] = key
        return headers


async def _keep(transport: Transport) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await transport.aclose()


def _headers(config: Config) -> CIMultiDict[str]:
    headers = CIMultiDict(
        {
            # A compressed answer may be cut without a trace, or grow a thousandfold.
            "Accept-Encoding": "identity",
            "Accept": "application/json",
            "User-Agent": "imagen-async",
        }
    )
    headers.update({name: Masked(value) for name, value in config.headers.items()})
    if config.api_key is not None:
        headers["Authorization"] = Masked(f"Bearer {config.api_key.reveal()}")
    return headers


def _unfetched_error() -> ImagenError:
    return DownloadError(
        "The client was closed during the download.", verdict=Verdict.DONE, charge=Charge.YES
    )
