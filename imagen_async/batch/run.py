"""A durable batch: rows in, images and a journal in one folder, outcomes out."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import attrs

from imagen_async.batch import lists, recovery
from imagen_async.batch.accounting import Tally
from imagen_async.batch.defaults import make_defaults
from imagen_async.batch.gallery import write_gallery
from imagen_async.batch.gallery.rewriting import Rewriter
from imagen_async.batch.intake import InputRow, RowClassifier, RunOptions, Task, recorder_of
from imagen_async.batch.journal import SqliteJournal
from imagen_async.batch.notebook import Panel
from imagen_async.batch.obtaining import obtain
from imagen_async.batch.plan import known_items, make_plan
from imagen_async.batch.records import KeptError, RefusedRow
from imagen_async.batch.recovery import KnownItems
from imagen_async.batch.run_context import RunContext
from imagen_async.batch.states import State
from imagen_async.batch.stopping import StoppedError, StopPolicy
from imagen_async.errors import ConfigurationError, ImagenError
from imagen_async.session.loop import running_task
from imagen_async.session.patience import SharedPatience
from imagen_async.session.shield import to_the_end
from imagen_async.session.stream import Outcome, Stream
from imagen_async.storage import disk
from imagen_async.storage.offload import in_thread
from imagen_async.wire.image import filtered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from types import TracebackType
    from typing import Self

    from imagen_async.batch.plan import Plan
    from imagen_async.batch.ports import Journal
    from imagen_async.batch.prompts import Requests
    from imagen_async.batch.recorder import ItemRecorder
    from imagen_async.batch.report import Report
    from imagen_async.batch.settling import Settled
    from imagen_async.policy.settlement import LogName
    from imagen_async.session.core import Core
    from imagen_async.wire.generation import Generation
    from imagen_async.wire.image import Bundle

GRACE = 5.0
"""Seconds that a cancelled call has to put on record that it was cut."""


@attrs.frozen
class _Parts:
    """What exists only inside the block."""

    context: RunContext
    stream: Stream[Task]


class Run:
    """One run of a batch; an async context manager over the outcomes that it brings.

    Leaving the block ends the intake and waits for what is in flight: it may be paid for. A
    cancellation does not wait, and what was sent is then listed as unknown.

    Args:
        core: The client's, which sends.
        requests: The input: prompts, requests or rows.
        out: The folder; one that holds a batch is gone on with.
        options: How to go about it.

    Raises:
        ConfigurationError: If a field of its defaults is not known.
        InvalidRequestError: If one of them cannot be sent.
    """

    def __init__(
        self, core: Core, requests: Requests, out: Path, options: RunOptions | None = None
    ) -> None:
        self._core = core
        self._requests = requests
        self._options = options or RunOptions()
        self._defaults = make_defaults(core.config.model, self._options.defaults)
        self._folder = Path(out).absolute()
        self._active: set[ItemRecorder] = set()
        self._policy = StopPolicy(
            max_failures=self._options.max_failures,
            allowance=self._options.allowance,
            price=self._options.price_per_image,
            patience=SharedPatience(self._options.give_up_after),
        )
        self._problem: str | None = None
        self._stopped: str | None = None
        self._began = time.monotonic()
        self._seconds: float | None = None
        self._tally = Tally()
        self._rows = RowClassifier(KnownItems(), self._options, self._defaults)
        self._views = lists.Appender(self._folder)
        self._page = Rewriter(self._folder)
        self._panel = Panel()
        self._parts: _Parts | None = None
        self._read_out = False

    async def __aenter__(self) -> Self:
        running_task()
        self._began = time.monotonic()
        await in_thread(partial(recovery.claim_folder, self._folder))
        journal = SqliteJournal(self._folder)
        await journal.open()
        try:
            await self._resume(journal)
        except BaseException as error:
            await to_the_end(journal.aclose())
            if isinstance(error, OSError):
                problem = disk.cannot_write(self._folder, error)
                raise ConfigurationError(f"The batch did not begin: we {problem}.") from None
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stream, whole = self._inside.stream, False
        try:
            if error is None or isinstance(error, Exception):
                if not self._read_out:
                    self.stop("left", "The block was left before the end.")
                async for _ in stream:
                    pass
                whole = True
        finally:
            try:
                await stream.__aexit__(None, None, None)
            finally:
                await to_the_end(self._finish(whole=whole))

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        try:
            return await self._inside.stream.__anext__()
        except StopAsyncIteration:
            self._read_out = True
            raise

    async def take(self, most: int) -> list[Outcome]:
        """Return the outcomes that are ready, at least one, at most ``most``; [] at the end."""
        taken = self.pop(most) if await self.wait() else []
        self.release(len(taken))
        return taken

    async def wait(self) -> bool:
        """Wait until an outcome is ready; False at the end."""
        self._read_out = not await self._inside.stream.wait()
        return not self._read_out

    def pop(self, most: int) -> list[Outcome]:
        """Return outcomes that are ready; they count as not yielded until their ``release``."""
        return self._inside.stream.pop(most)

    def release(self, count: int) -> None:
        """Count outcomes as yielded, so that as many more items may be pulled."""
        self._inside.stream.release(count)

    @property
    def unread(self) -> int:
        """Items that were pulled and not yet yielded."""
        return self._inside.stream.unread

    @property
    def _inside(self) -> _Parts:
        if self._parts is None:
            raise ConfigurationError("A batch runs inside its block: use async with.")
        return self._parts

    @property
    def folder(self) -> Path:
        """Where images, journal and lists are."""
        return self._folder

    @property
    def report(self) -> Report:
        """What the batch came to so far; final after the block."""
        seconds, rows = self._seconds, self._rows
        return self._tally.report(
            rows.settled,
            self._options.price_per_image,
            bought_before=rows.bought_before,
            seconds=round(time.monotonic() - self._began if seconds is None else seconds, 3),
            partial=not rows.exhausted,
            stopped_by=self._stopped,
            problem=self._problem or self._views.problem,
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Bundle:
        return filtered(self._panel.bundle(self.report, str(self._folder)), include, exclude)

    def stop(self, reason: str = "stopped", problem: str | None = None) -> None:
        """Send nothing more; what is in flight goes on and is yielded.

        Args:
            reason: A word for the report; the first one counts.
            problem: A sentence for the report.
        """
        if self._stopped is not None:
            return
        self._stopped, self._problem = reason, problem
        if self._parts is not None:
            self._parts.context.stopped = True
            self._parts.stream.stop()
        for item in tuple(self._active):
            if item.idle and item.scope is not None:
                item.scope.cancel()

    def pause(self) -> None:
        """Begin no call and send none again until ``resume``; what is in flight is finished.

        Nothing is spent then but on what is in flight, and downloads go on: they are paid for. A
        paused run can be stopped or cancelled, and it uses up no ``give_up_after``.

        Raises:
            ConfigurationError: Outside the block.
        """
        self._inside.context.policy.patience.pause()

    def resume(self) -> None:
        """Go on after ``pause``.

        Raises:
            ConfigurationError: Outside the block.
        """
        self._inside.context.policy.patience.resume()

    @property
    def paused(self) -> bool:
        """Whether ``pause`` holds the run back."""
        return self._policy.patience.paused

    async def settle(
        self, *, log: LogName | None = None, horizon: float = 900.0, dry_run: bool = False
    ) -> Settled:
        """Ask the gateway's log what was charged, after the block; see ``AsyncImagen.settle``."""
        from imagen_async.batch.settling import settle

        return await settle(self._core, self._folder, log=log, horizon=horizon, dry_run=dry_run)

    async def plan(self) -> Plan:
        """Read the whole input and return what a run would do; nothing is sent or made.

        An input that can be read only once is then used up.

        Raises:
            ConfigurationError: If the folder's journal cannot be used, or another process has it,
                or if the batch may not go on as it is.
        """
        running_task()
        known, tally = await known_items(self._folder, self._terms)
        classifier = RowClassifier(known, self._options, self._defaults)
        rate = self._core.config.limits.requests_per_minute
        return await make_plan(classifier, self._requests, self._options, rate, tally)

    @property
    def _terms(self) -> recovery.Terms:
        return recovery.Terms(
            endpoint="emulator" if self._options.emulator else self._core.config.base_url,
            defaults=self._defaults.template,
            renewed=self._options.new_options,
            callers=frozenset((self._core.config.caller,)),
        )

    async def _resume(self, journal: Journal) -> None:
        """Take up what the journal knows and begin to read the input."""
        options, folder = self._options, self._folder
        await journal.call(partial(recovery.begin, folder=folder, terms=self._terms))
        recover = partial(recovery.recover, folder=folder, drop=options.on_unknown == "drop")
        found = await journal.call(recover)
        # Added, not made anew: that would hold up the first request of a large run for seconds.
        for item in found.cut:
            self._views.add(lists.lines(item))
        self._tally = Tally(found.counts)
        self._rows = RowClassifier(found.known, options, self._defaults)
        if found.known.has_any(State.RECEIVED):
            self._rows.links = await journal.call(lambda view: set(view.ids(State.RECEIVED)))
        context = RunContext(
            folder=folder,
            journal=journal,
            tally=self._tally,
            policy=self._policy,
            stop=self.stop,
            on_unknown=options.on_unknown,
            key_honoured=self._core.config.key_honoured,
            stopped=self._stopped is not None,
        )
        stream = Stream(
            self._rows.rows(self._requests),
            self._work,
            concurrency=self._core.config.limits.concurrency,
            ordered=options.ordered,
        )
        self._parts = _Parts(context, stream)
        await stream.__aenter__()
        if options.gallery:
            self._page.start()

    async def _work(self, _: int, task: Task) -> Outcome | None:
        if task is None:
            await anyio.lowlevel.checkpoint()
            return None
        if isinstance(task, InputRow) and (task.row.error is not None or task.request is None):
            return await self._refuse(task)
        recorder = await recorder_of(self._inside.context, task)
        if recorder is None or self._stopped is not None:
            return None
        self._active.add(recorder)
        try:
            with anyio.CancelScope() as recorder.scope:
                return await self._carry(recorder)
            return None
        finally:
            self._active.discard(recorder)

    async def _carry(self, recorder: ItemRecorder) -> Outcome | None:
        """Carry one item to its end; None if it goes back to be sent another day."""
        generation: Generation | None = None
        failure: ImagenError | None = None
        try:
            generation = await obtain(self._core, recorder)
        except StoppedError:
            return None
        except ImagenError as error:
            failure = error
            if not recorder.ended:
                await recorder.settled(error)
        except asyncio.CancelledError:
            with anyio.move_on_after(GRACE, shield=True):
                await recorder.cut()
            if recorder.ended:
                self._views.add(lists.lines(recorder.item))
            raise
        item, row = recorder.item, recorder.item.row
        if item.state is State.NEW:
            return None
        self._views.add(lists.lines(item))
        if generation is not None:
            self._panel.add(generation)
        if stop := self._policy.after(failure):
            self.stop(*stop)
        return Outcome(recorder.index, row.request, generation, failure, row.id, row.columns)

    async def _refuse(self, row: InputRow) -> Outcome:
        """List a row that is no request, or that may not be sent."""
        given, error = row.row, row.row.error or ImagenError("The row is no request.")
        refused = RefusedRow(given.line, given.id, row.request, KeptError.of(error), given.columns)
        try:
            await self._inside.context.journal.refused(refused)
        except ConfigurationError as broken:
            self.stop("journal", str(broken))
        self._tally.invalid += 1
        self._views.add([lists.refused_line(refused)])
        if stop := self._policy.after(error):
            self.stop(*stop)
        return Outcome(row.position, row.request, None, error, given.id, given.columns)

    async def _finish(self, *, whole: bool) -> None:
        """Write the lists, the report and the gallery, then let go of the journal."""
        journal = self._inside.context.journal
        self._views.close()
        await self._try(self._page.aclose())
        rewrite = partial(lists.rewrite, folder=self._folder)
        written = whole and journal.broken is None and await self._try(journal.call(rewrite))
        self._seconds = time.monotonic() - self._began
        await self._try(in_thread(partial(lists.write_report, self._folder, self.report.as_json())))
        if written and self._options.gallery:
            await self._try(in_thread(partial(write_gallery, self._folder)))
        elif not whole:
            await self._try(in_thread(self._page.interrupted))
        await journal.aclose()

    async def _try(self, work: Awaitable[object]) -> bool:
        """Do what no promise hangs on; note in the report that it failed."""
        try:
            await work
        except ConfigurationError as error:
            self._problem = self._problem or str(error)
        except Exception as error:  # noqa: BLE001 - the images are here, whatever fails now
            self._problem = self._problem or disk.cannot_write(self._folder, error)
        else:
            return True
        return False
