"""Real fronts before an origin that takes an order and breaks off: it is bought once, and told.

A front that is not installed is skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imagen_async import AsyncImagen, Charge, Generation, ImagenError, Limits, RetryPolicy
from tests.chaos.server import ChaosServer, serving
from tests.fronts.stock import FRONTS, fronting
from tests.fronts.ways import WAYS

DEFAULT = RetryPolicy()

UNTAKEN = {"nginx": {"full"}, "Traefik": {"full"}, "Envoy": {"full", "refused"}}
"""By front, the routes whose answer proves that nothing was passed on."""


@asynccontextmanager
async def behind(name: str, folder: Path) -> AsyncIterator[tuple[ChaosServer, str]]:
    """Run a front before an origin that plays the prompt's way; skip if it is not installed."""
    if FRONTS[name].path is None:
        pytest.skip(f"{FRONTS[name].binary} is not installed")
    folder.chmod(0o755)  # some fronts read their files as another user
    async with serving(choose=WAYS.get) as origin, fronting(name, folder, origin) as url:
        yield origin, url


def client(url: str, route: str, retry: RetryPolicy = DEFAULT) -> AsyncImagen:
    """Return a client of a front's route."""
    return AsyncImagen(base_url=f"{url}/{route}/v1", limits=Limits(concurrency=50), retry=retry)


@pytest.mark.parametrize("name", FRONTS)
async def test_a_taken_order_is_bought_once_and_never_free(name: str, tmp_path: Path) -> None:
    """However the origin breaks off, the front's answer costs one order and is not called free."""
    async with behind(name, tmp_path) as (origin, url), client(url, "origin") as imagen:
        calls = [imagen.generate(way) for way in (*WAYS, "fine")]
        *broken, good = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(good, Generation)
        assert origin.ledger.charges == dict.fromkeys((*WAYS, "fine"), 1)
        errors = dict(zip(WAYS, broken, strict=True))
        assert {way: type(error) for way, error in errors.items() if not lost(error)} == {}


def lost(error: object) -> bool:
    """Return whether an outcome is an error that may have cost."""
    return isinstance(error, ImagenError) and error.charge is not Charge.NO


@pytest.mark.parametrize("name", FRONTS)
async def test_free_is_what_the_origin_never_saw(name: str, tmp_path: Path) -> None:
    """What a front says of an order that it did not pass on is free only where that is proof."""
    async with behind(name, tmp_path) as (origin, url):
        routes = FRONTS[name].routes[1:]
        errors = await asyncio.gather(*(refused(origin, url, route) for route in routes))
        assert not origin.ledger.requests.keys() & set(routes)
        free = {route for route, error in zip(routes, errors, strict=True) if not lost(error)}
        assert free == UNTAKEN.get(name, set())


async def refused(origin: ChaosServer, url: str, route: str) -> ImagenError:
    """Return the error of an order on a route that does not reach the origin."""
    once = RetryPolicy(max_attempts=1, max_refusals=1)
    async with client(url, route, retry=once) as imagen:
        held = asyncio.create_task(imagen.generate("silence")) if route == "full" else None
        while held and not (held.done() or origin.ledger.requests):
            await asyncio.sleep(0.01)
        with pytest.raises(ImagenError) as caught:
            await imagen.generate(route)
        if held:
            await asyncio.gather(held, return_exceptions=True)
        return caught.value
