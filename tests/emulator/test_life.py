"""Starting and stopping, the books, and the control endpoints."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import urllib.request

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.emulator import DIALECTS, Emulator
from imagen_async.emulator.ledger import Ledger, RequestLog


async def test_ledger_counts_posts_charges_images_and_downloads(raw):
    """Each prompt has its own account, and the total is their sum."""
    reply = await raw.post("A cat", n=2)
    for item in reply.json["data"]:
        await raw.get(item["url"])
    await raw.post("A dog", fault="500")
    ledger = raw.emulator.ledger
    cat, dog = ledger["A cat"], ledger["A dog"]
    assert (cat.posts, cat.charged, cat.images, cat.delivered, cat.downloads) == (1, 1, 2, 1, 2)
    assert (dog.posts, dog.refused, dog.charged) == (1, 1, 0)
    assert (ledger.total.posts, ledger.total.images) == (2, 2)
    assert list(ledger) == ["A cat", "A dog"]
    assert repr(ledger).startswith("<Ledger of 2 prompts: Account(posts=2, refused=1, charged=1")
    assert "A cat" in ledger
    assert ledger["never seen"].posts == 0
    assert "never seen" not in ledger


async def test_charged_twice_is_an_assertion_with_a_table(raw):
    """One prompt bought twice is named with its counts; the others are not."""
    await raw.post("A cat")
    await raw.post("A dog")
    raw.emulator.assert_charged_once()
    raw.emulator.assert_charged_once("A cat")
    await raw.post("A dog")
    with pytest.raises(AssertionError) as caught:
        raw.emulator.assert_charged_once()
    lines = str(caught.value).splitlines()
    assert lines[1].split() == [
        "posts", "refused", "charged", "images", "delivered", "downloads", "prompt",
    ]  # fmt: skip
    assert lines[2].split(maxsplit=6) == ["2", "0", "2", "2", "2", "0", "'A dog'"]
    assert len(lines) == 3
    with pytest.raises(AssertionError, match="never asked"):
        raw.emulator.assert_charged_once("never asked")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=20))
def test_assertion_holds_exactly_when_nothing_was_charged_twice(charges):
    """The check agrees with a plain count, and nothing at all shows nothing."""
    ledger = Ledger()
    for prompt, count in charges:
        ledger.account(prompt).charged += count
    sums = {prompt: ledger[prompt].charged for prompt in "abc"}
    assert ledger.total.charged == sum(sums.values())
    if not charges or max(sums.values()) > 1:
        with pytest.raises(AssertionError):
            ledger.assert_charged_once()
    else:
        ledger.assert_charged_once()


def test_request_log_keeps_the_newest_and_numbers_go_on():
    """The log's memory is bounded, and numbers are not reused."""
    log = RequestLog(3)
    for _ in range(5):
        log.begin()
    assert [exchange.number for exchange in log.newest] == [3, 4, 5]
    assert log.begin().number == 6


async def test_nothing_ordered_is_no_proof(raw):
    """A test whose requests went elsewhere does not pass; one that was refused did arrive."""
    for prompt in (None, "A cat"):
        with pytest.raises(AssertionError, match="Nothing was ordered"):
            raw.emulator.assert_charged_once(prompt)
    await raw.post("A cat", fault="429")
    raw.emulator.assert_charged_once()


JSON = {"Content-Type": "application/json"}


async def test_control_endpoints_show_and_change(raw):
    """Health, ledger, requests, plan and reset work over HTTP."""
    assert (await raw.get("/_emulator/health")).json["status"] == "ok"
    await raw.post("A cat", key="sk-a-very-secret-key", n=2)
    ledger = (await raw.get("/_emulator/ledger")).json
    assert ledger["total"]["images"] == ledger["prompts"]["A cat"]["images"] == 2
    (request,) = (await raw.get("/_emulator/requests")).json["requests"]
    assert (request["number"], request["body"]["n"], request["charged"]) == (1, 2, True)
    assert request["key"] == "sk-***ey"
    rules = [{"fault": "504", "times": 1}, "500"]
    added = await raw.send("POST", "/_emulator/plan", json=rules)
    assert [rule["fault"] for rule in added.json["rules"]] == ["504", "500"]
    assert (await raw.post()).status == 504
    assert len((await raw.get("/_emulator/plan")).json["rules"]) == 1
    assert (await raw.send("DELETE", "/_emulator/plan", headers=JSON)).json == {"rules": []}
    assert (await raw.post()).status == 200
    assert (await raw.send("POST", "/_emulator/reset", headers=JSON)).status == 200
    assert (await raw.get("/_emulator/ledger")).json["prompts"] == {}
    assert raw.emulator.requests == []


@pytest.mark.parametrize(
    ("method", "path", "data", "status"),
    [
        ("POST", "plan", b"{", 400),
        ("POST", "plan", b"7", 400),
        ("POST", "plan", b'{"fault": "nonsense"}', 400),
        ("POST", "plan", b'{"fault": 7}', 400),
        ("POST", "plan", b'["500", {"fault": "500", "prompt": 7}]', 400),
        ("POST", "plan", b'{"fault": "500", "times": "x"}', 400),
        ("POST", "plan", b'{"fault": "500", "number": [[7]]}', 400),
        ("POST", "plan", b'{"fault": "500", "pattern": "' + b"*" * 101 + b'"}', 400),
        ("POST", "plan", b"[" * 100_000, 400),
        ("POST", "plan", b'{"fault": "500", "key": ' + b"[" * 900 + b"]" * 900 + b"}", 400),
        ("POST", "health", b"", 405),
        ("GET", "reset", b"", 405),
        ("GET", "nothing", b"", 404),
    ],
)
async def test_control_says_what_is_wrong(raw, method, path, data, status):
    """A wrong control request is told so, and changes nothing."""
    reply = await raw.send(method, f"/_emulator/{path}", data=data, headers=JSON)
    assert reply.status == status
    assert reply.json["error"]
    assert raw.emulator.gateway.plan.rules == []


@pytest.mark.parametrize("depth", [60, 70, 500, 900, 100_000])
async def test_deep_json_is_refused_and_the_books_stay_readable(raw, depth):
    """An order that nests too deep is a 400, and what was asked can still be shown."""
    body = b'{"prompt": "A cat", "deep": ' + b"[" * depth + b"]" * depth + b"}"
    url = f"{raw.emulator.base_url}/images/generations"
    reply = await raw.send("POST", url, data=body, headers=JSON)
    assert reply.status == (200 if depth < 64 else 400)
    assert (await raw.get("/_emulator/requests")).status == 200
    assert (await raw.get("/_emulator/ledger")).status == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:PORT", None, 200),
        ("127.0.0.1:PORT", "http://127.0.0.1:PORT", 200),
        ("127.7.7.7", None, 200),
        ("localhost:PORT", "http://localhost:PORT", 200),
        ("LOCALHOST.:PORT", None, 200),
        ("emulator.localhost:1", None, 200),
        ("[::1]:PORT", None, 200),
        ("evil.example:PORT", None, 403),
        ("evil.example:PORT", "http://evil.example:PORT", 403),
        ("127.0.0.1.evil.example", None, 403),
        ("localhost.evil.example", None, 403),
        ("evil.example@127.0.0.1", "http://evil.example", 403),
        ("10.0.0.1", None, 403),
        ("[::1", None, 403),
        ("", None, 403),
        ("127.0.0.1:PORT", "http://evil.example", 403),
        ("127.0.0.1:PORT", "http://127.0.0.1:1", 403),
        ("127.0.0.1:PORT", "https://127.0.0.1:PORT", 403),
        ("127.0.0.1:PORT", "null", 403),
    ],
)
@pytest.mark.parametrize("path", ["/_emulator/requests", "/_emulator/nothing", "/"])
async def test_no_web_page_of_elsewhere_reads_the_pages(raw, host, origin, status, path):
    """A name that only leads here, as in DNS rebinding, and a request across origins get a 403."""
    port = raw.emulator.origin.rpartition(":")[2]
    headers = {"Host": host.replace("PORT", port)}
    if origin is not None:
        headers["Origin"] = origin.replace("PORT", port)
    reply = await raw.get(path, headers=headers)
    assert reply.status == (404 if status == 200 and path.endswith("nothing") else status)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no 127.0.0.2 by default")
async def test_the_bound_address_is_its_own_name(run):
    """Bound to all addresses, or by a name, it is asked by the one that the socket has."""
    async with run(host="0.0.0.0") as (emulator, raw):
        url = emulator.origin.replace("0.0.0.0", "127.0.0.2") + "/_emulator/health"
        assert (await raw.get(url)).status == 200
        assert (await raw.get(url, headers={"Host": "0.0.0.0"})).status == 200
        assert (await raw.get(url, headers={"Host": "192.0.2.1"})).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "text/plain; application/json"},
        {},
    ],
)
@pytest.mark.parametrize(
    ("method", "name"), [("POST", "plan"), ("POST", "reset"), ("DELETE", "plan")]
)
async def test_no_web_page_gives_orders(raw, headers, method, name):
    """What a form or a script may send across origins unasked changes neither plan nor books."""
    await raw.post("A cat")
    raw.emulator.fail("500")
    data = b'{"fault": "504"}'
    options = {"headers": headers, "skip_auto_headers": ["Content-Type"]}
    assert (await raw.send(method, f"/_emulator/{name}", data=data, **options)).status == 415
    assert [rule.fault for rule in raw.emulator.gateway.plan.rules] == ["500"]
    assert len(raw.emulator.ledger) == 1
    json = {"Content-Type": "application/json; charset=utf-8"}
    assert (await raw.send(method, f"/_emulator/{name}", data=data, headers=json)).status == 200


async def test_stops_at_once_with_requests_in_flight(run):
    """Stopping does not wait for a generation of an hour, and the client is told."""
    async with run(latency=3600) as (emulator, raw):
        tasks = [asyncio.create_task(raw.post(f"p{i}")) for i in range(5)]
        tasks.append(asyncio.create_task(raw.post("stalled", fault="stall")))
        while len(emulator.ledger) < 6:
            await asyncio.sleep(0.005)
        async with asyncio.timeout(5):
            await emulator.stop()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, aiohttp.ClientConnectionError) for result in results)
        assert emulator.ledger.total.charged == 0


async def test_stops_at_once_behind_a_front(run):
    """Generations that outlived their front end with the emulator."""
    async with run(latency=3600, front_timeout=0.005) as (emulator, raw):
        assert (await raw.post()).status == 504
        async with asyncio.timeout(5):
            await emulator.stop()


async def test_starts_again_on_its_port_with_its_books():
    """A stopped emulator keeps port and ledger, so that a client's base_url stays right."""
    emulator = Emulator(draw="tiny")
    with pytest.raises(RuntimeError, match="async with"):
        _ = emulator.base_url
    for round_ in (1, 2):
        async with emulator, aiohttp.ClientSession() as session:
            url = emulator.base_url
            async with session.post(f"{url}/images/generations", json={"prompt": "A cat"}) as reply:
                assert reply.status == 200
            with pytest.raises(RuntimeError, match="already"):
                await emulator.start()
        assert emulator.ledger["A cat"].charged == round_
        assert emulator.base_url == url


async def test_taken_port_is_an_os_error():
    """A port in use is told as such, and nothing is left running."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="use"):
            async with Emulator(port=taken.getsockname()[1]):
                pass


@pytest.mark.parametrize(
    "settings",
    [
        {"dialect": "klingon"}, {"profile": "slow"}, {"draw": "oil"}, {"port": -1}, {"rpm": 0},
        {"time_scale": 0}, {"latency": -1}, {"faults": "nonsense"}, {"image_format": "gif"},
        {"front": "apache"}, {"concurrency": 0}, {"queue": -1}, {"log_size": 0},
    ],
)  # fmt: skip
def test_setting_out_of_range_is_a_value_error(settings):
    """A wrong setting is refused before anything starts."""
    with pytest.raises(ValueError, match=r"\w"):
        Emulator(**settings)


def test_runs_in_a_thread_of_its_own():
    """Under plain ``with`` blocking code can use it, and the thread ends with it."""
    before = threading.active_count()
    with Emulator(draw="plain") as emulator:
        with urllib.request.urlopen(f"{emulator.origin}/_emulator/health") as reply:
            assert reply.status == 200
        emulator.fail_next("500")
        assert len(emulator.gateway.plan.rules) == 1
    assert threading.active_count() == before


def test_drawing_threads_end_with_the_emulator():
    """Pictures drawn in threads leave no thread behind."""
    before = threading.active_count()

    async def draw() -> None:
        async with Emulator(draw="plain") as emulator, aiohttp.ClientSession() as session:
            body = {"prompt": "A cat", "size": "8x8", "response_format": "b64_json"}
            async with session.post(f"{emulator.base_url}/images/generations", json=body) as reply:
                assert reply.status == 200
            assert threading.active_count() > before

    asyncio.run(draw())
    assert threading.active_count() == before


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not made for Windows")
def test_works_under_uvloop(run):
    """Whole answers, cuts and resets are the same on another loop."""
    uvloop = pytest.importorskip("uvloop")

    async def exercise() -> None:
        async with run() as (emulator, raw):
            assert (await raw.post()).status == 200
            for fault, error in {
                "reset": aiohttp.ClientOSError,
                "drop": aiohttp.ServerDisconnectedError,
                "cut": aiohttp.ClientPayloadError,
            }.items():
                with pytest.raises(error):
                    await raw.post(fault=fault)
            assert emulator.ledger["A cat"].charged == 4

    uvloop.run(exercise())


async def test_client_gone_in_the_middle_of_its_request_leaves_no_trace(raw, caplog):
    """A body that never ends is no request, and no traceback."""
    host, port = raw.emulator.origin.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(0.02)
    writer.close()
    await writer.wait_closed()
    assert (await raw.post()).status == 200
    assert len(raw.emulator.requests) == 1
    assert caplog.records == []


async def test_body_that_cannot_be_decoded_is_a_400(raw, caplog):
    """A lie about the encoding is answered once, and the connection closed without a traceback."""
    host, port = raw.emulator.origin.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = "POST /v1/images/generations HTTP/1.1\r\nHost: x\r\n"
    writer.write(f"{head}Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert raw.emulator.requests == []
    assert caplog.records == []


async def test_client_gone_before_a_broken_answer_leaves_no_trace(run, caplog):
    """A cut that finds nobody to cut off is silent."""
    async with run(concurrency=1) as (emulator, raw):
        async with emulator.gateway._slots.held(""):
            await raw.leave(lambda account: account.posts, fault="cut")
        assert (await raw.settled()).delivered == 0
    assert caplog.records == []


async def test_lone_surrogates_pass_through_every_answer(run):
    """Text that UTF-8 cannot carry breaks neither an answer nor the books."""
    async with run(dialect="openai", models=["imagen4"]) as (_, raw):
        assert (await raw.post("half \ud800")).status == 200
        assert (await raw.post("half \ud800", model="\ud800")).status == 404
        for name in ("ledger", "requests"):
            assert (await raw.get(f"/_emulator/{name}")).status == 200


async def test_many_connections_at_once(run):
    """Three hundred requests at once are each answered and charged once."""
    async with run() as (emulator, _):
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            url = f"{emulator.base_url}/images/generations"

            async def post(prompt: str) -> int:
                async with session.post(url, json={"prompt": prompt}) as reply:
                    await reply.read()
                    return reply.status

            statuses = await asyncio.gather(*(post(f"p{i}") for i in range(300)))
        assert set(statuses) == {200}
        assert len(emulator.ledger) == 300
        emulator.assert_charged_once()


def test_fault_table_costs_no_web_server():
    """Reading names for a help text imports neither aiohttp nor Pillow."""
    code = (
        "import sys; from imagen_async.emulator import FAULTS, DIALECTS, PROFILES; "
        "print([m for m in ('aiohttp', 'PIL', 'asyncio', 'anyio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert set(DIALECTS) == {"page", "openai", "newapi"}


def test_unknown_name_of_the_package_is_an_attribute_error():
    """A misspelt import fails as it does everywhere."""
    import imagen_async.emulator

    with pytest.raises(AttributeError, match="Emulater"):
        _ = imagen_async.emulator.Emulater
