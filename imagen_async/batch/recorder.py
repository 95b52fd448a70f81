"""One item under way: the Record that its call tells each step, on disk before the step."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.batch import lists, schema
from imagen_async.batch.item_files import ItemFiles, described, highest, rescue
from imagen_async.batch.journal import Item, State
from imagen_async.batch.records import (
    count_files,
    error_to_row,
    file_names,
    image_of,
    images_requested,
    request_to_row,
    to_json,
)
from imagen_async.batch.run_context import RunContext, StoppedError, stop_reason
from imagen_async.errors import (
    Charge,
    ConfigurationError,
    ExpiredUrlError,
    ImagenError,
    OutcomeUnknownError,
    SaveError,
    Verdict,
)
from imagen_async.storage import disk
from imagen_async.storage.offload import in_thread
from imagen_async.wire.generation import Generation, Image

if TYPE_CHECKING:
    from collections.abc import Iterable

    import anyio

    from imagen_async.wire.request import GenerationRequest


@attrs.define(eq=False, kw_only=True)
class ItemRecorder:
    """One item under way.

    Args:
        desk: Of the run.
        item: As the journal has it, or as it would be new.
        request: What is asked, with the client's model.
        name: The user's id.
        known: Whether the journal has it.
        resend: Whether it is sent although it may have been charged.
        recount: Whether it is sent on the user's word, whatever was sent in earlier runs.
        listed: Whether a row of the input asks for it.
    """

    desk: RunContext
    item: Item
    request: GenerationRequest
    name: str | None
    known: bool = False
    resend: bool = False
    recount: bool = False
    listed: bool = True
    scope: anyio.CancelScope | None = None
    busy: bool = attrs.field(init=False, default=False)
    ended: bool = attrs.field(init=False, default=False)
    error: ImagenError | None = attrs.field(init=False, default=None)
    answer: dict[str, Any] | None = attrs.field(init=False, default=None)
    ordered: int = attrs.field(init=False)
    sends: int = attrs.field(init=False)
    shelf: ItemFiles = attrs.field(init=False)
    state: State = attrs.field(init=False)
    charge: Charge = attrs.field(init=False)
    counted: int = attrs.field(init=False)
    _files: int = attrs.field(init=False)
    _counted_at: tuple[State, Charge] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.state, self.charge = self.item.state, self.item.charge
        self.shelf = self._shelf()
        self.ordered = images_requested(self.request)
        self.sends = 0 if self.recount else self.item.sends
        self.counted = max(self.ordered, self.item.spent if self.known else 0)
        self._files = self.item.images
        self._counted_at = (self.state, self.charge) if self.known else (State.NEW, Charge.NO)
        self.desk.tally.enter(self._counted_at, known=self.known, listed=self.listed)

    async def sending(self, idempotency_key: str) -> None:
        """Commit that an attempt is about to be sent.

        Raises:
            StoppedError: If the intake has stopped, the budget is used up, or the journal cannot
                be written.
        """
        desk, item = self.desk, self.item
        if desk.stopped:
            raise StoppedError
        if desk.allowance is not None and desk.tally.at_risk + self.ordered > desk.allowance:
            desk.stop("budget", _no_room(self.ordered, desk.tally.presumed))
            raise StoppedError
        self.busy, resends = True, int(self.resend)
        # Counted now, so that a crash does not forget it; an answer may take it back.
        self.sends += 1
        self._spend(self.ordered)
        try:
            await desk.journal.write(
                schema.SENDING,
                item.id,
                item.position,
                item.row,
                int(self.charge),
                self.sends,
                self.ordered,
                resends,
                idempotency_key,
            )
        except ConfigurationError as error:
            self._spend(-self.ordered)
            self.sends -= 1
            self.busy = False
            desk.stop("journal", str(error))
            raise StoppedError from None
        desk.tally.resent += resends
        desk.tally.attempts += 1
        desk.tally.recounted += self.recount and item.sends > 0
        self.state, self.resend, self.recount = State.SENDING, False, False

    # From here on the state is changed first and the commit awaited last: it is in the journal's
    # queue by then, so that a cancellation of the wait cannot undo what was told.

    async def returned(self, charge: Charge, sends: int) -> None:
        """Commit that the attempt counts as free."""
        presumed = self._freed(sends)
        self.charge, self.busy = max(self.charge, charge), False
        self._moved(State.NEW if self.charge is Charge.NO else State.UNKNOWN)
        await self._write(
            schema.RETURNED,
            int(self.charge),
            int(self.charge),
            self.sends,
            self.ordered,
            presumed,
            self.item.id,
        )

    async def received(self, generation: Generation) -> None:
        """Commit the links of a paid answer before the first download."""
        excess = self._excess(len(generation.images))
        answer = self._answer(generation, generation.images)
        self.item = attrs.evolve(self.item, answer=to_json(answer))
        self.state, self.charge, self.busy = State.RECEIVED, Charge.YES, False
        await self._write(schema.RECEIVED, excess, self.item.answer, self.item.id)

    async def settled(self, result: Generation | ImagenError) -> None:
        """Commit the end; what the intake must stop for goes back to be sent another day."""
        if isinstance(result, Generation):
            excess = self._excess(len(result.images))
            answer = self._answer(result, result.images)
            await self._end(State.DONE, Charge.YES, excess, None, answer)
            return
        self.error = result
        self.charge = max(self.charge, result.charge)
        reason = stop_reason(result)
        if reason is None and result.verdict in (Verdict.NOT_SENT, Verdict.REFUSED):
            reason = self.desk.patience.ended
        if reason is not None:
            self.desk.stop(reason, str(result))
        if self.state is State.RECEIVED:
            await self._undelivered(result)
        elif reason is not None and self.charge is Charge.NO:
            self.ended = True
            if self.busy:
                await self.returned(Charge.NO, result.sends)
        else:
            await self._settle_error(result)

    async def cut(self) -> None:
        """Commit that the call was cancelled; whether it was charged is not known."""
        if self.state is State.RECEIVED and not self.ended:
            self._moved(State.RECEIVED)
        if self.ended or not self.busy:
            return
        if self.state is not State.SENDING:  # its commit was not awaited, so nothing was sent
            await self.returned(self.charge, self.sends - 1)
            return
        self.error = OutcomeUnknownError(
            "The call was cancelled while it was under way.",
            verdict=Verdict.UNKNOWN,
            charge=Charge.MAYBE,
            idempotency_key=self.item.idempotency_key,
        )
        # The images may have been here already, and only the word of it on its way.
        found, complete = await in_thread(self._rescued)
        answer = self._answer(None, [image_of(self.desk.folder, each) for each in found], found)
        if complete:
            self.error = None
            await self._end(State.DONE, Charge.YES, 0, None, answer)
        else:
            charge = Charge.YES if found else max(self.charge, Charge.MAYBE)
            await self._end(State.UNKNOWN, charge, 0, self.error, answer if found else None)

    @property
    def idle(self) -> bool:
        """Whether nothing is lost if the call is given up now: it waits, or was never begun."""
        return not (self.busy or self.ended or self.state is State.RECEIVED)

    def shown(self) -> lists.Listed:
        """Return the item as the lists show it now."""
        answer = self.answer
        if answer is None:
            answer = json.loads(self.item.answer) if self.item.answer else {}
        return lists.Listed(
            request_to_row(self.request, self.name),
            self.state,
            self.charge,
            self.item.idempotency_key,
            None if self.error is None else error_to_row(self.error),
            answer,
        )

    def generation(self) -> Generation:
        """Return the answer that the journal kept of a received item."""
        answer = json.loads(self.item.answer or "{}")
        images = tuple(image_of(self.desk.folder, each) for each in answer.get("images", ()))
        return Generation(
            self.request,
            images,
            answer.get("created"),
            self.item.attempts,
            answer.get("request_id"),
            self.item.idempotency_key,
            tuple(answer.get("problems", ())),
        )

    def reorder(self) -> None:
        """Take up again an answer whose links are dead, to be ordered once more."""
        if self.answer is not None:
            self.item = attrs.evolve(self.item, answer=to_json(self.answer))
        self.ended, self.error, self.answer = False, None, None
        self._moved(State.UNKNOWN)
        self.shelf = self._shelf()

    def _shelf(self) -> ItemFiles:
        answer = json.loads(self.item.answer) if self.item.answer else {}
        # A file keeps its number as long as the same answer is fetched.
        waits = self.state is State.RECEIVED
        after = answer.get("after", 0) if waits else highest(file_names(self.item.answer))
        return ItemFiles(self.desk.folder, self.item.id, self.request.prompt, after)

    async def _undelivered(self, error: ImagenError) -> None:
        """Commit that not all images of a paid answer could be downloaded."""
        dead = isinstance(error, ExpiredUrlError) and self.known
        state = State.DROPPED if dead and self.desk.on_unknown == "drop" else State.RECEIVED
        answer = self._answer(None, error.images) if error.images else None
        await self._end(state, Charge.YES, 0, error, answer)

    async def _settle_error(self, error: ImagenError) -> None:
        state = State.FAILED if self.charge is Charge.NO else State.UNKNOWN
        found: list[dict[str, Any]] = []
        here: list[Image] = []
        if isinstance(error, SaveError):
            found, _ = await in_thread(self._rescued)
        elif state is not State.FAILED:
            here = [image for image in error.images if image.path is not None]
        presumed = self._freed(error.sends) if state is State.FAILED and self.busy else 0
        answer = self._answer(None, here, found) if here or found else None
        await self._end(state, self.charge, 0, error, answer, presumed)

    def _freed(self, sends: int) -> int:
        """Take back the attempt under way; return how many images are only presumed free."""
        presumed = self.ordered if sends >= self.sends else 0
        self.sends = sends
        self._spend(-self.ordered)
        self.desk.tally.presumed += presumed
        return presumed

    def _rescued(self) -> tuple[list[dict[str, Any]], bool]:
        """Return the item's images that are here all the same, and whether they are all."""
        try:
            names = file_names(self.item.answer)
            return rescue(self.desk.folder, self.item.id, self.request, names)
        except disk.TROUBLE:
            return [], False

    async def _end(
        self,
        state: State,
        charge: Charge,
        excess: int,
        error: ImagenError | None,
        answer: dict[str, Any] | None,
        presumed: int = 0,
    ) -> None:
        images = self._files if answer is None else count_files(answer)
        self.answer, self.charge = answer, charge
        self.busy, self.ended = False, True
        self.desk.tally.images += images - self._files
        self._files = images
        self._moved(state)
        await self._write(
            schema.SETTLED,
            self.item.id,
            self.item.position,
            self.item.row,
            str(state),
            int(charge),
            self.sends,
            excess,
            presumed,
            images,
            None if error is None else to_json(error_to_row(error)),
            None if answer is None else to_json(answer),
        )

    def _moved(self, state: State) -> None:
        self.state = state
        after = (state, self.charge)
        self.desk.tally.move(self._counted_at, after, listed=self.listed)
        self._counted_at = after

    def _spend(self, images: int) -> None:
        self.desk.tally.spent += images

    def _excess(self, came: int) -> int:
        """Count images beyond those that were counted when the request was sent."""
        excess = max(0, came - self.counted)
        self.counted += excess
        self._spend(excess)
        return excess

    def _answer(
        self,
        generation: Generation | None,
        images: Iterable[Image],
        found: Iterable[dict[str, Any]] = (),
    ) -> dict[str, Any]:
        """Return what the journal keeps of an answer, with the files of earlier ones."""
        before: dict[str, Any] = json.loads(self.item.answer) if self.item.answer else {}
        old = {each.get("file_name"): each for each in (*before.get("images", ()), *found)}
        kept = self.shelf.kept
        now = [described(image, kept, old) for image in images]
        named = {each.get("file_name") for each in now}
        now.extend(each for name, each in old.items() if name is not None and name not in named)
        if generation is None:
            return {**before, "images": now}
        return {
            "request_id": generation.request_id,
            "created": generation.created,
            "problems": generation.problems,
            "after": self.shelf.after,
            "images": now,
        }

    async def _write(self, statement: str, *parameters: Any) -> None:
        """Commit; a journal that fails stops the intake, and what came is still told."""
        try:
            await self.desk.journal.write(statement, *parameters)
        except ConfigurationError as error:
            self.desk.stop("journal", str(error))


def _no_room(images: int, presumed: int) -> str:
    kept = f": {presumed} that count as not charged are kept back" if presumed else ""
    return f"The budget has no room for {images} more image(s){kept}."
