"""One call's life: the gate, an attempt, its verdict, then a wait or the end.

The Record is told each step before it is taken. What is paid for and arrived goes to the shelf
before anything else is decided; links are fetched only for a shelf of files, and their
failure never leads to a new POST.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING

import anyio
import attrs

from imagen_async.errors import (
    Charge,
    DownloadError,
    ExpiredUrlError,
    ImagenError,
    SaveError,
    Verdict,
)
from imagen_async.policy.deadline import Deadline
from imagen_async.policy.retry import (
    GiveUp,
    Retry,
    RetryPolicy,
    decide,
    sends_spent,
)
from imagen_async.session import events
from imagen_async.session.attempt import Attempt, FailedAttempt, Reply
from imagen_async.session.collect import harvest, oddities
from imagen_async.session.transport import SentFlagPayload
from imagen_async.wire.generation import Generation, Image
from imagen_async.wire.verdict import Judgement, error_for, judge_spoiled

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from imagen_async.policy.circuit import Permit
    from imagen_async.session.call import Call
    from imagen_async.session.download import Downloader
    from imagen_async.session.gate import Gate
    from imagen_async.session.patience import SharedPatience
    from imagen_async.session.transport import Transport
    from imagen_async.storage.stores import ImageStore


@attrs.frozen
class CallRunner:
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
    fetcher: Downloader
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
            self.listener.tell(events.Queued(*call.named))
        if call.history.sends >= self.policy.max_sends:
            raise await self._unsent(call, sends_spent(call.history.sends))
        while True:
            grant = await self._enter(call)
            try:
                result = await self._attempt(call, transport, grant)
                step = await self._concluded(call, result, grant)
            finally:
                self.gate.leave()
            if isinstance(step, Generation):
                if call.fetches and _has_links(step):
                    if call.heard:
                        self.listener.tell(events.Received(*call.named))
                    return await self._with_links(call, step, transport)
                return step
            if isinstance(step, ImagenError):
                try:
                    raise step
                finally:
                    del step, result  # its traceback holds this frame: no cycle with its images
            if not step.closes_gate:
                with _while_hopeful(call.patience):
                    await anyio.sleep(step.wait)

    async def _enter(self, call: Call) -> Permit:
        if call.gave_up:
            raise await self._unsent(call, call.gave_up)
        grant = self.gate.enter_at_once()
        if grant is not None and call.attempts == 0 and not call.waits:
            return grant  # no time has passed since the deadline was set
        clock = asyncio.get_running_loop().time
        if grant is None:
            asked = clock()
            if call.waits:
                with _while_hopeful(call.patience):
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
        late = f"the call's total of {call.total:g} s ran out in the queue"
        raise await self._unsent(call, call.gave_up or late)

    async def _unsent(self, call: Call, reason: str) -> ImagenError:
        error = call.unsent(reason)
        await call.record.settled(error)
        return error

    async def _attempt(
        self, call: Call, transport: Transport, grant: Permit
    ) -> Reply | FailedAttempt:
        outgoing = SentFlagPayload(call.body)
        try:
            await call.record.sending(call.idempotency_key)
            call.attempts += 1
            if call.heard:
                self.listener.tell(events.Sent(*call.named, call.attempts))
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
        self, call: Call, result: Reply | FailedAttempt, grant: Permit
    ) -> Generation | ImagenError | Retry:
        """Decide on an attempt, and put it on record, while the slot is held."""
        if isinstance(result, Reply):
            if call.patience is not None:
                call.patience.tell(Verdict.DONE)
            self.gate.succeed(grant)
            self.gate.budget.succeeded(retried=call.retried)
            call.charge = Charge.YES
            brought = await self._brought(call, result)
            call.images = brought.images
            if call.fetches and isinstance(brought, Generation) and _has_links(brought):
                await call.record.received(brought)
            else:
                await call.record.settled(brought)
            return brought
        step = self._decided(call, result, grant)
        if isinstance(step, ImagenError):
            await call.record.settled(step)
        elif result.judgement.charge is Charge.NO:
            await call.record.returned(call.charge, call.history.sends)
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
                sends=call.history.sends + 1,
                idempotency_key=call.idempotency_key,
                images=found.images,
            )
        if not found.usable:
            reason = "; ".join((*found.problems, *reply.answer.problems)) or "no image in it"
            spoiled = judge_spoiled(reason, b"", reply.head.headers, reply.head.status)
            return error_for(
                spoiled,
                attempts=call.attempts,
                sends=call.history.sends + 1,
                idempotency_key=call.idempotency_key,
                images=found.images,
            )
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

    def _decided(self, call: Call, setback: FailedAttempt, grant: Permit) -> ImagenError | Retry:
        judgement = setback.judgement
        call.count(judgement)
        step = decide(
            self.policy,
            call.history,
            judgement,
            retry_after=setback.retry_after,
            left=call.deadline.left(asyncio.get_running_loop().time()),
            budget=self.gate.budget,
            draw=self.draw(),
            waits=call.waits,
            gave_up=call.gave_up,
            closings=self.gate.valve.closings(grant),
        )
        self._steer(call, judgement, step, grant)
        call.setback = setback
        if isinstance(step, GiveUp):
            return call.failed(step.reason)
        call.retried = not step.closes_gate
        self.listener.tell(
            events.Retrying(
                *call.named,
                call.attempts,
                judgement.verdict,
                judgement.charge,
                judgement.message,
                step.wait,
            )
        )
        return step

    def _steer(self, call: Call, judgement: Judgement, step: Retry | GiveUp, grant: Permit) -> None:
        """Tell the gate of the whole client what an attempt says of the server."""
        if step.closes_gate:
            if self.gate.refuse(grant, step.wait):
                self.listener.tell(events.Throttled(*call.named, judgement.message, step.wait))
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
            generation, call.shelf, transport, call.deadline, call.named
        )
        await call.record.settled(result)
        if isinstance(result, ImagenError):
            raise result
        return result

    async def fetch_links(
        self,
        generation: Generation,
        shelf: ImageStore,
        transport: Transport,
        deadline: Deadline,
        named: events.Named,
    ) -> Generation | ImagenError:
        """Download the links of an answer to the shelf, together.

        Returns:
            The generation with every image fetched; else one error, of a link that may still come
            if there is one, with every image on it, those that were fetched and those that are
            still links.
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
                images[place] = attrs.evolve(error.images[0], revised_prompt=image.revised_prompt)
                return
            fetched = attrs.evolve(kept.image, url=url, revised_prompt=image.revised_prompt)
            images[place] = fetched
            problems.extend(oddities(kept, place + 1, generation.request))
            if self.listener.wants:
                self.listener.tell(events.Downloaded(*named, fetched))

        async with anyio.create_task_group() as group:
            for place, image in enumerate(images):
                if image.url is not None and image.media_type is None:
                    group.start_soon(fetch, place, image, image.url)
        if failures:
            first = min(failures, key=lambda failure: isinstance(failure, ExpiredUrlError))
            return _completed(first, generation, images, named)
        return attrs.evolve(generation, images=tuple(images), problems=tuple(problems))


def _completed(
    error: ImagenError, generation: Generation, images: list[Image], named: events.Named
) -> ImagenError:
    error.images = tuple(images)
    error.request_id = generation.request_id
    error.attempts = generation.attempts
    *_, error.idempotency_key = named
    return error


def _while_hopeful(patience: SharedPatience | None) -> AbstractContextManager[object]:
    return nullcontext() if patience is None else patience.waiting()


def _has_links(generation: Generation) -> bool:
    return any(image.media_type is None for image in generation.images)
