"""The session core: one client's configuration, and the calls that are made of it."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import anyio
import attrs
from multidict import CIMultiDict, istr

from imagen_async.errors import (
    Charge,
    DownloadError,
    ImagenError,
    InvalidRequestError,
    Verdict,
)
from imagen_async.policy.config import Masked
from imagen_async.policy.deadline import Deadline
from imagen_async.policy.retry import History
from imagen_async.session import events
from imagen_async.session.attempt import prepare
from imagen_async.session.call import NEW, Call
from imagen_async.session.call_runner import CallRunner
from imagen_async.session.config import checked_key, checked_total, new_key
from imagen_async.session.delivery import Delivery
from imagen_async.session.download import guard
from imagen_async.session.gate import LocalGate
from imagen_async.session.lifecycle import GRACE, Lifecycle
from imagen_async.session.record import NO_RECORD
from imagen_async.session.stats import Ends
from imagen_async.session.transport import Transport, timeouts
from imagen_async.storage.disk import TROUBLE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from yarl import URL

    from imagen_async.policy.settlement import CallLog, Doubt, KnownCall
    from imagen_async.session.call_log import CallLogReader
    from imagen_async.session.config import Config
    from imagen_async.session.gate import Gate
    from imagen_async.session.patience import SharedPatience
    from imagen_async.session.record import Record
    from imagen_async.session.stats import Stats
    from imagen_async.session.stream import Outcome
    from imagen_async.session.transport import Head, Receiver
    from imagen_async.storage.stores import ImageStore, Stored
    from imagen_async.wire.generation import Generation
    from imagen_async.wire.image import Image
    from imagen_async.wire.request import GenerationRequest


LOG_TIME = 60.0
"""Seconds that one look into the gateway's log may take."""

_KEY = istr("Idempotency-Key")
_IDS = (istr("X-Client-Request-Id"), istr("x-litellm-call-id"))
"""Headers that carry a call's key too: gateways write them into their logs of calls."""


class Core:
    """Runs calls; what AsyncImagen and batches are made of.

    Args:
        config: All that the client was told.
        gate: Where calls wait before they may send; a new one of this client alone by default.
        transport: Makes the transport of a loop, from the configuration and the guard.
    """

    def __init__(
        self,
        config: Config,
        *,
        gate: Gate | None = None,
        transport: Callable[[Config, Callable[[str], None] | None], Transport] = Transport,
    ) -> None:
        self.config = config
        self._headers = _headers(config)
        self._key_headers = _key_headers(config)
        self._listener = events.Listener(config.on_event)
        self._delivery = Delivery(config, self._headers, self._listener)
        self._gate = LocalGate(config.limits) if gate is None else gate
        self._runner = CallRunner(config, self._gate, self._delivery, self._listener)
        make = partial(transport, config, None if config.allow_private else guard)
        # No method of ours: a client that is forgotten goes at once, without a cycle.
        self._lifecycle = Lifecycle(partial(_connect, self._gate, make))
        self._ends = Ends(self._listener)
        # Kept, since a log's pace is: of one kind, or found out under None.
        self._log_readers: dict[str | None, CallLogReader] = {}

    def resolve(self, request: GenerationRequest) -> GenerationRequest:
        """Return a request with the client's model, if it names none."""
        if request.model is None and self.config.model is not None:
            return attrs.evolve(request, model=self.config.model)
        return request

    async def generate(
        self,
        request: GenerationRequest,
        *,
        store: ImageStore,
        record: Record = NO_RECORD,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        waits: bool = False,
        downloads: bool = False,
        charge: Charge = Charge.NO,
        sends: int = 0,
        patience: SharedPatience | None = None,
    ) -> Generation:
        """Carry one call to its end.

        Args:
            request: What is asked; the client's model is filled in.
            store: Where images go.
            record: Who follows the call.
            idempotency_key: Instead of a new one.
            timeout: Seconds, instead of the client's total.
            waits: Whether it waits for the gate without end, as in generate_many and batch.
            downloads: Whether links are downloaded to the store.
            charge: The worst of earlier runs.
            sends: How often its body went out in earlier runs.
            patience: Of the run that it belongs to.

        Raises:
            ImagenError: How it ended without an image.
        """
        request = self.resolve(request)
        key = new_key() if idempotency_key is None else checked_key(idempotency_key)
        call = Call(
            request=request,
            body=request.encode(),
            headers=self._call_headers(key),
            idempotency_key=key,
            store=store,
            record=record,
            total=self.config.timeouts.total if timeout is None else checked_total(timeout),
            waits=waits,
            downloads=downloads,
            heard=self._listener.wants,
            charge=charge,
            history=History(sends=sends) if sends else NEW,
            patience=patience,
            keyless=not self.config.names_caller,
        )
        transport, task = self._lifecycle.begin()
        try:
            generation = await self._runner.run(call, transport)
        except BaseException as error:  # noqa: BLE001 - counted, and raised
            raise self._ended(call, error, task)  # noqa: B904 - it has its cause
        finally:
            self._lifecycle.end(task)
        return self._ends.done(call, generation)

    def _ended(self, call: Call, error: BaseException, task: asyncio.Task[object]) -> BaseException:
        """Count how a call ended without an image, and return what is raised of it."""
        raised = error
        if isinstance(error, asyncio.CancelledError) and self._lifecycle.was_cut_off(task):
            raised = call.closed()
            raised.__suppress_context__ = True
        elif isinstance(error, TROUBLE):
            raised = call.broken(error)
            raised.__cause__ = error
        if isinstance(raised, ImagenError):
            self._ends.failed(call, raised)
        elif not self._lifecycle.forked:  # a forked child collects the parent's calls
            self._ends.cancelled(call)
        return raised

    async def download(
        self,
        generation: Generation,
        *,
        store: ImageStore,
        record: Record = NO_RECORD,
        idempotency_key: str = "",
    ) -> Generation:
        """Collect the task of an answer that came earlier, and its links; nothing is ordered.

        Args:
            generation: Its images in the answer's order; those with a media type are here.
            store: Where images go.
            record: Told of the links that a task ends in, and of the end.
            idempotency_key: Of the call that brought the answer.

        Raises:
            DownloadError: If one is not to be had; the others are on its images.
            SaveError: If one cannot be written.
        """
        named = events.new_id(), generation.request, idempotency_key
        result = await self._lifecycle.follow(
            lambda transport: self._delivery.collect(
                generation,
                store,
                transport,
                self._deadline(),
                named,
                record=record,
                downloads=True,
            ),
            _closed_meanwhile,
        )
        await record.settled(result)
        if isinstance(result, ImagenError):
            raise result
        return result

    async def fetch(self, image: Image, store: ImageStore) -> Stored:
        """Download one image's link to a store.

        Raises:
            DownloadError: If it is not to be had.
            SaveError: If it cannot be written.
            InvalidRequestError: If it has none.
        """
        url = image.url
        if url is None:
            raise InvalidRequestError("This image has neither bytes nor a file nor a link.")
        return await self._lifecycle.follow(
            lambda transport: self._delivery.downloader.fetch(
                transport, url, store, None, self._deadline()
            ),
            _closed_meanwhile,
        )

    async def read_log(
        self, doubts: Sequence[Doubt], calls: Collection[KnownCall], name: str | None = None
    ) -> tuple[str, CallLog]:
        """Read what the gateway's log of calls says of the time of some items.

        Args:
            doubts: The items in doubt; at least one.
            calls: Our other sends near them.
            name: The kind of log; None finds out by asking.

        Returns:
            The kind of log, and what it says.

        Raises:
            CallLogError: If it cannot be read.
        """
        from imagen_async.session.call_log import CallLogReader

        timer = timeouts(LOG_TIME, connect=self.config.timeouts.connect)

        async def get(url: URL, on_head: Callable[[Head], Receiver]) -> Head:
            return await self._lifecycle.follow(
                lambda transport: transport.get(url, timer, on_head, self._headers),
                _closed_meanwhile,
            )

        reader = self._log_readers.get(name)
        if reader is None:
            reader = self._log_readers[name] = CallLogReader(
                get,
                self.config.origin,
                name,
                time.time,
                anyio.sleep,
                self.config.mask,
            )
        log = await reader.read(doubts, calls)
        return reader.name or "", log

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
        await self._lifecycle.aclose(grace)

    def _deadline(self) -> Deadline:
        total = self.config.timeouts.total
        return Deadline(asyncio.get_running_loop().time() + total, total)

    def _call_headers(self, key: str) -> CIMultiDict[str]:
        headers = self._headers.copy()
        for name in self._key_headers:
            headers[name] = key
        return headers


def _connect(gate: Gate, make: Callable[[], Transport]) -> Transport:
    """Make what belongs to the running loop."""
    prepare()
    gate.bind()
    return make()


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


def _key_headers(config: Config) -> tuple[istr, ...]:
    """Return the headers that carry a call's key; the user's own ids stay as they are."""
    if not config.idempotency:
        return ()
    own = {name.lower() for name in config.headers}
    return (_KEY, *(name for name in _IDS if name.lower() not in own))


def _closed_meanwhile() -> ImagenError:
    return DownloadError(
        "The client was closed during the download.", verdict=Verdict.DONE, charge=Charge.YES
    )
