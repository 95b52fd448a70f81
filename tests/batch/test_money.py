"""What a batch may cost where the table of verdicts is wrong, and when it stops trying."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from imagen_async import AsyncImagen, Limits, RetryPolicy
from imagen_async.batch.report import Report
from imagen_async.emulator import Emulator, FaultRule
from imagen_async.wire.verdict import FailureKind
from tests.batch import runs
from tests.batch.runs import b64, core_on
from tests.scripted import Answer, Gateway, Post, failed, scripted
from tests.virtual import now, virtually
from tests.wire.recorded_responses import ENVOY, page

LIES = {
    "a failure that the table calls free": failed(),
    "nginx's limit": Answer(503, page("503 Service Temporarily Unavailable")),
    "envoy's": Answer(503, ENVOY + b"overflow"),
    "cloudflare's": Answer(521),
    "425": Answer(425),
}
"""Answers that count as free; a gateway may have charged all the same."""
STATED = Answer(500, b"Internal Server Error")


async def run_all(imagen: AsyncImagen, prompts: Any, out: Path, **options: Any) -> Report:
    async with imagen.batch(prompts, out=out, gallery=False, **options) as run:
        async for _ in run:
            pass
    return run.report


def orders(gateway: Gateway) -> Counter[str]:
    return Counter(post.prompt for post in gateway.posts)


@pytest.mark.parametrize("lie", [*LIES.values(), STATED], ids=[*LIES, "stated free"])
@virtually
async def test_a_gateway_that_charges_for_what_counts_as_free(lie: Answer, tmp_path: Path) -> None:
    """Over any number of runs each prompt goes out max_sends times, and the report adds it up."""

    async def handler(post: Post) -> Answer:
        return lie

    retry = RetryPolicy(server_errors_charged=lie is not STATED, max_refusals=None, max_attempts=99)
    async with scripted(handler, retry=retry) as (gateway, imagen):
        for _ in range(4):
            report = await run_all(imagen, ["a", "b", "c"], tmp_path / "out", price_per_image=0.5)
    assert orders(gateway) == {"a": 4, "b": 4, "c": 4}
    assert (report.failed, report.spent, report.presumed_free) == (3, 0, 12)
    assert report.presumed_free_cost == 6


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@virtually
async def test_the_budget_counts_what_only_counts_as_free(lie: Answer, tmp_path: Path) -> None:
    """With money for two images no gateway gets more than two orders, in this run or the next."""

    async def handler(post: Post) -> Answer:
        return lie

    async with scripted(handler) as (gateway, imagen):
        for _ in range(3):
            report = await run_all(
                imagen, ["a", "b", "c"], tmp_path / "out", price_per_image=1, budget=2
            )
            assert len(gateway.posts) <= 2
    assert report.stopped_by == "budget"
    assert report.spent + report.presumed_free <= 2


@virtually
async def test_the_users_word_begins_a_new_count(tmp_path: Path) -> None:
    """With retry_failed a failed item goes out max_sends times more, and the report says so."""

    async def handler(post: Post) -> Answer:
        return failed()

    async with scripted(handler, retry=RetryPolicy(max_sends=2)) as (gateway, imagen):
        first = await run_all(imagen, ["a"], tmp_path / "out")
        again = await run_all(imagen, ["a"], tmp_path / "out", retry_failed=True)
    assert (first.failed, first.recounted, first.presumed_free) == (1, 0, 2)
    assert (again.failed, again.recounted, again.presumed_free) == (1, 1, 4)
    assert len(gateway.posts) == 4


@virtually
async def test_refusals_of_the_api_and_dead_connections_do_not_count(tmp_path: Path) -> None:
    """A 429, the API's own refusal and what never left use up neither sends nor budget."""

    async def handler(post: Post) -> Answer:
        if post.number < 12:
            if post.number % 3 == 0:
                raise post.broken(FailureKind.CONNECT)
            queue = Answer(503, b'{"error": {"message": "queue is full"}}')
            return Answer(429) if post.number % 2 else queue
        return post.image()

    async with scripted(handler) as (_, imagen):
        report = await run_all(imagen, ["a"], tmp_path / "out", price_per_image=1, budget=1)
    assert (report.done, report.attempts, report.presumed_free) == (1, 12, 0)


@virtually
async def test_a_stopped_item_goes_on_with_its_count(tmp_path: Path) -> None:
    """What was sent in a run that stopped early counts in the next one."""

    async def handler(post: Post) -> Answer:
        return failed() if post.number == 1 else Answer(402, b'{"error": {"message": "pay"}}')

    async with scripted(handler, retry=RetryPolicy(max_sends=2)) as (gateway, imagen):
        report = await run_all(imagen, ["a"], tmp_path / "out")
        assert (report.stopped_by, report.pending) == ("quota", 1)
        gateway.handler = lies
        report = await run_all(imagen, ["a"], tmp_path / "out")
        assert (report.failed, len(gateway.posts)) == (1, 3)
        report = await run_all(imagen, ["a"], tmp_path / "out")
    assert len(gateway.posts) == 3


async def lies(post: Post) -> Answer:
    return failed()


@virtually
async def test_a_pending_item_whose_sends_are_used_up_settles(tmp_path: Path) -> None:
    """An item that went out as often as this run allows fails with that reason, and stays."""

    async def handler(post: Post) -> Answer:
        return failed() if post.number < 3 else Answer(402, b'{"error": {"message": "pay"}}')

    async with scripted(handler, retry=RetryPolicy(max_sends=3)) as (_, imagen):
        report = await run_all(imagen, ["a"], tmp_path / "out")
        assert (report.stopped_by, report.pending) == ("quota", 1)
    async with scripted(lies, retry=RetryPolicy(max_sends=2)) as (gateway, imagen):
        report = await run_all(imagen, ["a"], tmp_path / "out")
    assert (report.failed, len(gateway.posts)) == (1, 0)
    assert "went out 2 times" in (tmp_path / "out" / "failed.jsonl").read_text()


KEYS = {
    "google": Answer(
        400, b'{"error": {"message": "no", "details": [{"reason": "API_KEY_INVALID"}]}}'
    ),
    "a type": Answer(400, b'{"error": {"message": "no", "type": "authentication_error"}}'),
    "401 in a 200": Answer(200, b'{"error": {"message": "no", "code": 401}}'),
    "401": Answer(401),
}


@pytest.mark.parametrize("answer", KEYS.values(), ids=KEYS)
@virtually
async def test_a_key_at_fault_stops_the_batch(answer: Answer, tmp_path: Path) -> None:
    """However the gateway says that the key is wrong, only what was in flight is asked."""

    async def handler(post: Post) -> Answer:
        return answer

    async with scripted(handler, limits=Limits(concurrency=4)) as (gateway, imagen):
        report = await run_all(imagen, map(str, range(200)), tmp_path / "out")
    assert report.stopped_by == "authentication"
    assert len(gateway.posts) <= 4
    assert (report.failed, report.done) == (0, 0)


async def dead(post: Post) -> Answer:
    raise post.broken(FailureKind.CONNECT)


async def busy(post: Post) -> Answer:
    return Answer(429, headers={"retry-after": "100"})


@pytest.mark.parametrize(
    ("handler", "word", "seconds"), [(dead, "unreachable", 60), (busy, "refused", 1800)]
)
@virtually
async def test_many_end_where_nothing_comes(handler: Any, word: str, seconds: float) -> None:
    """500 prompts against a dead port, or one that only refuses, settle soon after the limit."""
    began = now()
    async with (
        scripted(handler) as (gateway, imagen),
        imagen.generate_many(map(str, range(500))) as outcomes,
    ):
        errors = [outcome.error async for outcome in outcomes]
    assert len(errors) == 500
    assert all(f"for {seconds} s (give_up_after)" in str(error) for error in errors)
    assert seconds <= now() - began <= seconds + 15
    assert len(gateway.posts) <= 60


@pytest.mark.parametrize(
    ("handler", "word", "limit"),
    [(dead, "unreachable", None), (busy, "refused", None), (busy, "refused", 30)],
)
@virtually
async def test_a_batch_ends_where_nothing_comes(
    handler: Any, word: str, limit: float | None, tmp_path: Path
) -> None:
    """The run stops, says why, and leaves every prompt pending for the next one."""
    async with scripted(handler) as (gateway, imagen):
        report = await run_all(imagen, map(str, range(500)), tmp_path / "out", give_up_after=limit)
        assert report.stopped_by == word
        assert (report.failed, report.unknown, report.done) == (0, 0, 0)
        assert (report.pending, report.partial) == (report.total, True)

        async def well(post: Post) -> Answer:
            return post.image()

        gateway.handler = well
        report = await run_all(imagen, map(str, range(500)), tmp_path / "out")
    assert report.done == 500


@virtually
async def test_success_on_the_way_gives_the_run_its_time_again() -> None:
    """A run outlives any number of pauses that are each shorter than its limit."""

    async def handler(post: Post) -> Answer:
        if len(gateway.posts) % 2:
            return Answer(429, headers={"retry-after": "50"})
        return post.image()

    async with scripted(handler, limits=Limits(concurrency=1)) as (gateway, imagen):
        began = now()
        async with imagen.generate_many(map(str, range(8)), give_up_after=60) as outcomes:
            assert [outcome.ok async for outcome in outcomes] == [True] * 8
        assert now() - began >= 400


@pytest.mark.parametrize("fault", ["drop", "504", "cut"])
async def test_a_lost_answer_is_spent_once_where_the_key_is_honoured(
    fault: str, tmp_path: Path
) -> None:
    """Each lost answer comes again inside the run, charged once, and the report says so too."""
    async with Emulator(draw="tiny", honour_idempotency=True) as emulator:
        emulator.fail(*(FaultRule(fault=fault, prompt=f"p{n}", times=2) for n in range(3)))
        core = core_on(emulator, key_honoured=True)
        prompts = b64(*(f"p{n}" for n in range(6)))
        # A budget of six images has no room for a second purchase of any.
        options = {"price_per_image": 1, "budget": 6}
        outcomes, report = await runs.run_all(core, prompts, tmp_path / "out", **options)
        await core.aclose()
    assert all(outcome.ok for outcome in outcomes)
    assert (report.done, report.spent, report.attempts, report.presumed_free) == (6, 6, 12, 0)
    assert {account.charged for _, account in emulator.ledger.items()} == {1}
    assert all(len(account.keys) == 1 for _, account in emulator.ledger.items())


async def test_a_free_failure_under_an_honoured_key_takes_no_doubt_back(tmp_path: Path) -> None:
    """After a lost answer a failure that cost nothing leaves the first attempt's cost counted."""
    async with Emulator(draw="tiny") as emulator:
        emulator.fail_next("drop")
        emulator.fail_next("429")
        emulator.fail_next("400")
        core = core_on(emulator, key_honoured=True)
        _, report = await runs.run_all(core, b64("p"), tmp_path / "out")
        await core.aclose()
        assert emulator.ledger["p"].charged == 1
    assert (report.unknown, report.charged_maybe, report.spent) == (1, 1, 1)
    assert runs.execute(tmp_path / "out", "SELECT spent, attempts FROM item") == [(1, 3)]


async def test_a_batch_whose_gateway_does_not_honour_keys_after_all(tmp_path: Path) -> None:
    """A lie costs max_sends each, and as much again only on the user's own word to resend."""
    async with Emulator(draw="tiny") as emulator:
        emulator.fail("drop")
        core = core_on(emulator, key_honoured=True)
        for on_unknown, bought in (("hold", 4), ("hold", 4), ("resend", 8)):
            options = {"on_unknown": on_unknown}
            _, report = await runs.run_all(core, b64("p", "q"), tmp_path / "out", **options)
            assert {account.charged for _, account in emulator.ledger.items()} == {bought}
            assert (report.unknown, report.charged_maybe) == (2, 2)
            assert report.attempts == 2 * bought, "the report counts every send"
        await core.aclose()
    assert runs.execute(tmp_path / "out", "SELECT sends FROM item") == [(4,), (4,)]


async def test_a_held_doubt_is_resent_under_its_key(tmp_path: Path) -> None:
    """What one run left in doubt, another buys on request: the same purchase where keys count."""
    async with Emulator(draw="tiny", honour_idempotency=True) as emulator:
        emulator.fail_next("drop")
        first, second = core_on(emulator), core_on(emulator, key_honoured=True)
        _, report = await runs.run_all(first, b64("p"), tmp_path / "out")
        assert (report.unknown, report.spent) == (1, 1)
        _, report = await runs.run_all(second, b64("p"), tmp_path / "out")
        assert report.unknown == 1, "no run sends it by itself"
        _, report = await runs.run_all(second, b64("p"), tmp_path / "out", on_unknown="resend")
        await first.aclose()
        await second.aclose()
        assert (report.done, report.spent, report.resent) == (1, 1, 1)
        assert emulator.ledger["p"].charged == 1
