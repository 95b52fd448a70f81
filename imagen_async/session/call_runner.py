"""One call's life: the gate, an attempt, its verdict, then a wait or the end.

The order of the steps is what keeps the promises:

- The Record is told each step before it is taken, while the permit is held. So a process that
  dies leaves at most ``concurrency`` calls in doubt, and its journal names each of them.
- What is paid for and arrived goes to the store before anything else is decided.
- Links are downloaded only for a store of files, after the permit was given back, and their
  failure never leads to a new POST.
- Every await may be cancelled. The call's ``charge`` is raised before the cancellation leaves the
  attempt, so that whoever counts it knows whether an image may have been paid for.
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
    RetryBudget,
    RetryPolicy,
    decide,
    sends_spent,
)
from imagen_async.session import events
from imagen_async.session.attempt import Attempt, FailedAttempt, Reply
from imagen_async.session.collect import collect, oddities
from imagen_async.session.connection import SentFlagPayload
from imagen_async.session.shield import to_the_end
from imagen_async.wire.generation import Generation, Image
from imagen_async.wire.verdict import error_for, judge_spoiled

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from imagen_async.policy.circuit import Permit
    from imagen_async.session.call import Call
    from imagen_async.session.collect import Collected
    from imagen_async.session.download import Downloader
    from imagen_async.session.gate import Gate
    from imagen_async.session.patience import SharedPatience
    from imagen_async.session.transport import Transport
    from imagen_async.storage.stores import ImageStore


@attrs.frozen
class CallRunner:
    """What carries the calls of one client to their ends.

    Args:
        gate: Where they wait.
        policy: When they are sent again.
        attempt: How one exchange is made.
        downloader: How links are downloaded.
        draw: Gives a random number from 0 to below 1.
        listener: Who is told.
    """

    gate: Gate
    policy: RetryPolicy
    attempt: Attempt
    downloader: Downloader
    draw: Callable[[], float]
    listener: events.Listener
    _budget: RetryBudget = attrs.field(init=False, factory=RetryBudget)

    async def run(self, call: Call, transport: Transport) -> Generation:
        """Carry one call to its end.

        Raises:
            ImagenError: How it ended without an image; its charge is the worst of all attempts.
        """
        now = asyncio.get_running_loop().time()
        call.deadline = Deadline(float("inf") if call.waits else now + call.total, call.total)
        if call.heard:
            self.listener.tell(events.Queued(*call.named))
        if call.history.sends >= self.policy.max_sends:
            raise await _on_record(call, call.unsent(sends_spent(call.history.sends)))
        while True:
            permit = await self._enter(call)
            try:
                result = await self._attempt(call, transport)
                if isinstance(result, Reply):
                    self.gate.answered(permit)
                    generation = await self._kept(call, result)
                    break
                retry = await self._failed(call, result, permit)
            finally:
                if (leaving := self.gate.leave(permit)) is not None:
                    await to_the_end(leaving)
            if not retry.closes_gate:  # else the gate does the waiting, for every call
                with _while_hopeful(call.patience):
                    await anyio.sleep(retry.wait)
        if call.downloads and _has_links(generation):
            return await self._with_links(call, generation, transport)
        return generation

    async def _enter(self, call: Call) -> Permit:
        """Wait for leave to send, no longer than the call or its run may."""
        if call.patience is not None and call.gave_up:
            raise await _on_record(call, call.unsent(call.gave_up))
        permit = self.gate.enter_at_once()
        if permit is not None and call.attempts == 0 and not call.waits:
            return permit  # no time has passed since the deadline was set
        clock = asyncio.get_running_loop().time
        if permit is None:
            asked = clock()
            if call.waits:
                with _while_hopeful(call.patience):
                    permit = await self.gate.enter()
                call.deadline.extend(clock() - asked)
            else:
                with anyio.move_on_after(call.deadline.left(asked)):
                    permit = await self.gate.enter()
        if permit is not None:
            if call.attempts == 0 and call.waits:
                call.deadline.ends = clock() + call.total
            if call.deadline.left(clock()) > 0:
                return permit
            # A sleeping machine or a busy loop: the time ended on the way.
            if (leaving := self.gate.leave(permit)) is not None:
                await to_the_end(leaving)
        late = f"the call's total of {call.total:g} s ran out in the queue"
        raise await _on_record(call, call.unsent(call.gave_up or late))

    async def _attempt(self, call: Call, transport: Transport) -> Reply | FailedAttempt:
        outgoing = SentFlagPayload(call.body)
        try:
            # Before a byte leaves: a process that is killed from here on finds it on record.
            await call.record.sending(call.idempotency_key)
            call.attempts += 1
            if call.heard:
                self.listener.tell(events.Sent(*call.named, call.attempts))
            used_before = call.attempts > 1 or call.charge is not Charge.NO
            return await self.attempt.make(
                transport,
                outgoing,
                call.headers,
                open_sink=call.store.open,
                left=call.deadline.left(asyncio.get_running_loop().time()),
                key_used_before=used_before and "Idempotency-Key" in call.headers,
            )
        except BaseException:
            # Cancelled, or the machine failed: nobody will judge what the attempt came to.
            call.charge = max(call.charge, Charge.MAYBE if outgoing.sent else Charge.NO)
            raise

    async def _kept(self, call: Call, reply: Reply) -> Generation:
        """Put what came into the store and on record, while the permit is held.

        Raises:
            ImagenError: If none of it can be used, or the disk does not take it.
        """
        call.charge = Charge.YES
        if call.patience is not None:
            call.patience.tell(Verdict.DONE)
        self._budget.succeeded(retried=call.retried)
        found = await collect(reply.answer.items, call.store, call.request)
        call.images = found.images
        if found.unwritten or not found.usable:
            raise await _on_record(call, _useless(call, reply, found))
        generation = Generation(
            call.request,
            found.images,
            reply.answer.created,
            call.attempts,
            reply.request_id,
            call.idempotency_key,
            (*reply.answer.problems, *found.problems),
            reply.answer.extras,
        )
        if call.downloads and _has_links(generation):
            await call.record.received(generation)
        else:
            await call.record.settled(generation)
        return generation

    async def _failed(self, call: Call, failure: FailedAttempt, permit: Permit) -> Retry:
        """Decide what follows an attempt that brought nothing, while the permit is held.

        Raises:
            ImagenError: If the call is not sent again.
        """
        call.count(failure)
        judgement = failure.judgement
        closings = await self.gate.closings(permit)
        step = decide(
            self.policy,
            call.history,
            judgement,
            retry_after=failure.retry_after,
            left=call.deadline.left(asyncio.get_running_loop().time()),
            budget=self._budget,
            draw=self.draw(),
            waits=call.waits,
            gave_up=call.gave_up,
            closings=closings,
        )
        # What an attempt says of the server concerns every call, even if this one is over.
        if step.closes_gate:
            if await self.gate.refuse(permit, step.wait):
                self.listener.tell(events.Throttled(*call.named, judgement.message, step.wait))
        elif judgement.status is not None:
            self.gate.answered(permit)
        if isinstance(step, GiveUp):
            raise await _on_record(call, call.failed(step.reason))
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
        if judgement.charge is Charge.NO:
            await call.record.returned(call.charge, call.history.sends)
        return step

    async def _with_links(
        self, call: Call, generation: Generation, transport: Transport
    ) -> Generation:
        now = asyncio.get_running_loop().time()
        if call.deadline.left(now) <= 0:  # the process stood still, and the links are paid for
            call.deadline.ends = now + call.total
        result = await self.download_links(
            generation, call.store, transport, call.deadline, call.named
        )
        await call.record.settled(result)
        if isinstance(result, ImagenError):
            raise result
        return result

    async def download_links(
        self,
        generation: Generation,
        store: ImageStore,
        transport: Transport,
        deadline: Deadline,
        named: events.Named,
    ) -> Generation | ImagenError:
        """Download the links of an answer to the store, together.

        Returns:
            The generation with every image downloaded; else one error, of a link that may still
            come if there is one, with every image on it, those that were downloaded and those that
            are still links.
        """
        several = len(generation.images) > 1
        images = list(generation.images)
        problems = list(generation.problems)
        failures: list[ImagenError] = []

        async def download(place: int, image: Image, url: str) -> None:
            try:
                kept = await self.downloader.fetch(
                    transport, url, store, place + 1 if several else None, deadline
                )
            except (DownloadError, SaveError) as error:
                failures.append(error)
                images[place] = attrs.evolve(error.images[0], revised_prompt=image.revised_prompt)
                return
            downloaded = attrs.evolve(kept.image, url=url, revised_prompt=image.revised_prompt)
            images[place] = downloaded
            problems.extend(oddities(kept, place + 1, generation.request))
            if self.listener.wants:
                self.listener.tell(events.Downloaded(*named, downloaded))

        async with anyio.create_task_group() as group:
            for place, image in enumerate(images):
                if image.url is not None and image.media_type is None:
                    group.start_soon(download, place, image, image.url)
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


async def _on_record(call: Call, error: ImagenError) -> ImagenError:
    """Put a call's error on record, and return it for its caller to raise.

    It is raised where no variable holds it: its traceback holds the frame, and so its images.
    """
    await call.record.settled(error)
    return error


def _useless(call: Call, reply: Reply, found: Collected) -> ImagenError:
    """Return the error of an answer that is paid for and brought no image."""
    # The history counts the attempts before this one, and this one went out too.
    sends = call.history.sends + 1
    if found.unwritten:
        return SaveError(
            f"An image that came cannot be written: {'; '.join(found.unwritten)}.",
            verdict=Verdict.DONE,
            charge=Charge.YES,
            status=reply.status,
            request_id=reply.request_id,
            attempts=call.attempts,
            sends=sends,
            idempotency_key=call.idempotency_key,
            images=found.images,
        )
    reason = "; ".join((*found.problems, *reply.answer.problems)) or "no image in it"
    return error_for(
        judge_spoiled(reason, b"", reply.headers, reply.status),
        attempts=call.attempts,
        sends=sends,
        idempotency_key=call.idempotency_key,
        images=found.images,
    )


def _while_hopeful(patience: SharedPatience | None) -> AbstractContextManager[object]:
    return nullcontext() if patience is None else patience.waiting()


def _has_links(generation: Generation) -> bool:
    return any(image.media_type is None for image in generation.images)
