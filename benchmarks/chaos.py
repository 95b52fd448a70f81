"""What the client promises under faults, in figures, beside a client that sends again blindly.

Run as ``python -X dev -W error -m benchmarks.chaos``; it fails if a figure is missed. All runs go
over real sockets or a network in memory, on a clock that jumps over every wait, under one seed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import time
from typing import TYPE_CHECKING, Any

import aiohttp

from imagen_async import (
    Cancelled,
    Charge,
    Generation,
    ImagenError,
    Limits,
    RetryPolicy,
    Timeouts,
)
from imagen_async.wire.verdict import FailureKind
from tests import virtual
from tests.chaos import naive
from tests.chaos.faults import CHARGED, FREE, cut, dripping, error, ok_then_closed, raw, status
from tests.chaos.harness import Watch, client, holdings
from tests.chaos.server import Fault, fine, serving
from tests.scripted import Answer, Post, scripted
from tests.wire.recorded_fronts import SEEN, TOLD

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

FRONTS: dict[str, Fault] = {
    said.name: status(said.status, said.body, *map(": ".join, said.headers.items()), charged=True)
    for said in (*SEEN, *TOLD)
    if said.taken is not False
}
"""What fronts and forwarding gateways say after the origin took the order."""
ALL: dict[str, Fault] = {
    **CHARGED,
    **FREE,
    **FRONTS,
    "400": error(400, message="no"),
    "402": error(402, message="no money"),
    "closed after the answer": ok_then_closed,
    "silence": raw(then="hang"),
    "silence in the body": cut("length", then="hang"),
    "drip": dripping(1.0),
}
SHARE = 0.4
"""Of the requests that meet a fault."""
TIMES = Timeouts(total=3600, answer=30)


def seeded(seed: int) -> Callable[[str], Fault]:
    """Return what picks a fault, or none, for each request."""
    dice = random.Random(seed)
    faults = list(ALL.values())

    def choose(_: str) -> Fault:
        return dice.choice(faults) if dice.random() < SHARE else fine

    return choose


async def pool(work: Iterable[Callable[[], Coroutine[Any, Any, Any]]], width: int) -> list[Any]:
    """Run coroutines, some at once; return their results and exceptions."""
    left, results = iter(work), []

    async def worker() -> None:
        for one in left:
            try:
                results.append(await one())
            except Exception as error:  # noqa: BLE001 - counted
                results.append(error)

    await asyncio.gather(*(worker() for _ in range(width)))
    return results


async def mix(calls: int, seed: int) -> dict[str, Any]:
    """Send prompts through all faults; compare what the client says with what the server did."""
    lies, watch = 0, Watch()
    options = {"timeouts": TIMES, "retry": RetryPolicy(), "on_event": watch}
    async with serving(choose=seeded(seed)) as server:
        async with client(server.base_url, **options) as imagen:

            async def call(prompt: str) -> Generation:
                nonlocal lies
                charges = server.ledger.charges
                try:
                    generation = await imagen.generate(prompt)
                except ImagenError as error:
                    lies += (charges[prompt] > 0) > (error.charge is not Charge.NO)
                    raise
                lies += generation.images[0].revised_prompt not in (prompt, None)
                return generation

            prompts = [f"prompt {number}" for number in range(calls)]
            results = await pool([lambda p=p: call(p) for p in prompts], 60)
        ours = server.ledger
    foreign = [r for r in results if isinstance(r, Exception) and not isinstance(r, ImagenError)]
    blind = await twin(calls, seed)
    return {
        "calls": len(results),
        "images": sum(isinstance(result, Generation) for result in results),
        "requests": ours.requests.total(),
        "charged more than once": ours.bought_twice,
        "errors that deny a charge": lies,
        "errors of another tree": len(foreign),
        "calls without exactly one end": len(watch.wrong) + abs(calls - len(watch.ends)),
        "naive: charged more than once": blind.bought_twice,
        "naive: charges too many": blind.charges.total() - len(blind.charges),
    }


async def twin(calls: int, seed: int) -> Any:
    """Send as many prompts by the naive client through the same mix; return the books."""
    async with serving(choose=seeded(seed)) as server, aiohttp.ClientSession() as session:
        prompts = [f"prompt {number}" for number in range(calls)]
        await pool([lambda p=p: naive.generate(session, server.base_url, p) for p in prompts], 60)
        return server.ledger


async def outage(calls: int) -> float:
    """Return attempts per call while no connection can be made."""

    async def dead(post: Post) -> Answer:
        raise post.broken(FailureKind.CONNECT)

    async with scripted(dead, limits=Limits(concurrency=50)) as (gateway, imagen):
        await pool([lambda n=n: imagen.generate(str(n)) for n in range(calls)], 50)
        return len(gateway.posts) / calls


async def storm() -> int:
    """Return the most requests in any window of a 429 storm, after the first, at 50 in flight."""
    window = 10.0
    calm = virtual.now() + 20 * window

    async def stormy(post: Post) -> Answer:
        post.send()
        await asyncio.sleep(0.2)
        if virtual.now() < calm:
            return Answer(429, headers={"retry-after": f"{window:.0f}"})
        return post.image()

    async with scripted(stormy, limits=Limits(concurrency=50)) as (gateway, imagen):
        async with imagen.generate_many(str(n) for n in range(200)) as outcomes:
            assert [outcome.ok async for outcome in outcomes] == [True] * 200
        probes = [at for at in gateway.times[50:] if at < calm]
        return max(sum(start <= at < start + window for at in probes) for start in probes)


async def rate(per_second: int, seconds: int) -> tuple[float, int]:
    """Return the sustained rate, and the most requests in any one second."""

    async def quick(post: Post) -> Answer:
        post.send()
        await asyncio.sleep(random.random())
        return post.image()

    limits = Limits(concurrency=200, requests_per_minute=60 * per_second)
    async with scripted(quick, limits=limits) as (gateway, imagen):
        async with imagen.generate_many(str(n) for n in range(per_second * seconds)) as outcomes:
            async for _ in outcomes:
                pass
        times = gateway.times
        most = max(sum(start <= at < start + 1 for at in times) for start in times)
        return (len(times) - 1) / (times[-1] - times[0]), most


async def leaks(faulty: int, cancelled: int, seed: int) -> tuple[str, str]:
    """Return what is left of faulty and cancelled calls, and how the cancelled ones ended.

    What is left: descriptors, tasks, threads, permits.
    """
    dice, watch = random.Random(seed), Watch()
    options = {"timeouts": TIMES, "retry": RetryPolicy(), "on_event": watch}
    before = holdings()
    async with (
        serving(choose=seeded(seed)) as server,
        client(server.base_url, **options) as imagen,
    ):
        warm = holdings()
        await pool([lambda n=n: imagen.generate(str(n)) for n in range(faulty)], 50)
        assert len(watch.ends) == faulty

        async def cut() -> None:
            task = asyncio.ensure_future(imagen.generate("cut"))
            for _ in range(dice.randrange(1, 60)):
                await asyncio.sleep(0)
            task.cancel()
            await task

        cuts = 0
        while cuts < cancelled:
            results = await asyncio.gather(*(cut() for _ in range(50)), return_exceptions=True)
            cuts += sum(isinstance(result, asyncio.CancelledError) for result in results)
        await asyncio.sleep(60)
        stats = imagen.stats()
        permits = (stats.in_flight, stats.queued)
        assert holdings()[2] == warm[2]
    for _ in range(10):
        await asyncio.sleep(0)
    after = holdings()
    same = before == after and permits == (0, 0)
    told = [end for end in watch.ends if isinstance(end, Cancelled)]
    paid = sum(end.charge is not Charge.NO for end in told)
    exact = not watch.wrong and (len(told), paid) == (cuts, stats.dropped)
    return (
        "none" if same else f"before {before}, after {after}, permits {permits}",
        f"{cuts}, {paid} of them maybe paid for" if exact else f"{len(told)} of {cuts}",
    )


def main() -> int:
    """Print the table; return how many figures were missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    calls, seed = options.calls, options.seed
    random.seed(seed)
    began = time.perf_counter()
    found = virtual.run(mix(calls, seed))
    attempts = virtual.run(outage(max(200, calls // 20)))
    probes = virtual.run(storm())
    sustained, most = virtual.run(rate(50, 10))
    left, cuts = virtual.run(leaks(calls // 10, max(300, calls * 3 // 100), seed))
    rows: list[tuple[str, Any, bool]] = [
        ("calls through a mix of all faults", found.pop("calls"), True),
        ("  images", found.pop("images"), True),
        ("  requests", found.pop("requests"), True),
        *((f"  {name}", value, value == 0) for name, value in itertools.islice(found.items(), 4)),
        *((f"  {name}", value, value > 0) for name, value in itertools.islice(found.items(), 4, 6)),
        ("attempts per call in a total outage", round(attempts, 3), attempts <= 1.2),
        ("probes per window of a 429 storm, 50 in flight", probes, probes <= 1),
        ("requests a second, of 50 configured", round(sustained, 2), 49 <= sustained <= 51),
        ("  most in any one second, burst 1", most, most <= 51),
        ("left after faulty and cancelled calls", left, left == "none"),
        ("  cancelled, each told once", cuts, "paid for" in cuts),
    ]
    for name, value, good in rows:
        print(f"{'' if good else 'MISSED':7}{name:48} {value}")
    print(f"{'':7}seed {seed}, {time.perf_counter() - began:.0f} s")
    return sum(not good for *_, good in rows)


if __name__ == "__main__":
    sys.exit(main())
