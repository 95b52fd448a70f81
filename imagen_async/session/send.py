"""One call's life: the gate, an attempt, its verdict, then a wait or the end.

The Record is told each step before it is taken. What is paid for and arrived goes to the shelf
before anything else is decided; links are fetched only for a shelf of files, and their
failure never leads to a new POST.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import attrs

from imagen_async.errors import (
    Charge,
    DownloadError,
    ImagenError,
    NotSentError,
    OutcomeUnknownError,
    SaveError,
    Verdict,
)
from imagen_async.policy.deadline import Deadline
from imagen_async.policy.retry import GiveUp, History, Retry, RetryPolicy, decide
from imagen_async.session import events
from imagen_async.session.attempt import Attempt, Reply, Setback
from imagen_async.session.harvest import harvest, size_problems
from imagen_async.session.transport import Outgoing
from imagen_async.wire.generation import Generation, Image
from imagen_async.wire.verdict import Judgement, error_for, judge_spoiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from multidict import CIMultiDict

    from imagen_async.policy.valve import Grant
    from imagen_async.session.fetch import Fetcher
    from imagen_async.session.files import Shelf
    from imagen_async.session.gate import Gate
    from imagen_async.session.record import Record
    from imagen_async.session.transport import Transport
    from imagen_async.wire.request import GenerationRequest


@attrs.define(eq=False)
class Call:
    """One logical request and what became of it so far.

    Args:
        request: What is asked; ``body`` is made from it once.
        body: The bytes that every attempt sends.
        headers: The headers that every attempt sends.
        idempotency_key: The key among them, or the one that would be.
        shelf: Where images go.
        record: Who follows the call.
        total: Seconds.
        waits: Whether it waits for the gate without end, as in generate_many and batch.
        fetches: Whether links are downloaded to the shelf.
        heard: Whether anybody listens to what goes well.
        charge: The worst so far, in this run and earlier ones.
    """

    request: GenerationRequest
    body: bytes
    headers: CIMultiDict[str]
    idempotency_key: str
    shelf: Shelf
    record: Record
    total: float
    waits: bool
    fetches: bool
    heard: bool = False
    charge: Charge = Charge.NO
    deadline: Deadline = attrs.field(init=False)
    history: History = attrs.field(init=False, default=History())
    attempts: int = attrs.field(init=False, default=0)
    retried: bool = attrs.field(init=False, default=False)
    setback: Setback | None = attrs.field(init=False, default=None)

    def failed(self, reason: str) -> ImagenError:
        """Return the error of the latest attempt, and why there is no further one."""
        assert self.setback is not None
        judgement = self.setback.judgement
        why = f" Not sent again: {reason}." if reason else ""
        return error_for(
            attrs.evolve(judgement, message=judgement.message + why),
            charge=self.charge,
            attempts=self.attempts,
            idempotency_key=self.idempotency_key,
            retry_after=self.setback.retry_after,
        )

    def out_of_time(self) -> ImagenError:
        """Return the error of a call whose total ended before it could be sent."""
        reason = f"the call's total of {self.total:g} s ran out in the queue"
        if self.setback is not None:
            return self.failed(reason)
        return NotSentError(
            f"Not sent: {reason}.",
            verdict=Verdict.NOT_SENT,
            charge=self.charge,
            idempotency_key=self.idempotency_key,
        )

    def closed(self) -> ImagenError:
        """Return the error of a call whose client was closed under it."""
        free = self.charge is Charge.NO
        return (NotSentError if free else OutcomeUnknownError)(
            "The client was closed while the call was under way.",
            verdict=Verdict.NOT_SENT if free else Verdict.UNKNOWN,
            charge=self.charge,
            attempts=self.attempts,
            idempotency_key=self.idempotency_key,
        )


@attrs.frozen
class Sender:
    """What sends the calls of one client.

    Args:
        gate: Where they wait.
        policy: When they are sent again.
        attempt: How one exchange is made.
        fetcher: How links are fetched.
        draw: Gives a random number from 0 to below 1.
        listener: Who is told.
    """

    gate: Gate
    policy: RetryPolicy
    attempt: Attempt
    fetcher: Fetcher
    draw: Callable[[], float]
    listener: events.Listener

    async def send(self, call: Call, transport: Transport) -> Generation:
        """Carry one call to its end.

        Raises:
            ImagenError: How it ended without an image; its charge is the worst of all attempts.
        """
        now = asyncio.get_running_loop().time()
        call.deadline = Deadline(float("inf") if call.waits else now + call.total, call.total)
        if call.heard:
            self.listener.tell(events.Queued(call.request, call.idempotency_key))
        while True:
            grant = await self._enter(call)
            try:
                result = await self._attempt(call, transport, grant)
                step = await self._concluded(call, result, grant)
            finally:
                self.gate.leave()
            if isinstance(step, Generation):
                if call.fetches and _has_links(step):
                    return await self._with_links(call, step, transport)
                return step
            if isinstance(step, ImagenError):
                try:
                    raise step
                finally:
                    del step, result  # its traceback holds this frame: no cycle with its images
            if not step.closes_gate:
                await anyio.sleep(step.wait)

    async def _enter(self, call: Call) -> Grant:
        grant = self.gate.enter_at_once()
        if grant is not None and call.attempts == 0 and not call.waits:
            return grant  # no time has passed since the deadline was set
        clock = asyncio.get_running_loop().time
        if grant is None:
            asked = clock()
            if call.waits:
                grant = await self.gate.enter()
                call.deadline.extend(clock() - asked)
            else:
                with anyio.move_on_after(call.deadline.left(asked)):
                    grant = await self.gate.enter()
        if grant is not None:
            if call.attempts == 0 and call.waits:
                call.deadline.ends = clock() + call.total
            if call.deadline.left(clock()) > 0:
                return grant
            # A sleeping machine or a busy loop: the time ended on the way.
            self.gate.abandon(grant)
            self.gate.leave()
        error = call.out_of_time()
        await call.record.settled(error)
        raise error

    async def _attempt(self, call: Call, transport: Transport, grant: Grant) -> Reply | Setback:
        outgoing = Outgoing(call.body)
        try:
            await call.record.sending(call.idempotency_key)
            call.attempts += 1
            if call.heard:
                self.listener.tell(events.Sent(call.request, call.idempotency_key, call.attempts))
            return await self.attempt.make(
                transport,
                outgoing,
                call.headers,
                open_sink=call.shelf.open,
                left=call.deadline.left(asyncio.get_running_loop().time()),
                key_used_before="Idempotency-Key" in call.headers
                and (call.attempts > 1 or call.charge is not Charge.NO),
            )
        except BaseException:
            call.charge = max(call.charge, Charge.MAYBE if outgoing.sent else Charge.NO)
            self.gate.abandon(grant)
            raise

    async def _concluded(
        self, call: Call, result: Reply | Setback, grant: Grant
    ) -> Generation | ImagenError | Retry:
        """Decide on an attempt, and put it on record, while the slot is held."""
        if isinstance(result, Reply):
            self.gate.succeed(grant)
            self.gate.budget.succeeded(retried=call.retried)
            call.charge = Charge.YES
            brought = await self._brought(call, result)
            if call.fetches and isinstance(brought, Generation) and _has_links(brought):
                await call.record.received(brought)
            else:
                await call.record.settled(brought)
            return brought
        step = self._decided(call, result, grant)
        if isinstance(step, ImagenError):
            await call.record.settled(step)
        elif result.judgement.charge is Charge.NO:
            await call.record.returned(call.charge)
        return step

    async def _brought(self, call: Call, reply: Reply) -> Generation | ImagenError:
        found = await harvest(reply.answer.items, call.shelf, call.request)
        if found.unwritten:
            return SaveError(
                f"An image that came cannot be written: {'; '.join(found.unwritten)}.",
                verdict=Verdict.DONE,
                charge=Charge.YES,
                status=reply.head.status,
                request_id=reply.request_id,
                attempts=call.attempts,
                idempotency_key=call.idempotency_key,
                images=found.images,
            )
        if not found.images:
            reason = "; ".join((*found.problems, *reply.answer.problems)) or "no image in it"
            spoiled = judge_spoiled(reason, b"", reply.head.headers, reply.head.status)
            return error_for(spoiled, attempts=call.attempts, idempotency_key=call.idempotency_key)
        return Generation(
            call.request,
            found.images,
            reply.answer.created,
            call.attempts,
            reply.request_id,
            call.idempotency_key,
            (*reply.answer.problems, *found.problems),
            reply.answer.extras,
        )

    def _decided(self, call: Call, setback: Setback, grant: Grant) -> ImagenError | Retry:
        judgement = setback.judgement
        refused = judgement.verdict is Verdict.REFUSED
        call.charge = max(call.charge, judgement.charge)
        call.history = History(
            failures=call.history.failures + (not refused),
            refusals=call.history.refusals + refused,
            charges=call.history.charges + (judgement.charge is not Charge.NO),
        )
        step = decide(
            self.policy,
            call.history,
            judgement,
            retry_after=setback.retry_after,
            left=call.deadline.left(asyncio.get_running_loop().time()),
            budget=self.gate.budget,
            draw=self.draw(),
            waits=call.waits,
            closings=self.gate.valve.closings(grant),
        )
        self._steer(judgement, step, grant)
        call.setback = setback
        if isinstance(step, GiveUp):
            return call.failed(step.reason)
        call.retried = not step.closes_gate
        self.listener.tell(
            events.Retrying(
                call.request,
                call.idempotency_key,
                call.attempts,
                judgement.verdict,
                judgement.charge,
                judgement.message,
                step.wait,
            )
        )
        return step

    def _steer(self, judgement: Judgement, step: Retry | GiveUp, grant: Grant) -> None:
        """Tell the gate of the whole client what an attempt says of the server."""
        if step.closes_gate:
            if self.gate.refuse(grant, step.wait):
                self.listener.tell(events.Throttled(judgement.message, step.wait))
        elif judgement.status is not None:
            self.gate.succeed(grant)
        else:
            self.gate.abandon(grant)

    async def _with_links(
        self, call: Call, generation: Generation, transport: Transport
    ) -> Generation:
        now = asyncio.get_running_loop().time()
        if call.deadline.left(now) <= 0:  # the process stood still, and the links are paid for
            call.deadline.ends = now + call.total
        result = await self.fetch_links(
            generation, call.shelf, transport, call.deadline, call.idempotency_key
        )
        await call.record.settled(result)
        if isinstance(result, ImagenError):
            raise result
        return result

    async def fetch_links(
        self,
        generation: Generation,
        shelf: Shelf,
        transport: Transport,
        deadline: Deadline,
        idempotency_key: str,
    ) -> Generation | ImagenError:
        """Download the links of an answer to the shelf, together.

        Returns:
            The generation with every image fetched; else the first error, with every image on it,
            those that were fetched and those that are still links.
        """
        several = len(generation.images) > 1
        images = list(generation.images)
        problems = list(generation.problems)
        failures: list[ImagenError] = []

        async def fetch(place: int, image: Image, url: str) -> None:
            try:
                kept = await self.fetcher.fetch(
                    transport, url, shelf, place + 1 if several else None, deadline
                )
            except (DownloadError, SaveError) as error:
                failures.append(error)
                return
            fetched = attrs.evolve(kept.image, url=url, revised_prompt=image.revised_prompt)
            images[place] = fetched
            problems.extend(size_problems(fetched, generation.request))
            if self.listener.wants:
                self.listener.tell(events.Downloaded(generation.request, idempotency_key, fetched))

        async with anyio.create_task_group() as group:
            for place, image in enumerate(images):
                if image.url is not None and image.media_type is None:
                    group.start_soon(fetch, place, image, image.url)
        if failures:
            first = failures[0]
            first.images = tuple(images)
            first.request_id = generation.request_id
            first.attempts = generation.attempts
            first.idempotency_key = idempotency_key
            return first
        return attrs.evolve(generation, images=tuple(images), problems=tuple(problems))


def _has_links(generation: Generation) -> bool:
    return any(image.media_type is None for image in generation.images)
