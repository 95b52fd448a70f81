"""One item under way: the Record that its call tells each step, on disk before the step is taken.

The strategy: what cannot be taken back comes first. An attempt is counted and committed as sent
before a byte of it leaves, so a crash leaves it in doubt and never forgotten; what the answer then
proves takes it back. A paid answer is committed before its first download. The worst charge over
all attempts is kept, and decides what an end without an image is called::

    step         from                            to, if nothing was charged    to, if it may be
    sending      new, sending, failed, unknown   sending                       sending
    returned     sending                         new                           unknown
    received     sending, received                                             received
    settled:
      images     sending, received                                             done
      error      new, sending, failed, unknown   failed                        unknown
      task fails received                        failed                        unknown
      no images  received                                                      received, dropped
    cut          sending                                                       done, unknown
    reorder      received                                                      unknown

``states`` has this table as data. A run that stops gives back what was not charged: it is new.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs

from imagen_async.batch.accounting import ItemAccount
from imagen_async.batch.item_files import ItemFiles, described, highest, rescue
from imagen_async.batch.records import Item, KeptAnswer, KeptError, KeptImage, KeptTask
from imagen_async.batch.states import Event, State, after
from imagen_async.batch.stopping import StoppedError
from imagen_async.errors import (
    Charge,
    ConfigurationError,
    DownloadError,
    ExpiredUrlError,
    ImagenError,
    OutcomeUnknownError,
    SaveError,
    Verdict,
)
from imagen_async.session.record import Trace
from imagen_async.storage import disk
from imagen_async.storage.offload import in_thread
from imagen_async.wire.generation import Generation
from imagen_async.wire.task import Task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    import anyio

    from imagen_async.batch.run_context import RunContext
    from imagen_async.wire.image import Image


@attrs.define(eq=False, kw_only=True)
class ItemRecorder:
    """One item under way.

    Args:
        context: What it shares with the run's other items.
        item: As the journal has it, or as it would be new; then as it stands.
        index: Its row's place in the input, from 0.
        known: Whether the journal has it.
        resend: Whether it is sent although it may have been charged.
        recount: Whether it is sent on the user's word, whatever was sent in earlier runs.
        listed: Whether a row of the input asks for it.
        scope: What cancels its call.

    Attributes:
        ended: Whether its end was told.
        account: What it costs.
        store: Where its images go.
    """

    context: RunContext
    item: Item
    index: int
    known: bool = False
    resend: bool = False
    recount: bool = False
    listed: bool = True
    scope: anyio.CancelScope | None = None
    ended: bool = attrs.field(init=False, default=False)
    account: ItemAccount = attrs.field(init=False)
    store: ItemFiles = attrs.field(init=False)
    _busy: bool = attrs.field(init=False, default=False)
    _traces: list[Trace] = attrs.field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self.account = ItemAccount(
            self.context.tally,
            self.item,
            known=self.known,
            listed=self.listed,
            recount=self.recount,
        )
        self.store = self._make_store()
        if not self.known and self.item.charge is not Charge.NO:
            # Another folder's run sent it, nobody knows when: no log can call that send free.
            self._traces.append(Trace(0.0, 0.0, self.item.charge))

    async def sending(self, idempotency_key: str) -> None:
        """Commit that an attempt is about to be sent.

        Raises:
            StoppedError: If the run has stopped, the budget is used up, or the journal cannot be
                written.
        """
        context, account = self.context, self.account
        account.at_stake = self._buys()
        if context.stopped:
            raise StoppedError
        if stop := context.policy.before(account.at_stake, context.tally):
            context.stop(*stop)
            raise StoppedError
        self._busy, resends = True, int(self.resend)
        # Counted before it is known to have left, so that neither a crash nor another item's look
        # at the budget misses it; an answer may take it back.
        account.sent(self.item)
        item, counted_before = self.item, self.item.sends
        state = after(item.state, Event.SENDING, item.charge)
        item.position, item.sends, item.sent_at = self.index, account.sends, time.time()
        item.idempotency_key = idempotency_key
        try:
            # With it go the earlier sends of this call that stay in doubt: a log may show those.
            step = context.journal.sending(
                item, self._told(), images=account.at_stake, resends=resends
            )
            await step
        except ConfigurationError as error:
            account.freed(account.sends - 1)
            item.sends, self._busy = account.sends, False
            context.stop("journal", str(error))
            raise StoppedError from None
        context.tally.resent += resends
        context.tally.attempts += 1
        context.tally.recounted += self.recount and counted_before > 0
        # Only now: as long as the commit is awaited no byte may leave, and ``cut`` tells by it.
        item.state, item.error = state, None
        self.resend = self.recount = False

    def traced(self, trace: Trace) -> None:
        """Hear of an attempt whose body went out; the next step keeps it."""
        self._traces.append(trace)

    # From here on the state is changed first and the commit awaited last: it is in the journal's
    # queue by then, so that a cancellation of the wait cannot undo what was told.

    async def returned(self, charge: Charge, sends: int) -> None:
        """Commit that the attempt counts as free."""
        images, presumed = self.account.at_stake, self.account.freed(sends)
        self._busy = False
        self._move(Event.RETURNED, charge)
        self.account.moved(self.item)
        step = self.context.journal.returned(
            self.item, self._told(), images=images, presumed=presumed
        )
        await self._kept(step)

    async def received(self, generation: Generation) -> None:
        """Commit the task or the links of a paid answer before the first poll or download."""
        excess = self._came(generation)
        self._busy = False
        self.item.answer = self._answer_of(generation)
        self._move(Event.RECEIVED, Charge.YES)
        await self._kept(self.context.journal.received(self.item, self._told(), excess=excess))

    async def settled(self, result: Generation | ImagenError) -> None:
        """Commit the end; what the run must stop for goes back to be sent another day."""
        if isinstance(result, Generation):
            excess = self._came(result)
            answer = self._answer_of(result)
            await self._end(Event.DELIVERED, Charge.YES, answer=answer, excess=excess)
            return
        if stop := self.context.policy.at(result):
            self.context.stop(*stop)
        item = self.item
        item.charge, item.error = max(item.charge, result.charge), KeptError.of(result)
        if item.state is State.RECEIVED:
            if isinstance(result, (DownloadError, SaveError)):
                await self._undelivered(result)
            else:
                await self._task_failed(result)
        elif stop and item.charge is Charge.NO:
            self.ended = True
            if self._busy:
                await self.returned(Charge.NO, result.sends)
        else:
            await self._failed(result)

    async def cut(self) -> None:
        """Commit that the call was cancelled; whether it was charged is not known."""
        if self.item.state is State.RECEIVED and not self.ended:
            self.account.moved(self.item)
        if self.ended or not self._busy:
            return
        if self.item.state is not State.SENDING:
            # Its commit was not awaited, so nothing was sent; but it is in the journal's queue.
            self.item.state = State.SENDING
            await self.returned(self.item.charge, self.account.sends - 1)
            return
        error = OutcomeUnknownError(
            "The call was cancelled while it was under way.",
            verdict=Verdict.UNKNOWN,
            charge=Charge.MAYBE,
            idempotency_key=self.item.idempotency_key,
        )
        # The images may have been here already, and only the word of it on its way.
        found, complete = await in_thread(self._rescued)
        answer = self.item.answer_with(found) if found else None
        if complete:
            await self._end(Event.DELIVERED, Charge.YES, answer=answer)
        else:
            charge = Charge.YES if found else Charge.MAYBE
            self.item.error = KeptError.of(error)
            await self._end(Event.FAILED, charge, answer=answer)

    @property
    def idle(self) -> bool:
        """Whether nothing is lost if the call is given up now: it waits, or was never begun."""
        return not (self._busy or self.ended or self.item.state is State.RECEIVED)

    def generation(self) -> Generation:
        """Return the answer that the journal kept of a received item."""
        item, answer = self.item, self.item.answer or KeptAnswer()
        return Generation(
            item.row.request,
            tuple(each.image(self.context.folder) for each in answer.images),
            answer.created,
            item.attempts,
            answer.request_id,
            item.idempotency_key,
            answer.problems,
            task=None if answer.task is None else Task(answer.task.id, answer.task.url),
        )

    def reorder(self) -> None:
        """Take up again an answer whose links are dead, to be ordered once more."""
        self.ended = False
        self.item.error = None
        self._move(Event.REORDERED, Charge.YES)
        self.account.moved(self.item)
        self.store = self._make_store()

    def _buys(self) -> int:
        """Return how many images the next attempt may buy beyond those that are counted."""
        in_doubt = self.item.state is State.SENDING or self.item.charge is not Charge.NO
        return 0 if self.context.key_honoured and in_doubt else self.account.images

    def _make_store(self) -> ItemFiles:
        item, past = self.item, highest(self.item.files)
        if item.state is State.RECEIVED and item.answer is not None:
            past = item.answer.after  # a file keeps its number while the same answer is fetched
        return ItemFiles(self.context.folder, item, past)

    async def _undelivered(self, error: ImagenError) -> None:
        """Commit that not all images of a paid answer could be downloaded."""
        dead = isinstance(error, ExpiredUrlError) and self.known
        given_up = dead and self.context.on_unknown == "drop"
        answer = self.item.answer_with(self._described(error.images)) if error.images else None
        event = Event.DROPPED if given_up else Event.UNDELIVERED
        await self._end(event, Charge.YES, answer=answer)

    async def _failed(self, error: ImagenError) -> None:
        """Commit an end without all images; those that are here all the same are kept."""
        free = self.item.charge is Charge.NO
        here: list[KeptImage] = []
        if isinstance(error, SaveError):
            here, _ = await in_thread(self._rescued)
        elif not free:
            here = self._described(image for image in error.images if image.path is not None)
        presumed = self.account.freed(error.sends) if free and self._busy else 0
        answer = self.item.answer_with(here) if here else None
        await self._end(Event.FAILED, self.item.charge, answer=answer, presumed=presumed)

    async def _task_failed(self, error: ImagenError) -> None:
        """Commit that a task brought nothing: its own words say what it cost, not its receipt."""
        item, self.ended = self.item, True
        task = item.answer and item.answer.task
        charge = max(task.charge if task else Charge.YES, error.charge)
        presumed = self.account.freed(self.account.sends) if charge is Charge.NO else 0
        item.state, item.charge = after(item.state, Event.FAILED, charge), charge
        self.account.moved(item)
        await self._kept(self.context.journal.cleared(item, presumed=presumed))

    def _rescued(self) -> tuple[list[KeptImage], bool]:
        """Return the item's images that are here all the same, and whether they are all."""
        try:
            return rescue(self.item, self.store.left())
        except disk.TROUBLE:
            return [], False

    async def _end(
        self,
        event: Event,
        charge: Charge,
        *,
        answer: KeptAnswer | None,
        excess: int = 0,
        presumed: int = 0,
    ) -> None:
        """Commit the end that an event is.

        Args:
            event: DELIVERED forgets the last error.
            charge: What the call has shown.
            answer: What came; None if nothing new did.
            excess: Images that came beyond those that were counted.
            presumed: Images that are only taken as free.
        """
        self._busy, self.ended = False, True
        item = self.item
        if answer is not None:
            images = len(answer.files)
            self.context.tally.images += images - item.images
            item.images, item.answer = images, answer
        if event is Event.DELIVERED:
            item.error = None
        self._move(event, charge)
        self.account.moved(item)
        step = self.context.journal.settled(item, self._told(), excess=excess, presumed=presumed)
        await self._kept(step)

    def _move(self, event: Event, charge: Charge) -> None:
        item = self.item
        item.charge = max(item.charge, charge)
        item.state = after(item.state, event, item.charge)
        item.sends = self.account.sends

    def _described(self, images: Iterable[Image]) -> list[KeptImage]:
        known = self.item.files
        return [described(image, self.store.kept, known) for image in images]

    def _answer_of(self, generation: Generation) -> KeptAnswer:
        return KeptAnswer(
            request_id=generation.request_id,
            created=generation.created,
            problems=generation.problems,
            task=self._task_of(generation),
            after=self.store.after,
            images=self.item.with_older(self._described(generation.images)),
        )

    def _came(self, generation: Generation) -> int:
        """Count an answer's images and cost; return how many were not counted yet."""
        self.account.told(self.item, generation.cost, len(generation.images))
        return self.account.came(len(generation.images))

    def _told(self) -> list[Trace]:
        """Return what a log may show of the attempts since the last step, once."""
        traces, self._traces = self._traces, []
        return traces

    def _task_of(self, generation: Generation) -> KeptTask | None:
        task = generation.task
        return None if task is None else KeptTask(id=task.id, url=task.url, charge=self.item.charge)

    async def _kept(self, step: Awaitable[None]) -> None:
        """Wait for a step; a journal that fails stops the run, and what came is still told."""
        try:
            await step
        except ConfigurationError as error:
            self.context.stop("journal", str(error))
