"""Every fault as a client sees it, and what the ledger says of it."""

from __future__ import annotations

import base64
import json

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.emulator import FAULTS, FaultRule
from imagen_async.emulator.faults import KINDS, Fault, FaultPlan, Stage, chance

PNG = b"\x89PNG\r\n\x1a\n"


def error_of(reply):
    return reply.json["error"]


def item_of(reply):
    return reply.json["data"][0]


def image_of(reply):
    return base64.b64decode(item_of(reply)["b64_json"], validate=True)


ANSWERED = {
    # fault: (status, what must hold of the reply)
    "429": (429, lambda r: "request limit" in error_of(r)["message"]),
    "429_empty": (429, lambda r: r.body == b""),
    "retry_after:7": (429, lambda r: r.headers["Retry-After"] == "7"),
    "503": (503, lambda r: error_of(r)["code"] == "overloaded"),
    "503_queue": (503, lambda r: "queue is full" in error_of(r)["message"]),
    "500": (500, lambda r: error_of(r)["code"] == "internal_error"),
    "500_sensitive": (500, lambda r: error_of(r)["code"] == "sensitive_words_detected"),
    "400": (400, lambda r: error_of(r)["code"] == "moderation_blocked"),
    "401": (401, lambda r: error_of(r)["code"] == "invalid_api_key"),
    "402": (402, lambda r: error_of(r)["code"] == "payment_required"),
    "403_quota": (403, lambda r: error_of(r)["code"] == "insufficient_user_quota"),
    "no_channel": (503, lambda r: error_of(r)["code"] == "model_not_found"),
    "status:451": (451, lambda r: "451" in error_of(r)["message"]),
    "error_in_200:odd": (200, lambda r: error_of(r)["code"] == "odd" and "data" not in r.json),
    "html": (200, lambda r: r.headers["Content-Type"].startswith("text/html")),
    "redirect_307": (307, lambda r: "/v1/images/generations" in r.headers["Location"]),
    "502": (502, lambda r: len(r.body) == 157 and r.headers["Server"].startswith("nginx")),
    "504": (504, lambda r: len(r.body) == 167),
    "524": (524, lambda r: error_of(r)["retryable"] is True),
    "data_empty": (200, lambda r: r.json["data"] == []),
    "data_null": (200, lambda r: r.json["data"] is None),
    "data_missing": (200, lambda r: set(r.json) == {"created"}),
    "item_null": (200, lambda r: set(item_of(r).values()) == {None} and len(r.json["data"]) == 2),
    "partial:1": (200, lambda r: len(r.json["data"]) == 1),
    "more": (200, lambda r: len(r.json["data"]) == 3),
    "wrong_format": (200, lambda r: image_of(r).startswith(PNG)),
    "url_datauri": (200, lambda r: item_of(r)["url"].startswith("data:image/png;base64,iVBOR")),
    "url_relative": (200, lambda r: item_of(r)["url"].startswith("/files/")),
    "url_path": (200, lambda r: item_of(r)["url"].startswith("/var/")),
    "b64_prefix": (200, lambda r: item_of(r)["b64_json"].startswith("data:image/png;base64,iVB")),
    "b64_newlines": (200, lambda r: "\n" in item_of(r)["b64_json"]),
    "b64_unpadded": (200, lambda r: len(item_of(r)["b64_json"]) % 4 in (2, 3)),
    "b64_urlsafe": (
        200,
        lambda r: (
            base64.urlsafe_b64decode(item_of(r)["b64_json"]).startswith(PNG)
            and not set("+/") & set(item_of(r)["b64_json"])
        ),
    ),
    "b64_garbage": (200, lambda r: "!" in item_of(r)["b64_json"]),
    "two_json": (200, lambda r: json.JSONDecoder().raw_decode(r.body.decode())[1] < len(r.body)),
    "bom": (200, lambda r: r.body.startswith(b"\xef\xbb\xbf{")),
    "ws_keepalive:3": (200, lambda r: r.body.startswith(b"   {") and len(r.json["data"]) == 2),
    "sse": (200, lambda r: r.headers["Content-Type"] == "text/event-stream"),
    "ct_text_plain": (200, lambda r: r.headers["Content-Type"].startswith("text/plain")),
    "gzip": (200, lambda r: r.headers["Content-Encoding"] == "gzip" and r.json["data"]),
    "task_id_202": (202, lambda r: set(r.json) == {"task_id", "status", "poll_url"}),
    "cut_silent:20": (200, lambda r: len(r.body) == 20),
}

BROKEN = {
    "accept_then_close": aiohttp.ServerDisconnectedError,
    "drop": aiohttp.ServerDisconnectedError,
    "reset": aiohttp.ClientOSError,
    "cut:20": aiohttp.ClientPayloadError,
    "cut_chunked:20": aiohttp.ClientPayloadError,
    "cut_chunked:0": aiohttp.ClientPayloadError,
}

STALLED = ("stall", "stall_body:20")

BY_FILE = ("not_an_image", "wrong_size", "svg", "pdf", "junk")


OF_TASKS = ("task_failed", "task_lost")
"""Without tasks they do nothing; see the tests of tasks."""


def test_every_fault_is_tested():
    """The tables here and the emulator's table name the same faults."""
    tables = (*ANSWERED, *BROKEN, *STALLED, *BY_FILE, *OF_TASKS)
    here = {text.partition(":")[0] for text in tables}
    files = {name for name, kind in KINDS.items() if kind.stage is Stage.FILE}
    assert here | files == set(FAULTS)
    assert set(FILES) == files


def charge_of(fault):
    return 0 if KINDS[fault.partition(":")[0]].stage is Stage.BEFORE else 1


@pytest.mark.parametrize("fault", ANSWERED)
async def test_fault_answers_as_told_and_charges_by_its_stage(raw, fault):
    """The reply shows the fault, and it is charged if the generation was finished."""
    status, holds = ANSWERED[fault]
    reply = await raw.post("A cat", n=2, fault=fault)
    assert reply.status == status
    assert holds(reply)
    account = raw.emulator.ledger["A cat"]
    assert (account.posts, account.charged) == (1, charge_of(fault))
    assert account.refused == 1 - account.charged
    assert account.images == account.charged * (3 if fault == "more" else 2)
    (exchange,) = raw.emulator.requests
    assert (exchange.status, exchange.charged) == (status, bool(account.charged))
    assert exchange.fault.startswith(fault)


@pytest.mark.parametrize("fault", BROKEN)
async def test_fault_breaks_the_connection_and_charges_by_its_stage(raw, fault):
    """The client sees the break, the ledger says charged and not delivered."""
    with pytest.raises(BROKEN[fault]):
        await raw.post("A cat", fault=fault)
    account = raw.emulator.ledger["A cat"]
    assert (account.charged, account.delivered) == (charge_of(fault), 0)
    assert (await raw.post("A dog")).status == 200  # and the next request is well


@pytest.mark.parametrize("fault", STALLED)
async def test_stalled_answer_never_ends_and_is_charged(raw, fault):
    """Nothing more comes after the charge; the handler ends when the client gives up."""
    await raw.leave(lambda account: account.charged, fault=fault)
    account = await raw.settled()
    assert (account.charged, account.delivered) == (1, 0)
    (exchange,) = raw.emulator.requests
    assert exchange.status == (None if fault == "stall" else 200)


async def test_sse_carries_the_answer_in_its_event(raw):
    """The completed event's data is the JSON answer."""
    reply = await raw.post(fault="sse")
    (line,) = [line for line in reply.body.split(b"\n") if line.startswith(b"data: {")]
    assert json.loads(line[6:])["data"][0]["url"].startswith("http")


@pytest.mark.parametrize("form", ["url", "b64_json"])
async def test_not_an_image_is_text_in_either_form(raw, form):
    """The bytes behind a link, or in base64, are no image."""
    reply = await raw.post(fault="not_an_image", response_format=form)
    data = image_of(reply) if form == "b64_json" else (await raw.get(item_of(reply)["url"])).body
    assert data == b"This is not an image.\n"


@pytest.mark.parametrize("form", ["url", "b64_json"])
@pytest.mark.parametrize(
    ("fault", "kind", "start"),
    [
        ("svg", "image/svg+xml", b"<?xml"),
        ("pdf", "application/pdf", b"%PDF-"),
        ("junk", "application/octet-stream", b"\0\1"),
    ],
)
async def test_what_is_no_picture_comes_in_either_form(raw, form, fault, kind, start):
    """Vector drawings and other bytes come as images do, behind a link with their own label."""
    reply = await raw.post(fault=fault, response_format=form)
    if form == "b64_json":
        assert image_of(reply).startswith(start)
    else:
        file = await raw.get(item_of(reply)["url"])
        assert file.body.startswith(start)
        assert file.headers["Content-Type"] == kind


@pytest.mark.parametrize("size", ["1024x1024", "640x640"])
async def test_wrong_size_is_a_whole_image_of_other_pixels(run, size):
    """The image is sound, its size is not what was asked."""
    async with run(draw="plain") as (_, raw):
        reply = await raw.post(fault="wrong_size", size=size)
        file = await raw.get(item_of(reply)["url"])
        width = int.from_bytes(file.body[16:20], "big")
        assert f"{width}x{width}" in {"640x640", "512x512"} - {size}


FILES = {
    # fault: statuses (or an error) of three downloads in a row, and how many counted
    "file_404_first": ((404, 200, 200), 2),
    "file_503_first": ((503, 200, 200), 2),
    "file_expired": ((403, 403, 403), 0),
    "file_truncated": ((aiohttp.ClientPayloadError,) * 3, 0),
    "file_drop": ((aiohttp.ServerDisconnectedError,) * 3, 0),
    "file_stall": ((TimeoutError,) * 3, 0),
    "file_html": ((200, 200, 200), None),
    "file_redirect": ((302, 302, 302), 0),
}


@pytest.mark.parametrize("fault", FILES)
async def test_file_fault_strikes_the_downloads_alone(raw, fault):
    """The answer is well and charged once; the download fails as told."""
    reply = await raw.post("A cat", fault=fault)
    assert reply.status == 200
    statuses, counted = FILES[fault]
    for status in statuses:
        timeout = aiohttp.ClientTimeout(total=0.03 if status is TimeoutError else 5)
        if isinstance(status, int):
            assert (await raw.get(item_of(reply)["url"], timeout=timeout)).status == status
        else:
            with pytest.raises(status):
                await raw.get(item_of(reply)["url"], timeout=timeout)
    account = raw.emulator.ledger["A cat"]
    assert account.charged == 1
    assert raw.emulator.requests[0].file_fault.startswith(fault)
    if counted is not None:
        assert account.downloads == counted


async def test_file_html_is_a_page_and_redirect_leads_to_the_file(raw):
    """One sends a web page in the image's place, the other another link that works."""
    page = await raw.get(item_of(await raw.post(fault="file_html"))["url"])
    assert page.headers["Content-Type"].startswith("text/html")
    url = item_of(await raw.post(fault="file_redirect"))["url"]
    followed = await raw.get(url, allow_redirects=True)
    assert followed.body.startswith(PNG)


async def test_file_404_first_counts_for_each_image(raw):
    """Each image has its own failures, as many as the argument says."""
    reply = await raw.post(n=2, fault="file_404_first:2")
    for item in reply.json["data"]:
        statuses = [(await raw.get(item["url"])).status for _ in range(3)]
        assert statuses == [404, 404, 200]


async def test_following_the_redirect_posts_twice(raw):
    """A client that follows a 307 shows up in the ledger with two posts."""
    raw.emulator.fail_next("redirect_307")
    url = f"{raw.emulator.base_url}/images/generations"
    reply = await raw.send("POST", url, json={"prompt": "A cat"}, allow_redirects=True)
    assert reply.status == 200
    account = raw.emulator.ledger["A cat"]
    assert (account.posts, account.charged) == (2, 1)


async def test_unknown_fault_in_the_header_is_a_400(raw):
    """A misspelt fault does not pass for a success."""
    reply = await raw.post(fault="nonsense")
    assert reply.status == 400
    assert "nonsense" in error_of(reply)["message"]
    assert raw.emulator.ledger["A cat"].charged == 0


async def test_fail_next_strikes_in_turn_and_then_no_more(raw):
    """Planned faults come in their order, each as often as told; then all is well."""
    raw.emulator.fail_next("504", times=2)
    raw.emulator.fail_next("500")
    assert [(await raw.post()).status for _ in range(4)] == [504, 504, 500, 200]


async def test_fail_next_minds_prompt_and_key(raw):
    """A condition that does not hold leaves the fault for the next request."""
    raw.emulator.fail_next("500", prompt="dog", key="sk-b")
    assert (await raw.post("A cat", key="sk-b")).status == 200
    assert (await raw.post("A dog", key="sk-a")).status == 200
    assert (await raw.post("A dog", key="sk-b")).status == 500
    assert (await raw.post("A dog", key="sk-b")).status == 200


async def test_answer_and_file_faults_are_planned_apart(raw):
    """A file's fault does not use up the answer's, nor the reverse."""
    raw.emulator.fail_next("file_404_first")
    raw.emulator.fail_next("500")
    assert (await raw.post()).status == 500
    (exchange,) = raw.emulator.requests
    assert (exchange.fault, exchange.file_fault) == ("500", "file_404_first:1")


async def test_settings_faults_stand_until_the_plan_is_cleared(run):
    """A rule without times strikes every request that it matches, again after a reset."""
    async with run(faults=[FaultRule(fault="500", pattern="A c*")]) as (emulator, raw):
        assert [(await raw.post(p)).status for p in ("A cat", "A dog", "A cow")] == [500, 200, 500]
        emulator.gateway.plan.clear()
        assert (await raw.post("A cat")).status == 200
        emulator.reset()
        assert (await raw.post("A cat")).status == 500


async def test_added_rules_stand_until_reset(raw):
    """A rule without times goes on striking; reset takes it away."""
    raw.emulator.fail("500", FaultRule(fault="504", prompt="dog", times=1))
    assert [(await raw.post("A dog")).status for _ in range(3)] == [504, 500, 500]
    raw.emulator.reset()
    assert (await raw.post("A dog")).status == 200


@pytest.mark.parametrize("prompt", [f"prompt {number}" for number in range(6)])
async def test_unpadded_base64_really_lacks_padding(raw, prompt):
    """Also an image whose base64 would need no padding comes without some."""
    text = item_of(await raw.post(prompt, fault="b64_unpadded"))["b64_json"]
    assert len(text) % 4 in (2, 3)
    assert base64.b64decode(text + "==").startswith(PNG)


async def test_jpeg_without_padding_is_still_a_whole_jpeg(run):
    """The bytes that take the padding away are a PNG's: no other format gets them."""
    async with run(draw="full", image_format="jpeg") as (_, raw):
        for number in range(6):
            reply = await raw.post(f"prompt {number}", fault="b64_unpadded", size="96x64")
            image = base64.b64decode(item_of(reply)["b64_json"] + "==")
            assert (image[:2], image[-2:]) == (b"\xff\xd8", b"\xff\xd9")


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "drop:1", "cut:x", "cut:-1", "status:12", "partial:1.5", "retry_after:é"],
)
def test_fault_text_that_makes_no_sense_is_refused(text):
    """A wrong name or argument is an error where it is written, not a fault that never strikes."""
    with pytest.raises(ValueError, match=r"fault|takes"):
        FaultRule(fault=text)


@pytest.mark.parametrize(
    "rule",
    [
        {"fault": "500", "probability": 2},
        {"fault": "500", "times": 0},
        {"fault": "500", "pattern": 7},
        {"fault": "500", "pattern": "*" * 101},
        {"fault": "500", "number": "7"},
        {"faults": "500"},
        7,
    ],
)
def test_rule_out_of_range_is_refused(rule):
    """A rule is checked when it is added."""
    with pytest.raises(ValueError):
        FaultPlan([rule])


@pytest.mark.parametrize(
    ("pattern", "prompt", "strikes"),
    [
        ("A c*", "A cat", True),
        ("A c*", "a cat", False),
        ("A c*", "No. A cat", False),
        ("*cat", "A cat\nand a cat", True),
        ("A ?at", "A hat", True),
        ("A [ch]at", "A bat", False),
        ("(a+)+$", "(a+)+$", True),
        ("", "", True),
    ],
)
def test_pattern_is_the_shape_of_the_whole_prompt(pattern, prompt, strikes):
    """Stars, question marks and sets are what a shell makes of them; nothing else is special."""
    assert FaultRule(fault="500", pattern=pattern).matches(1, prompt, "") is strikes


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", ["(a+)+$", "*a" * 49 + "b", "*" + "?" * 98 + "b"])
def test_no_pattern_holds_up_the_emulator(pattern):
    """What made a regular expression of 27 letters run for 13 seconds is done with at once."""
    assert not FaultRule(fault="500", pattern=pattern).matches(1, "a" * 100_000 + "!", "")


@given(st.text(max_size=100) | st.text("[]!-a^&|~*?\\", max_size=100), st.text(max_size=20))
def test_any_pattern_is_one(pattern, prompt):
    """No text is a broken pattern: it fits a prompt or not."""
    assert FaultRule(fault="500", pattern=pattern).matches(1, prompt, "") in (True, False)


@given(st.sampled_from(sorted(FAULTS)))
def test_every_name_is_a_fault_by_itself_and_survives_its_text(name):
    """A name without an argument has a default, and a fault's text reads back as the fault."""
    fault = Fault.parse(name)
    assert Fault.parse(fault.text) == fault


@given(st.lists(st.tuples(st.sampled_from(["500", "504", "drop"]), st.integers(1, 4)), max_size=5))
def test_counted_rules_strike_exactly_as_often_as_told(rules):
    """Over enough requests each rule strikes its times, in the order of the rules."""
    plan = FaultPlan([{"fault": fault, "times": times} for fault, times in rules])
    expected = [fault for fault, times in rules for _ in range(times)]
    struck = [plan.strike(number, "", "") for number in range(1, len(expected) + 3)]
    assert [fault.name for fault in struck if fault] == expected
    assert struck[len(expected) :] == [None] * (len(struck) - len(expected))
    assert plan.rules == []


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_probability_is_decided_by_seed_and_number(seed, probability):
    """The same seed strikes the same requests, about as many as the probability says."""
    rule = FaultRule(fault="500", probability=probability)
    struck = [
        [FaultPlan([rule], seed).strike(number, "", "") is not None for number in range(200)]
        for _ in range(2)
    ]
    assert struck[0] == struck[1]
    assert abs(sum(struck[0]) / 200 - probability) < 0.2


@given(st.integers(), st.text(), st.integers())
def test_chance_is_a_share(seed, name, number):
    """A throw is at least 0, below 1, and repeatable."""
    throw = chance(seed, name, number)
    assert 0 <= throw < 1
    assert throw == chance(seed, name, number)
