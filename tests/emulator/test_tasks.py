"""Orders that are answered with a task: charged once at the order, collected by polling."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest


def bearer(key="k"):
    return {"Authorization": f"Bearer {key}"}


async def polled(raw, url, key="k"):
    """Poll until the task has ended, and return the last answer and all states."""
    states = []
    while True:
        reply = await raw.get(url, headers=bearer(key))
        states.append(reply.json["status"])
        if states[-1] not in ("queued", "processing"):
            return reply, states
        assert float(reply.headers["Retry-After"]) > 0
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("shape", ["202", "200"])
async def test_a_task_is_charged_at_its_order_and_collected_later(run, shape):
    """Its states lead to our usual body; the ledger has one charge and one delivery."""
    async with run(tasks=shape, latency=0.05, time_scale=1.0) as (emulator, raw):
        order = await raw.post("A cat", key="k", n=2)
        account = emulator.ledger["A cat"]
        assert order.status == int(shape)
        assert (account.charged, account.images, account.delivered) == (1, 2, 0)
        assert order.headers["Retry-After"] == "3"
        told = order.json if shape == "202" else order.json["data"]
        assert told["task_id"] in order.headers["Location"]
        assert shape == "200" or order.json["poll_url"] == order.headers["Location"]
        reply, states = await polled(raw, order.headers["Location"])
        assert states[0] == "queued"
        assert states[-1] == "completed"
        assert len(reply.json["result"]["data"]) == 2
        await raw.get(order.headers["Location"], headers=bearer())
        assert (account.posts, account.charged, account.delivered) == (1, 1, 1)
        (exchange,) = emulator.requests
        assert exchange.delivered
        assert exchange.task == told["task_id"]


async def test_a_task_is_its_keys_own_and_expires(run):
    """Another key, an unknown id and an expired task are 404s."""
    async with run(tasks="202", task_ttl=30.0, time_scale=1.0) as (emulator, raw):
        url = (await raw.post("A cat", key="k")).headers["Location"]
        assert (await raw.get(url, headers=bearer("other"))).status == 404
        assert (await raw.get(f"{url}x", headers=bearer())).status == 404
        assert (await raw.get(url, headers=bearer())).status == 200
        emulator.gateway._started -= 60
        gone = await raw.get(url, headers=bearer())
        assert gone.status == 404
        assert gone.json["error"]["code"] == "task_not_found"
    async with run() as (_, raw):
        assert "Invalid URL" in (await raw.get(url, headers=bearer())).json["error"]["message"]


async def test_a_failed_task_gives_its_charge_back(run):
    """The state says failed, the ledger has no charge left, and the log a refund."""
    async with run(tasks="202", call_log="newapi") as (emulator, raw):
        url = (await raw.post("A cat", key="k", fault="task_failed")).headers["Location"]
        reply, states = await polled(raw, url)
        account = emulator.ledger["A cat"]
        assert states[-1] == "failed"
        assert "nothing is charged" in reply.json["error"]["message"]
        assert (account.charged, account.images, account.delivered) == (0, 0, 0)
        assert account.cost == pytest.approx(0)
        rows = (await raw.get("/api/log/token", headers=bearer())).json["data"]
        assert [(row["type"], row["quota"]) for row in rows] == [(6, 20_000), (2, 20_000)]
    async with run(tasks="202", call_log="aimlapi") as (_, raw):
        url = (await raw.post("A cat", key="k", fault="task_failed")).headers["Location"]
        await polled(raw, url)
        (row,) = (await raw.get("/v2/logs?period=1h", headers=bearer())).json["data"]
        assert (row["status"], row["cost"]["usd"]) == ("failed", 0.0)


async def test_a_lost_task_stays_charged(run):
    """A gateway that forgot a task has its money."""
    async with run(tasks="202") as (emulator, raw):
        url = (await raw.post("A cat", key="k", fault="task_lost")).headers["Location"]
        assert (await raw.get(url, headers=bearer())).status == 404
        assert emulator.ledger["A cat"].charged == 1


async def test_an_order_may_be_lost_on_its_way_back(run):
    """The faults of lost answers strike the order's answer, which is charged."""
    async with run(tasks="202") as (emulator, raw):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await raw.post("A cat", key="k", fault="drop")
        assert emulator.ledger["A cat"].charged == 1
    async with run(tasks="202", balance=0) as (emulator, raw):
        assert (await raw.post("A cat", key="k")).status == 403
        assert emulator.ledger["A cat"].refused == 1


async def test_tasks_that_are_done_outlive_a_stop(run):
    """A stopped emulator ends what it draws; what was drawn can be collected after a start."""
    async with run(tasks="202", latency=0.0) as (emulator, raw):
        done = (await raw.post("A cat", key="k")).headers["Location"]
        await polled(raw, done)
        await emulator.stop()
        await emulator.start()
        assert (await raw.get(done, headers=bearer())).json["status"] == "completed"
        emulator.reset()
        assert (await raw.get(done, headers=bearer())).status == 404


async def test_a_task_that_is_drawn_ends_with_the_emulator(run):
    """No work is left behind when it stops."""
    async with run(tasks="202", latency=60.0) as (emulator, raw):
        url = (await raw.post("A cat", key="k")).headers["Location"]
        assert (await raw.get(url, headers=bearer())).json["status"] == "queued"
        await emulator.stop()
        await emulator.start()
        assert (await raw.get(url, headers=bearer())).status == 404


async def test_one_key_is_one_task(run):
    """With honoured keys a repeated order is the same task, and another body a 422."""
    headers = {"Idempotency-Key": "one"}
    async with run(tasks="202", honour_idempotency=True) as (emulator, raw):
        first = await raw.post("A cat", key="k", headers=headers)
        again = await raw.post("A cat", key="k", headers=headers)
        other = await raw.post("A dog", key="k", headers=headers)
        assert first.json == again.json
        assert other.status == 422
        assert other.json["error"]["code"] == "idempotency_key_reused"
        assert (emulator.ledger["A cat"].charged, emulator.ledger["A dog"].charged) == (1, 0)
