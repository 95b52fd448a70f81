"""The pure parts: exit codes, progress in words, the summary, the count of rows."""

from __future__ import annotations

import gzip
import io
import sys
import unicodedata
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async import errors
from imagen_async.batch.plan import Plan
from imagen_async.batch.prompts import count_rows, read_source
from imagen_async.batch.report import Report
from imagen_async.cli.console import note, prepare, result
from imagen_async.cli.exits import error_line, exit_code
from imagen_async.cli.progress import Lines, Rate, Snapshot, duration, open_progress
from imagen_async.cli.summary import plan_lines, summary_lines

CODES = {
    errors.ImagenError: 1,
    errors.ConfigurationError: 2,
    errors.ForkedClientError: 2,
    errors.InvalidRequestError: 2,
    errors.QuotaError: 4,
    errors.RejectedError: 4,
    errors.ServerFailedError: 5,
    errors.SpoiledAnswerError: 5,
    errors.DownloadError: 5,
    errors.ExpiredUrlError: 5,
    errors.NotSentError: 6,
    errors.RefusedError: 6,
    errors.OutcomeUnknownError: 6,
    errors.SaveError: 1,
}


def every_error() -> list[type[errors.ImagenError]]:
    found = [errors.ImagenError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return found


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_its_exit_code(kind):
    """No error of the package is without a code of its own choosing."""
    assert exit_code(kind("it ended")) == CODES[kind]


def test_an_unknown_outcome_by_an_answer_is_the_servers():
    """If the server answered, an unknown outcome is its failure and not the network's."""
    assert exit_code(errors.OutcomeUnknownError("it ended", status=504)) == 5


@given(st.text())
def test_error_lines_are_one_safe_line(text):
    """Whatever an error says, its line holds no control character."""
    for error in (errors.RejectedError(text), ValueError(text)):
        line = error_line(error)
        assert not {unicodedata.category(character)[0] for character in line} & {"C"}
        assert len(line.splitlines()) == 1


def moment(**fields: object) -> Snapshot:
    start: dict = {"total": 10, "done": 3, "failed": 1, "unknown": 0, "images": 4, "rate": 0.5}
    return Snapshot(**{**start, **fields})


def test_a_moment_in_words():
    """A line has the counts, the images, the rate and the time left."""
    assert moment().line == "3 of 10 done, 1 failed, 0 unknown; 4 images; 30/min; 12 s left"
    assert moment(total=None).line == "3 done, 1 failed, 0 unknown; 4 images; 30/min"
    assert moment(rate=0.0).line == "3 of 10 done, 1 failed, 0 unknown; 4 images"
    assert moment(done=9).line == "9 of 10 done, 1 failed, 0 unknown; 4 images; 30/min"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (7384, "2 h 3 min"),
        (4e6, "1,111 h 6 min"),
    ],
)
def test_durations_in_words(seconds, words):
    """Durations have at most two units, and none of them overflows."""
    assert duration(seconds) == words


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(0, 50)), min_size=1))
def test_the_rate_is_between_the_slowest_and_the_fastest(steps):
    """The rate of a window lies between those of its steps, and is never negative."""
    rate, now, settled, last = Rate(), 0.0, 0, 0.0
    rates = [0.0]
    for pause, items in steps:
        now, settled = now + pause, settled + items
        last = rate(now, settled)
        rates.append(items / pause if pause > 1e-3 else float("inf"))
    assert 0 <= last <= max(rates) * 1.001


def test_the_rate_forgets():
    """What was long ago does not count."""
    rate = Rate()
    rate(0.0, 0)
    rate(10.0, 1000)
    assert rate(20.0, 1000) == 50
    assert rate(41.0, 1000) == 0


WHOLE = Report(
    total=2,
    done=2,
    failed=0,
    unknown=0,
    received=0,
    dropped=0,
    pending=0,
    invalid=0,
    skipped=0,
    bought_before=0,
    others=0,
    others_unknown=0,
    images=2,
    attempts=2,
    charged_maybe=0,
    charged_yes=0,
    resent=0,
    recounted=0,
    spent=2,
    cost=None,
    presumed_free=0,
    presumed_free_cost=None,
    seconds=61.0,
    partial=False,
    stopped_by=None,
    problem=None,
)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "2 of 2 done (2 images), 0 failed, 0 unknown, in 1 min 1 s"),
        ({"failed": 3, "invalid": 1}, "2 failed and cost nothing"),
        ({"failed": 3, "presumed_free": 4}, "3 failed: shots/failed.jsonl"),
        (
            {"failed": 3, "presumed_free": 4, "presumed_free_cost": 0.16},
            "4 images (0.16) count as not charged",
        ),
        ({"recounted": 2}, "2 of the failed were sent again with a new count"),
        ({"failed": 3, "invalid": 1}, "1 rows cannot be sent"),
        ({"unknown": 1}, "--on-unknown resend"),
        ({"dropped": 4}, "4 dropped"),
        ({"cost": 1234.5}, "at most 1,234.50 spent"),
        ({"stopped_by": "quota", "problem": "no \x1b money"}, "quota (no \\x1b money)"),
        ({"partial": True}, "cancelled"),
        ({"problem": "the page \x07 failed"}, "Note: the page \\x07 failed"),
    ],
)
def test_the_summary_says_what_to_do(changes, says):
    """Each way a batch can end short has a line that says what to do, safe to show."""
    lines = summary_lines(attrs.evolve(WHOLE, **changes), Path("shots"), Path("shots/index.html"))
    assert says in "\n".join(lines)
    assert all(line.isprintable() for line in lines)
    assert lines[-1].startswith("shots: ")
    assert lines[-1].endswith("gallery: shots/index.html")


def test_a_plan_in_words():
    """A plan says how many rows there are, what is sent, its cost and its time."""
    nothing = {field.name: 0 for field in attrs.fields(Plan)}
    counts = {"rows": 5, "to_send": 3, "images": 6, "done": 2, "cost": 0.24, "seconds": 90}
    lines = plan_lines(Plan(**{**nothing, **counts}))
    assert [line.strip() for line in lines] == [
        "5  rows in the input",
        "2  done already",
        "3  to send, 6 images at least",
        "0.24  is what they cost at least",
        "At this rate it takes 1 min 30 s at least.",
        "Nothing was sent.",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("in.txt", "a\n\n b \r\nc"),
        ("in.jsonl", '"a"\n\n{"prompt": "b"}\n'),
        ("in.tsv", 'prompt\tn\n"a\t1\nb\t2\n'),
        ("in.csv", 'prompt,n\n"a\nb",1\nc,2\n'),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_the_count_is_that_of_the_rows(name, text, zipped):
    """The cheap count equals the number of rows that are read."""
    path = Path(f"{name}.gz" if zipped else name)
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    number = len(list(read_source(path)))
    assert count_rows(str(path), None) == number
    assert count_rows(str(path), 1) == 1


def test_an_input_that_cannot_be_counted_is_run_all_the_same():
    """Standard input, a missing file and a broken archive have no total."""
    Path("bad.txt.gz").write_bytes(b"\x1f\x8b\x08\x00 broken")
    assert count_rows("-", None) is None
    assert count_rows("nowhere.txt", None) is None
    assert count_rows("bad.txt.gz", None) is None


def test_streams_that_are_not_there_are_left_alone(monkeypatch):
    """Writing to a stream that the parent closed does nothing."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    prepare()
    result("a")
    note("b")
    assert isinstance(open_progress({}.get), Lines)


def test_lines_go_where_they_belong(monkeypatch):
    """Results go to standard output, all else to standard error."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    result("a path")
    note("a note")
    assert (out.getvalue(), err.getvalue()) == ("a path\n", "a note\n")
