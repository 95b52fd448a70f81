"""The session core: one client's configuration, and the calls that are made of it."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING

import attrs
from multidict import CIMultiDict, istr
from yarl import URL

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
from imagen_async.session.attempt import Attempt, prepare
from imagen_async.session.call import NEW, Call
from imagen_async.session.call_runner import CallRunner
from imagen_async.session.config import checked_key, checked_total, new_key
from imagen_async.session.delivery import Delivery
from imagen_async.session.download import Downloader
from imagen_async.session.gate import LocalGate
from imagen_async.session.lifecycle import GRACE, Lifecycle
from imagen_async.session.record import NO_RECORD
from imagen_async.session.stats import Ends
from imagen_async.session.tasks import TaskCollector
from imagen_async.session.transport import Transport
from imagen_async.storage.disk import TROUBLE
from imagen_async.wire.decoder import AnswerLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from imagen_async.session.config import Config
    from imagen_async.session.download import Guard
    from imagen_async.session.gate import Gate
    from imagen_async.session.network import Network
    from imagen_async.session.patience import SharedPatience
    from imagen_async.session.record import Record
    from imagen_async.session.stats import Stats
    from imagen_async.session.stream import Outcome
    from imagen_async.storage.stores import ImageStore, Stored
    from imagen_async.wire.generation import Generation, Image
    from imagen_async.wire.request import GenerationRequest

_KEY = istr("Idempotency-Key")
_IDS = (istr("X-Client-Request-Id"), istr("x-litellm-call-id"))
"""Headers that carry a call's key too: gateways write them into their logs of calls."""


class Core:
    """Runs calls; what AsyncImagen and batches are made of.

    Args:
        config: All that the client was told.
        gate: Where calls wait before they may send; a new one of this client alone by default.
        transport: Makes the transport of a loop, from the API's origin, the network and the guard.
    """

    def __init__(
        self,
        config: Config,
        *,
        gate: Gate | None = None,
        transport: Callable[[URL, Network, Guard | None], Transport] = Transport,
    ) -> None:
        self.config = config
        self._url = URL(f"{config.base_url}/images/generations")
        self._headers = _headers(config)
        self._key_headers = _key_headers(config)
        self._listener = events.Listener(config.on_event)
        self._downloader = Downloader(
            config.base_url,
            config.timeouts,
            config.limits,
            policy=config.retry,
            allow_private=config.allow_private,
            mask=config.mask,
        )
        collector = TaskCollector(
            base_url=config.base_url,
            headers=self._headers,
            times=config.timeouts,
            max_image_bytes=config.limits.max_image_bytes,
            server_errors_charged=config.retry.server_errors_charged,
            mask=config.mask,
        )
        self._delivery = Delivery(self._downloader, collector, self._listener)
        self._gate = LocalGate(config.limits) if gate is None else gate
        self._runner = CallRunner(
            gate=self._gate,
            policy=config.retry,
            attempt=Attempt(
                url=self._url,
                times=config.timeouts,
                limits=AnswerLimits(max_image_bytes=config.limits.max_image_bytes),
                server_errors_charged=config.retry.server_errors_charged,
                key_honoured=config.key_honoured,
                mask=config.mask,
            ),
            delivery=self._delivery,
            draw=random.random,
            listener=self._listener,
        )
        origin, guard = self._url.origin(), self._downloader.guard
        # No method of ours: a client that is forgotten goes at once, without a cycle.
        make = partial(transport, origin, config.network, guard)
        self._lifecycle = Lifecycle(partial(_connect, self._gate, make))
        self._ends = Ends(self._listener)

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
        if request.model is None:
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
        )
        transport, task = self._lifecycle.begin()
        try:
            generation = await self._runner.run(call, transport)
        except ImagenError as error:
            self._ends.failed(call, error)
            raise
        except TROUBLE as error:
            raise self._ends.failed(call, call.broken(error)) from error
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and self._lifecycle.was_cut_off(task):
                raise self._ends.failed(call, call.closed()) from None
            if not self._lifecycle.forked:  # a forked child collects the parent's calls
                self._ends.cancelled(call)
            raise
        finally:
            self._lifecycle.end(task)
        self._ends.done(call, generation)
        return generation

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
            lambda transport: self._downloader.fetch(transport, url, store, None, self._deadline()),
            _closed_meanwhile,
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
