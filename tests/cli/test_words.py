"""The pure parts: exit codes, progress in words, the summary, the count of rows."""

from __future__ import annotations

import io
import os
import sys
import termios
import unicodedata
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async import errors
from imagen_async.batch import schema, workers
from imagen_async.batch.plan import Plan
from imagen_async.batch.reasons import reason_of
from imagen_async.batch.report import Report
from imagen_async.cli.console import note, prepare, result
from imagen_async.cli.exits import error_line, exit_code
from imagen_async.cli.progress import Lines, Rate, Snapshot, Watch, open_progress
from imagen_async.cli.summary import Reasons, plan_lines, summary_lines
from imagen_async.cli.words import amount, command, cut, duration, error_words
from imagen_async.session import events
from imagen_async.session.stream import Outcome
from imagen_async.wire.generation import Generation
from imagen_async.wire.request import GenerationRequest

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
    errors.UnfinishedTaskError: 5,
    errors.CallLogError: 5,
    schema.HeldJournalError: 2,
    workers.NoPlaceError: 2,
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
    start: dict = {"total": 10, "done": 3, "failed": 1, "unknown": 0, "images": 3, "rate": 0.5}
    return Snapshot(**{**start, "in_flight": 2, **fields})


def test_a_moment_in_words():
    """A moment has how far it is, the time left, the counts, the rate and what was spent."""
    assert moment().reached == "4 of 10 · 40 % · 12 s left"
    assert moment().counts == "3 done, 1 failed, 0 unknown · 2 in flight · 30/min"
    assert moment(total=None).reached == ""
    assert moment(rate=0.0).reached == "4 of 10 · 40 %"
    assert moment(done=9).reached == "10 of 10 · 100 %"
    counts = moment(rate=0.0, images=6, cost=1.5).counts
    assert counts == "3 done (6 images), 1 failed, 0 unknown · 2 in flight · at most 1.50 spent"


REQUEST = GenerationRequest("a fox")


def test_what_is_waited_for_follows_the_events():
    """A call is queued, sent, waits to be sent again, is downloaded, and is then forgotten."""
    now = [0.0]
    watch = Watch(lambda: now[0])
    one, two = (1, REQUEST, "one"), (2, REQUEST, "two")
    said = []
    for event in (
        events.Queued(*one),
        events.Sent(*one, 1),
        events.Retrying(*one, 1, errors.Verdict.FAILED, errors.Charge.NO, "503 \x1b", 3.0),
        events.Sent(*one, 2),
        events.Received(*one),
        events.Sent(*two, 1),
        events.Done(*one, Generation(REQUEST, ())),
    ):
        watch.hear(event)
        said.append((watch.doing, len(watch.in_flight)))
    assert said == [
        ("waiting for a free place", 0),
        ("waiting for the gateway", 1),
        ("waiting to be sent again", 0),
        ("waiting for the gateway", 1),
        ("downloading", 1),
        ("1 waiting for the gateway, 1 downloading", 2),
        ("waiting for the gateway", 1),
    ]
    assert watch.pause == "waits 3 s: 503 \\x1b"
    now[0] = 3.0
    assert watch.pause == ""


WIDE = st.text(st.sampled_from("ab 狐狸 é\u0301\n\x1b👩"))


@given(WIDE, st.integers(2, 40))
def test_a_text_is_cut_to_the_columns(text, width):
    """What is cut fits, ends with the sign for it, and is the beginning of the text."""
    whole, short = cut(text, 10_000), cut(text, width)
    columns = sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in short
    )
    assert columns <= width
    assert short == whole or (short.endswith("…") and whole.startswith(short[:-1]))


def test_a_text_is_cut_at_a_word():
    """A word is cut only if it alone is most of what fits."""
    assert cut("a red fox in the snow", 21) == "a red fox in the snow"
    assert cut("a red fox in the snow", 20) == "a red fox in the…"
    assert cut("a red fox, in the snow", 11) == "a red fox…"
    assert cut("Donaudampfschifffahrt", 8) == "Donauda…"
    assert cut("一只红色的狐狸", 8) == "一只红…"


BUSY = "wait, or ask for less at once (batch has --concurrency and --rpm)."


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            errors.ConfigurationError(
                "No base URL: pass base_url='https://gateway.example/v1' or set IMAGEN_BASE_URL."
            ),
            "No base URL: give --base-url https://gateway.example/v1 or set IMAGEN_BASE_URL.",
        ),
        (
            errors.ConfigurationError("requests_per_minute must be a number above 0."),
            "--rpm must be a number above 0.",
        ),
        (
            errors.ConfigurationError("name it with prompt_column."),
            "name it with --prompt-column.",
        ),
        (
            errors.InvalidRequestError("put it into extra={'size': ...}."),
            "use --set size=..., or the row's extra.",
        ),
        (
            errors.RefusedError("The gateway answered 429: base_url."),
            "The gateway answered 429: base_url. Nothing was charged; " + BUSY,
        ),
    ],
)
def test_errors_speak_of_flags(error, says):
    """The library's terms become flags; what a server said stays as it was."""
    assert error_words(error) == says


@pytest.mark.parametrize(
    ("typed", "more", "says"),
    [
        ("in.txt --out a", ("--retry-failed",), "in.txt --out a --retry-failed"),
        ("in.txt --on-unknown resend --out a", (), "in.txt --out a"),
        ("in.txt --on-unknown=resend --new-options --out a", (), "in.txt --out a"),
        ("--out a --budget 1 -- in.txt", ("--budget", "2"), "--out a --budget 2 -- in.txt"),
        (
            "in.txt --out a --budget 1",
            ("--retry-failed",),
            "in.txt --out a --budget 1 --retry-failed",
        ),
        ("in.txt --header X-Key:s3cret", (), "in.txt --header NAME:VALUE"),
        ("in.txt --header=X-Key:s3cret", (), "in.txt --header NAME:VALUE"),
        ("in.txt --proxy http://u:s3cret@p", (), "in.txt --proxy URL"),
        ("\x1b[2J.txt", (), "'\\x1b[2J.txt'"),
    ],
)
def test_a_command_to_go_on_with(typed, more, says):
    """It is what was typed with other options; what buys again is never kept, nor a secret."""
    assert command(typed.split(), *more) == f"imagen-async batch {says}"


def test_a_command_is_quoted_for_the_shell():
    """A path with a space is one word again when it is pasted."""
    assert command(["my prompts.txt"]) == "imagen-async batch 'my prompts.txt'"


@given(st.floats(1e-6, 1e9))
def test_an_amount_is_at_most_rounded_at_the_sixth_digit(money):
    """A budget that is shown reads back as itself."""
    assert float(amount(money)) == round(money, 6)


@pytest.mark.parametrize(
    ("message", "status", "code", "reason"),
    [
        ("The gateway answered 400: no.", 400, "moderation_blocked", "content policy"),
        ("The gateway answered 500: sensitive words detected.", 500, None, "content policy"),
        ("The gateway answered 404: gone.", 404, "model_not_found", "404 model not found"),
        ("The gateway answered 504: x.", 504, None, "504 Gateway Timeout"),
        ("The gateway answered 524: x.", 524, None, "524"),
        ("The connection was lost before an answer came: closed.", None, None, "connection lost"),
        (
            "The image at http://a/b did not come: a text came instead of an image.",
            200,
            None,
            "not an image",
        ),
        (
            "The image at http://a/b did not come: the server answered 403.",
            403,
            None,
            "link refused",
        ),
        (
            "The gateway answered with a task, not with an image.",
            202,
            None,
            "gateway answered with a task",
        ),
        ("", None, None, "no reason given"),
    ],
)
def test_reasons_are_shared(message, status, code, reason):
    """Errors of one kind have one reason, whatever they name."""
    assert reason_of(message, status=status, code=code) == reason


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


def told(**changes: object) -> list[str]:
    report = attrs.evolve(WHOLE, **changes)
    return summary_lines(
        report, Path("shots"), reasons=Reasons(), arguments=["in.txt", "--out", "shots"], rows=9
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "shots: 2 of 2 done, 0 failed, 0 unknown, in 1 min 1 s"),
        ({"images": 5}, "2 of 2 done (5 images), 0 failed"),
        ({"total": 3, "partial": True}, "2 of 9 done, 0 failed, 0 unknown, 7 not sent, in"),
        ({"failed": 3, "invalid": 1}, "2 failed and cost nothing: 2 in earlier runs"),
        ({"failed": 3, "presumed_free": 4}, "3 failed: 3 in earlier runs"),
        (
            {"failed": 3, "presumed_free": 4, "presumed_free_cost": 0.16},
            "4 images (0.16) count as not charged",
        ),
        ({"recounted": 2}, "2 of the failed were sent again with a new count"),
        ({"failed": 3, "invalid": 1}, "1 rows cannot be sent"),
        ({"failed": 3}, "  try again: imagen-async batch in.txt --out shots --retry-failed"),
        ({"unknown": 1}, "  ask the gateway's log: imagen-async settle shots"),
        ({"unknown": 1}, "  close: imagen-async batch in.txt --out shots --on-unknown drop"),
        ({"unknown": 1, "received": 1}, "  try the links again: imagen-async batch in.txt"),
        ({"unknown": 1, "received": 1}, "  buy again, links first: imagen-async batch in.txt"),
        ({"failed": 3, "unknown": 1}, "listed in shots/failed.jsonl and shots/unknown.jsonl."),
        ({"dropped": 4}, "4 dropped"),
        ({"cost": 1234.5}, "at most 1,234.50 spent"),
        ({"stopped_by": "quota", "problem": "no \x1b money."}, "quota (no \\x1b money); the rest"),
        ({"stopped_by": "budget"}, "  go on: imagen-async batch in.txt --out shots --budget MORE"),
        (
            {"stopped_by": "budget", "failed": 1},
            "try again: imagen-async batch in.txt --out shots --retry-failed --budget MORE",
        ),
        ({"partial": True}, "cancelled"),
        ({"problem": "the page \x07 failed"}, "Note: the page \\x07 failed"),
    ],
)
def test_the_summary_says_what_to_do(changes, says):
    """Each way a batch can end short has a line that says what to do, safe to show."""
    lines = told(**changes)
    assert says in "\n".join(lines)
    assert all(line.isprintable() for line in lines)
    assert lines[-1].startswith("shots: ")


def test_failures_are_grouped_by_reason_and_by_what_can_be_done():
    """The most frequent reason comes first; what was paid for is apart from what was not."""
    reasons = Reasons()
    for error in (
        *[errors.ServerFailedError("x", status=500)],
        *[errors.RejectedError("x", status=400, code="content_filter")] * 2,
        *[errors.SpoiledAnswerError("no image in it", charge=errors.Charge.YES)] * 3,
        *[errors.DownloadError("a text instead of an image", charge=errors.Charge.YES)] * 4,
        *[errors.InvalidRequestError("line 3: it is empty.")] * 5,
    ):
        reasons.add(Outcome(0, REQUEST, error=error), error)
    report = attrs.evolve(WHOLE, failed=8, invalid=5, unknown=7, received=4)
    text = "\n".join(summary_lines(report, Path("s"), reasons=reasons, arguments=["in.txt"]))
    assert "3 failed and cost nothing: 2 content policy, 1 x 500 Internal Server Error\n" in text
    assert "3 charged or perhaps charged, and no image: 3 no image in the answer\n" in text
    assert "4 paid for, and the images did not come: 4 not an image\n" in text
    assert reasons.count == 15


def test_a_plan_in_words():
    """A plan says what is sent, what is wrong, where the budget stops, and what it all costs."""
    nothing = {field.name: 0 for field in attrs.fields(Plan)}
    counts = {"rows": 12, "to_send": 3, "images": 6, "done": 2, "invalid": 7, "seconds": 90}
    money = {"cost": 0.24, "spent": 0.08, "covered": 1, "budget_needed": 0.32}
    wrong = ("line 2: prompt is \x1b empty.",)
    lines = plan_lines(Plan(**{**nothing, **counts, **money, "wrong": wrong}))
    assert [line.strip() for line in lines] == [
        "12  rows in the input",
        "2  done already",
        "3  to send, 6 images at least",
        "7  cannot be sent as they are",
        "line 2: prompt is \\x1b empty.",
        "and 6 more",
        "0.08  is spent already, at most",
        "0.24  is what they cost at least",
        "The budget stops after 1 of 3; 0.32 would finish, if all goes well.",
        "At this rate it takes 1 min 30 s at least.",
        "Nothing was sent.",
    ]


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


def test_long_lines_are_broken_at_words_and_commands_are_not(monkeypatch):
    """On a terminal prose ends at words within its width; a command stays one line to copy."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 40))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        note("one two three four five six seven eight nine ten")
        note("  go on: imagen-async batch prompts.txt --out shots --retry-failed")
        shown = os.read(ours, 4096).decode().replace("\r\n", "\n")
    os.close(ours)
    assert shown == (
        "one two three four five six seven eight\nnine ten\n"
        "  go on: imagen-async batch prompts.txt --out shots --retry-failed\n"
    )
