"""The same command again: what it says of other options, other inputs and dead links."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROWS = "a fox\na hare\nan owl\n"


def last(err: str) -> str:
    return err.splitlines()[-1]


@pytest.fixture
def begun(cli, gateway):
    """A batch of three prompts, all done."""
    Path("in.txt").write_text(ROWS)
    assert cli("batch", "in.txt", "--out", "shots", "--model", "imagen4", "-n", "2").code == 0
    return gateway


def test_a_forgotten_option_is_a_usage_error(cli, begun):
    """It is 2 and one line, which names each difference, what it would buy, and how to say yes."""
    for dry in ((), ("--dry-run",)):
        ended = cli("batch", "in.txt", "--out", "shots", *dry)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert "model was 'imagen4' and is not set; n was 2 and is not set now" in ended.err
        assert "3 prompts that are done" in ended.err
        assert "--new-options" in ended.err
    assert len(begun.requests) == 3


def test_a_yes_buys_and_is_told_what_was_bought_before(cli, begun):
    """The plan and the end say it; the same command again is then at its end."""
    again = ("batch", "in.txt", "--out", "shots", "--model", "imagen4-ultra", "--new-options")
    planned = cli(*again, "--dry-run")
    assert "3  of them bought before with other fields, spaces or capitals" in planned.out
    ended = cli(*again)
    assert ended.code == 0
    assert "3 new rows ask for prompts that were bought before" in ended.err
    assert "shots: 3 of 3 done (9 images)" in last(ended.err)
    assert "; the folder holds 3 more" in last(ended.err)
    assert cli(*again[:-1]).code == 0
    assert len(begun.requests) == 6


def test_counts_never_exceed_the_input(cli, begun, monkeypatch):
    """In every line of progress and at the end, done is at most the rows of this input."""
    monkeypatch.setattr("imagen_async.cli.progress.LINE_EVERY", 0.005)
    Path("one.txt").write_text("a fox\na wolf\n")
    ended = cli("batch", "one.txt", "--out", "shots", "--model", "imagen4", "-n", "2")
    counts = [tuple(map(int, each)) for each in re.findall(r"(\d+) of (\d+) ", ended.err)]
    assert len(counts) > 1
    assert all(done <= total == 2 for done, total in counts)
    assert "the folder holds 2 more" in last(ended.err)


def test_dead_links_name_what_acts_on_them(cli, gateway):
    """Until the links are known as dead nothing is bought; then the flags do what was said."""
    gateway.fail_next("file_expired", prompt="fox")
    gateway.fail_next("504", prompt="hare")
    Path("in.txt").write_text(ROWS)
    ended = cli("batch", "in.txt", "--out", "shots")
    assert "1 charged or perhaps charged, and no image: 1 x 504 Gateway Timeout" in ended.err
    assert "1 paid for, and the images did not come: 1 link refused" in ended.err
    ended = cli("batch", "in.txt", "--out", "shots", "--on-unknown", "resend", "--json")
    report = json.loads(ended.out)
    assert (report["done"], report["resent"], report["spent"]) == (3, 2, 5)
    assert "--on-unknown" not in ended.err


def test_what_other_inputs_left_in_doubt_is_told(cli, gateway):
    """No flag is named, for none acts on what this input does not ask for."""
    gateway.fail_next("504", prompt="hare")
    Path("in.txt").write_text(ROWS)
    cli("batch", "in.txt", "--out", "shots")
    Path("one.txt").write_text("a fox\n")
    ended = cli("batch", "one.txt", "--out", "shots")
    assert (ended.code, "--on-unknown" in ended.err) == (0, False)
    assert "1 of the folder's other items were or may have been charged" in ended.err
    assert "shots/unknown.jsonl" in ended.err


def test_a_spent_budget_asks_for_a_larger_one(cli, gateway):
    """The same command again would stop at once; with more money it goes on."""
    Path("in.txt").write_text(ROWS)
    price = ("batch", "in.txt", "--out", "shots", "--price-per-image", "1", "--budget")
    ended = cli(*price, "1")
    assert "A budget of 3.00 would finish it" in ended.err
    assert f"go on: imagen-async {' '.join(price[:-1])} --budget 3\n" in ended.err
    assert cli(*price, "3").code == 0


def test_rows_that_may_be_paid_for_name_the_flag_that_sends_them(cli, gateway):
    """A list of doubts as the input of another folder: the flag that is named acts."""
    gateway.fail_next("504")
    Path("in.txt").write_text("a fox\n")
    cli("batch", "in.txt", "--out", "shots")
    again = ("batch", "shots/unknown.jsonl", "--out", "more")
    ended = cli(*again)
    assert ended.code == 3
    assert "--on-unknown resend" in ended.err
    assert "more/failed.jsonl or unknown.jsonl says why" in ended.err
    assert cli(*again, "--on-unknown", "resend").code == 0
