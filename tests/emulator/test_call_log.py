"""The emulator's logs of calls: what is in them, who may read, what an operator does to them."""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime

import pytest

LOGS = {
    "newapi": ("/api/log/token", lambda r: r.json["data"]),
    "litellm": ("/spend/logs", lambda r: r.json),
    "aimlapi": ("/v2/logs?period=24h", lambda r: r.json["data"]),
}
OURS = {"X-Client-Request-Id": "mine", "x-litellm-call-id": "mine"}


def bearer(key="k"):
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("name", LOGS)
async def test_a_row_for_every_request_of_the_key(run, name):
    """A charge and a failure, newest first, with the ids of both sides; another key sees none."""
    path, rows_of = LOGS[name]
    async with run(call_log=name) as (emulator, raw):
        await raw.post("A cat", key="k", n=2, headers=OURS)
        await raw.post("A dog", key="k", fault="500")
        rows = rows_of(await raw.get(path, headers=bearer()))
        others = rows_of(await raw.get(path, headers=bearer("other")))
    ids = [exchange.request_id for exchange in emulator.requests]
    assert others == []
    failed, charged = rows
    spent = {"newapi": 40_000, "litellm": 0.08, "aimlapi": {"usd": 0.08, "credits": 160_000}}
    field = {"newapi": "quota", "litellm": "spend", "aimlapi": "cost"}[name]
    assert charged[field] == spent[name]
    assert ids[0] in json.dumps(charged)
    assert ids[1] in json.dumps(failed)
    assert ("mine" in json.dumps(charged)) is (name != "newapi")
    assert charged["model" if name != "newapi" else "model_name"] == "imagen4"


@pytest.mark.parametrize("name", LOGS)
async def test_the_log_is_the_keys_own(run, name):
    """Only a key that is let in reads, and only where there is such a log."""
    path, _ = LOGS[name]
    async with run(call_log=name, keys=["k"]) as (_, raw):
        refused = await raw.get(path, headers=bearer("other"))
        assert refused.status == (200 if name == "newapi" else 401)
        assert name != "newapi" or refused.json["success"] is False
        assert (await raw.get(path)).body == refused.body
        assert (await raw.get(path, headers=bearer())).status == 200
    async with run() as (_, raw):
        reply = await raw.get(path, headers=bearer())
        assert reply.headers["Content-Type"].startswith("text/html")


async def test_what_tells_a_gateway_apart(run):
    """new-api has /api/status, LiteLLM says that it is alive."""
    async with run(call_log="newapi") as (_, raw):
        assert (await raw.get("/api/status")).json["success"] is True
    async with run(call_log="litellm") as (_, raw):
        assert (await raw.get("/health/liveliness")).json == "I'm alive!"


async def test_a_row_is_looked_up_by_either_id(run):
    """LiteLLM finds a row by the caller's id and by its own."""
    async with run(call_log="litellm") as (_, raw):
        await raw.post("A cat", key="k", headers=OURS)
        await raw.post("A dog", key="k")
        for asked, count in (("mine", 1), ("nobody's", 0)):
            found = await raw.get(f"/spend/logs?request_id={asked}", headers=bearer())
            assert len(found.json) == count
        (row,) = (await raw.get("/spend/logs?request_id=mine", headers=bearer())).json
        path = f"/spend/logs?request_id={row['request_id']}"
        assert (await raw.get(path, headers=bearer())).json == [row]


async def test_pages_of_a_log(run):
    """AIMLAPI's pages are bounded and say whether there are more; a bad question is a 400."""
    async with run(call_log="aimlapi") as (_, raw):
        for number in range(3):
            await raw.post(f"cat {number}", key="k", headers={"X-Client-Request-Id": f"{number}"})
        seen = []
        for offset in (0, 2):
            path = f"/v2/logs?period=1h&limit=2&offset={offset}"
            page = (await raw.get(path, headers=bearer())).json
            assert page["pagination"]["total"] == 3
            assert page["pagination"]["has_more"] is (offset == 0)
            seen += [row["client_request_id"] for row in page["data"]]
        assert seen == ["2", "1", "0"]
        for query in ("", "?period=1h&limit=101", "?period=1h&limit=x", "?start=1"):
            assert (await raw.get(f"/v2/logs{query}", headers=bearer())).status == 400


@pytest.mark.parametrize("name", LOGS)
async def test_what_an_operator_does_to_a_log(run, name):
    """Late rows, few rows, no rows; the log's own clock, which its Date shows."""
    path, rows_of = LOGS[name]

    async def rows(**settings):
        async with run(call_log=name, **settings) as (_, raw):
            await raw.post("A cat", key="k")
            await raw.post("A dog", key="k")
            return await raw.get(path, headers=bearer())

    assert rows_of(await rows(call_log_off=True)) == []
    assert rows_of(await rows(call_log_lateness=60.0)) == []
    assert len(rows_of(await rows(call_log_limit=1))) == 1
    assert len(rows_of(await rows(call_log_strangers=1.0))) == 4
    ahead = await rows(clock_skew=1000.0)
    date = parsedate_to_datetime(ahead.headers["Date"]).timestamp()
    assert 990 < date - time.time() < 1010


async def test_a_reset_empties_the_log(run):
    """A fresh start has no rows."""
    async with run(call_log="newapi") as (emulator, raw):
        await raw.post("A cat", key="k")
        emulator.reset()
        assert (await raw.get("/api/log/token", headers=bearer())).json["data"] == []


COSTS = {
    "aimlapi": lambda r: float(r.headers["x-aimlapi-usd-spent"]),
    "litellm": lambda r: float(r.headers["x-litellm-response-cost"]),
    "xai": lambda r: r.json["usage"]["cost_in_usd_ticks"] / 10_000_000_000,
    "openrouter": lambda r: r.json["usage"]["cost"],
}


@pytest.mark.parametrize("name", COSTS)
async def test_an_answer_tells_its_cost(run, name):
    """As its gateway tells it, and the ledger has the sum."""
    async with run(report_cost=name, price=0.03, dialect="openai") as (emulator, raw):
        first, second = await raw.post("A cat", n=3), await raw.post("A dog")
        assert COSTS[name](first) == pytest.approx(0.09)
        assert COSTS[name](second) == pytest.approx(0.03)
        assert emulator.ledger.total.cost == pytest.approx(0.12)
        assert emulator.ledger["A cat"].as_json()["cost"] == pytest.approx(0.09)
        assert first.json["usage"]["total_tokens"] > 0


async def test_no_cost_is_told_unless_it_is_asked_for(raw):
    """By default neither a header nor a field says what an answer cost."""
    reply = await raw.post("A cat")
    assert "usage" not in reply.json
    assert not [name for name in reply.headers if "cost" in name or "spent" in name]


async def test_ids_of_the_caller_are_kept(raw):
    """The books have both headers of a request."""
    await raw.post("A cat", headers=OURS)
    (exchange,) = raw.emulator.requests
    assert (exchange.client_request_id, exchange.litellm_call_id) == ("mine", "mine")
    assert exchange.as_json()["request_id"] == exchange.request_id
