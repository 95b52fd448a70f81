"""The lists beside the journal: what each item's rows say, and what a failing disk leaves."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.batch import lists, schema
from imagen_async.batch.accounting import ItemAccount, Tally
from imagen_async.batch.journal import SqliteView
from imagen_async.batch.prompts import read_source
from imagen_async.batch.records import (
    Count,
    Item,
    KeptAnswer,
    KeptError,
    KeptImage,
    RequestRow,
    decode,
    encode,
    unstructured,
)
from imagen_async.batch.recovery import Terms, begin, claim_folder
from imagen_async.batch.states import State
from imagen_async.errors import Charge, ConfigurationError
from imagen_async.wire.request import AspectRatio, GenerationRequest

ANY_TEXT = st.text(st.characters(), min_size=1).filter(lambda text: text.strip())


ROW = RequestRow(GenerationRequest("a"), "x")


def item(state: State, **fields: Any) -> Item:
    return Item(b"\0" * 16, 0, ROW, state, **fields)


def answer(*names: str) -> KeptAnswer:
    images = tuple(KeptImage(file_name=name) for name in names)
    return KeptAnswer(request_id="r", images=images)


def names(found: Item) -> list[str]:
    return [name for name, _ in lists.lines(found)]


def test_each_state_has_its_list() -> None:
    """Whole images are listed whatever became of their item."""
    assert names(item(State.NEW)) == names(item(State.SENDING)) == []
    assert names(item(State.DONE, answer=answer("1", "2"))) == [lists.METADATA] * 2
    assert names(item(State.FAILED)) == [lists.FAILED]
    assert names(item(State.UNKNOWN)) == names(item(State.DROPPED)) == [lists.UNKNOWN]
    assert names(item(State.RECEIVED, answer=answer("1"))) == [lists.METADATA, lists.UNKNOWN]


def test_a_row_of_doubt_says_the_worst_charge_and_the_key() -> None:
    """The item's charge wins over its last error's, and a crash has a reason too."""
    error = KeptError(type="RejectedError", charge=Charge.NO)
    told = item(State.UNKNOWN, charge=Charge.YES, error=error, idempotency_key="k")
    crashed = item(State.UNKNOWN, charge=Charge.MAYBE, idempotency_key="k")

    for found, charge in ((told, "yes"), (crashed, "maybe")):
        ((_, text),) = lists.lines(found)
        row = json.loads(text)
        assert row["error"]["charge"] == charge
        assert row["error"]["idempotency_key"] == "k"
        assert row["id"] == "x"
    assert row["error"]["message"]


@given(
    st.builds(
        GenerationRequest,
        ANY_TEXT,
        model=st.none() | ANY_TEXT,
        aspect_ratio=st.none() | st.sampled_from(AspectRatio),
        n=st.none() | st.integers(1, 9),
        extra=st.dictionaries(st.text(), st.none() | st.booleans() | st.text()),
    ),
    st.none() | st.text(),
)
def test_a_listed_row_is_the_same_request_again(
    request_: GenerationRequest, name: str | None
) -> None:
    """Any request survives the journal's text and a line of a list, lone surrogates included."""
    row = RequestRow(request_, name)
    text = encode(row)
    assert decode(text, RequestRow) == row

    written = lists.line(unstructured(row))
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    assert decode(written.decode(), RequestRow) == row


async def test_lines_are_added_after_a_half_one(tmp_path: Path) -> None:
    """What a dead run left half is ended, so that the next line is whole."""
    (tmp_path / lists.FAILED).write_bytes(b'{"prompt": "a"}\n{"pro')
    appender = lists.Appender(tmp_path)
    b, c, d = (lists.line({"prompt": prompt}) for prompt in "bcd")
    appender.add([(lists.FAILED, b)])
    appender.add([(lists.FAILED, c), (lists.UNKNOWN, d)])
    appender.close()

    assert [row.request and row.request.prompt for row in read_source(tmp_path / lists.FAILED)] == [
        "a",
        None,
        "b",
        "c",
    ]
    assert (tmp_path / lists.UNKNOWN).read_bytes() == b'{"prompt": "d"}\n'


async def test_a_list_that_cannot_be_written_is_noted(tmp_path: Path) -> None:
    """The run goes on: the journal has every row."""
    appender = lists.Appender(tmp_path / "gone")
    for _ in range(2):
        appender.add([(lists.FAILED, b"{}\n")])
        appender.flush()

    assert appender.problem is not None
    assert "gone" in appender.problem


def test_a_failed_rewrite_leaves_the_old_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each list is replaced in one step or not at all."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(schema.TABLES)
    journal = SqliteView(connection)
    lists.rewrite(journal, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    journal.settled(item(State.FAILED))

    def full(row: dict[str, Any]) -> bytes:
        raise OSError(28, "full")

    with monkeypatch.context() as patch:
        patch.setattr(lists, "line", full)
        with pytest.raises(OSError, match="full"):
            lists.rewrite(journal, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    lists.rewrite(journal, tmp_path)
    connection.close()
    assert (tmp_path / lists.FAILED).read_bytes().startswith(b'{"id": "x", "prompt": "a", "error"')


def test_a_folder_without_its_journal_is_refused(tmp_path: Path) -> None:
    """Images without a journal may have been paid for: nothing is begun there."""
    (tmp_path / "images").mkdir()

    with pytest.raises(ConfigurationError, match="without its journal"):
        claim_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "\xff"])
def test_a_run_file_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    """Its endpoint is not guessed."""
    (tmp_path / "run.json").write_text(text, "latin-1")

    connection = sqlite3.connect(":memory:")
    connection.executescript(schema.TABLES)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        begin(SqliteView(connection), tmp_path, Terms(endpoint="emulator"))
    connection.close()


def test_a_report_adds_up() -> None:
    """Every item is counted once, and doubts are split by charge."""
    tally = Tally(
        [
            Count(State.DONE, Charge.YES, 3, 4, 5, 2, 1, 5),
            Count(State.UNKNOWN, Charge.MAYBE, 2, 2, 2, 0, 0, 0),
            Count(State.RECEIVED, Charge.YES, 1, 1, 1, 0, 0, 1),
            Count(State.DROPPED, Charge.MAYBE, 1, 1, 1, 0, 0, 0),
            Count(State.FAILED, Charge.NO, 1, 1, 0, 1, 0, 0),
        ]
    )
    done = (State.DONE, Charge.YES)
    unknown = item(State.UNKNOWN, charge=Charge.MAYBE)
    ItemAccount(tally, item(State.NEW), known=False, listed=True, recount=False)
    account = ItemAccount(tally, unknown, known=True, listed=True, recount=False)
    account.moved(item(State.DONE, charge=Charge.YES))
    report = tally.report(
        Counter({done: 2, (State.RECEIVED, Charge.YES): 1}),
        0.5,
        bought_before=0,
        seconds=1.0,
        partial=False,
        stopped_by=None,
        problem=None,
    )

    assert (report.total, report.done, report.unknown, report.failed) == (5, 3, 1, 0)
    assert (report.dropped, report.pending, report.images, report.attempts) == (0, 1, 6, 9)
    assert (report.others, report.others_unknown, report.skipped) == (4, 1, 3)
    assert (report.charged_maybe, report.charged_yes) == (0, 1)
    assert (report.spent, report.cost, report.resent, report.ok) == (9, 4.5, 1, False)
    assert (report.presumed_free, report.presumed_free_cost) == (3, 1.5)
