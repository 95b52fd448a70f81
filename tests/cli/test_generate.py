"""``imagen-async generate``, against an emulated gateway."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imagen_async.emulator import Emulator
from imagen_async.wire.image_header import inspect
from tests.cli.processes import KEY, until


@pytest.fixture
def stdin(monkeypatch):
    """Return a function that sets standard input."""

    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return give


def test_prints_the_path_of_each_image_and_nothing_else(cli, gateway):
    """Standard output is the paths of whole images, in the current folder by default."""
    ended = cli("generate", "a red fox", "-n", "2")
    assert ended.code == 0
    assert ended.err == ""
    assert len(ended.lines) == 2
    assert all(inspect(Path(line).read_bytes()).complete for line in ended.lines)
    assert {Path(line).parent for line in ended.lines} == {Path()}
    gateway.assert_charged_once("a red fox")


def test_sends_what_the_flags_say(cli, gateway):
    """Every request flag reaches the wire, and the key comes from the environment."""
    ended = cli(
        *("generate", "a fox", "--model", "imagen4", "--aspect-ratio", "16:9", "-n", "1"),
        *("--response-format", "b64_json", "--header", "X-Team: art ", "--timeout", "30"),
    )
    assert ended.code == 0
    (exchange,) = gateway.requests
    sent = json.dumps(exchange.as_json())
    assert all(word in sent for word in ("imagen4", "16:9", "b64_json"))


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("size=1024x1024", "1024x1024"),
        ("size=7", 7),
        ("size=true", True),
        ('size={"w": 1}', {"w": 1}),
        ('size="7"', "7"),
        ("size=a=b", "a=b"),
        ("size=", ""),
        ("size=NaN", "NaN"),
        ("size=" + "[" * 9000, "[" * 9000),
    ],
)
def test_a_field_that_only_the_gateway_knows(cli, gateway, given, sent):
    """--set is JSON where it can be read so, else text."""
    assert cli("generate", "a fox", "--set", given).code in (0, 4)
    (exchange,) = gateway.requests
    assert exchange.body["size"] == sent


def test_json_is_an_object_of_each_image(cli, gateway):
    """With --json each line tells of one image what its file and the answer say."""
    ended = cli("generate", "a fox", "--model", "imagen4", "--aspect-ratio", "1:1", "--json")
    row = json.loads(ended.out)
    data = Path(row["path"]).read_bytes()
    assert (row["prompt"], row["model"], row["aspect_ratio"]) == ("a fox", "imagen4", "1:1")
    assert row["bytes"] == len(data)
    assert (row["width"], row["height"]) == (inspect(data).width, inspect(data).height)
    assert row["media_type"] == "image/png"
    assert row["attempts"] == 1
    assert set(row) >= {"created", "request_id", "revised_prompt"}


def test_a_lost_answer_comes_again_where_keys_are_honoured(cli):
    """Without --key-honoured a dropped answer ends in doubt; with it the image is bought once."""
    with Emulator(draw="tiny", honour_idempotency=True) as gateway:
        at = ("--base-url", gateway.base_url)
        gateway.fail_next("drop", prompt="a fox")
        gateway.fail_next("drop", prompt="an owl")
        assert cli("generate", "a fox", *at).code == 6
        ended = cli("generate", "an owl", "--key-honoured", *at)
        assert (ended.code, len(ended.lines)) == (0, 1)
        assert (gateway.ledger["a fox"].posts, gateway.ledger["an owl"].posts) == (1, 2)
        gateway.assert_charged_once()


@pytest.mark.parametrize("form", ["url", "b64_json"])
def test_writes_one_image_to_the_file_named(cli, gateway, form):
    """-o FILE is that file; without a suffix it gets that of the bytes."""
    ended = cli("generate", "a fox", "-o", "shots/fox", "--response-format", form, "--json")
    row = json.loads(ended.out)
    assert row["path"] == "shots/fox.png"
    assert (row["media_type"], row["bytes"]) == ("image/png", Path(row["path"]).stat().st_size)


def test_numbers_further_images_and_never_overwrites(cli, gateway):
    """Several images for one FILE are numbered, and what was there stays."""
    Path("fox.png").write_text("mine")
    ended = cli("generate", "a fox", "-n", "2", "-o", "fox.png")
    assert ended.lines == ["fox-2.png", "fox-3.png"]
    assert Path("fox.png").read_text() == "mine"


def test_keeps_a_wrong_suffix_and_says_so(cli, gateway):
    """A suffix that is not that of the bytes is kept, with a note on standard error."""
    ended = cli("generate", "a fox", "-o", "fox.jpg")
    assert (ended.code, ended.lines) == (0, ["fox.jpg"])
    assert "image/png" in ended.err


@pytest.mark.parametrize("output", ["shots/", "there"])
def test_writes_into_a_folder(cli, gateway, output):
    """A target that exists as a folder, or ends with a slash, takes files with names of ours."""
    Path("there").mkdir()
    ended = cli("generate", "a fox", "-o", output)
    assert Path(ended.out.strip()).parent == Path(output)


def test_runs_several_prompts_at_once_and_prints_in_order(cli, gateway):
    """Each PROMPT is a call of its own; the paths come in the order of the prompts."""
    prompts = [f"fox {number}" for number in range(12)]
    ended = cli("generate", *prompts, "-o", "shots")
    assert ended.code == 0
    assert [Path(line).name.rsplit("-", 1)[0] for line in ended.lines] == [
        prompt.replace(" ", "-") for prompt in prompts
    ]


def test_reads_prompts_from_standard_input(cli, gateway, stdin):
    """A dash stands for the lines of standard input; blank ones are skipped."""
    stdin("a fox\n\n  \n一只狐狸\n".encode())
    ended = cli("generate", "-", "a hare", "-o", "shots/")
    assert [json.loads(line) for line in ended.lines if line.startswith("{")] == []
    assert len(ended.lines) == 3
    assert sorted(exchange.prompt for exchange in gateway.requests) == sorted(
        ["a fox", "一只狐狸", "a hare"]
    )


def test_a_wrong_line_of_standard_input_stops_before_anything_is_sent(cli, gateway, stdin):
    """A line that is no text is named, and no other line is paid for."""
    stdin(b"a fox\n\xff\xfe\n")
    ended = cli("generate", "-")
    assert ended.code == 2
    assert "line 2" in ended.err
    assert gateway.requests == []


def test_empty_standard_input_is_an_error(cli, gateway, stdin):
    """No prompt at all is a usage error."""
    stdin(b"\n")
    assert cli("generate", "-").code == 2


def test_ctrl_c_while_prompts_are_typed_is_130(cli, gateway, monkeypatch):
    """An interrupt before anything is sent ends with 130 and without a traceback."""

    class Typing(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            raise KeyboardInterrupt

    typed = io.TextIOWrapper(io.BufferedReader(Typing()))
    monkeypatch.setattr(sys, "stdin", typed)
    ended = cli("generate", "-")
    assert (ended.code, ended.out, gateway.requests) == (130, "", [])


def test_a_key_over_plain_http_is_a_note(cli):
    """The warning of the client is one line of ours, without a place in the code or the key."""
    ended = cli("generate", "a fox", "--base-url", "http://gateway.invalid/v1", "--timeout", "0.1")
    assert ended.code == 6
    (line,) = [line for line in ended.err.splitlines() if "plain http" in line]
    assert line.startswith("Note: The API key goes to gateway.invalid over plain http")
    assert KEY not in ended.err


@pytest.mark.parametrize("form", ["url", "b64_json"])
def test_writes_one_image_to_standard_output(spawn, gateway, form):
    """-o - is the image's bytes and nothing else, and no file is left."""
    words = ("generate", "a fox", "-o", "-", "--response-format", form)
    out, err = spawn(*words, text=False).process.communicate(timeout=20)
    assert (err, inspect(out).complete) == (b"", True)
    assert list(Path().iterdir()) == []


@pytest.fixture
def spare(monkeypatch, tmp_path_factory):
    """Where temporary files of a run go."""
    folder = tmp_path_factory.mktemp("spare")
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_further_images_are_kept_beside_standard_output(spawn, gateway, spare):
    """A gateway that sends more than was asked for is paid for them, so they are kept."""
    gateway.fail_next("more")
    out, err = spawn("generate", "a fox", "-o", "-", text=False).process.communicate(timeout=20)
    (kept,) = spare.glob("*/image.png")
    assert inspect(out).complete
    assert inspect(kept.read_bytes()).complete
    assert f"kept in {kept}" in err.decode()


def test_an_image_that_standard_output_does_not_take_is_kept(spawn, gateway, spare):
    """A pipe that broke costs nobody a paid image."""
    reading, writing = os.pipe()
    os.close(reading)
    child = spawn("generate", "a fox", "-o", "-", stdout=writing)
    os.close(writing)
    _, err = child.process.communicate(timeout=20)
    assert child.process.returncode == 1
    assert "It was charged" in err
    assert "Exception" not in err
    (kept,) = spare.glob("*/image.png")
    assert inspect(kept.read_bytes()).complete


def drawn(descriptor):
    """Return all that is written to a terminal."""
    pieces = []
    with suppress(OSError), os.fdopen(descriptor, "rb", buffering=0) as terminal:
        while piece := terminal.read(65536):
            pieces.append(piece)
    return b"".join(pieces).decode()


def plain(text):
    """Return what is written without the control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.fixture
def on_a_terminal(spawn, monkeypatch):
    """Run with a terminal as standard error, and return the run and what it drew there."""
    monkeypatch.setenv("TERM", "xterm-256color")

    def run(*words, both=False):
        ours, theirs = pty.openpty()
        child = spawn(*words, stderr=theirs, **({"stdout": theirs} if both else {}))
        os.close(theirs)
        shown = drawn(ours)
        child.process.wait(20)
        return child.process, shown

    return run


def test_a_terminal_refuses_an_image(on_a_terminal, gateway):
    """-o - to a terminal is wrong usage, before anything is sent."""
    process, shown = on_a_terminal("generate", "a fox", "-o", "-", both=True)
    assert "-o - > fox.png" in shown
    assert (process.returncode, gateway.requests) == (2, [])


def test_a_spinner_says_what_is_waited_for(on_a_terminal, slow_gateway):
    """On a terminal the seconds and the reason are drawn, and gone at the end."""
    slow_gateway.fail_next("retry_after:1")
    process, shown = on_a_terminal("generate", "a fox", "-o", "fox.png")
    assert process.stdout.read() == "fox.png\n"
    assert re.search(r"\d\.\d s · waiting for the gateway", plain(shown))
    pause = r"waiting to be sent again · waits 1 s: The gateway answered 429"
    assert re.search(pause, plain(shown))
    assert plain(shown.rpartition("\x1b[2K")[2]).strip() == ""
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back


def test_several_prompts_show_a_line_each(on_a_terminal, gateway):
    """On a terminal each prompt has its line as it settles; the pipe has paths in order."""
    gateway.fail_next("400", prompt="hare")
    process, shown = on_a_terminal("generate", "a fox", "a hare", "an owl", "-o", "shots/")
    assert process.returncode == 4
    paths = process.stdout.read().splitlines()
    assert [Path(path).name[:5] for path in paths] == ["a-fox", "an-ow"]
    assert all(f"done: {prompt}\r\n" in plain(shown) for prompt in ("a fox", "an owl"))
    assert 'Error: prompt 2 "a hare": The gateway answered 400' in plain(shown)


def test_results_and_spinner_share_a_terminal(on_a_terminal, gateway):
    """Where both streams are one terminal, paths are whole lines between what is drawn."""
    process, shown = on_a_terminal("generate", "a fox", "a hare", "-o", "s/", both=True)
    assert process.returncode == 0
    assert len(re.findall(r"[\r\n]s/a-(?:fox|hare)-\w+\.png\r\n", plain(shown))) == 2
    assert "done: " not in shown


def test_a_quiet_terminal_shows_nothing(on_a_terminal):
    """-q draws nothing, and the emulator's word is left out."""
    process, shown = on_a_terminal("generate", "a fox", "-o", "f.png", "-q", "--emulator")
    assert (process.stdout.read(), shown) == ("f.png\n", "")


@pytest.mark.parametrize("command", ["generate", "batch"])
def test_a_refusal_without_a_key_says_that_none_was_sent(cli, monkeypatch, command):
    """A 401 names IMAGEN_API_KEY if it is not set, and says nothing of it if it is."""
    Path("in.txt").write_text("a fox\n")
    words = {"generate": ("generate", "a fox"), "batch": ("batch", "in.txt", "--out", "shots")}
    with Emulator(draw="tiny", keys=["other"]) as emulator:
        monkeypatch.setenv("IMAGEN_BASE_URL", emulator.base_url)
        assert "no key was sent" not in cli(*words[command]).err
        monkeypatch.delenv("IMAGEN_API_KEY")
        assert "no key was sent" not in cli(*words[command], "--header", "X-Api-Key:other-key").err
        ended = cli(*words[command])
        assert "no key was sent: set IMAGEN_API_KEY." in ended.err
        assert ended.code == {"generate": 4, "batch": 3}[command]


def test_emulator_needs_no_key_and_says_what_it_is(cli, monkeypatch):
    """--emulator runs with no configuration and says plainly that nothing is bought."""
    monkeypatch.setenv("IMAGEN_API_KEY", "bad\nkey")
    ended = cli("generate", "a fox", "--emulator", "-o", "fox.png")
    assert (ended.code, ended.lines) == (0, ["fox.png"])
    assert "nothing is bought" in ended.err


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("400", 4),
        ("401", 4),
        ("402", 4),
        ("403_quota", 4),
        ("504", 5),
        ("data_empty", 5),
        ("b64_garbage", 5),
        ("file_expired", 5),
        ("drop", 6),
        ("cut_chunked", 5),
    ],
)
def test_exit_code_of_each_ending(cli, gateway, fault, code):
    """A refusal is 4, a server's failure 5, the network's 6; each says one line of what to do."""
    gateway.fail(fault)
    ended = cli("generate", "a fox")
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("Error: ")


def test_a_server_that_is_not_there_is_the_network(cli, monkeypatch):
    """A refused connection ends as 6 and says that nothing was charged."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("IMAGEN_BASE_URL", f"http://127.0.0.1:{held.getsockname()[1]}/v1")
        ended = cli("generate", "a fox", "--timeout", "0.2")
    assert ended.code == 6
    assert "othing was charged" in ended.err


def test_a_busy_server_to_the_end_is_the_network(cli, gateway):
    """A 429 until the time is up ends as 6."""
    gateway.fail("retry_after:30")
    assert cli("generate", "a fox", "--timeout", "0.3").code == 6


def test_a_disk_that_does_not_take_the_image_is_1(cli, gateway, monkeypatch, tmp_path_factory):
    """An image that cannot be written where it should be is charged, and kept somewhere else."""
    spare = tmp_path_factory.mktemp("spare")
    monkeypatch.setattr(tempfile, "tempdir", str(spare))

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("imagen_async.storage.disk.write_all", full)
    ended = cli("generate", "a fox", "--response-format", "b64_json", "-o", "fox.png")
    assert (ended.code, ended.out, list(Path().iterdir())) == (1, "", [])
    assert "was charged" in ended.err
    (kept,) = spare.glob("*/image.png")
    assert kept.read_bytes().startswith(b"\x89PNG")
    assert f"kept in {kept}" in ended.err


def test_links_of_images_that_could_not_be_fetched_are_kept(cli, gateway):
    """A paid link is not lost with the process: it is in a file that others cannot read."""
    gateway.fail("file_expired")
    ended = cli("generate", "a fox", "-o", "shots/")
    (kept,) = Path("shots").glob("links-*.txt")
    assert str(kept) in ended.err
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text().startswith("http://127.0.0.1")
    assert "/files/" not in ended.err.replace(str(kept), "") or "?" not in ended.err


def test_one_failure_costs_no_other_prompt_its_image(cli, gateway):
    """The others are saved and printed; the code is that of the failure, which is named."""
    gateway.fail_next("400", prompt="bad")
    ended = cli("generate", "a fox", "a bad hare", "an owl")
    assert ended.code == 4
    assert len(ended.lines) == 2
    assert "prompt 2" in ended.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", ""], "prompt is empty"),
        (["generate", "   "], "prompt is empty"),
        (["generate"], "PROMPT"),
        (["generate", "fox", "--aspect-ratio", "2:1"], "16:9"),
        (["generate", "fox", "--response-format", "png"], "b64_json"),
        (["generate", "fox", "-n", "0"], "-n"),
        (["generate", "fox", "--timeout", "0"], "--timeout"),
        (["generate", "fox", "--timeout", "nan"], "total"),
        (["generate", "fox", "--header", f"{KEY}"], "NAME:VALUE"),
        (["generate", "fox", "--header", ": x"], "NAME:VALUE"),
        (["generate", "fox", "--header", "X-A:\x1b[31m"], "X-A"),
        (["generate", "fox", "--proxy", "nonsense"], "proxy"),
        (["generate", "fox", "--emulator", "--base-url", "http://a/v1"], "exclude"),
        (["generate", "fox", "--base-url", "ftp://a/v1"], "https://"),
        (["generate", "fox", "--base-url", f"http://u:{KEY}@a/v1"], "IMAGEN_API_KEY"),
        (["generate", "fox", "hare", "-o", "a-file"], "several prompts"),
        (["generate", "fox", "-o", "a-file/fox.png"], "a-file"),
        (["generate", "fox", "-o", "a-file/"], "a-file"),
        (["generate", "fox", "-o", "x" * 300], "too long"),
        (["generate", "fox", "--nope\x1b]0;x\x07"], "No such option"),
        (["generate", "fox", "--size", "1024x1024"], "--set size=1024x1024"),
        (["generate", "fox", "--quality=high"], "--set quality=high"),
        (["generate", "fox", "--set", "size"], "KEY=VALUE"),
        (["generate", "fox", "--set", "prompt=a hare"], "KEY=VALUE"),
        (["generate", "fox", "--set", "x=1e999"], "--set holds"),
        (["generate", "fox", "hare", "-o", "-"], "one prompt"),
        (["generate", "fox", "-n", "2", "-o", "-"], "one image"),
        (["generate", "fox", "-o", "-", "--json"], "exclude"),
        (["paint\x9b2J"], "No such command"),
        ([], "Usage"),
    ],
)
def test_wrong_usage_says_what_to_do_and_sends_nothing(cli, gateway, arguments, says):
    """Bad input is a line on standard error and 2, before anything is sent or written."""
    Path("a-file").write_text("mine")
    ended = cli(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert gateway.requests == []
    assert list(Path().iterdir()) == [Path("a-file")]


def test_no_base_url_names_both_ways(cli):
    """Without a base URL the error names the flag's argument and the variable."""
    ended = cli("generate", "fox")
    assert ended.code == 2
    assert "IMAGEN_BASE_URL" in ended.err


def test_a_key_with_a_line_break_is_refused_unseen(cli, gateway, monkeypatch):
    """A key that no header can carry is a usage error that does not show it."""
    monkeypatch.setenv("IMAGEN_API_KEY", f"{KEY}\n{KEY}")
    ended = cli("generate", "fox")
    assert ended.code == 2
    assert "API key" in ended.err


def test_a_base_url_without_its_path_is_explained(cli, gateway, monkeypatch):
    """A web page instead of an answer is rejected with the hint at the base URL."""
    monkeypatch.setenv("IMAGEN_BASE_URL", gateway.origin)
    gateway.fail("html")
    ended = cli("generate", "fox")
    assert ended.code == 4
    assert "base URL" in ended.err or "base_url" in ended.err


def test_debug_shows_where_an_error_came_from(capfd, gateway, monkeypatch):
    """IMAGEN_DEBUG=1 adds the traceback, and only then."""
    from imagen_async.cli import main

    monkeypatch.setenv("IMAGEN_DEBUG", "1")
    assert main(["generate", ""]) == 2
    assert "Traceback" in capfd.readouterr().err


def test_an_unexpected_error_is_one_line(cli, monkeypatch):
    """A bug of ours is an error line with the way to see more, not a traceback."""

    def broken(flags: object) -> int:
        raise RuntimeError("\x1b[31moops")

    monkeypatch.setattr("imagen_async.cli.generate.generate", broken)
    ended = cli("generate", "fox")
    assert ended.code == 1
    assert "IMAGEN_DEBUG=1" in ended.err


@pytest.fixture
def slow_gateway(monkeypatch):
    """A gateway that takes a second for each image, which IMAGEN_BASE_URL names."""
    with Emulator(latency=1.0, draw="tiny") as emulator:
        monkeypatch.setenv("IMAGEN_BASE_URL", emulator.base_url)
        yield emulator


def error_to_row(child):
    """Wait until a run says that it was interrupted, and return the line."""
    line = child.process.stderr.readline()
    while line and "in flight (" not in line:
        line = child.process.stderr.readline()
    return line


@pytest.mark.parametrize("form", ["url", "b64_json"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_for_what_is_paid_for(spawn, slow_gateway, number, form):
    """What was sent is finished and printed, nothing more is sent, and the code is 130."""
    prompts = [f"fox {number}" for number in range(20)]
    child = spawn("generate", *prompts, "-o", "shots/", "--response-format", form)
    until(lambda: len(slow_gateway.requests) == 8)
    child.signal(number)
    ended = child.end()
    assert ended.code == 130
    assert "in flight (8) is paid for" in ended.err
    assert sorted(ended.lines) == sorted(map(str, Path("shots").iterdir()))
    assert len(ended.lines) == len(slow_gateway.requests) == 8
    assert "nothing that was cancelled can have been charged" in ended.err


def test_the_first_signal_waits_for_one_file(spawn, slow_gateway):
    """One prompt's image is saved where it was asked for, though its run was interrupted."""
    child = spawn("generate", "a fox", "-o", "fox.png")
    until(lambda: slow_gateway.requests)
    child.signal(signal.SIGINT)
    ended = child.end()
    assert (ended.code, ended.lines) == (130, ["fox.png"])
    assert "in flight (1) is paid for" in ended.err
    assert inspect(Path("fox.png").read_bytes()).complete


@pytest.mark.parametrize("meanwhile", [False, True])
def test_the_first_signal_gives_up_what_would_be_sent_again(spawn, monkeypatch, meanwhile):
    """A call that waits to be sent again is not waited for, nor one that comes to that later."""
    posts, go = [], threading.Event()

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(self.rfile.read(int(self.headers["Content-Length"])))
            go.wait(20)
            self.send_response(429)
            self.send_header("Retry-After", "60")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("IMAGEN_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        child = spawn("generate", "a fox", "a hare", "-o", "shots/")
        until(lambda: len(posts) == 2)
        if not meanwhile:
            go.set()
            time.sleep(0.5)
        child.signal(signal.SIGINT)
        if meanwhile:
            assert "in flight (2)" in error_to_row(child)
            go.set()
        ended = child.end()
        server.shutdown()
    assert (ended.code, ended.out, len(posts)) == (130, "", 2)
    assert "nothing that was cancelled can have been charged" in ended.err


def test_the_second_ctrl_c_says_what_may_have_been_charged(spawn, monkeypatch):
    """A second Ctrl-C cancels the calls, ends with 130 and says how many may be paid for."""
    with Emulator(latency=60, draw="tiny") as gateway:
        monkeypatch.setenv("IMAGEN_BASE_URL", gateway.base_url)
        child = spawn("generate", "a fox", "a hare", "-o", "shots/")
        until(lambda: len(gateway.requests) == 2)
        child.signal(signal.SIGINT)
        assert error_to_row(child)
        child.signal(signal.SIGINT)
        ended = child.end()
    assert (ended.code, ended.out) == (130, "")
    assert "2 calls in flight may have been charged" in ended.err
    assert list(Path().rglob("*.p*")) == []


def test_a_sigterm_gives_up_after_its_deadline(cli, monkeypatch):
    """What a supervisor ends is cancelled before the supervisor kills it."""
    monkeypatch.setattr("imagen_async.cli.client.SIGTERM_GRACE", 0.01)
    with Emulator(latency=60, draw="tiny") as gateway:
        monkeypatch.setenv("IMAGEN_BASE_URL", gateway.base_url)

        def terminate() -> None:
            until(lambda: len(gateway.requests) == 1)
            os.kill(os.getpid(), signal.SIGTERM)

        killer = threading.Thread(target=terminate)
        killer.start()
        ended = cli("generate", "a fox")
        killer.join()
    assert ended.code == 130
    assert "1 call in flight may have been charged" in ended.err


@pytest.mark.parametrize("output", ["fox.png", "shots/"])
def test_interrupting_a_download_keeps_the_link(spawn, monkeypatch, output):
    """A paid image that is on its way leaves its link behind, and counts as charged."""
    asked, ended = threading.Event(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            link = f"http://{self.headers['Host']}/file?signed=canary"
            body = json.dumps({"data": [{"url": link}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            asked.set()
            ended.wait(20)

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("IMAGEN_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        child = spawn("generate", "a fox", "-o", output, "--allow-private")
        assert asked.wait(20)
        child.signal(signal.SIGINT)
        assert "in flight (1) is paid for" in error_to_row(child)
        child.signal(signal.SIGINT)
        left = child.end()
        ended.set()
        server.shutdown()
    assert (left.code, left.out) == (130, "")
    assert "1 call in flight may have been charged" in left.err
    assert "canary" not in left.err
    (kept,) = Path().rglob("links-*.txt")
    assert kept.read_text().endswith("/file?signed=canary\n")
    assert [path for path in Path().rglob("*") if path.is_file()] == [kept]


def test_a_reader_that_went_away_stops_nothing_that_is_paid_for(spawn, gateway):
    """With the pipe of standard output closed, all images are still saved, quietly."""
    reading, writing = os.pipe()
    os.close(reading)
    child = spawn("generate", "a fox", "a hare", "-o", "shots/", stdout=writing)
    os.close(writing)
    _, err = child.process.communicate(timeout=20)
    assert (child.process.returncode, err) == (0, "")
    assert len(list(Path("shots").iterdir())) == 2


def test_an_encoding_without_the_letters_stops_nothing(spawn, gateway, monkeypatch):
    """A path that the terminal's encoding cannot write is shown with escapes."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    child = spawn("generate", "一只狐狸")
    ended = child.end()
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("\\u4e00")
    assert len(list(Path().iterdir())) == 1


def test_closed_streams_stop_nothing(gateway):
    """With both streams closed from the start the image is saved all the same."""
    words = f"{sys.executable} -m imagen_async generate fox >&- 2>&-"
    assert subprocess.run(["sh", "-c", words], check=False).returncode == 0
    assert len(list(Path().iterdir())) == 1
