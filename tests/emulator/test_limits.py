"""Rates, slots, balances, latencies and the front that gives up."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.emulator import PROFILES, Emulator
from imagen_async.emulator.latency import Profile
from imagen_async.emulator.limits import Balances, QueueFullError, RateWindow, Slots


async def test_rate_is_held_per_key(run):
    """Over the rate a key gets 429 in the dialect's words and another key goes on."""
    async with run(rpm=2) as (emulator, raw):
        statuses = [(await raw.post(key="sk-a")).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert (await raw.post(key="sk-b")).status == 200
        refused = await raw.post(key="sk-a")
        assert "at most 2 requests in 1 minute" in refused.json["error"]["message"]
        assert "Retry-After" not in refused.headers
        assert emulator.ledger["A cat"].charged == 3


async def test_openai_dialect_tells_how_long_to_wait(run):
    """OpenAI sends Retry-After with its 429; the other dialects never do."""
    async with run(rpm=1, dialect="openai") as (_, raw):
        await raw.post()
        assert 1 <= int((await raw.post()).headers["Retry-After"]) <= 60


@given(
    st.integers(1, 5),
    st.lists(st.floats(0, 30), min_size=1, max_size=40),
)
def test_no_window_holds_more_than_the_limit(limit, gaps):
    """Whatever the times, no minute has more requests than the limit, and room is used."""
    window, now, taken = RateWindow(limit), 0.0, []
    for gap in gaps:
        now += gap
        recent = [at for at in taken if at > now - 60.0]
        wait = window.take("k", now)
        assert (wait is None) is (len(recent) < limit)
        if wait is None:
            taken.append(now)
        else:
            assert wait == pytest.approx(recent[0] + 60 - now)


async def test_beyond_slots_and_queue_the_answer_is_503(run):
    """Of five requests two work, one waits, and two are told at once that the queue is full."""
    async with run(concurrency=2, queue=1, latency=3600) as (emulator, raw):
        posts = [asyncio.create_task(raw.post(f"p{number}")) for number in range(5)]
        while sum(post.done() for post in posts) < 2:
            await asyncio.sleep(0.002)
        refused = [post.result() for post in posts if post.done()]
        assert [reply.status for reply in refused] == [503, 503]
        assert "queue is full" in refused[0].json["error"]["message"]
        assert emulator.ledger.total.charged == 0
        await emulator.stop()
        await asyncio.gather(*posts, return_exceptions=True)


async def test_queue_is_served_in_its_order_and_per_key():
    """Who waited longest goes first, a slot given back is used again, and keys do not share."""
    slots, order = Slots(1, 2), []

    async def work(name: str) -> None:
        async with slots.held("a"):
            order.append(name)
            await asyncio.sleep(0)

    works = [asyncio.create_task(work(name)) for name in "123"]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        await work("4")
    async with slots.held("b"):
        await asyncio.gather(*works)
    await work("5")
    assert order == ["1", "2", "3", "5"]


async def test_balance_runs_out_by_images(run):
    """A key pays per image; what it cannot pay for is refused whole."""
    async with run(balance=3) as (emulator, raw):
        assert (await raw.post(n=2)).status == 200
        refused = await raw.post(n=2)
        assert (refused.status, refused.json["error"]["code"]) == (403, "insufficient_user_quota")
        assert (await raw.post(n=1)).status == 200
        assert (await raw.post(key="other", n=3)).status == 200
        assert emulator.ledger["A cat"].images == 6


@given(st.integers(0, 20), st.lists(st.integers(1, 5), max_size=20))
def test_balance_is_never_overdrawn(start, prices):
    """What is paid never exceeds the start, and nothing payable is refused."""
    balances, left = Balances(start), start
    for price in prices:
        assert balances.pay("k", price) is (price <= left)
        left -= price if price <= left else 0


@pytest.mark.parametrize(("front", "status"), [("nginx", 504), ("cloudflare", 524)])
async def test_front_gives_up_while_generation_goes_on_and_is_charged(run, front, status):
    """The client gets the front's answer at once; the charge comes all the same."""
    async with run(latency=0.04, front_timeout=0.005, front=front) as (emulator, raw):
        reply = await raw.post()
        assert reply.status == status
        while not emulator.ledger["A cat"].charged:
            await asyncio.sleep(0.005)
        account = emulator.ledger["A cat"]
        assert (account.charged, account.delivered, account.images) == (1, 0, 1)


async def test_quick_answer_passes_the_front(run):
    """A generation within the front's time is delivered."""
    async with run(front_timeout=5) as (emulator, raw):
        assert (await raw.post()).status == 200
        assert emulator.ledger["A cat"].delivered == 1


async def test_client_that_leaves_is_charged_all_the_same(run, caplog):
    """Generation that has begun ends, is charged, and leaves no traceback behind."""
    async with run(concurrency=1) as (emulator, raw):
        async with emulator.gateway._slots.held(""):
            await raw.leave(lambda account: account.posts)
        account = await raw.settled()
        assert (account.charged, account.delivered) == (1, 0)
    assert caplog.records == []


async def test_time_scale_divides_the_profile(run):
    """Thirty seconds of ultra at a scale of 100,000 pass in a moment."""
    async with run(profile="ultra", time_scale=1e5) as (_, raw):
        async with asyncio.timeout(5):
            assert (await raw.post()).status == 200


@pytest.mark.parametrize("name", [name for name in PROFILES if name != "instant"])
def test_profile_has_the_quantiles_it_names(name):
    """Of many generations half are under p50 and one in twenty over p95."""
    profile = PROFILES[name]
    times = sorted(profile.seconds(7, number) for number in range(4000))
    assert times[2000] == pytest.approx(profile.p50, rel=0.05)
    assert times[3800] == pytest.approx(profile.p95, rel=0.05)


@given(st.integers(), st.integers(0))
def test_latency_is_repeatable_and_never_negative(seed, number):
    """The same request takes the same time."""
    profile = Profile(2.0, 3.0)
    assert profile.seconds(seed, number) == profile.seconds(seed, number) > 0
    assert PROFILES["instant"].seconds(seed, number) == 0


async def test_idempotency_keys_are_noted_and_not_honoured(raw):
    """As at every gateway known, a repeated key buys again; the ledger shows the key once."""
    for _ in range(2):
        assert (await raw.post(headers={"Idempotency-Key": "k1"})).status == 200
    account = raw.emulator.ledger["A cat"]
    assert (account.charged, account.keys) == (2, ["k1"])


async def test_honoured_key_replays_the_answer_without_a_charge(run):
    """With the knob on, a lost answer comes again under its key, and costs once."""
    async with run(honour_idempotency=True) as (emulator, raw):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await raw.post(headers={"Idempotency-Key": "k1"}, fault="drop")
        first = await raw.post(headers={"Idempotency-Key": "k1"})
        again = await raw.post(headers={"Idempotency-Key": "k1"})
        assert first.status == 200
        assert first.json == again.json
        assert emulator.ledger["A cat"].charged == 1
        assert (await raw.post(headers={"Idempotency-Key": "k2"})).status == 200
        assert emulator.ledger["A cat"].charged == 2


async def test_honoured_key_in_progress_is_a_conflict(run):
    """A second request under a key that is still at work gets 409; a refused one frees its key."""
    headers = {"Idempotency-Key": "k1"}
    async with run(honour_idempotency=True, concurrency=1) as (emulator, raw):
        async with emulator.gateway._slots.held(""):
            first = asyncio.create_task(raw.post(headers=headers))
            while not emulator.ledger["A cat"].posts:
                await asyncio.sleep(0.002)
            assert (await raw.post(headers=headers)).status == 409
        assert (await first).status == 200
    async with run(honour_idempotency=True, balance=0) as (_, raw):
        assert [(await raw.post(headers=headers)).status for _ in range(2)] == [403, 403]


async def test_only_the_newest_honoured_keys_are_kept(run, monkeypatch):
    """The memory of honoured keys is bounded; a forgotten key buys again."""
    monkeypatch.setattr("imagen_async.emulator.replays.KEPT", 2)
    async with run(honour_idempotency=True) as (emulator, raw):
        for key in ("a", "b", "c", "c", "a"):
            assert (await raw.post(headers={"Idempotency-Key": key})).status == 200
        assert emulator.ledger["A cat"].charged == 4


def test_slots_work_in_the_loop_of_the_next_start(run):
    """A queue that formed in one loop does not bind the emulator to it."""
    emulator = Emulator(draw="tiny", concurrency=1, latency=0.005)

    async def queue() -> list[int]:
        async with emulator, aiohttp.ClientSession() as session:
            url = f"{emulator.base_url}/images/generations"

            async def post() -> int:
                async with session.post(url, json={"prompt": "A cat"}) as reply:
                    return reply.status

            return await asyncio.gather(*(post() for _ in range(3)))

    for _ in range(2):
        assert asyncio.run(queue()) == [200, 200, 200]
