"""Waits, storms and outages on a virtual clock: exact, and over in milliseconds.

Rows N9, N10, N12, N14, H1, H5, H6, C1 and C2 of the fault matrix.
"""

import asyncio
import itertools
import random
import time

import pytest

from imagen_async import (
    AsyncImagen,
    Charge,
    Generation,
    ImagenError,
    Limits,
    NotSentError,
    OutcomeUnknownError,
    RefusedError,
    Retrying,
    RetryPolicy,
    ServerFailedError,
    SpoiledAnswerError,
    Throttled,
    Timeouts,
)
from imagen_async.policy.circuit import PROBE_EVERY
from imagen_async.wire.verdict import FailureKind
from tests.scripted import Answer, Post, answering, failed, scripted
from tests.virtual import VirtualLoop, now, virtually


async def settled(imagen: AsyncImagen, count: int) -> list[bool]:
    """Run a stream of prompts to its end; return which ones are done."""
    async with imagen.generate_many([str(n) for n in range(count)]) as outcomes:
        return [outcome.ok async for outcome in outcomes]


@virtually
async def test_silence_ends_at_the_answer_timeout() -> None:
    """A gateway that says nothing is left after exactly the answer timeout."""

    async def silent(post: Post) -> Answer:
        post.send()
        await asyncio.sleep(10_000)
        return post.image()

    async with scripted(silent) as (_, imagen):
        began = now()
        with pytest.raises(OutcomeUnknownError, match=r"600 s \(answer\)"):
            await imagen.generate("p")
        assert now() - began == pytest.approx(600)


@virtually
async def test_a_connection_that_never_comes() -> None:
    """Each attempt gets the connect timeout, and the call ends without a charge."""

    async def hole(post: Post) -> Answer:
        await asyncio.sleep(10_000)
        return post.image()

    async with scripted(hole) as (gateway, imagen):
        began = now()
        with pytest.raises(NotSentError, match="no connection within 10 s") as caught:
            await imagen.generate("p")
        assert (caught.value.attempts, caught.value.charge) == (4, Charge.NO)
        assert 40 <= now() - began <= 40 + 0.5 + 1 + 2
        assert len(gateway.posts) == 4


@virtually
async def test_a_drip_ends() -> None:
    """A body that comes a byte a second for ever ends at the answer timeout, and is paid for."""
    drip = Answer(pieces=[(1.0, b"{")] + [(1.0, b" ")] * 100_000)
    async with scripted(answering(drip)) as (_, imagen):
        began = now()
        with pytest.raises(SpoiledAnswerError, match="in its body") as caught:
            await imagen.generate("p")
        assert now() - began == pytest.approx(600)
        assert caught.value.charge is Charge.YES


@pytest.mark.parametrize(("seconds", "fits"), [(500, True), (700, False)])
@virtually
async def test_a_thin_line(seconds: int, fits: bool) -> None:
    """An image over a slow line comes if it comes inside the answer timeout."""

    async def thin(post: Post) -> Answer:
        post.send()
        await asyncio.sleep(random.uniform(1, 3))
        whole = post.image().body
        step = len(whole) // 20
        pieces = [(seconds / 20, whole[i : i + step]) for i in range(0, step * 20, step)]
        return Answer(pieces=pieces, body=whole[step * 20 :])

    async with scripted(thin) as (gateway, imagen):
        if fits:
            assert (await imagen.generate("p")).images[0].data
        else:
            with pytest.raises(SpoiledAnswerError):
                await imagen.generate("p")
        assert len(gateway.posts) == 1


@virtually
async def test_an_answer_timeout_is_cut_by_total() -> None:
    """No attempt goes on beyond the call's total, and the error says that total ended it."""

    async def silent(post: Post) -> Answer:
        if post.number < 3:
            raise post.broken()
        post.send()
        await asyncio.sleep(10_000)
        return post.image()

    times = Timeouts(total=30)
    async with scripted(silent, timeouts=times) as (_, imagen):
        began = now()
        with pytest.raises(OutcomeUnknownError, match="what was left of total"):
            await imagen.generate("p")
        assert now() - began == pytest.approx(30)


@virtually
async def test_backoff_keeps_to_its_formula() -> None:
    """The n-th wait of a failing call lies between 0 and base * 2^(n-1)."""
    waits = []

    def on_event(event: object) -> None:
        if isinstance(event, Retrying):
            waits.append(event.wait)

    policy = RetryPolicy(max_attempts=6, max_sends=6)
    failing = answering(*[failed()] * 5)
    async with scripted(failing, retry=policy, on_event=on_event) as (gateway, imagen):
        await imagen.generate("p")
        gaps = [b - a for a, b in itertools.pairwise(gateway.times)]
        assert gaps == pytest.approx(waits)
        assert all(0 <= gap <= 0.5 * 2**n for n, gap in enumerate(gaps))


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"retry-after": "0"}, 0, 0.5),
        ({"retry-after": "1"}, 1, 1.1),
        ({"retry-after": "59"}, 59, 60),
        ({"retry-after-ms": "1500", "retry-after": "59"}, 1.5, 1.65),
        ({"retry-after": "1.5"}, 1.5, 1.65),
        ({"retry-after": "-1"}, 0, 0.5),
        ({"retry-after": "1e999"}, 0, 0.5),
        ({"retry-after": "nan"}, 0, 0.5),
        ({"retry-after": "١٢"}, 0, 0.5),
        ({"retry-after": "soon " * 2000}, 0, 0.5),
        (
            {
                "date": "Sun, 06 Nov 1994 08:49:37 GMT",
                "retry-after": "Sun, 06 Nov 1994 08:49:47 GMT",
            },
            10,
            11,
        ),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0, 0.5),
    ],
)
@virtually
async def test_retry_after_is_obeyed(headers: dict[str, str], least: float, most: float) -> None:
    """A wait that a server asks for is kept: never earlier, and at most a second later."""
    async with scripted(answering(Answer(429, headers=headers))) as (gateway, imagen):
        await imagen.generate("p")
        first, second = gateway.times
        assert least <= second - first <= most + 1e-6


@pytest.mark.parametrize("value", ["61", "999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
@virtually
async def test_a_long_wait_is_told_at_once(value: str) -> None:
    """A call does not wait longer than retry_after_max: it raises with what was asked."""
    async with scripted(answering(Answer(429, headers={"retry-after": value}))) as (_, imagen):
        began = now()
        with pytest.raises(RefusedError, match="retry_after_max") as caught:
            await imagen.generate("p")
        assert now() - began < 1e-3
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 61


@virtually
async def test_a_call_waits_no_longer_than_its_total() -> None:
    """A wait that cannot end inside total is not begun."""
    answer = Answer(429, headers={"retry-after": "20"})
    async with scripted(answering(answer)) as (gateway, imagen):
        began = now()
        with pytest.raises(RefusedError, match="no time left"):
            await imagen.generate("p", timeout=15)
        assert now() - began < 1e-3
        assert len(gateway.posts) == 1


@virtually
async def test_many_wait_as_long_as_it_takes() -> None:
    """In generate_many a refused call waits, and total stands still while it does."""
    answers = [Answer(429, headers={"retry-after": "500"})] * 6
    async with scripted(answering(*answers), timeouts=Timeouts(total=100)) as (_, imagen):
        began = now()
        async with imagen.generate_many(["p"], give_up_after=4000) as outcomes:
            assert [outcome.ok async for outcome in outcomes] == [True]
        assert now() - began >= 3000


@virtually
async def test_a_storm_is_met_by_one_probe_a_window() -> None:
    """Fifty calls refused at once close one gate; each window sees one probe; order is kept."""
    calm = now() + 100
    windows: list[float] = []

    async def stormy(post: Post) -> Answer:
        post.send()
        await asyncio.sleep(0.2)
        if now() < calm:
            return Answer(429, headers={"retry-after": "10"})
        return post.image()

    def on_event(event: object) -> None:
        if isinstance(event, Throttled):
            windows.append(now())

    limits = Limits(concurrency=50)
    async with scripted(stormy, limits=limits, on_event=on_event) as (gateway, imagen):
        results = await settled(imagen, 200)
    assert results == [True] * 200
    storm, probes = gateway.times[:50], [at for at in gateway.times[50:] if at < calm]
    assert max(storm) - min(storm) < 1e-3
    assert 8 <= len(probes) <= 10
    assert all(b - a >= 10 for a, b in itertools.pairwise(probes))
    assert len(windows) == len(probes) + 1
    after = [at for at in gateway.times if at >= calm]
    # The probe that succeeds, then at most one call in each fiftieth of a second.
    assert sum(at < after[0] + 0.2 + 0.5 for at in after) <= 27


@virtually
async def test_a_storm_stops_single_calls_after_four_refusals() -> None:
    """Fifty single calls in a storm knock once each, and then one by one with the gate."""

    async def stormy(post: Post) -> Answer:
        post.send()
        return Answer(429)

    async with scripted(stormy, limits=Limits(concurrency=50)) as (gateway, imagen):
        calls = (imagen.generate(str(n), timeout=60) for n in range(50))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in results} == {RefusedError}
        probes = gateway.times[50:]
        assert all(b > a for a, b in itertools.pairwise(probes))
        ran_out = [e for e in results if "ran out in the queue" in str(e)]
        assert ran_out
        assert all("answered 429" in str(error) for error in results)


@virtually
async def test_an_outage_is_not_amplified() -> None:
    """In a total outage 400 calls make at most 1.2 times as many attempts, and end."""

    async def dead(post: Post) -> Answer:
        raise post.broken(FailureKind.CONNECT)

    async with scripted(dead, limits=Limits(concurrency=50)) as (gateway, imagen):
        calls = (imagen.generate(str(n)) for n in range(400))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in results} == {NotSentError}
        assert len(gateway.posts) <= 1.2 * 400


@virtually
async def test_a_failing_server_is_not_amplified() -> None:
    """The same holds for a server that answers every request with 500."""

    async def failing(post: Post) -> Answer:
        return failed()

    async with scripted(failing, limits=Limits(concurrency=50)) as (gateway, imagen):
        calls = (imagen.generate(str(n)) for n in range(200))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in results} == {ServerFailedError}
        assert len(gateway.posts) <= 1.2 * 200


@virtually
async def test_a_network_that_comes_back() -> None:
    """A stream of prompts outlives a minute without network, with one probe per 5 seconds."""
    gone, back = now() + 5, now() + 65

    async def flaky(post: Post) -> Answer:
        if gone <= now() < back:
            raise post.broken(FailureKind.CONNECT)
        post.send()
        await asyncio.sleep(1)
        return post.image()

    limits = Limits(concurrency=20)
    async with scripted(flaky, limits=limits) as (gateway, imagen):
        results = await settled(imagen, 400)
    assert results == [True] * 400
    probes = [at for at in gateway.times if gone + 10 <= at < back]
    assert len(probes) <= 60 / PROBE_EVERY
    assert all(b - a >= PROBE_EVERY - 1e-6 for a, b in itertools.pairwise(probes))
    assert now() < back + 60


@virtually
async def test_the_configured_rate_is_kept() -> None:
    """50 requests a second for 10 s: 49 to 51 a second, and no window above rate + burst."""
    burst = 5

    async def quick(post: Post) -> Answer:
        post.send()
        await asyncio.sleep(0.3)
        return post.image()

    limits = Limits(concurrency=64, requests_per_minute=3000, burst=burst)
    async with scripted(quick, limits=limits) as (gateway, imagen):
        await settled(imagen, 500)
    times = gateway.times
    rate = (len(times) - 1) / (times[-1] - times[0])
    assert 49 <= rate <= 51
    for start in times:
        assert sum(start <= at < start + 1 for at in times) <= 50 + burst


@virtually
async def test_a_rate_is_kept_by_single_calls_in_their_order() -> None:
    """Calls begin in the order in which they were made, one each interval."""
    async with scripted(answering(), limits=Limits(requests_per_minute=60)) as (gateway, imagen):
        calls = [imagen.generate(str(n)) for n in range(20)]
        await asyncio.gather(*calls)
        assert [post.prompt for post in gateway.posts] == [str(n) for n in range(20)]
        gaps = [b - a for a, b in itertools.pairwise(gateway.times)]
        assert gaps == pytest.approx([1.0] * 19)


@pytest.mark.parametrize("shift", [-86_400.0, 31_536_000.0, 3600.0])
@virtually
async def test_the_wall_clock_does_not_matter(shift: float) -> None:
    """A wall clock that is set during the waits changes none of them."""
    real = time.time
    shown = [0.0]

    async def refusing(post: Post) -> Answer:
        shown[0] += shift
        if post.number < 3:
            return Answer(429, headers={"retry-after": "7"})
        return post.image()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "time", lambda: real() + shown[0])
        async with scripted(refusing) as (gateway, imagen):
            await imagen.generate("p")
            gaps = [b - a for a, b in itertools.pairwise(gateway.times)]
            assert all(7 <= gap <= 7.7 + 1e-6 for gap in gaps)


def asleep(seconds: float) -> None:
    """Let the machine sleep: the clock goes on and nothing runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.jump(seconds)


@virtually
async def test_a_machine_that_slept_during_an_attempt() -> None:
    """After an hour's sleep an attempt ends as a timeout, and the next call works."""

    async def answers(post: Post) -> Answer:
        post.send()
        await asyncio.sleep(5)
        return post.image()

    async with scripted(answers) as (_, imagen):
        call = asyncio.ensure_future(imagen.generate("p"))
        await asyncio.sleep(1)
        asleep(3600)
        (result,) = await asyncio.gather(call, return_exceptions=True)
        # Its answer and its timeout are both due: whichever is seen first, it ends in one of two.
        assert type(result) in (Generation, OutcomeUnknownError)
        assert (await imagen.generate("q")).images[0].data


@pytest.mark.parametrize("wait", ["backoff", "gate", "pace"])
@virtually
async def test_a_machine_that_slept_during_a_wait(wait: str) -> None:
    """After an hour's sleep in a wait no attempt begins: the call's time is over."""
    first = {"backoff": failed(), "gate": Answer(429), "pace": None}[wait]
    policy = RetryPolicy(backoff_base=50, backoff_cap=50)
    rate = 1.0 if wait == "pace" else None
    limits = Limits(requests_per_minute=rate)
    async with scripted(answering(first), retry=policy, limits=limits) as (gateway, imagen):
        if wait == "pace":
            await imagen.generate("before")
        call = asyncio.ensure_future(imagen.generate("p"))
        await asyncio.sleep(0.01)
        asleep(3600)
        with pytest.raises(ImagenError, match="total of 900 s ran out") as caught:
            await call
        assert caught.value.charge is Charge.NO
        assert len(gateway.posts) == 1
        assert (await imagen.generate("q")).images[0].data


@virtually
async def test_total_runs_out_in_the_queue() -> None:
    """A call that never got a slot says so, and what it waited for."""

    async def slow(post: Post) -> Answer:
        post.send()
        await asyncio.sleep(100)
        return post.image()

    async with scripted(slow, limits=Limits(concurrency=1)) as (gateway, imagen):
        first = asyncio.ensure_future(imagen.generate("p"))
        await asyncio.sleep(0)
        began = now()
        with pytest.raises(NotSentError, match="total of 5 s ran out in the queue") as caught:
            await imagen.generate("q", timeout=5)
        assert now() - began == pytest.approx(5)
        assert (caught.value.attempts, caught.value.charge) == (0, Charge.NO)
        assert caught.value.idempotency_key
        assert imagen.stats().in_flight == 1
        await first
        assert [post.prompt for post in gateway.posts] == ["p"]
