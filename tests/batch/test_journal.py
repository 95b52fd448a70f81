"""The journal: what it keeps, what it shares a commit for, and which files it does not trust."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sqlite3
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagen_async.batch import schema, statements
from imagen_async.batch.identity import DuplicateCounter, IdSet, body_digest, item_id, short
from imagen_async.batch.journal import SqliteJournal, SqliteView
from imagen_async.batch.records import Item, KeptAnswer, RequestRow
from imagen_async.batch.states import TRANSITIONS, Event, State, after
from imagen_async.errors import CHARGES, Charge, ConfigurationError
from imagen_async.wire.request import GenerationRequest

KEYS = st.binary(min_size=16, max_size=16)


def item(number: int, state: State = State.NEW, charge: int = 0, **fields: Any) -> Item:
    key = bytes([number]) * 16
    fields = {"sends": 1, "idempotency_key": f"key {number}", **fields}
    return Item(
        key, number, RequestRow(GenerationRequest("a")), state, CHARGES[int(charge)], **fields
    )


async def pragma(journal: SqliteJournal, text: str) -> Any:
    return await journal.call(lambda view: view.connection.execute(f"PRAGMA {text}").fetchall())


async def find(journal: SqliteJournal, identity: bytes) -> Item | None:
    return await journal.call(lambda view: view.find(identity))


async def sent(journal: SqliteJournal, number: int, **fields: Any) -> None:
    await journal.sending(item(number, **fields), images=1, resends=0)


async def opened(folder: Path) -> SqliteJournal:
    journal = SqliteJournal(folder)
    await journal.open()
    return journal


async def test_steps_are_kept_and_counted(tmp_path: Path) -> None:
    """Attempts, charges and images of an item are those of all its steps."""
    journal = await opened(tmp_path)
    await sent(journal, 1)
    await journal.returned(item(1), images=1, presumed=1)
    found = await find(journal, b"\1" * 16)
    assert found is not None
    assert (found.state, found.spent, found.attempts) == (State.NEW, 0, 1)
    assert (found.sends, found.presumed) == (1, 1)

    await sent(journal, 1)
    await journal.settled(item(1, State.DONE, 2, images=1))
    await sent(journal, 2)
    await journal.settled(item(2, State.FAILED, 0))
    await journal.aclose()

    journal = await opened(tmp_path)
    found = await find(journal, b"\1" * 16)
    assert found is not None
    assert (found.state, found.charge, found.attempts, found.spent) == (
        State.DONE,
        Charge.YES,
        2,
        1,
    )
    assert found.idempotency_key == "key 1"
    counts = {count.state: count for count in await journal.call(SqliteView.counts)}
    assert (counts[State.DONE].images, counts[State.FAILED].spent) == (1, 0)
    assert await find(journal, b"\3" * 16) is None
    await journal.aclose()


async def test_a_charge_never_sinks(tmp_path: Path) -> None:
    """An attempt that cost nothing leaves an item that may have cost as unknown."""
    journal = await opened(tmp_path)
    await sent(journal, 1, charge=1)
    await journal.returned(item(1), images=1, presumed=0)
    found = await find(journal, b"\1" * 16)
    assert found is not None
    assert (found.state, found.charge) == (State.UNKNOWN, Charge.MAYBE)

    await journal.settled(item(1, State.UNKNOWN, 0))
    found = await find(journal, b"\1" * 16)
    assert found is not None
    assert found.charge is Charge.MAYBE
    await journal.aclose()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["sending", "returned", "received", "done", "failed", "unknown"]),
            st.integers(1, 3),
            st.integers(0, 2),
        ),
        max_size=20,
    )
)
def test_any_steps_keep_the_worst_charge_and_count_every_attempt(
    tmp_path: Path, steps: list[tuple[str, int, int]]
) -> None:
    """Whatever the order of steps, charges only rise and attempts add up."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(schema.TABLES)
    worst, attempts = {1: 0, 2: 0, 3: 0}, {1: 0, 2: 0, 3: 0}
    known = set()
    for step, number, charge in steps:
        at = item(number, charge=charge, answer=KeptAnswer())
        if step == "sending":
            statement = statements.sending(at, 1, 0)
            attempts[number] += 1
            known.add(number)
        elif step == "returned":
            statement, charge = (
                statements.returned(at, 1, 0),
                charge if number in known else 0,
            )
        elif step == "received":
            statement, charge = statements.received(at, 0), 2 if number in known else 0
        else:
            statement = statements.settled(attrs.evolve(at, state=State(step)))
            known.add(number)
        connection.execute(*statement)
        worst[number] = max(worst[number], charge)

    found = list(SqliteView(connection).items())
    connection.close()
    assert {item.position for item in found} == known
    assert all(int(item.charge) == worst[item.position] for item in found)
    assert all(item.attempts == attempts[item.position] for item in found)
    assert all(item.spent >= 0 for item in found)
    assert not [item for item in found if item.state is State.NEW and int(item.charge)]


STEPS = {
    Event.SENDING: lambda at: statements.sending(at, 1, 0),
    Event.RETURNED: lambda at: statements.returned(at, 1, 0),
    Event.RECEIVED: lambda at: statements.received(at, 0),
    Event.REORDERED: lambda at: ("SELECT 1", ()),  # only the sending that follows is kept
}


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("charge", Charge)
def test_the_statements_agree_with_the_table(state: State, event: Event, charge: Charge) -> None:
    """Driven with every state, event and charge, SQL leaves what the table says."""
    before = item(1, state, charge, answer=KeptAnswer())
    if (state, event, charge) not in TRANSITIONS:
        with pytest.raises(KeyError):
            after(state, event, charge)
        return
    moved = attrs.evolve(before, state=after(state, event, charge))
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(schema.TABLES)
        view = SqliteView(connection)
        view.settled(before)
        # What an event brings is told to the statement; where it leads is left to SQL, if it can.
        told = moved if event not in STEPS else before
        connection.execute(*STEPS.get(event, statements.settled)(told))
        found = view.find(before.id)
        if event is Event.DROPPED and state is State.UNKNOWN:
            view.settled(before)
            connection.execute(schema.DROP)
            assert view.find(before.id) == found
    assert found is not None
    if event is not Event.REORDERED:
        assert found.state is moved.state
    assert found.charge >= charge
    assert found.state is not State.NEW or found.charge is Charge.NO


def test_the_end_of_every_item_is_final_or_leads_on() -> None:
    """What is done or given up is never touched again, and no paid item counts as free."""
    moves = {(state, to) for (state, _, charge), to in TRANSITIONS.items()}
    assert not [move for move in moves if move[0] in (State.DONE, State.DROPPED)]
    charged = {to for (_, _, charge), to in TRANSITIONS.items() if charge is not Charge.NO}
    assert charged.isdisjoint({State.NEW, State.FAILED})


async def test_what_waits_is_committed_together(tmp_path: Path) -> None:
    """A hundred writes at once take far fewer commits, and all of them hold."""
    journal = await opened(tmp_path)
    traced: list[str] = []
    await journal.call(lambda view: view.connection.set_trace_callback(traced.append))
    await asyncio.gather(*(sent(journal, number) for number in range(100)))
    await journal.call(lambda view: view.connection.set_trace_callback(None))

    assert sum(text == "COMMIT" for text in traced) < 50
    assert sum(count.items for count in await journal.call(SqliteView.counts)) == 100
    await journal.aclose()


async def test_a_cancelled_writer_does_not_disturb_the_others(tmp_path: Path) -> None:
    """Its write may hold or not; those beside it are told of theirs."""
    journal = await opened(tmp_path)
    tasks = [asyncio.create_task(sent(journal, number)) for number in range(10)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(result) for result in results].count(asyncio.CancelledError) == 1
    assert results.count(None) == 9
    await journal.aclose()


async def test_a_full_disk_fails_every_writer_and_all_after(tmp_path: Path) -> None:
    """The error says what to do, nothing is half committed, and the next open works."""
    journal = await opened(tmp_path)
    await sent(journal, 1)
    pages = await journal.call(
        lambda view: view.connection.execute("PRAGMA page_count").fetchone()[0]
    )
    await journal.call(
        lambda view: view.connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()
    )
    with pytest.raises(ConfigurationError, match="disk is full"):
        await sent(journal, 2, idempotency_key="x" * 100_000)
    with pytest.raises(ConfigurationError, match="disk is full"):
        await sent(journal, 3)
    await journal.aclose()

    journal = await opened(tmp_path)
    assert [count.items for count in await journal.call(SqliteView.counts)] == [1]
    await journal.aclose()


async def test_a_second_one_is_refused(tmp_path: Path) -> None:
    """One folder has one writer, and the lock goes with it."""
    journal = await opened(tmp_path)
    with pytest.raises(ConfigurationError, match="another process"):
        await opened(tmp_path)
    await sent(journal, 1)
    await journal.aclose()
    await (await opened(tmp_path)).aclose()


async def test_a_copy_made_beside_a_run_frees_no_lock(tmp_path: Path) -> None:
    """Whoever closes the journal's file in this process ends SQLite's lock; ours holds."""
    journal = await opened(tmp_path)
    await sent(journal, 1)
    (tmp_path / schema.NAME).read_bytes()
    other = f"""
from pathlib import Path
from imagen_async.batch.journal import look
with look(Path({str(tmp_path)!r})):
    print("in")
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", other, stdout=-1, stderr=-1
    )
    out, errors = await process.communicate()
    assert out == b""
    assert b"another process runs this batch" in errors
    await sent(journal, 2)
    await journal.aclose()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
async def test_a_forked_child_holds_no_folder(tmp_path: Path) -> None:
    """A worker that outlives the run keeps nobody out."""
    journal = await opened(tmp_path)
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        ours.close()
        theirs.send(b"it runs")
        theirs.recv(1)
        os._exit(0)
    theirs.close()
    try:
        ours.recv(7)
        await journal.aclose()
        await (await opened(tmp_path)).aclose()
    finally:
        ours.close()
        os.waitpid(child, 0)


FULL_AT_THE_END = """
import asyncio, sqlite3, sys
from pathlib import Path
from imagen_async.batch import schema
from tests.batch.test_journal import opened, sent

async def main():
    journal = await opened(Path(sys.argv[1]))
    await sent(journal, 1)
    def full(connection):
        raise sqlite3.OperationalError("disk is full")
    schema.close = full
    await journal.aclose()

asyncio.run(main())
"""


async def test_a_journal_that_cannot_be_closed_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once there is room it does so in the same process, and after its end in another."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    full = sqlite3.OperationalError("disk is full")
    journal = await opened(here)
    await sent(journal, 1)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "close", Mock(side_effect=full))
        await journal.aclose()
    assert journal.broken is not None
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FULL_AT_THE_END, str(there)
    )
    assert await process.wait() == 0

    for folder in (here, there):
        journal = await opened(folder)
        assert [count.items for count in await journal.call(SqliteView.counts)] == [1]
        await journal.aclose()


async def test_looking_changes_nothing(tmp_path: Path) -> None:
    """A journal that was only looked at is the same bytes."""
    path = await filled(tmp_path)
    before = path.read_bytes()
    journal = SqliteJournal(tmp_path)
    await journal.open(begin=False)
    assert sum(count.items for count in await journal.call(SqliteView.counts)) == 60
    await journal.aclose()

    assert path.read_bytes()[100:] == before[100:]


async def filled(folder: Path) -> Path:
    """Return the path of a closed journal of some pages."""
    journal = await opened(folder)
    await asyncio.gather(*(sent(journal, number) for number in range(60)))
    await asyncio.gather(*(journal.settled(item(number, State.DONE, 2)) for number in range(60)))
    await journal.aclose()
    (folder / "run.json").write_text("{}")
    return folder / schema.NAME


async def assert_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await opened(folder)
    assert len(str(caught.value)) > 40
    assert "\n" not in str(caught.value)


async def test_a_truncated_journal_is_refused(tmp_path: Path) -> None:
    """Cut at any of many places, down to nothing, it is never taken for a fresh one."""
    path = await filled(tmp_path)
    whole = path.read_bytes()
    for size in [*range(0, 120, 7), *range(120, len(whole), 509), len(whole) - 1]:
        path.write_bytes(whole[:size])
        await assert_refused(tmp_path)


async def test_a_flipped_page_is_refused_or_harmless(tmp_path: Path) -> None:
    """Damage is seen, but for a flipped bit of a value: that can change one item, and no more."""
    path = await filled(tmp_path)
    whole = path.read_bytes()
    refused = 0
    for place in range(100, len(whole), 61):
        damaged = bytearray(whole)
        damaged[place] ^= 0x15
        path.write_bytes(damaged)
        journal = SqliteJournal(tmp_path)
        try:
            await journal.open()
            counted = {count.state: count.items for count in await journal.call(SqliteView.counts)}
            ids = {item.id for item in await journal.call(lambda view: list(view.items()))}
        except ConfigurationError:
            refused += 1
            continue
        finally:
            await journal.aclose()
        assert counted == {State.DONE: 60}
        assert len(ids & {bytes([number]) * 16 for number in range(60)}) >= 59
    assert refused > 0


async def test_files_that_are_no_journal_are_refused(tmp_path: Path) -> None:
    """Text, another database, and a newer version are each told apart from a new folder."""
    path = tmp_path / schema.NAME
    path.write_text("a shopping list, long enough to be a header of a file of some other kind " * 9)
    await assert_refused(tmp_path)

    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    await assert_refused(tmp_path)

    path.unlink()
    (tmp_path / "newer").mkdir()
    await filled(tmp_path / "newer")
    with sqlite3.connect(tmp_path / "newer" / schema.NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigurationError, match="upgrade"):
        await opened(tmp_path / "newer")


async def test_a_lost_log_is_missed(tmp_path: Path) -> None:
    """A copy without the log of a run that was cut off is refused; with it, nothing is lost."""
    journal = await opened(tmp_path)
    await sent(journal, 1)
    copy, bare = tmp_path / "copy", tmp_path / "bare"
    for folder in (copy, bare):
        folder.mkdir()
        shutil.copy(tmp_path / schema.NAME, folder)
    shutil.copy(tmp_path / f"{schema.NAME}-wal", copy)
    await journal.aclose()

    await assert_refused(bare)
    journal = await opened(copy)
    found = await find(journal, b"\1" * 16)
    assert found is not None
    assert found.state is State.SENDING
    await journal.aclose()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
async def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    """It says that the folder cannot hold a batch."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigurationError, match="cannot hold"):
            await opened(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_identity_is_what_is_asked() -> None:
    """Every field but the delivery and n=1 is part of it, and so is the number among equals."""
    base = GenerationRequest("a", model="m")
    same = GenerationRequest(" a ", model="m", response_format="url", n=1)
    others = [
        GenerationRequest("b", model="m"),
        GenerationRequest("a", model="n"),
        GenerationRequest("a", model="m", aspect_ratio="1:1"),
        GenerationRequest("a", model="m", n=2),
        GenerationRequest("a", model="m", extra={"seed": 1}),
    ]

    assert body_digest(base) == body_digest(same)
    assert len({body_digest(request) for request in (base, *others)}) == 6
    assert item_id(body_digest(base), 1) != item_id(body_digest(base), 2)


@given(st.lists(st.sampled_from([b"a" * 16, b"b" * 16, b"c" * 16])), st.randoms())
def test_a_census_does_not_depend_on_order(digests: list[bytes], random: Any) -> None:
    """The same rows in any order are the same items, each once."""
    shuffled = list(digests)
    random.shuffle(shuffled)
    first, second = DuplicateCounter(), DuplicateCounter()
    ids = {first.enter(digest) for digest in digests}

    assert ids == {second.enter(digest) for digest in shuffled}
    assert len(ids) == len(digests)


@given(st.sets(KEYS), st.sets(KEYS))
def test_an_id_set_holds_what_it_was_given(inside: set[bytes], outside: set[bytes]) -> None:
    """It agrees with a set, and knows the digits that files are named by."""
    ids = IdSet(map(short, inside))

    assert all(short(key) in ids for key in inside)
    halves = {key[:8] for key in inside}
    assert not any(short(key) in ids for key in outside if key[:8] not in halves)
    assert all(ids.has_name(key.hex()[:12]) for key in inside)
    names = {key[:6] for key in inside}
    assert not any(ids.has_name(key.hex()[:12]) for key in outside if key[:6] not in names)
    assert len(ids) == len(inside)


@given(st.lists(st.tuples(st.sampled_from(["sending", "returned", "done"]), st.integers(1, 40))))
def test_what_is_written_together_is_what_is_written_one_by_one(
    steps: list[tuple[str, int]],
) -> None:
    """Alike rows go as one statement, and leave what the same steps in their order leave."""
    make = {
        "sending": lambda at: statements.sending(at, 1, 0),
        "returned": lambda at: statements.returned(at, 1, 0),
        "done": lambda at: statements.settled(attrs.evolve(at, state=State.DONE)),
    }
    kept: list[list[Item]] = []
    for together in (False, True):
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.executescript(schema.TABLES)
            writer = statements.Writer(connection)
            for step, number in steps:
                at = item(number)
                writer.add(at.id, [make[step](at)])
                if not together:
                    writer.commit()
            writer.commit()
            kept.append(sorted(SqliteView(connection).items(), key=lambda each: each.id))
    assert kept[0] == kept[1]


@pytest.mark.parametrize("harm", ["state = 'gone'", "charge = 7", "charge = -1", "id = x'00'"])
def test_a_value_that_no_item_has_is_refused_when_the_items_are_read(harm: str) -> None:
    """A journal that was closed as whole is opened by its structure; its values are seen here."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(schema.TABLES)
        view = SqliteView(connection)
        view.settled(item(1, State.DONE, charge=2))
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute(f"UPDATE item SET {harm}")
        with pytest.raises(ConfigurationError, match="damaged"):
            view.known()
