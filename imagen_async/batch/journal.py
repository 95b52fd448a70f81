"""The journal: what was sent, what was paid and what is here, on disk before it is acted on.

One SQLite file, one connection and one thread: whatever waits is committed together, so that
an fsync is shared by all that are in flight. The file's exclusive lock is held from the
opening to the close, which is how a second process is kept out.

States::

    new -> sending -> new | received | done | failed | unknown
                            received -> done
                                        unknown -> sending | dropped
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import queue
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import attrs

from imagen_async.batch import schema
from imagen_async.errors import Charge, ConfigurationError
from imagen_async.storage.offload import in_thread
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_T = TypeVar("_T")
_unclosed: list[sqlite3.Connection] = []


class State(enum.StrEnum):
    """Where an item stands."""

    NEW = "new"
    SENDING = "sending"
    RECEIVED = "received"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    DROPPED = "dropped"


@attrs.frozen
class Item:
    """One row of the journal.

    Args:
        id: 16 bytes: what the row asks for and its number among equal rows.
        position: Where it stood in the input when it was last sent, from 0.
        row: JSON of the user's id and the request: a row that can be an input again.
        state: Where it stands.
        charge: The worst over all its attempts in all runs.
        attempts: How many HTTP exchanges were begun for it.
        sends: How often its body went out and was answered by neither a 429 nor the API's own
            refusal, since its count began.
        spent: How many images may have been charged for it.
        presumed: How many images those sends asked for that were taken as free.
        resends: How often it was sent again although it may have been charged.
        images: How many files of it are here.
        idempotency_key: What its last attempts carried.
        error: JSON of the last error.
        answer: JSON of what came: request id, time, links or files.
    """

    id: bytes
    position: int
    row: str
    state: State = attrs.field(default=State.NEW, converter=State)
    charge: Charge = attrs.field(default=Charge.NO, converter=Charge)
    attempts: int = 0
    sends: int = 0
    spent: int = 0
    presumed: int = 0
    resends: int = 0
    images: int = 0
    idempotency_key: str | None = None
    error: str | None = None
    answer: str | None = None


@attrs.frozen
class Count:
    """How many items are in one state with one charge, and sums over them."""

    state: State = attrs.field(converter=State)
    charge: Charge = attrs.field(converter=Charge)
    items: int
    attempts: int
    spent: int
    presumed: int
    resends: int
    images: int


class _Job:
    """A statement for the next commit, or a function that has the connection to itself."""

    __slots__ = ("future", "parameters", "work")

    def __init__(self, work: str | Callable[[sqlite3.Connection], Any], *parameters: Any) -> None:
        self.work = work
        self.parameters = parameters
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class Journal:
    """The open journal of one folder; every method but the constructor runs on one loop.

    Args:
        folder: The run's folder, which exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broken: ConfigurationError | None = None
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
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
            await self.call(schema.begin if begin else _look)
        except BaseException:
            await self._end()
            raise

    async def aclose(self) -> None:
        """Commit what waits, mark the journal as whole and release the lock."""
        await self._end()

    async def _end(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            with anyio.CancelScope(shield=True):
                await in_thread(thread.join)

    async def write(self, statement: str, *parameters: Any) -> None:
        """Commit one statement together with whatever else waits.

        Raises:
            ConfigurationError: If the journal cannot be written; nothing more will be.
        """
        await self._ask(statement, *parameters)

    async def call(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a function in the journal's thread, after everything that was asked before it."""
        result: _T = await self._ask(work)
        return result

    async def find(self, identity: bytes) -> Item | None:
        """Return an item, or None."""

        def read(connection: sqlite3.Connection) -> Item | None:
            row = connection.execute(schema.FIND, (identity,)).fetchone()
            return None if row is None else Item(*row)

        return await self.call(read)

    async def counts(self) -> list[Count]:
        """Return how many items are in which state."""
        return await self.call(
            lambda connection: [Count(*row) for row in connection.execute(schema.COUNTS)]
        )

    def _ask(
        self, work: str | Callable[[sqlite3.Connection], Any], *parameters: Any
    ) -> asyncio.Future[Any]:
        if self.broken is not None:
            raise self.broken
        job = _Job(work, *parameters)
        self._queue.put(job)
        return job.future

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
            # Closing would delete the log, and the file does not say that nothing is missing.
            _unclosed.append(connection)

    def _next(self) -> list[_Job] | None:
        """Return all that waits, at least one job; None at the end."""
        job = self._queue.get()
        group: list[_Job] = []
        while job is not None:
            group.append(job)
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return group
        if group:
            self._queue.put(None)
            return group
        return None

    def _tell(self, group: list[_Job], results: list[Any] | ConfigurationError) -> None:
        """Settle the futures of a whole group in one call to the loop."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_settle, group, results)


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
    for job in group:
        if isinstance(job.work, str):
            if not connection.in_transaction:
                connection.execute("BEGIN IMMEDIATE")
            connection.execute(job.work, job.parameters)
            results.append(None)
            continue
        if connection.in_transaction:
            connection.execute("COMMIT")
        try:
            results.append(job.work(connection))
        except (OSError, ConfigurationError) as error:
            results.append(error)
    if connection.in_transaction:
        connection.execute("COMMIT")
    return results


def items(connection: sqlite3.Connection, states: Iterable[State]) -> Iterator[Item]:
    """Yield the items in these states in the order in which they were first sent, one at a time."""
    values = tuple(str(state) for state in states)
    places = ", ".join("?" * len(values))
    for row in connection.execute(schema.ITEMS.format(places), values):
        yield Item(*row)


def ids(connection: sqlite3.Connection, state: State) -> Iterator[bytes]:
    """Yield the ids of the items in a state."""
    for row in connection.execute(schema.IDS, (str(state),)):
        yield row[0]
