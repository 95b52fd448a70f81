"""Reading a gateway's log: exact against the emulator's ledger, and one clear line for the rest."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import aiohttp
import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from imagen_async.emulator import Emulator
from imagen_async.errors import Charge, ConfigurationError, ImagenError
from imagen_async.policy.settle import settle
from imagen_async.policy.settlement import CallLog, Doubt, KnownCall, LogRow, RowKind, Rule, Send
from imagen_async.session import call_log
from imagen_async.session.call_log import CallLogError, CallLogReader
from imagen_async.session.log_rows import aimlapi_row, litellm_row, newapi_row
from imagen_async.session.transport import ExchangeError, Head, Receiver
from imagen_async.wire.mask import Mask
from imagen_async.wire.verdict import FailureKind

KEY = "sk-secret-key"
ORIGIN = URL("https://gateway.example")
NOW = 1_790_000_000.0


@attrs.define
class Gateway:
    """Answers GETs from a script, and notes what was asked and waited."""

    answer: Callable[[URL], Any]
    now: float = NOW
    asked: list[URL] = attrs.field(factory=list)
    waits: list[float] = attrs.field(factory=list)
    skew: float = 0.0

    async def __call__(self, url: URL, on_head: Callable[[Head], Receiver], /) -> Head:
        self.asked.append(url)
        found = self.answer(url)
        if isinstance(found, Exception):
            raise found
        status, body, headers = found if isinstance(found, tuple) else (200, found, {})
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        date = formatdate(self.now + self.skew, usegmt=True)
        head = Head(status, {"Date": date, **headers})
        receiver = on_head(head)
        for at in range(0, len(text), 65536):
            receiver.feed(text[at : at + 65536])
            if receiver.full:
                break
        return head

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def reader(self, name: str | None, **options: Any) -> CallLogReader:
        clock = lambda: self.now  # noqa: E731
        return CallLogReader(self, ORIGIN, name, clock, self.sleep, **options)


def doubt(name: str = "a", at: float = NOW - 1000, key: str | None = None) -> Doubt:
    return Doubt(id=name, key=key or f"key-of-{name}", sends=(Send(at, at),))


def done(name: str, at: float = NOW - 1000) -> KnownCall:
    return KnownCall(send=Send(at, at, request_id=name), key=f"key-of-{name}")


@asynccontextmanager
async def asked(emulator: Emulator, key: str = KEY) -> AsyncIterator[Any]:
    """Give what sends GETs with a key to the emulator over its socket."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:

        async def get(url: URL, on_head: Callable[[Head], Receiver], /) -> Head:
            async with session.get(url, allow_redirects=False) as response:
                head = Head(response.status, response.headers)
                receiver = on_head(head)
                while not (response.content.at_eof() or receiver.full):
                    receiver.feed(await response.content.readany())
                return head

        yield get


@attrs.define
class Batch:
    """What a batch's journal knows, and what the ledger does."""

    doubts: list[Doubt] = attrs.field(factory=list)
    calls: list[KnownCall] = attrs.field(factory=list)
    charged: dict[str, int] = attrs.field(factory=dict)


async def bought(emulator: Emulator, prompts: int, faults: tuple[str, ...]) -> Batch:
    """Order images, a tenth of them with a fault that leaves it open what was charged."""
    batch = Batch()
    gate = asyncio.Semaphore(32)

    async def order(session: aiohttp.ClientSession, number: int) -> None:
        prompt, key = f"prompt {number}", f"00000000-0000-4000-8000-{number:012d}"
        headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": key}
        headers |= {"X-Client-Request-Id": key, "x-litellm-call-id": key}
        fault = faults[number // 10 % len(faults)] if number % 10 == 5 else ""
        async with gate:
            headers |= {"x-emulator-fault": fault} if fault else {}
            at = time.time()
            sent = Send(at, at)
            url = f"{emulator.base_url}/images/generations"
            try:
                async with session.post(url, json={"prompt": prompt}, headers=headers) as response:
                    status, told = response.status, response.headers.get("X-Oneapi-Request-Id")
                    await response.read()
            except aiohttp.ClientError:
                status, told = 0, None
        if status == 200:
            sent = attrs.evolve(sent, request_id=told)
            batch.calls.append(KnownCall(send=sent, key=key))
        else:
            batch.doubts.append(Doubt(id=prompt, key=key, sends=(sent,)))

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(order(session, number) for number in range(prompts)))
    await asyncio.sleep(0.05)
    batch.charged = {each.id: emulator.ledger[each.id].charged for each in batch.doubts}
    return batch


FAULTS = ("drop", "504", "accept_then_close", "502", "cut:20", "accept_then_close", "500")


@pytest.mark.parametrize("name", ["litellm", "aimlapi"])
async def test_logs_that_keep_our_key_settle_every_doubt(name: str) -> None:
    """400 prompts, a tenth of them in doubt: all settled, none wrong, all by their own rows."""
    async with Emulator(draw="tiny", call_log=name, keys=[KEY], clock_skew=3.0) as emulator:
        batch = await bought(emulator, 400, FAULTS)
        async with asked(emulator) as get:
            reader = CallLogReader(get, URL(emulator.origin), None, time.time, asyncio.sleep)
            log = await reader.read(batch.doubts, batch.calls)
    assert reader.name == name
    assert len(batch.doubts) == 40
    assert 0 < sum(batch.charged.values()) < 40
    found = settle(batch.doubts, batch.calls, log, horizon=0.0)
    truth = {0: Charge.NO, 1: Charge.YES}
    assert {each.id: each.charge for each in found.decisions} == {
        name: truth[charges] for name, charges in batch.charged.items()
    }
    assert found.least == found.most == sum(batch.charged.values())
    ids = {exchange.prompt: exchange.request_id for exchange in emulator.requests}
    for each in found.decisions:
        if each.charge is Charge.YES and each.id in ids:
            assert each.request_id is not None
            assert ids[each.id] in each.request_id
    low, high = log.skew
    assert low <= 3.0 <= high


async def test_new_apis_log_is_read_with_its_own_ids() -> None:
    """The rows are the ledger's charges, each answered call has its own; errors are no charges."""
    async with Emulator(draw="tiny", call_log="newapi", clock_skew=-4.0) as emulator:
        batch = await bought(emulator, 60, FAULTS)
        async with asked(emulator) as get:
            reader = CallLogReader(get, URL(emulator.origin), None, time.time, asyncio.sleep)
            log = await reader.read(batch.doubts, batch.calls)
            stranger = await reader_of(emulator, "sk-another").read(batch.doubts, batch.calls)
    assert reader.name == "newapi"
    kinds = [row.kind for row in log.rows]
    assert kinds.count(RowKind.CHARGE) == emulator.ledger.total.charged
    assert kinds.count(RowKind.FREE) == len(kinds) - kinds.count(RowKind.CHARGE)
    ids = {row.id for row in log.rows}
    assert {call.send.request_id for call in batch.calls} < ids
    assert log.whole_since == min(row.end or 0 for row in log.rows)
    assert log.skew[0] <= -4.0 <= log.skew[1]
    found = settle(batch.doubts, batch.calls, log, horizon=0.0)
    assert not found.problem
    assert found.least == found.most == sum(batch.charged.values())
    assert stranger.rows == ()
    assert stranger.whole_since == math.inf
    assert settle(batch.doubts, batch.calls, stranger, horizon=0.0).problem


def reader_of(emulator: Emulator, key: str) -> Any:
    """Return what reads with a key, in a session of its own."""

    class Reader:
        async def read(self, doubts: Any, calls: Any) -> CallLog:
            async with asked(emulator, key) as get:
                origin = URL(emulator.origin)
                reader = CallLogReader(get, origin, emulator.call_log, time.time, asyncio.sleep)
                return await reader.read(doubts, calls)

    return Reader()


@pytest.mark.parametrize("name", ["litellm", "aimlapi", "newapi"])
@pytest.mark.parametrize("trouble", ["off", "late", "other key"])
async def test_an_empty_log_settles_nothing(name: str, trouble: str) -> None:
    """Switched off, too early, or of another key: none is settled."""
    settings: dict[str, Any] = {"off": {"call_log_off": True}, "late": {"call_log_lateness": 60.0}}
    async with Emulator(draw="tiny", call_log=name, **settings.get(trouble, {})) as emulator:
        batch = await bought(emulator, 40, FAULTS)
        key = "sk-another" if trouble == "other key" else KEY
        log = await reader_of(emulator, key).read(batch.doubts, batch.calls)
    found = settle(batch.doubts, batch.calls, log, horizon=0.0)
    assert {each.charge for each in found.decisions} == {Charge.MAYBE}
    assert found.least == 0


async def test_strangers_in_new_apis_log_settle_nothing() -> None:
    """Rows of another program with the same key are seen, and nothing is settled."""
    async with Emulator(draw="tiny", call_log="newapi", call_log_strangers=0.5) as emulator:
        batch = await bought(emulator, 60, FAULTS)
        log = await reader_of(emulator, KEY).read(batch.doubts, batch.calls)
    found = settle(batch.doubts, batch.calls, log)
    assert "somebody else uses the key" in found.problem


ROW = {"created_at": NOW - 900, "use_time": 9, "type": 2, "quota": 5, "request_id": "x"}

ODD = {
    "a web page": ("newapi", b"<!doctype html><html>", "answered with a web page"),
    "no JSON": ("newapi", b"nonsense", "not JSON"),
    "too deep": ("newapi", b"[" * 150_000, "not JSON"),
    "401": ("newapi", (401, {"error": {"message": "no"}}, {}), "not open to this API key (401)"),
    "403": ("litellm", (403, b"", {}), "not open to this API key (403)"),
    "404": ("aimlapi", (404, b"", {}), "is not there (404)"),
    "429": ("newapi", (429, b"", {}), "asked too often"),
    "moved": ("newapi", (302, b"", {"Location": "https://elsewhere.example"}), "was moved (302)"),
    "500": ("newapi", (500, {"error": {"message": "down\x1b[1m"}}, {}), "answered 500: down"),
    "500 bare": ("newapi", (500, b"", {}), "the gateway answered 500."),
    "refused in 200": (
        "newapi",
        {"success": False, "message": f"bad token {KEY}"},
        "was refused: bad token ***",
    ),
    "refused bare": ("newapi", {"success": False}, "was refused"),
    "no rows": ("newapi", {"success": True, "data": None}, "answered without rows"),
    "no object": ("newapi", [1], "answered without rows"),
    "rows that are no objects": ("newapi", {"data": [3]}, "rows that are no objects"),
    "milliseconds": ("newapi", {"data": [{**ROW, "created_at": NOW * 1000}]}, "not Unix seconds"),
    "unreadable times": ("aimlapi", {"data": [{"created": "soon"}]}, "cannot be read"),
    "times in ms": ("aimlapi", {"data": [{"created": NOW * 1000}]}, "not Unix seconds"),
    "another's rows": ("litellm", [{"request_id": "other"}], "do not carry our id"),
    "encoded": ("newapi", (200, b"(\xb5/\xfd", {"Content-Encoding": "zstd"}), "not JSON"),
    "a million rows": ("newapi", {"data": [{}] * 1_000_000}, "too many rows at once"),
    "a huge row": ("newapi", b'"' + b"x" * (9 * 1024 * 1024), "more than 8 MiB"),
    "a million rows in pages": (
        "aimlapi",
        {"data": [], "pagination": {"total": 1_000_000, "has_more": True}},
        "more than 100,000 rows",
    ),
    "broken": (
        "newapi",
        ExchangeError(FailureKind.DROPPED, sent=True, detail="it was lost"),
        "did not answer: it was lost",
    ),
}


@pytest.mark.parametrize(("name", "answer", "says"), ODD.values(), ids=ODD)
async def test_an_odd_log_is_one_clear_line(name: str, answer: Any, says: str) -> None:
    """Whatever comes instead of rows is an error that says what it was, and no secret."""
    reader = Gateway(lambda _: answer).reader(name, mask=Mask([KEY]))
    with pytest.raises(CallLogError) as caught:
        await reader.read([doubt()], [done("d")])
    text = str(caught.value)
    assert says in text
    assert isinstance(caught.value, ImagenError)
    assert KEY not in text
    assert text.isprintable()


async def test_rows_without_ids_are_read() -> None:
    """What a row does not say stays open; new-api's other types of rows are left out."""
    rows = [ROW, {**ROW, "request_id": ""}, {"type": 2}, {**ROW, "type": 1}, {**ROW, "type": 9}]
    log = await Gateway(lambda _: {"data": {"items": rows}}).reader("newapi").read([doubt()], [])
    assert [(row.kind, row.id) for row in log.rows] == [
        (RowKind.CHARGE, "x"),
        (RowKind.CHARGE, None),
        (RowKind.OPEN, None),
        (RowKind.OPEN, "x"),
    ]
    assert log.rows[2].start is None
    assert log.rows[0].start == NOW - 909


KINDS = [
    (newapi_row({"type": 2, "quota": 7}), RowKind.CHARGE),
    (newapi_row({"type": 2, "quota": 0}), RowKind.OPEN),
    (newapi_row({"type": 2, "quota": True}), RowKind.OPEN),
    (newapi_row({"type": 2, "quota": 10**400}), RowKind.OPEN),
    (newapi_row({"type": [], "quota": 7}), RowKind.OPEN),
    (newapi_row({"type": 5, "quota": 0}), RowKind.FREE),
    (newapi_row({"type": 5, "quota": 7}), RowKind.OPEN),
    (newapi_row({"type": 6, "quota": 7}), RowKind.REFUND),
    (newapi_row({"type": 2, "quota": -7}), RowKind.REFUND),
    (aimlapi_row({"status": "succeeded", "cost": {"usd": 0.1}}), RowKind.CHARGE),
    (aimlapi_row({"status": "succeeded", "cost": {"usd": 0}}), RowKind.OPEN),
    (aimlapi_row({"status": "failed", "cost": {"usd": 0}}), RowKind.FREE),
    (aimlapi_row({"status": "failed", "cost": {"usd": 0.1}}), RowKind.CHARGE),
    (aimlapi_row({"status": "failed", "cost": "none"}), RowKind.OPEN),
    (aimlapi_row({"status": 7, "cost": {"usd": math.inf}}), RowKind.OPEN),
    (litellm_row({"id": "k", "spend": 0.1}, "k"), RowKind.CHARGE),
    (litellm_row({"id": "k", "spend": -0.1}, "k"), RowKind.REFUND),
    (litellm_row({"id": "k", "spend": 0}, "k"), RowKind.OPEN),
    (litellm_row({"id": "k", "spend": 0, "metadata": {"status": "failure"}}, "k"), RowKind.FREE),
]


@pytest.mark.parametrize(("row", "kind"), KINDS)
def test_only_a_priced_row_charges_and_only_a_failure_is_free(row: LogRow, kind: RowKind) -> None:
    """What is neither priced nor a failure at no cost stays open."""
    assert row.kind is kind


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
names = st.sampled_from(
    [
        *("created_at", "use_time", "type", "quota", "cost", "created", "spend", "startTime"),
        *("request_id", "metadata", "model", "model_name", "client_request_id", "inference_id"),
        *("status", "endTime"),
    ]
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names, json_values))
def test_any_object_is_a_row_or_an_error(row: dict[str, Any]) -> None:
    """No object of a log breaks a reader, whatever its fields hold."""
    for read in (newapi_row, aimlapi_row, lambda each: litellm_row(each, "k")):
        try:
            found = read(row)
        except CallLogError:
            continue
        assert found is None or isinstance(found, LogRow)


def pages(rows: list[dict[str, Any]], changes: Mapping[int, Callable[[], None]]) -> Gateway:
    """Return an AIMLAPI whose log changes before its n-th answer."""

    def answer(url: URL) -> Any:
        changes.get(len(gateway.asked) - 1, lambda: None)()
        offset, limit = int(url.query["offset"]), int(url.query["limit"])
        more = offset + limit < len(rows)
        pagination = {"total": len(rows), "has_more": more}
        return {"data": rows[offset : offset + limit], "pagination": pagination}

    gateway = Gateway(answer)
    return gateway


def usage(number: int) -> dict[str, Any]:
    created = "2026-09-21T14:13:20.000Z"
    cost = {"usd": 0.04}
    return {
        "created": created,
        "inference_id": f"i{number}",
        "client_request_id": f"key-of-{number}",
        "status": "succeeded",
        "cost": cost,
    }


@pytest.mark.parametrize("shift", [0, 30])
async def test_pages_that_shift_lose_no_row(shift: int) -> None:
    """New rows push the old ones back while the pages are read: each is read, and once."""
    rows = [usage(number) for number in range(250)]
    calls = [done(str(number)) for number in range(400)]
    pushed = [usage(number) for number in range(300, 300 + shift)]
    gateway = pages(rows, {1: lambda: rows.__setitem__(slice(0, 0), pushed)})
    log = await gateway.reader("aimlapi").read([doubt()], calls)
    found = [row.id for row in log.rows]
    assert len(found) == len(set(found))
    assert {f"i{number}" for number in range(250)} <= set(found)
    assert all(url.query["start"] < url.query["end"] for url in gateway.asked)


async def test_rows_that_leave_the_log_while_it_is_read_are_an_error() -> None:
    """If the rows move up, some would be passed over."""
    rows = [usage(number) for number in range(250)]
    gateway = pages(rows, {1: lambda: rows.__delitem__(slice(0, 30))})
    with pytest.raises(CallLogError, match="changed while it was read"):
        await gateway.reader("aimlapi").read([doubt()], [])


async def test_a_log_without_end_is_an_error() -> None:
    """A gateway that gives its first page again and again is not read for ever."""
    page = {"data": [usage(1)], "pagination": {"has_more": True}}
    gateway = Gateway(lambda _: page)
    with pytest.raises(CallLogError, match="changed while it was read"):
        await gateway.reader("aimlapi").read([doubt()], [])
    assert len(gateway.asked) == 2


async def test_new_apis_pace_is_obeyed() -> None:
    """Never more than twenty reads in twenty minutes; one too many is put off, or waits."""
    gateway = Gateway(lambda _: {"data": []})
    reader = gateway.reader("newapi")
    times = []
    for _ in range(600):
        gateway.now += 10
        before = len(gateway.asked)
        try:
            await reader.read([doubt()], [])
        except CallLogError as error:
            assert "try again in" in str(error)  # noqa: PT017 - it is refused some of the times
        times += [gateway.now] * (len(gateway.asked) - before)
    assert times[:10] == [NOW + 10 * number for number in range(1, 11)]
    assert max(gateway.waits) <= 60
    assert len(times) >= 60
    assert all(later - first >= 1200 for first, later in zip(times, times[20:], strict=False))


async def test_the_probe_finds_no_log() -> None:
    """A gateway of no known kind is an error that names the kinds; nothing else is asked."""
    gateway = Gateway(lambda _: (404, {"detail": "Not Found"}, {}))
    with pytest.raises(CallLogError, match="litellm, aimlapi, newapi"):
        await gateway.reader(None).read([doubt()], [])
    assert [url.path for url in gateway.asked] == ["/api/status", "/health/liveliness", "/v2/logs"]
    assert {url.origin() for url in gateway.asked} == {ORIGIN}
    web_site = Gateway(lambda _: b"<html>")
    with pytest.raises(CallLogError, match="No log of calls"):
        await web_site.reader(None).read([doubt()], [])


async def test_aimlapi_is_known_by_its_name() -> None:
    """Its own host needs no probe."""
    gateway = Gateway(lambda _: {"data": [], "pagination": {"has_more": False}})
    reader = CallLogReader(
        gateway, URL("https://api.aimlapi.com"), None, lambda: NOW, gateway.sleep
    )
    await reader.read([doubt()], [])
    assert reader.name == "aimlapi"
    assert len(gateway.asked) == 1


async def test_keys_that_a_log_cannot_keep_are_not_asked_for() -> None:
    """A key of other letters, or too short to be told from other texts, stays in doubt."""
    doubts = [doubt("a", key="a key with blanks"), doubt("b", key="short"), doubt("c")]
    gateway = Gateway(lambda url: [{"call": url.query["request_id"], "spend": 1.0}])
    log = await gateway.reader("litellm").read(doubts, [])
    assert log.keys == {"key-of-c"}
    decisions = settle(doubts, [], log).decisions
    assert [each.rule for each in decisions] == [Rule.UNKEPT, Rule.UNKEPT, Rule.CHARGED]


async def test_litellm_is_asked_for_few_of_the_answered_calls() -> None:
    """A call or two within each doubt's hour show that it keeps our ids; a thousand are known."""
    calls = [done(f"{number}-x", NOW - 9000 + 5 * number) for number in range(1000)]
    gateway = Gateway(lambda url: {"call": url.query["request_id"], "spend": 1.0})
    log = await gateway.reader("litellm").read([doubt(at=NOW - 4500)], calls)
    assert 2 <= len(gateway.asked) <= 3
    assert len(log.rows) == len(gateway.asked)


async def test_litellm_gives_too_many_rows_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What all look-ups bring together is bounded, too."""
    monkeypatch.setattr(call_log, "ROWS_LIMIT", 100)
    gateway = Gateway(lambda _: [{"id": "key-of-a", "also": "key-of-d"}] * 60)
    with pytest.raises(CallLogError, match="more than 100 rows"):
        await gateway.reader("litellm").read([doubt()], [done("d")])


def test_an_endless_id_is_none() -> None:
    """A log of many rows with names without end must fit into memory."""
    row = aimlapi_row({"inference_id": "x" * 10_000, "request_id": "y", "model": "z" * 513})
    assert (row.id, row.model) == ("y", None)


async def test_litellm_may_have_nothing_under_an_id() -> None:
    """An old version answers null, or a list that holds it."""
    log = await Gateway(lambda _: [None]).reader("litellm").read([doubt()], [])
    assert log.rows == ()


@pytest.mark.parametrize("skew", [-5.0, 0.0, 4.5])
async def test_the_date_tells_the_skew(skew: float) -> None:
    """To the second and the way there and back; without a Date it may be anything."""
    gateway = Gateway(lambda _: {"data": []}, skew=skew)
    log = await gateway.reader("newapi").read([doubt()], [])
    low, high = log.skew
    assert low <= skew <= high
    assert high - low == 1.0
    without = Gateway(lambda _: (200, {"data": []}, {"Date": "yesterday"}))
    assert (await without.reader("newapi").read([doubt()], [])).skew == (-3600.0, 3600.0)


async def test_a_clock_that_was_set_counts_as_it_was_told_last() -> None:
    """Two answers that no one skew fits leave that of the later."""
    gateway = Gateway(lambda _: None)

    def answer(_: URL) -> Any:
        gateway.skew = 100.0 * len(gateway.asked)
        return []

    gateway.answer = answer
    log = await gateway.reader("litellm").read([doubt("a"), doubt("b")], [])
    assert log.skew[0] <= 200.0 <= log.skew[1]


def test_a_reader_takes_known_names_only() -> None:
    """A kind of log that nobody knows is refused at once."""
    with pytest.raises(ConfigurationError, match="log must be one of litellm, aimlapi, newapi"):
        Gateway(lambda _: None).reader("openai")
    assert call_log.LOGS == ("litellm", "aimlapi", "newapi")
