"""One call's life: the gate, an attempt, its verdict, then a wait or the end.

The order of the steps is what keeps the promises:

- The Record is told each step before it is taken, while the permit is held. So a process that
  dies leaves at most ``concurrency`` calls in doubt, and its journal names each of them.
- What is paid for and arrived goes to the store before anything else is decided.
- Tasks are collected, and links downloaded for a store of files, after the permit was given back;
  their failure never leads to a new POST.
- Every await may be cancelled. The call's ``charge`` is raised before the cancellation leaves the
  attempt, so that whoever counts it knows whether an image may have been paid for.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import nullcontext
from typing import TYPE_CHECKING

import anyio

from imagen_async.errors import (
    Charge,
    ImagenError,
    Verdict,
)
from imagen_async.policy.deadline import Deadline
from imagen_async.policy.retry import (
    GiveUp,
    Retry,
    RetryBudget,
    decide,
    sends_spent,
)
from imagen_async.session import events
from imagen_async.session.attempt import Attempt, Reply
from imagen_async.session.collect import fill, has_links
from imagen_async.session.connection import SentFlagPayload
from imagen_async.session.record import NO_RECORD, Trace
from imagen_async.session.shield import to_the_end

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from imagen_async.policy.circuit import Permit
    from imagen_async.session.call import Call, FailedAttempt
    from imagen_async.session.config import Config
    from imagen_async.session.delivery import Delivery
    from imagen_async.session.gate import Gate
    from imagen_async.session.patience import SharedPatience
    from imagen_async.session.transport import Transport
    from imagen_async.wire.generation import Generation


class CallRunner:
    """What carries the calls of one client to their ends.

    Args:
        config: Of the client.
        gate: Where they wait.
        delivery: How images come that are elsewhere.
        listener: Who is told.
    """

    def __init__(
        self, config: Config, gate: Gate, delivery: Delivery, listener: events.Listener
    ) -> None:
        self._config = config
        self._attempts = Attempt(config)
        self._gate = gate
        self._delivery = delivery
        self._listener = listener
        self._budget = RetryBudget()

    async def run(self, call: Call, transport: Transport) -> Generation:
        """Carry one call to its end.

        Raises:
            ImagenError: How it ended without an image; its charge is the worst of all attempts.
        """
        now = asyncio.get_running_loop().time()
        call.deadline = Deadline(float("inf") if call.waits else now + call.total, call.total)
        if call.heard:
            self._listener.tell(events.Queued(*call.named))
        if call.history.sends >= self._config.retry.max_sends:
            raise await _on_record(call, call.unsent(sends_spent(call.history.sends)))
        while True:
            permit = await self._enter(call)
            try:
                result = await self._attempt(call, transport)
                if isinstance(result, Reply):
                    self._gate.answered(permit)
                    generation = await self._kept(call, result)
                    break
                retry = await self._failed(call, result, permit)
            finally:
                if (leaving := self._gate.leave(permit)) is not None:
                    await to_the_end(leaving)
            if not retry.closes_gate:  # else the gate does the waiting, for every call
                with _while_hopeful(call.patience):
                    await anyio.sleep(retry.wait)
        if generation.task is not None or (call.downloads and has_links(generation)):
            if call.heard:
                self._listener.tell(events.Received(*call.named))
            return await self._collected(call, generation, transport)
        return generation

    async def _enter(self, call: Call) -> Permit:
        """Wait for leave to send, and for the end of a pause of the run."""
        patience = call.patience
        while True:
            if patience is not None and patience.paused:
                asked = asyncio.get_running_loop().time()
                await patience.resumed()
                call.deadline.extend(asyncio.get_running_loop().time() - asked)
            permit = await self._let_in(call)
            if patience is None or not patience.paused:
                return permit
            # Paused while it waited at the gate: nothing may be sent, and others may need the slot.
            if (leaving := self._gate.leave(permit)) is not None:
                await to_the_end(leaving)

    async def _let_in(self, call: Call) -> Permit:
        """Wait for a permit, no longer than the call or its run may."""
        if call.patience is not None and call.gave_up:
            raise await _on_record(call, call.unsent(call.gave_up))
        permit, clock = self._gate.enter_at_once(), asyncio.get_running_loop().time
        if permit is not None and call.attempts == 0:
            if call.waits:
                call.deadline.ends = clock() + call.total
            return permit  # no time has passed since the deadline was set
        if permit is None:
            asked = clock()
            if call.waits:
                with _while_hopeful(call.patience):
                    permit = await self._gate.enter()
                call.deadline.extend(clock() - asked)
            else:
                with anyio.move_on_after(call.deadline.left(asked)):
                    permit = await self._gate.enter()
        if permit is not None:
            if call.attempts == 0 and call.waits:
                call.deadline.ends = clock() + call.total
            if call.deadline.left(clock()) > 0:
                return permit
            # A sleeping machine or a busy loop: the time ended on the way.
            if (leaving := self._gate.leave(permit)) is not None:
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
                self._listener.tell(events.Sent(*call.named, call.attempts))
            left = call.deadline.left(asyncio.get_running_loop().time())
            result = await self._attempts.make(transport, outgoing, call, left)
        except BaseException:
            # Cancelled, or the machine failed: nobody will judge what the attempt came to.
            call.charge = max(call.charge, Charge.MAYBE if outgoing.sent else Charge.NO)
            _trace(call, outgoing, None)
            raise
        _trace(call, outgoing, result)
        return result

    async def _kept(self, call: Call, reply: Reply) -> Generation:
        """Put what came into the store and on record, while the permit is held.

        Raises:
            ImagenError: If none of it can be used, or the disk does not take it.
        """
        call.charge_before, call.charge = call.charge, Charge.YES
        if call.patience is not None:
            call.patience.tell(Verdict.DONE)
        self._budget.succeeded(retried=call.retried)
        # The history counts the attempts before this one, and this one went out too.
        result = await fill(
            reply,
            call.store,
            call.request,
            attempts=call.attempts,
            sends=call.history.sends + 1,
            idempotency_key=call.idempotency_key,
        )
        call.images = result.images
        if isinstance(result, ImagenError):
            raise await _on_record(call, result)
        generation = result
        if generation.task is not None:
            call.task_id = generation.task.id
        if generation.task is not None or (call.downloads and has_links(generation)):
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
        closings = await self._gate.closings(permit)
        step = decide(
            self._config.retry,
            call.history,
            judgement,
            retry_after=failure.retry_after,
            left=call.deadline.left(asyncio.get_running_loop().time()),
            budget=self._budget,
            draw=random.random(),  # noqa: S311 - jitter
            waits=call.waits,
            key_honoured=self._config.key_honoured,
            gave_up=call.gave_up,
            closings=closings,
        )
        # What an attempt says of the server concerns every call, even if this one is over.
        if step.closes_gate:
            if await self._gate.refuse(permit, step.wait):
                self._listener.tell(events.Throttled(*call.named, judgement.message, step.wait))
        elif judgement.status is not None:
            self._gate.answered(permit)
        if isinstance(step, GiveUp):
            raise await _on_record(call, call.failed(step.reason))
        if not judgement.pending:  # else the retry that is waited for stays paid for
            call.retried = not step.closes_gate
        self._listener.tell(
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

    async def _collected(
        self, call: Call, generation: Generation, transport: Transport
    ) -> Generation:
        now = asyncio.get_running_loop().time()
        if call.deadline.left(now) <= 0:  # the process stood still, and the images are paid for
            call.deadline.ends = now + call.total
        result = await self._delivery.collect(
            generation,
            call.store,
            transport,
            call.deadline,
            call.named,
            record=call.record,
            downloads=call.downloads,
        )
        call.images = result.images
        if isinstance(result, ImagenError):
            # Of a task that failed its own words tell the charge, and not that it was taken.
            call.charge = result.charge = max(result.charge, call.charge_before)
            raise await _on_record(call, result)
        await call.record.settled(result)
        return result


def _trace(call: Call, outgoing: SentFlagPayload, result: Reply | FailedAttempt | None) -> None:
    """Tell the record what a gateway's log may show of an attempt; None if it was cut off."""
    at = outgoing.sent_at
    if at is None or call.record is NO_RECORD:
        return
    if isinstance(result, Reply):
        call.record.traced(Trace(at, at, Charge.YES, result.status, result.request_id))
    elif result is not None:
        told = result.judgement
        call.record.traced(Trace(at, at, told.charge, told.status, told.request_id))
    else:
        call.record.traced(Trace(at, at, Charge.MAYBE))


async def _on_record(call: Call, error: ImagenError) -> ImagenError:
    """Put a call's error on record, and return it for its caller to raise.

    It is raised where no variable holds it: its traceback holds the frame, and so its images.
    """
    await call.record.settled(error)
    return error


def _while_hopeful(patience: SharedPatience | None) -> AbstractContextManager[object]:
    return nullcontext() if patience is None else patience.waiting()
