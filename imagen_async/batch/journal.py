"""The journal in SQLite: what was sent, what was paid and what is here, on disk before it is used.

One file, one connection and one thread: whatever waits is committed together, so that an fsync
is shared by all that are in flight. The file's exclusive lock is held from the opening to the
close, which is how a second process is kept out.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import queue
import sqlite3
import threading
from array import array
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import attrs

from imagen_async.batch import schema, statements
from imagen_async.batch.records import (
    Count,
    Item,
    RefusedRow,
    decode,
    encode,
)
from imagen_async.batch.states import State
from imagen_async.errors import CHARGES, ConfigurationError
from imagen_async.session.record import Trace
from imagen_async.storage.offload import in_thread
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from imagen_async.batch.ports import JournalView
    from imagen_async.batch.statements import Statement

_T = TypeVar("_T")
_unclosed: list[sqlite3.Connection] = []


@attrs.define(eq=False)
class _Job:
    """Statements for the next commit, or a function that has the connection to itself."""

    work: tuple[Statement, ...] | Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    item: bytes | None = None


@attrs.frozen
class SqliteView:
    """A ``JournalView`` of an open journal, to be used in its thread alone."""

    connection: sqlite3.Connection

    def runs(self) -> int:
        """Return how many runs the journal has seen."""
        runs: int = self.connection.execute(schema.RUNS).fetchone()[0]
        return runs

    def count_run(self) -> None:
        """Count one more run."""
        self.connection.execute(schema.COUNT_RUN)

    def find(self, identity: bytes) -> Item | None:
        """Return an item, or None."""
        row = self.connection.execute(schema.FIND, (identity,)).fetchone()
        return None if row is None else statements.item_of(row)

    def items(self, states: Iterable[State] = State) -> Iterator[Item]:
        """Yield the items in these states in the order in which they were first sent."""
        values = tuple(str(state) for state in states)
        statement = schema.ITEMS.format(", ".join("?" * len(values)))
        yield from map(statements.item_of, self.connection.execute(statement, values))

    def ids(self, state: State) -> Iterator[bytes]:
        """Yield the ids of the items in a state."""
        for (identity,) in self.connection.execute(schema.IDS, (str(state),)):
            yield identity

    def known(self) -> list[tuple[Count, bytes]]:
        """Return the counts, each with its items' ids, which are checked."""
        try:
            known = [
                (_count(*counted), bytes.fromhex(ids))
                for *counted, ids in self.connection.execute(schema.KNOWN)
            ]
            indexed = bytes.fromhex(self.connection.execute(schema.INDEXED).fetchone()[0] or "")
            # Two copies of each id, and no look at the rows: a hundredth of a full check's price.
            lost = sum(sum(array("Q", ids)) for _, ids in known) != sum(array("Q", indexed))
            lost = lost or any(len(ids) != 16 * count.items for count, ids in known)
        except (ValueError, LookupError):
            raise schema.damaged() from None
        if lost:
            raise schema.damaged()
        return known

    def refused(self) -> Iterator[RefusedRow]:
        """Yield the rows that this run did not send."""
        for (text,) in self.connection.execute(schema.ALL_INVALID):
            yield decode(text, RefusedRow)

    def counts(self) -> list[Count]:
        """Return how many items are in which state."""
        return [_count(*counted) for counted in self.connection.execute(schema.COUNTS)]

    def settled(self, item: Item, traces: Iterable[Trace] = ()) -> None:
        """Keep an item's end."""
        for statement in (statements.settled(item), *statements.sent(item, traces)):
            self.connection.execute(*statement)

    def sends(self) -> Iterator[tuple[bytes, Trace]]:
        """Yield each time that a body went out, with its item's id, in the order of the ends."""
        for identity, at, until, charge, *told in self.connection.execute(schema.SENDS):
            yield identity, Trace(at, until, CHARGES[charge], *told)

    def cleared(self, item: Item) -> None:
        """Keep a charge that is lower than it was thought."""
        self.connection.execute(*statements.cleared(item, 0))

    def decided(self, item: Item, at: float, decision: str) -> None:
        """Keep why an item was settled."""
        self.connection.execute(schema.EVIDENCE, (item.id, at, decision))

    def forget_refused(self) -> None:
        """Forget the rows that earlier runs did not send."""
        self.connection.execute(schema.FORGET_INVALID)

    def drop_unknown(self) -> None:
        """Give up every item that may have been charged and is not done."""
        self.connection.execute(schema.DROP)


def _count(state: str, charge: int, *sums: int) -> Count:
    return Count(State(state), CHARGES[charge], *sums)


@contextlib.contextmanager
def look(folder: Path) -> Iterator[JournalView]:
    """Open a folder's journal to read it here and now.

    Raises:
        HeldJournalError: If a batch runs there.
        ConfigurationError: If there is none, or it cannot be trusted.
    """
    if not (folder / schema.NAME).is_file():
        shown = printable(str(folder), 300)
        raise ConfigurationError(f"{shown} holds no batch; name the folder that a batch wrote.")
    if not os.access(folder / schema.NAME, os.W_OK):
        raise ConfigurationError(
            f"The journal in {printable(str(folder), 300)} is read-only, and to read it takes its "
            "lock; make it writable, or copy the folder and name the copy."
        )
    try:
        connection = schema.connect(folder)
    except sqlite3.Error as error:
        raise schema.explain(error, folder) from None
    try:
        yield SqliteView(connection)
    finally:
        schema.close(connection)


class SqliteJournal:
    """The open journal of one folder; every method but the constructor runs on one loop.

    Args:
        folder: The run's folder, which exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broken: ConfigurationError | None = None
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Job] = []
        self._queue: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def open(self, *, begin: bool = True) -> None:
        """Take the lock, check the file and make it ready.

        Args:
            begin: Whether something will be written; False to look only.

        Raises:
            ConfigurationError: If another process has it, or it cannot be trusted: a batch that
                does not know what it paid for must not buy.
        """
        # A daemon: a process that ends without aclose() must end, and the journal bears a kill.
        thread = threading.Thread(target=self._serve, name="imagen-journal", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            raise ConfigurationError("The journal needs a thread, and none can be had.") from None
        self._thread = thread
        try:
            await self._ask(schema.begin if begin else _look)
        except BaseException:
            await self._end()
            raise

    async def aclose(self) -> None:
        """Commit what waits, mark the journal as whole and release the lock."""
        await self._end()

    async def _end(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._hand_over()
            self._queue.put(None)
            with anyio.CancelScope(shield=True):
                await in_thread(thread.join)

    async def sending(
        self, item: Item, traces: Iterable[Trace] = (), *, images: int, resends: int
    ) -> None:
        """Keep that an attempt is about to be sent; see ``ports`` for every step."""
        step = statements.sending(item, images, resends)
        await self._write(item, *statements.sent(item, traces), step)

    async def returned(
        self, item: Item, traces: Iterable[Trace] = (), *, images: int, presumed: int
    ) -> None:
        """Keep that the attempt under way was free."""
        step = statements.returned(item, images, presumed)
        await self._write(item, step, *statements.sent(item, traces))

    async def received(self, item: Item, traces: Iterable[Trace] = (), *, excess: int) -> None:
        """Keep a paid answer whose images are elsewhere yet."""
        step = statements.received(item, excess)
        await self._write(item, step, *statements.sent(item, traces))

    async def settled(
        self, item: Item, traces: Iterable[Trace] = (), *, excess: int = 0, presumed: int = 0
    ) -> None:
        """Keep how an item stands as its call ends."""
        step = statements.settled(item, excess, presumed)
        await self._write(item, step, *statements.sent(item, traces))

    async def cleared(self, item: Item, *, presumed: int = 0) -> None:
        """Keep a charge that is lower than it was thought."""
        await self._write(item, statements.cleared(item, presumed))

    async def refused(self, row: RefusedRow) -> None:
        """Keep a row that is not sent."""
        await self._ask(((schema.INVALID, (encode(row),)),))

    async def call(self, work: Callable[[JournalView], _T]) -> _T:
        """Run a function in the journal's thread, after everything that was asked before it."""
        result: _T = await self._ask(lambda connection: work(SqliteView(connection)))
        return result

    def _write(self, item: Item, *work: Statement) -> asyncio.Future[Any]:
        return self._ask(work, item.id)

    def _ask(
        self,
        work: tuple[Statement, ...] | Callable[[sqlite3.Connection], Any],
        item: bytes | None = None,
    ) -> asyncio.Future[Any]:
        if self.broken is not None:
            raise self.broken
        if not self._waiting:
            # At the end of the loop's turn: to wake the thread costs more than to write a row.
            self._loop.call_soon(self._hand_over)
        job = _Job(work, self._loop.create_future(), item)
        self._waiting.append(job)
        return job.future

    def _hand_over(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._queue.put(waiting)

    def _serve(self) -> None:
        connection: sqlite3.Connection | None = None
        place = schema.place(self.folder)
        while (group := self._next()) is not None:
            if self.broken is not None:
                self._tell(group, self.broken)
                continue
            results: list[Any] | ConfigurationError
            try:
                if connection is None:
                    _close_again()
                    connection = schema.connect(self.folder)
                    place = schema.place(self.folder)
                results = _run(connection, group)
                # Looked at after the commit: what is told as kept lies where it will be sought.
                if schema.place(self.folder) != place:
                    results = self.broken = _moved(self.folder)
            except ConfigurationError as error:
                results = self.broken = error
            except sqlite3.Error as error:
                results = self.broken = schema.explain(error, self.folder)
            except Exception as error:  # noqa: BLE001 - callers of a dead thread wait for ever
                results = self.broken = ConfigurationError(
                    f"The journal failed: {type(error).__name__}."
                )
            self._tell(group, results)
        if connection is None:
            return
        try:
            schema.close(connection)
        except sqlite3.Error as error:
            self.broken = self.broken or schema.explain(error, self.folder)
            # Closing would delete the log, and the file does not say that nothing is missing; so
            # would the interpreter's end, if nothing referred to it.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
            _unclosed.append(connection)

    def _next(self) -> list[_Job] | None:
        """Return all that waits, at least one job; None at the end."""
        group = self._queue.get()
        with contextlib.suppress(queue.Empty):
            while group is not None:
                more = self._queue.get_nowait()
                if more is None:
                    self._queue.put(None)
                    break
                group += more
        return group

    def _tell(self, group: list[_Job], results: list[Any] | ConfigurationError) -> None:
        """Settle the futures of a whole group in one call to the loop."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_settle, group, results)


def _close_again() -> None:
    """Close what could not be closed: there may be room on the disk by now."""
    for _ in range(len(_unclosed)):
        connection = _unclosed.pop(0)
        try:
            schema.close(connection)
        except sqlite3.Error:
            _unclosed.append(connection)


def _moved(folder: Path) -> ConfigurationError:
    return ConfigurationError(
        f"The journal in {printable(str(folder), 300)} was moved, removed or replaced while the "
        "batch ran; put it back as it was, then run the same command again."
    )


def _look(_: sqlite3.Connection) -> None:
    """Do nothing: the file was opened and checked."""


def _settle(group: list[_Job], results: list[Any] | ConfigurationError) -> None:
    for place, job in enumerate(group):
        if job.future.done():
            continue
        if isinstance(results, list):
            if isinstance(results[place], BaseException):
                job.future.set_exception(results[place])
            else:
                job.future.set_result(results[place])
        else:
            job.future.set_exception(results)


def _run(connection: sqlite3.Connection, group: list[_Job]) -> list[Any]:
    """Run a group: its statements in one transaction, each function with no transaction open."""
    results: list[Any] = []
    writer = statements.Writer(connection)
    for job in group:
        if not callable(job.work):
            writer.add(job.item, job.work)
            results.append(None)
            continue
        writer.commit()
        try:
            results.append(job.work(connection))
        except (OSError, ConfigurationError) as error:
            results.append(error)
    writer.commit()
    return results
