"""Answers that are tasks: polled to their images, and never ordered again."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from imagen_async import AsyncImagen, Charge, ExpiredUrlError, ImagenError, Timeouts
from imagen_async.emulator import Emulator
from imagen_async.errors import UnfinishedTaskError
from imagen_async.session import tasks


@pytest.mark.parametrize("shape", ["202", "200"])
@pytest.mark.parametrize("response_format", ["url", "b64_json"])
async def test_a_task_is_collected(shape: str, response_format: str) -> None:
    """Generate waits for the task's image, which is charged and ordered once."""
    async with (
        Emulator(draw="tiny", latency=0.05, tasks=shape, time_scale=10.0) as emulator,
        AsyncImagen(base_url=emulator.base_url, allow_private=True) as imagen,
    ):
        generation = await imagen.generate("A fox", response_format=response_format)
        data = await imagen.read(generation.images[0])

    assert data.startswith(b"\x89PNG")
    assert generation.task is None
    assert generation.attempts == 1
    emulator.assert_charged_once("A fox")


async def test_a_task_that_is_not_finished_in_time_names_its_id() -> None:
    """The order is not sent again, and the error has the id and the charge."""
    async with (
        Emulator(draw="tiny", latency=30.0, tasks="202") as emulator,
        AsyncImagen(base_url=emulator.base_url, timeouts=Timeouts(total=0.3)) as imagen,
    ):
        with pytest.raises(UnfinishedTaskError) as caught:
            await imagen.generate("A fox")

    assert caught.value.charge is Charge.YES
    assert caught.value.task_id is not None
    assert caught.value.task_id.startswith("task-")
    emulator.assert_charged_once("A fox")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls follow each other at once where the gateway does not ask for a pause."""
    monkeypatch.setattr(tasks, "PAUSES", (0.01,))


async def test_a_task_that_fails_tells_its_charge(quick: None) -> None:
    """Words that are known to be free make it free; it is not ordered again by itself."""
    async with (
        Emulator(draw="tiny", tasks="202", time_scale=100.0) as emulator,
        AsyncImagen(base_url=emulator.base_url) as imagen,
    ):
        emulator.fail_next("task_failed")
        with pytest.raises(ImagenError) as caught:
            await imagen.generate("A fox")

    assert emulator.ledger.total.posts == 1
    assert emulator.ledger.total.charged == 0
    assert caught.value.charge in (Charge.NO, Charge.MAYBE)
    assert caught.value.sends == 1


async def test_a_task_that_the_gateway_forgot_is_expired(quick: None) -> None:
    """After a few looks in each place the image counts as paid for and lost, by its id."""
    async with (
        Emulator(draw="tiny", tasks="202", time_scale=100.0) as emulator,
        AsyncImagen(base_url=emulator.base_url) as imagen,
    ):
        emulator.fail_next("task_lost")
        with pytest.raises(ExpiredUrlError) as caught:
            await imagen.generate("A fox")

    assert caught.value.charge is Charge.YES
    assert caught.value.task_id is not None
    emulator.assert_charged_once("A fox")


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"code": "429", "message": "slow down"}},
        {"error": {"code": "rate_limit_exceeded", "message": "too many polls"}},
        {"error": {"code": 401, "message": "bad key"}},
        {"error": {"code": "insufficient_quota", "message": "no"}},
        {"error": {"code": 404, "message": "task not found"}},
    ],
)
async def test_an_error_of_the_poll_is_not_the_tasks(answer: object, quick: None) -> None:
    """A poll that is turned away inside a 200 says nothing of the order: it is paid for still."""

    async def take(_: web.Request) -> web.Response:
        return web.json_response({"task_id": "t-1"}, status=202)

    async def poll(_: web.Request) -> web.Response:
        return web.json_response(answer)

    api = web.Application()
    api.router.add_post("/v1/images/generations", take)
    api.router.add_get("/v1/tasks/t-1", poll)
    async with (
        TestServer(api) as server,
        AsyncImagen(base_url=str(server.make_url("/v1")), timeouts=Timeouts(total=0.2)) as imagen,
    ):
        with pytest.raises(ImagenError) as caught:
            await imagen.generate("A fox")

    assert caught.value.charge is not Charge.NO
    assert caught.value.task_id == "t-1"


async def test_the_key_goes_to_the_apis_origin_alone(quick: None) -> None:
    """A poll URL of another host is not asked: only the API's own places are."""
    asked: list[str | None] = []

    async def note(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Authorization"))
        return web.json_response({"status": "completed", "data": [{"url": "https://a.example/"}]})

    async def take(request: web.Request) -> web.Response:
        return web.json_response(
            {"task_id": "t-1", "poll_url": f"{elsewhere}/v1/tasks/t-1"}, status=202
        )

    api, other = web.Application(), web.Application()
    api.router.add_post("/v1/images/generations", take)
    other.router.add_get("/v1/tasks/t-1", note)
    async with TestServer(other) as foreign, TestServer(api) as own:
        elsewhere = str(foreign.make_url("")).rstrip("/")
        async with AsyncImagen(base_url=str(own.make_url("/v1")), api_key="sk-canary") as imagen:
            with pytest.raises(ExpiredUrlError):
                await imagen.generate("A fox")

    assert asked == []
