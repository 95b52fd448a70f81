"""The journal's file: its tables, every statement, and what makes it trusted."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from typing import TYPE_CHECKING
from weakref import WeakSet

from imagen_async.errors import ConfigurationError
from imagen_async.storage import disk
from imagen_async.wire.text import printable

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from pathlib import Path

NAME = "journal.sqlite3"
LOG = f"{NAME}-wal"
OURS = frozenset(
    {"run.json", "images", "metadata.jsonl", "failed.jsonl", "unknown.jsonl", "report.json"}
)
"""What a folder holds beside its journal once a batch has begun in it."""
VERSION = 4
_FORMER = 3
"""The version before, whose rows had no columns of the user's own; else it is the same."""
APPLICATION = 0x696D6731
"""SQLite's application id of our files: the letters img1."""

TABLES = """
CREATE TABLE item (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    position INTEGER NOT NULL,
    row TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('new','sending','received','done','failed','unknown','dropped')),
    charge INTEGER NOT NULL CHECK (charge IN (0, 1, 2)),
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    sends INTEGER NOT NULL DEFAULT 0 CHECK (sends >= 0),
    spent INTEGER NOT NULL CHECK (spent >= 0),
    presumed INTEGER NOT NULL DEFAULT 0 CHECK (presumed >= 0),
    resends INTEGER NOT NULL CHECK (resends >= 0),
    images INTEGER NOT NULL DEFAULT 0 CHECK (images >= 0),
    idempotency_key TEXT,
    error TEXT,
    answer TEXT,
    sent_at REAL,
    cost INTEGER NOT NULL DEFAULT 0 CHECK (cost >= 0),
    cost_images INTEGER NOT NULL DEFAULT 0 CHECK (cost_images >= 0)
);
CREATE TABLE send (
    item BLOB NOT NULL CHECK (length(item) = 16),
    at REAL NOT NULL,
    until REAL NOT NULL CHECK (until >= at),
    charge INTEGER NOT NULL CHECK (charge IN (0, 1, 2)),
    status INTEGER,
    request_id TEXT
);
CREATE TABLE evidence (item BLOB NOT NULL, at REAL NOT NULL, decision TEXT NOT NULL);
CREATE TABLE invalid (row TEXT NOT NULL);
CREATE TABLE closed (
    whole INTEGER NOT NULL CHECK (whole IN (0, 1)),
    runs INTEGER NOT NULL CHECK (runs >= 0)
);
INSERT INTO closed VALUES (1, 0);
"""

_ITEM = (
    "id, position, row, state, charge, attempts, sends, spent, presumed, resends, images, "
    "idempotency_key, sent_at, cost, cost_images, error, answer"
)
FIND = f"SELECT {_ITEM} FROM item WHERE id = ?"  # noqa: S608 - a constant
RUNS = "SELECT runs FROM closed"
COUNT_RUN = "UPDATE closed SET runs = runs + 1"
INDEXED = "SELECT group_concat(hex(id), '') FROM item INDEXED BY sqlite_autoindex_item_1"
ITEMS = f"SELECT {_ITEM} FROM item WHERE state IN ({{}}) ORDER BY number"  # noqa: S608
IDS = "SELECT id FROM item WHERE state = ?"
_COUNTED = (
    "state, charge, count(*), sum(attempts), sum(spent), sum(presumed), sum(resends), sum(images), "
    "sum(cost), sum(cost_images)"
)
COUNTS = f"SELECT {_COUNTED} FROM item GROUP BY state, charge"  # noqa: S608 - a constant
KNOWN = (
    f"SELECT {_COUNTED}, group_concat(hex(id), '') "  # noqa: S608 - a constant
    "FROM item NOT INDEXED GROUP BY state, charge"
)

# Plain placeholders, each named once: Python 3.12.0 to 3.12.3 warns of numbered ones.
SENDING = """
INSERT INTO item
    (id, position, row, state, charge, attempts, sends, spent, resends, idempotency_key, sent_at)
VALUES (?, ?, ?, 'sending', ?, 1, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    position = excluded.position, row = excluded.row, state = 'sending',
    charge = max(charge, excluded.charge), attempts = attempts + 1, sends = excluded.sends,
    spent = spent + excluded.spent, resends = resends + excluded.resends,
    idempotency_key = excluded.idempotency_key, sent_at = excluded.sent_at, error = NULL
"""
RETURNED = """
UPDATE item SET
    state = CASE WHEN max(charge, ?) = 0 THEN 'new' ELSE 'unknown' END,
    charge = max(charge, ?), sends = ?, spent = max(0, spent - ?), presumed = presumed + ?
WHERE id = ?
"""
RECEIVED = """
UPDATE item SET
    state = 'received', charge = 2, spent = spent + ?, cost = ?, cost_images = ?, answer = ?
WHERE id = ?
"""
SETTLED = """
INSERT INTO item
    (id, position, row, state, charge, attempts, sends, spent, presumed, resends, images, cost,
    cost_images, error, answer)
VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?, 0, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    state = excluded.state, charge = max(charge, excluded.charge), sends = excluded.sends,
    spent = CASE WHEN max(charge, excluded.charge) = 0 THEN 0 ELSE spent + excluded.spent END,
    presumed = presumed + excluded.presumed, images = excluded.images, cost = excluded.cost,
    cost_images = excluded.cost_images, error = excluded.error,
    answer = coalesce(excluded.answer, answer)
"""
# The one statement by which a charge sinks: what it was is proven.
CLEARED = """
UPDATE item SET
    state = ?, charge = ?, sends = ?, spent = CASE WHEN ? = 0 THEN 0 ELSE spent END,
    presumed = presumed + ?, error = ?
WHERE id = ?
"""
SEND = "INSERT INTO send VALUES (?, ?, ?, ?, ?, ?)"
SENDS = "SELECT item, at, until, charge, status, request_id FROM send ORDER BY rowid"
EVIDENCE = "INSERT INTO evidence VALUES (?, ?, ?)"
_UNDER_WAY = "UPDATE closed SET whole = 0"
DROP = "UPDATE item SET state = 'dropped' WHERE state = 'unknown'"
INVALID = "INSERT INTO invalid VALUES (?)"
FORGET_INVALID = "DELETE FROM invalid"
ALL_INVALID = "SELECT row FROM invalid ORDER BY rowid"

_ADVICE = {
    sqlite3.SQLITE_BUSY: "another process runs this batch; wait for it or stop it.",
    sqlite3.SQLITE_LOCKED: "another process runs this batch; wait for it or stop it.",
    sqlite3.SQLITE_FULL: "the disk is full; make room and run the same command again.",
    sqlite3.SQLITE_IOERR: "the disk failed; see the system's log, then run the same command again.",
    sqlite3.SQLITE_READONLY: "it is read-only; make it writable, or choose another folder.",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; look at the folder's permissions.",
    sqlite3.SQLITE_PERM: "it cannot be opened; look at the folder's permissions.",
    sqlite3.SQLITE_PROTOCOL: "the file system cannot lock files; choose a folder on a local disk.",
    sqlite3.SQLITE_NOLFS: "the file system cannot hold it; choose a folder on a local disk.",
}
_DAMAGED = (
    "it is damaged, so what was paid for is not known; restore it from a backup, or choose another "
    "folder and take out of the input what images/ already holds."
)


class HeldJournalError(ConfigurationError):
    """Another process runs the batch."""


class _Connection(sqlite3.Connection):
    """A connection that holds the folder too.

    SQLite's locks end unseen when anything in this process closes the journal's file: a thread that
    copies the folder, say. One of a descriptor ends with that alone.
    """

    folder: int | None = None

    def close(self) -> None:
        super().close()
        self.let_go()

    def let_go(self) -> None:
        folder, self.folder = self.folder, None
        if folder is not None:
            os.close(folder)


_connections: WeakSet[_Connection] = WeakSet()


def _let_go_all() -> None:
    for connection in _connections:
        connection.let_go()


if hasattr(os, "register_at_fork"):
    # Else a child would hold the folder for as long as it lives.
    os.register_at_fork(after_in_child=_let_go_all)


def connect(folder: Path) -> sqlite3.Connection:
    """Open the journal of a folder, made if there is none, and hold its lock.

    Raises:
        ConfigurationError: If it is of a newer version, is damaged, or has lost commits.
        sqlite3.Error: If SQLite cannot open it; ``explain`` says what to do.
    """
    path = folder / NAME
    fresh = _make(folder, path)
    log = folder / LOG
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=0, check_same_thread=False, factory=_Connection
    )
    try:
        # Before SQLite reads anything: it would fold in and delete the log of who has the folder.
        connection.folder = _hold(folder)
        _connections.add(connection)
        logged = log.exists() and log.stat().st_size > 0
        _lock(connection)
        if fresh or not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            _create(connection, folder)
        _check(connection, log, logged=logged)
    except BaseException:
        connection.close()
        raise
    return connection


def begin(connection: sqlite3.Connection) -> None:
    """Note that commits will come."""
    # In the file itself, not only in its log: a log that is then lost is missed.
    # Its version, too: rows of an older one may have columns from now on.
    connection.executescript(f"BEGIN; {_UNDER_WAY}; PRAGMA user_version = {VERSION}; COMMIT;")
    connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()


def close(connection: sqlite3.Connection) -> None:
    """Note that nothing is missing, fold the log into the file and release the lock.

    A file that was moved away is left with its log as it is, which SQLite sees to.
    """
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    connection.execute("UPDATE closed SET whole = 1")
    connection.close()


def place(folder: Path) -> tuple[tuple[int, int] | None, ...]:
    """Return which files the journal and its log are; both are the same to the end of a run."""
    return _file(folder / NAME), _file(folder / LOG)


def damaged() -> ConfigurationError:
    """Return the error for a journal that does not know what was paid for."""
    return ConfigurationError(f"{NAME} cannot be used: {_DAMAGED}")


def explain(error: sqlite3.Error, folder: Path) -> ConfigurationError:
    """Return our error for one of SQLite's: what to do, without its parameters."""
    return _error(getattr(error, "sqlite_errorcode", 0) & 0xFF, folder)  # the rest is detail


def _error(code: int, folder: Path) -> ConfigurationError:
    held = code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    advice = _ADVICE.get(code, _DAMAGED)
    return (HeldJournalError if held else ConfigurationError)(
        f"The journal {printable(str(folder / NAME))} cannot be used: {advice}"
    )


def _make(folder: Path, path: Path) -> bool:
    """Create an empty file that others cannot read; return whether there was nothing."""
    # Before SQLite opens it: closing any descriptor of the file later would drop its lock.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return path.stat().st_size == 0
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(
            f"{printable(str(folder))} cannot hold a batch: {reason}; choose another folder."
        ) from None
    disk.sync_folder(folder)
    return True


def _hold(folder: Path) -> int | None:
    """Return a descriptor that locks a folder until it is closed, None if that cannot be had."""
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise _error(sqlite3.SQLITE_BUSY, folder) from None
        return None  # some network disks lock no folders
    return descriptor


def _lock(connection: sqlite3.Connection) -> None:
    # First, before anything is read: SQLite then keeps the lock and needs no shared memory.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = TRUNCATE").fetchall()
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = 1")
    connection.execute("PRAGMA checkpoint_fullfsync = 1")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("COMMIT")


def _create(connection: sqlite3.Connection, folder: Path) -> None:
    if OURS.intersection(path.name for path in folder.iterdir()):
        raise ConfigurationError(f"The journal in {printable(str(folder))} is empty: {_DAMAGED}")
    connection.executescript(
        f"BEGIN; {TABLES} PRAGMA application_id = {APPLICATION}; "
        f"PRAGMA user_version = {VERSION}; COMMIT;"
    )


def _check(connection: sqlite3.Connection, log: Path, *, logged: bool) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application == APPLICATION and version > VERSION:
        raise ConfigurationError(
            f"The journal has version {version} and this package knows {VERSION}; "
            "upgrade imagen-async."
        )
    if application != APPLICATION or version not in (_FORMER, VERSION):
        raise ConfigurationError(f"{NAME} is not a journal of this package; choose another folder.")
    whole = connection.execute("SELECT whole FROM closed").fetchone() == (1,)
    trusted = whole and not logged
    # The full check looks up every row in the index, and weighs every value: half a minute for a
    # million items. Of a journal that was closed, the values are looked at as they are read.
    connection.execute(f"PRAGMA ignore_check_constraints = {trusted:d}")
    depth = "quick_check" if trusted else "integrity_check"
    if connection.execute(f"PRAGMA {depth}(1)").fetchone()[0] != "ok":
        raise damaged()
    connection.execute("PRAGMA ignore_check_constraints = 0")
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if whole or mode != "wal":
        return
    (_, frames, _) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if not frames and not _restarted(log):
        raise ConfigurationError(f"{LOG} has lost the last commits: {_DAMAGED}")


def _restarted(log: Path) -> bool:
    """Return whether a log without a commit lost none: it was just being begun again.

    SQLite does that when the file has all of it: it writes a header whose salt is one more than
    that of the old frames, syncs, and only then writes the first frame over them.
    """
    head = b""
    with contextlib.suppress(OSError), log.open("rb") as file:
        head = file.read(44)
    if len(head) < 44:
        return False
    salt, older = (int.from_bytes(head[at : at + 4], "big") for at in (16, 40))
    return salt == (older + 1) % 2**32


def _file(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
