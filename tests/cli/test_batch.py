"""``imagen-async batch`` and ``gallery``, against an emulated gateway."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import pty
import re
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from imagen_async.emulator import Emulator
from tests.cli.processes import KEY, until


def write(name: str, *lines: str) -> str:
    Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return name


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]


def test_a_text_file_becomes_a_folder_of_images(cli, gateway):
    """Every prompt has its image; standard output is the gallery's path, the rest a summary."""
    ended = cli("batch", write("in.txt", "a fox", "", "一只狐狸"), "--out", "shots")
    assert (ended.code, ended.lines) == (0, ["shots/index.html"])
    assert Path("shots/index.html").exists()
    assert {row["prompt"] for row in rows("shots/metadata.jsonl")} == {"a fox", "一只狐狸"}
    assert ended.err.startswith("shots: 2 of 2 done, 0 failed, 0 unknown")


def test_json_is_the_report(cli, gateway):
    """With --json standard output is one object: the report, the folder and the gallery."""
    ended = cli("batch", write("in.txt", "a fox"), "--out", "shots", "--json", "-n", "2")
    report = json.loads(ended.out)
    counts = {key: report[key] for key in ("total", "done", "failed", "unknown", "images")}
    assert counts == {"total": 1, "done": 1, "failed": 0, "unknown": 0, "images": 2}
    assert (report["out"], report["gallery"]) == ("shots", "shots/index.html")


def test_running_again_goes_on_and_buys_nothing_twice(cli, gateway):
    """The same command again finds what is done; more rows are only those that are new."""
    cli("batch", write("in.txt", "a fox", "a hare"), "--out", "shots", "--limit", "1")
    assert cli("batch", "in.txt", "--out", "shots").code == 0
    assert cli("batch", "in.txt", "--out", "shots").code == 0
    assert len(gateway.requests) == 2
    gateway.assert_charged_once()


def test_request_flags_are_defaults_of_the_rows(cli, gateway):
    """A flag holds for the rows that do not say otherwise; named columns are read."""
    write("in.tsv", "Mine\tText\taspect_ratio", "a\ta fox\t16:9", "b\ta hare\t")
    ended = cli(
        *("batch", "in.tsv", "--out", "shots", "--prompt-column", "Text", "--id-column", "Mine"),
        *("--aspect-ratio", "9:16", "--model", "imagen4", "--rpm", "60000", "--ordered"),
    )
    assert ended.code == 0
    assert [
        (row["id"], row["aspect_ratio"], row["model"]) for row in rows("shots/metadata.jsonl")
    ] == [
        ("a", "16:9", "imagen4"),
        ("b", "9:16", "imagen4"),
    ]


def test_reads_standard_input_and_gzip(cli, gateway, monkeypatch):
    """A dash is standard input; .gz is read as it is."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a fox\na hare\n")))
    assert cli("batch", "-", "--out", "one").code == 0
    Path("in.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "an owl"}\n'))
    assert cli("batch", "in.jsonl.gz", "--out", "two").code == 0
    assert len(gateway.requests) == 3


def test_malformed_rows_cost_no_other_row_its_image(cli, gateway):
    """Each wrong row is named with its line, the others run, and the code is 3."""
    write("in.jsonl", '{"prompt": "a fox"}', "{", '{"prompt": ""}', '{"prompt": "b", "N": 2}')
    ended = cli("batch", "in.jsonl", "--out", "shots")
    assert ended.code == 3
    assert all(f"line {number}" in ended.err for number in (2, 3, 4))
    assert "3 rows cannot be sent as they are" in ended.err
    assert len(gateway.requests) == 1


def test_many_errors_do_not_bury_the_progress(cli, gateway):
    """After a few errors one line says where the others are listed."""
    gateway.fail("400")
    ended = cli("batch", write("in.txt", *(f"fox {n}" for n in range(20))), "--out", "shots")
    assert ended.code == 3
    assert len(re.findall(r"^row \d+ \"fox \d+\": ", ended.err, re.MULTILINE)) == 5
    assert ended.err.count("Further errors are counted") == 1
    assert "20 failed and cost nothing" in ended.err
    assert "--retry-failed" in ended.err


def test_failed_items_are_tried_again_when_asked(cli, gateway):
    """Failed items stay as they are, and --retry-failed sends them."""
    gateway.fail_next("400")
    assert cli("batch", write("in.txt", "a fox"), "--out", "shots").code == 3
    assert cli("batch", "in.txt", "--out", "shots").code == 3
    assert cli("batch", "in.txt", "--out", "shots", "--retry-failed").code == 0


@pytest.mark.parametrize(
    ("choice", "code", "posts"), [("hold", 3, 1), ("resend", 0, 2), ("drop", 0, 1)]
)
def test_unknown_items_wait_for_the_users_word(cli, gateway, choice, code, posts):
    """What may have been charged is listed, and bought again only on --on-unknown resend."""
    gateway.fail_next("504")
    ended = cli("batch", write("in.txt", "a fox"), "--out", "shots")
    assert ended.code == 3
    assert "--on-unknown resend" in ended.err
    assert cli("batch", "in.txt", "--out", "shots", "--on-unknown", choice).code == code
    assert len(gateway.requests) == posts


def test_an_empty_account_stops_the_run(cli, gateway):
    """A quota error sends nothing more; the rest is pending, and running again goes on."""
    gateway.fail_next("402")
    write("in.txt", *(f"fox {number}" for number in range(30)))
    ended = cli("batch", "in.txt", "--out", "shots", "--concurrency", "1", "--json")
    assert ended.code == 3
    assert json.loads(ended.out)["stopped_by"] == "quota"
    assert "Stopped early: quota" in ended.err
    assert "go on: imagen-async batch in.txt --out shots --concurrency 1 --json\n" in ended.err
    assert len(gateway.requests) < 5
    assert cli("batch", "in.txt", "--out", "shots").code == 0


def test_a_budget_is_never_passed(cli, gateway):
    """With a price the run stops before the budget can be passed, and says what was spent."""
    write("in.txt", *(f"fox {number}" for number in range(9)))
    ended = cli(
        *("batch", "in.txt", "--out", "shots", "--price-per-image", "0.04", "--budget", "0.2")
    )
    assert ended.code == 3
    assert len(gateway.requests) == 5
    assert "budget" in ended.err
    assert "at most 0.20 spent" in ended.err


def test_failures_can_end_the_run(cli, gateway):
    """--max-failures stops a run in which too much fails."""
    gateway.fail("400")
    write("in.txt", *(f"fox {number}" for number in range(60)))
    cli("batch", "in.txt", "--out", "shots", "--max-failures", "3", "--concurrency", "1")
    assert len(gateway.requests) < 10


def test_a_dry_run_sends_and_makes_nothing(cli, gateway):
    """--dry-run prints what would be done, in words or as JSON."""
    write("in.txt", "a fox", "a hare")
    ended = cli("batch", "in.txt", "--out", "shots", "--dry-run", "--price-per-image", "0.5")
    assert (ended.code, gateway.requests, Path("shots").exists()) == (0, [], False)
    assert "1.00  is what they cost at least" in ended.out
    assert "Nothing was sent." in ended.out
    plan = json.loads(cli("batch", "in.txt", "--out", "shots", "--dry-run", "--json").out)
    assert (plan["rows"], plan["to_send"]) == (2, 2)


def test_a_dry_run_names_bad_rows(cli, gateway):
    """The first five are named, all are counted, and the code is 3."""
    write("in.jsonl", '{"prompt": "a fox"}', *(['{"prompt": ""}'] * 7), "[")
    ended = cli("batch", "in.jsonl", "--out", "shots", "--dry-run")
    assert ended.code == 3
    assert [f"line {number}: " in ended.out for number in range(2, 8)] == [True] * 5 + [False]
    assert "8  cannot be sent as they are" in ended.out
    assert "and 3 more" in ended.out
    plan = json.loads(cli("batch", "in.jsonl", "--out", "shots", "--dry-run", "--json").out)
    assert (plan["invalid"], len(plan["wrong"])) == (8, 5)


def test_a_dry_run_shows_where_the_budget_stops_and_the_run_stops_there(cli, gateway):
    """What the plan has room for is what the run buys; the budget that it names finishes."""
    write("in.txt", *(f"fox {number}" for number in range(9)))
    again = ("batch", "in.txt", "--out", "shots", "--price-per-image", "0.04", "--budget")
    assert "The budget stops after 5 of 9; 0.36 would finish" in cli(*again, "0.2", "--dry-run").out
    ended = cli(*again, "0.2")
    assert len(gateway.requests) == 5
    assert "A budget of 0.36 would finish it" in ended.err
    planned = cli(*again, "0.2", "--dry-run").out
    assert "0.20  is spent already" in planned
    assert "The budget stops after 0 of 4; 0.36 would finish" in planned
    assert "The budget stops" not in cli(*again, "0.36", "--dry-run").out
    assert cli(*again, "0.36").code == 0
    assert len(gateway.requests) == 9


@pytest.mark.parametrize(
    ("name", "lines"),
    [("in.txt", []), ("in.txt", ["", "# a fox", "  # a hare"]), ("in.csv", ["prompt"])],
)
def test_an_empty_input_is_an_error(cli, gateway, name, lines):
    """Nothing to do is said, as wrong usage, and no folder is begun."""
    ended = cli("batch", write(name, *lines), "--out", "shots")
    assert (ended.code, Path("shots").exists()) == (2, False)
    assert f"There is no prompt in {name}" in ended.err


def test_comments_of_a_text_file_are_no_prompts(cli, gateway):
    """A line that begins with # is left out and not counted; a backslash makes it a prompt."""
    ended = cli("batch", write("in.txt", "# foxes", "a fox #1", r"\#1 fan"), "--out", "shots")
    assert ended.code == 0
    assert sorted(exchange.prompt for exchange in gateway.requests) == ["#1 fan", "a fox #1"]
    assert "2 of 2 done" in ended.err


def test_fields_that_only_the_gateway_knows_are_sent(cli, gateway):
    """--set reaches every row's body, as JSON where it can be read so; rows win."""
    write("in.jsonl", '{"prompt": "a fox"}', '{"prompt": "a hare", "extra": {"seed": 1}}')
    given = ("--set", "size=1024x1024", "--set", "seed=7", "--set", 'tags=["a"]')
    assert cli("batch", "in.jsonl", "--out", "shots", *given).code == 0
    sent = {exchange.prompt: exchange.body for exchange in gateway.requests}
    fox, hare = sent["a fox"], sent["a hare"]
    assert (fox["size"], fox["seed"], fox["tags"]) == ("1024x1024", 7, ["a"])
    assert (hare["size"], hare["seed"]) == ("1024x1024", 1)
    ended = cli("batch", "in.jsonl", "--out", "shots")
    assert (ended.code, len(gateway.requests)) == (2, 2)
    assert "add --new-options to buy them" in ended.err


def test_columns_that_are_not_sent_are_named(cli, gateway):
    """Before anything is sent, on one safe line: a field of the gateway's own would be missed."""
    table = "prompt,mood,\x1b[2Jstyle\nfox,dark,ink\n"
    Path("rows.csv").write_text(table)

    ended = cli("batch", "rows.csv", "--out", "shots")

    named = "Kept beside each image, not sent: mood, \\x1b[2Jstyle (--set sends"
    assert ended.err.startswith(named)
    assert gateway.requests[0].body == {"prompt": "fox"}
    assert rows("shots/metadata.jsonl")[0]["mood"] == "dark"
    assert "Kept" not in cli("batch", "rows.csv", "--out", "shots", "-q").err
    write("rows.jsonl", '"a"', '{"prompt": "b", "take": 7}')
    plan = cli("batch", "rows.jsonl", "--out", "shots", "--dry-run")
    assert "Kept beside each image, not sent: take (" in plan.out
    assert plan.err == ""


def test_failures_end_in_commands_that_do_what_they_say(cli, gateway):
    """Each command that the end of a batch prints exists, and sends again what it says."""
    gateway.fail_next("400", prompt="fox")
    gateway.fail_next("504", prompt="hare")
    gateway.fail_next("file_expired", prompt="owl")
    write("in.txt", "a fox", "a hare", "an owl")
    err = cli("batch", "in.txt", "--out", "shots", "--limit", "3").err
    found = dict(re.findall(r"^  (.*): imagen-async (.*)$", err, re.MULTILINE))
    buy, close = "buy again, links first", "close, links first"
    ask = "ask the gateway's log"
    assert list(found) == ["try again", ask, "try the links again", buy, close]
    del found[ask]  # this gateway has none
    posts = [len(gateway.requests)]
    for name in ("try again", "try the links again", buy):
        code = cli(*found[name].split()).code
        posts.append(len(gateway.requests))
    assert (code, posts) == (0, [3, 4, 4, 6])


def test_quiet_leaves_errors_and_results(cli, gateway):
    """-q shows only the result of a run that goes well, and the errors of one that does not."""
    ended = cli("batch", write("in.txt", "a fox", "a hare"), "--out", "shots", "-q", "--limit", "1")
    assert (ended.code, ended.err, ended.out) == (0, "", "shots/index.html\n")
    gateway.fail_next("400")
    ended = cli("batch", "in.txt", "--out", "shots", "-q")
    assert ended.code == 3
    assert 'row 2 "a hare": The gateway answered 400' in ended.err
    assert "--retry-failed" in ended.err


def test_verbose_logs_retries(cli, gateway):
    """-v writes the package's log to standard error, once, and leaves the logger as it was."""
    gateway.fail_next("503_queue")
    write("in.txt", "a fox")
    ended = cli("batch", "in.txt", "--out", "shots", "-v")
    lines = re.findall(r"^\d\d:\d\d:\d\d retrying in .* s after", ended.err, re.MULTILINE)
    assert len(lines) == 1
    gateway.fail_next("503_queue")
    assert "retrying in" not in cli("batch", "in.txt", "--out", "other").err
    assert cli("batch", "in.txt", "--out", "more", "-vv").err.count("Queued(") == 1


def test_emulator_is_a_run_of_its_own_kind(cli, gateway):
    """A folder begun with --emulator goes on with it, and never with a gateway that costs."""
    write("in.txt", "a fox")
    assert cli("batch", "in.txt", "--out", "shots", "--emulator").code == 0
    assert cli("batch", "in.txt", "--out", "shots", "--emulator").code == 0
    ended = cli("batch", "in.txt", "--out", "shots")
    assert (ended.code, gateway.requests) == (2, [])
    assert "emulator" in ended.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["in.txt"], "--out"),
        (["nowhere.txt", "--out", "shots"], "nowhere.txt"),
        (["in.png", "--out", "shots"], ".jsonl"),
        (["in.csv", "--out", "shots"], "prompt"),
        (["in.txt", "--out", "full"], "choose another folder"),
        (["in.txt", "--out", "in.txt"], "in.txt"),
        (["in.txt", "--out", "shots", "--budget", "1"], "--price-per-image"),
        (["in.txt", "--out", "shots", "--concurrency", "0"], "--concurrency"),
        (["in.txt", "--out", "shots", "--rpm", "0"], "--rpm"),
        (["in.txt", "--out", "shots", "--on-unknown", "guess"], "resend"),
        (["in.txt", "--out", "shots", "--emulator", "--base-url", "http://a/v1"], "exclude"),
        (["in.txt", "--out", "shots", "--header", KEY], "NAME:VALUE"),
        (["in.txt", "--out", "shots", "--size", "1024x1024"], "--set size=1024x1024"),
        (["in.txt", "--out", "shots", "--set", "size"], "KEY=VALUE"),
        (["in.csv", "--out", "shots", "--prompt-column", "it"], "with --prompt-column"),
    ],
)
def test_wrong_usage_says_what_to_do_and_makes_nothing(cli, gateway, arguments, says):
    """Bad input is one line and 2; nothing is sent, and no folder is begun."""
    write("in.txt", "a fox")
    write("in.csv", "text", "a fox")
    write("in.png", "a fox")
    Path("full").mkdir()
    Path("full/mine").write_text("mine")
    ended = cli("batch", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert gateway.requests == []
    assert not Path("shots").exists()


def test_lines_tell_how_it_goes_without_a_terminal(cli, gateway, monkeypatch):
    """Without a terminal progress is plain lines with counts."""
    monkeypatch.setattr("imagen_async.cli.progress.LINE_EVERY", 0.005)
    write("in.txt", *(f"fox {number}" for number in range(40)))
    ended = cli("batch", "in.txt", "--out", "shots")
    moments = r"^\d+ of 40 · \d+ % .*\d+ done, 0 failed, 0 unknown · \d in flight"
    assert len(re.findall(moments, ended.err, re.MULTILINE)) > 1


def test_what_the_gate_waits_for_is_told(cli, gateway, monkeypatch):
    """While a busy server is waited for, the lines say so."""
    monkeypatch.setattr("imagen_async.cli.progress.LINE_EVERY", 0.02)
    gateway.fail_next("retry_after:1")
    ended = cli("batch", write("in.txt", "a fox"), "--out", "shots")
    assert ended.code == 0
    assert re.search(r"waits 1 s: \S", ended.err)


def test_gallery_writes_the_page_again(cli, gateway):
    """``gallery`` prints the path of the page; a folder without a batch is a usage error."""
    cli("batch", write("in.txt", "a fox"), "--out", "shots")
    Path("shots/index.html").unlink()
    ended = cli("gallery", "shots")
    assert (ended.code, ended.lines) == (0, ["shots/index.html"])
    assert Path("shots/index.html").exists()
    Path("none").mkdir()
    assert cli("gallery", "none").code == 2
    assert cli("gallery", "nowhere").code == 2


@pytest.fixture
def slow_gateway(monkeypatch):
    """A gateway that takes a second for each image, which IMAGEN_BASE_URL names."""
    with Emulator(latency=1.0, draw="tiny") as emulator:
        monkeypatch.setenv("IMAGEN_BASE_URL", emulator.base_url)
        yield emulator


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_what_is_in_flight(spawn, slow_gateway, number):
    """What was sent is paid for: it is finished and kept, nothing more is sent, the code is 130."""
    write("in.txt", *(f"fox {number}" for number in range(9)))
    child = spawn("batch", "in.txt", "--out", "shots", "--concurrency", "2", "--json")
    until(lambda: len(slow_gateway.requests) == 2)
    child.signal(number)
    ended = child.end()
    report = json.loads(ended.out)
    assert ended.code == 130
    assert (report["done"], report["unknown"], report["stopped_by"]) == (2, 0, "interrupted")
    assert "in flight (2) is paid for" in ended.err
    assert len(slow_gateway.requests) == 2


def test_the_second_ctrl_c_cancels_and_lists_what_is_unknown(spawn, monkeypatch):
    """A second Ctrl-C ends at once; what was in flight is listed as unknown."""
    with Emulator(latency=60, draw="tiny") as gateway:
        monkeypatch.setenv("IMAGEN_BASE_URL", gateway.base_url)
        write("in.txt", *(f"fox {number}" for number in range(9)))
        child = spawn("batch", "in.txt", "--out", "shots", "--concurrency", "2", "--json")
        until(lambda: len(gateway.requests) == 2)
        child.signal(signal.SIGINT)
        line = child.process.stderr.readline()
        while "in flight (" not in line:
            line = child.process.stderr.readline()
        child.signal(signal.SIGINT)
        ended = child.end()
    assert ended.code == 130
    assert json.loads(ended.out)["unknown"] == 2
    assert "2 charged or perhaps charged, and no image: 2 cut off" in ended.err
    plan = spawn("batch", "in.txt", "--out", "shots", "--dry-run", "--json").end()
    assert (json.loads(plan.out)["unknown"], json.loads(plan.out)["to_send"]) == (2, 7)


def test_a_sigterm_gives_up_after_its_deadline(cli, monkeypatch):
    """What a supervisor ends is cancelled in time to be put on record."""
    monkeypatch.setattr("imagen_async.cli.client.SIGTERM_GRACE", 0.01)
    with Emulator(latency=60, draw="tiny") as gateway:
        monkeypatch.setenv("IMAGEN_BASE_URL", gateway.base_url)
        write("in.txt", "a fox")

        def terminate() -> None:
            until(lambda: len(gateway.requests) == 1)
            os.kill(os.getpid(), signal.SIGTERM)

        killer = threading.Thread(target=terminate)
        killer.start()
        ended = cli("batch", "in.txt", "--out", "shots", "--json")
        killer.join()
    assert ended.code == 130
    assert json.loads(ended.out)["unknown"] == 1


@pytest.mark.parametrize("plain", [False, True])
def test_a_terminal_gets_a_bar(spawn, slow_gateway, monkeypatch, plain):
    """On a terminal a bar is drawn over itself and taken away; NO_COLOR takes its colours."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    write("in.txt", "[bold]fox[/]", "a hare")
    slow_gateway.fail_next("400", prompt="hare")
    ours, theirs = pty.openpty()
    child = spawn("batch", "in.txt", "--out", "shots", stderr=theirs)
    os.close(theirs)
    shown = _read(ours)
    assert child.process.wait(20) == 3
    assert child.process.stdout.read() == "shots/index.html\n"
    assert "1 of 2 · 50 %" in shown
    assert re.search(r"━{20}", shown)
    assert 'row 2 "a hare": content policy: The gateway answered 400: ' in shown
    assert KEY not in shown
    assert ("\x1b[3" in shown) is not plain
    assert "\x1b[?25h" in shown  # the cursor is back
    assert "shots: 1 of 2 done" in shown.splitlines()[-1]


def _read(descriptor: int) -> str:
    pieces = []
    with suppress(OSError), os.fdopen(descriptor, "rb", buffering=0) as terminal:
        while piece := terminal.read(65536):
            pieces.append(piece)
    return b"".join(pieces).decode()


def test_a_dumb_terminal_gets_lines(spawn, gateway, monkeypatch):
    """A terminal that cannot be drawn over gets plain lines."""
    monkeypatch.setenv("TERM", "dumb")
    ours, theirs = pty.openpty()
    child = spawn("batch", write("in.txt", "a fox"), "--out", "shots", stderr=theirs)
    os.close(theirs)
    shown = _read(ours)
    assert child.process.wait(20) == 0
    assert "\x1b" not in shown
    assert "1 of 1 done" in shown


def test_a_full_disk_stops_the_run_and_tears_nothing(cli, gateway, monkeypatch, tmp_path_factory):
    """When images cannot be written the run stops, and what came is kept somewhere else."""
    spare = tmp_path_factory.mktemp("spare")
    monkeypatch.setattr(tempfile, "tempdir", str(spare))

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("imagen_async.storage.disk.write_all", full)
    write("in.txt", *(f"fox {number}" for number in range(20)))
    ended = cli("batch", "in.txt", "--out", "shots", "--json", "--concurrency", "1")
    assert ended.code == 3
    assert json.loads(ended.out)["stopped_by"] == "disk"
    assert len(list(spare.glob("*/image.png"))) == gateway.ledger.total.charged
    assert list(Path("shots/images").rglob("*.*")) == []
