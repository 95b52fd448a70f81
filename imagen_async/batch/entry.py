"""One item under way: the Record that its call tells each step, on disk before the step."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.batch import schema, views
from imagen_async.batch.journal import Item, State
from imagen_async.batch.shelf import ItemShelf, described, image_of, rescue
from imagen_async.errors import (
    Charge,
    ConfigurationError,
    ImagenError,
    OutcomeUnknownError,
    QuotaError,
    RejectedError,
    SaveError,
    Verdict,
)
from imagen_async.session import disk
from imagen_async.session.threads import in_thread
from imagen_async.wire.envelope import Envelope
from imagen_async.wire.generation import Generation, Image
from imagen_async.wire.verdict_table import look_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import anyio

    from imagen_async.batch.journal import Journal
    from imagen_async.batch.report import Tally
    from imagen_async.wire.request import GenerationRequest

_JSON = json.JSONEncoder(separators=(",", ":"), default=str)
REQUEST_FIELDS = ("prompt", "model", "aspect_ratio", "response_format", "n")


class StoppedError(Exception):
    """The intake has stopped: the item stays as it was and nothing is sent."""


def row_of(request: GenerationRequest, name: str | None) -> dict[str, Any]:
    """Return a row that can be an input again: the user's id and what was asked."""
    row: dict[str, Any] = {} if name is None else {"id": name}
    for field in REQUEST_FIELDS:
        if (value := getattr(request, field)) is not None:
            row[field] = value
    if request.extra:
        row["extra"] = dict(request.extra)
    return row


def row_json(request: GenerationRequest, name: str | None) -> str:
    """Return a row as the journal keeps it, ASCII JSON."""
    return _JSON.encode(row_of(request, name))


def told(error: ImagenError) -> dict[str, Any]:
    """Return what is kept of an error: nothing that could hold a secret."""
    return {
        "type": type(error).__name__,
        "message": error.message,
        "status": error.status,
        "code": error.code,
        "charge": str(error.charge),
        "idempotency_key": error.idempotency_key,
        "request_id": error.request_id,
    }


def ordered(request: GenerationRequest) -> int:
    """Return how many images a request buys, at least."""
    n = request.n if request.n is not None else request.extra.get("n")
    return n if isinstance(n, int) and n > 0 else 1


def stop_reason(error: ImagenError) -> str | None:
    """Return why an error of one item ends the intake for all, or None."""
    if isinstance(error, QuotaError):
        return "quota"
    if isinstance(error, SaveError):
        return "disk"
    if isinstance(error, ConfigurationError):
        return "client"
    if isinstance(error, RejectedError) and error.status is not None:
        # A prompt that the gateway blocks with a 403 is not a key that it does not know.
        said = Envelope(code=error.code, type=None, message=error.message)
        return "authentication" if look_up(error.status, said, {}, False)[1] else None
    return None


@attrs.define(eq=False, kw_only=True)
class Desk:
    """What the entries of one run share.

    Args:
        folder: The run's folder.
        journal: Where steps are kept.
        tally: What is counted.
        stop: Ends the intake, with a word and a sentence.
        allowance: How many images may be charged in all; None for no bound.
        stopped: Whether it has ended.
    """

    folder: Path
    journal: Journal
    tally: Tally
    stop: Callable[[str, str], None]
    allowance: float | None = None
    stopped: bool = False


@attrs.define(eq=False, kw_only=True)
class Entry:
    """One item under way.

    Args:
        desk: Of the run.
        item: As the journal has it, or as it would be new.
        request: What is asked, with the client's model.
        name: The user's id.
        known: Whether the journal has it.
        resend: Whether it is sent although it may have been charged.
    """

    desk: Desk
    item: Item
    request: GenerationRequest
    name: str | None
    known: bool = False
    resend: bool = False
    scope: anyio.CancelScope | None = None
    busy: bool = attrs.field(init=False, default=False)
    ended: bool = attrs.field(init=False, default=False)
    error: ImagenError | None = attrs.field(init=False, default=None)
    answer: dict[str, Any] | None = attrs.field(init=False, default=None)
    ordered: int = attrs.field(init=False)
    shelf: ItemShelf = attrs.field(init=False)
    state: State = attrs.field(init=False)
    charge: Charge = attrs.field(init=False)
    counted: int = attrs.field(init=False)
    _files: int = attrs.field(init=False)
    _counted_at: tuple[State, Charge] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.shelf = ItemShelf(self.desk.folder, self.item.id, self.request.prompt)
        self.state, self.charge = self.item.state, self.item.charge
        self.ordered = ordered(self.request)
        self.counted = max(self.ordered, self.item.spent if self.known else 0)
        self._files = self.item.images
        self._counted_at = (self.state, self.charge)
        if not self.known:
            self.desk.tally.enter()
            self._counted_at = (State.NEW, Charge.NO)

    async def sending(self, idempotency_key: str) -> None:
        """Commit that an attempt is about to be sent.

        Raises:
            StoppedError: If the intake has stopped, the budget is used up, or the journal cannot
                be written.
        """
        desk, item = self.desk, self.item
        if desk.stopped:
            raise StoppedError
        if desk.allowance is not None and desk.tally.spent + self.ordered > desk.allowance:
            desk.stop("budget", f"The budget has no room for {self.ordered} more image(s).")
            raise StoppedError
        self.busy, resends = True, int(self.resend)
        self._spend(self.ordered)
        try:
            await desk.journal.write(
                schema.SENDING,
                item.id,
                item.position,
                item.row,
                int(self.charge),
                self.ordered,
                resends,
                idempotency_key,
            )
        except ConfigurationError as error:
            self._spend(-self.ordered)
            self.busy = False
            desk.stop("journal", str(error))
            raise StoppedError from None
        desk.tally.resent += resends
        desk.tally.attempts += 1
        self.state, self.resend = State.SENDING, False

    # From here on the state is changed first and the commit awaited last: it is in the journal's
    # queue by then, so that a cancellation of the wait cannot undo what was told.

    async def returned(self, charge: Charge) -> None:
        """Commit that the attempt cost nothing."""
        self.charge, self.busy = max(self.charge, charge), False
        self._spend(-self.ordered)
        self._moved(State.NEW if self.charge is Charge.NO else State.UNKNOWN)
        await self._write(schema.RETURNED, self.item.id, int(self.charge), self.ordered)

    async def received(self, generation: Generation) -> None:
        """Commit the links of a paid answer before the first download."""
        excess = self._excess(len(generation.images))
        answer = self._answer(generation, generation.images)
        self.item = attrs.evolve(self.item, answer=_JSON.encode(answer))
        self.state, self.charge, self.busy = State.RECEIVED, Charge.YES, False
        await self._write(schema.RECEIVED, self.item.id, excess, self.item.answer)

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
        if reason is not None:
            self.desk.stop(reason, str(result))
        if self.state is State.RECEIVED:
            await self._stay_received(result)
        elif reason is not None and self.charge is Charge.NO:
            self.ended = True
            if self.busy:
                await self.returned(Charge.NO)
        else:
            await self._settle_error(result)

    async def cut(self) -> None:
        """Commit that the call was cancelled; whether it was charged is not known."""
        if self.state is State.RECEIVED and not self.ended:
            self._moved(State.RECEIVED)
        if self.ended or not self.busy:
            return
        if self.state is not State.SENDING:  # its commit was not awaited, so nothing was sent
            await self.returned(self.charge)
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

    def listed(self) -> views.Listed:
        """Return the item as the lists show it now."""
        answer = self.answer
        if answer is None:
            answer = json.loads(self.item.answer) if self.item.answer else {}
        return views.Listed(
            row_of(self.request, self.name),
            self.state,
            self.charge,
            self.item.idempotency_key,
            None if self.error is None else told(self.error),
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

    async def _stay_received(self, error: ImagenError) -> None:
        answer = self._answer(None, error.images) if error.images else None
        await self._end(State.RECEIVED, Charge.YES, 0, error, answer)

    async def _settle_error(self, error: ImagenError) -> None:
        state = State.FAILED if self.charge is Charge.NO else State.UNKNOWN
        found: list[dict[str, Any]] = []
        here: list[Image] = []
        if isinstance(error, SaveError):
            found, _ = await in_thread(self._rescued)
        elif state is State.FAILED and self.busy:
            self._spend(-self.ordered)
        else:
            here = [image for image in error.images if image.path is not None]
        answer = self._answer(None, here, found) if here or found else None
        await self._end(state, self.charge, 0, error, answer)

    def _rescued(self) -> tuple[list[dict[str, Any]], bool]:
        """Return the item's images that are here all the same, and whether they are all."""
        try:
            return rescue(self.desk.folder, self.item.id, self.request)
        except disk.TROUBLE:
            return [], False

    async def _end(
        self,
        state: State,
        charge: Charge,
        excess: int,
        error: ImagenError | None,
        answer: dict[str, Any] | None,
    ) -> None:
        images = self._files if answer is None else _files(answer)
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
            excess,
            images,
            None if error is None else _JSON.encode(told(error)),
            None if answer is None else _JSON.encode(answer),
        )

    def _moved(self, state: State) -> None:
        self.state = state
        after = (state, self.charge)
        self.desk.tally.move(self._counted_at, after)
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
            "images": now,
        }

    async def _write(self, statement: str, *parameters: Any) -> None:
        """Commit; a journal that fails stops the intake, and what came is still told."""
        try:
            await self.desk.journal.write(statement, *parameters)
        except ConfigurationError as error:
            self.desk.stop("journal", str(error))


def _files(answer: dict[str, Any]) -> int:
    return sum(each.get("file_name") is not None for each in answer["images"])
