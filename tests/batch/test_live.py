"""The live gallery's server: who may ask, what it gives, and that it holds up nobody."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from imagen_async.batch.gallery import live
from imagen_async.batch.gallery.live import LiveGallery
from imagen_async.batch.gallery.tail import Tail
from imagen_async.batch.run import Run
from imagen_async.emulator import Emulator
from tests.batch.runs import b64, core_on
from tests.batch.test_gallery import fill, row, unpacked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Buttons:
    """Notes what was pressed."""

    def __init__(self) -> None:
        self.pressed: list[str] = []

    def pause(self) -> None:
        self.pressed.append("pause")

    def resume(self) -> None:
        self.pressed.append("resume")

    def stop(self) -> None:
        self.pressed.append("stop")


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """A batch's folder with two images, and what lies beside them."""
    folder = fill(tmp_path / "shots", [row(1, file_name="images/0a/one.png"), row(2)])
    (folder / "images" / "0a").mkdir(parents=True)
    (folder / "images" / "0a" / "one.png").write_bytes(b"\x89PNG one")
    (folder / "images" / "0a" / "page.svg").write_text("<svg onload='alert(1)'/>")
    (folder / "images" / "0a" / ".two.png.part").write_bytes(b"half")
    (folder / "secret.png").write_bytes(b"secret")
    (tmp_path / "outside.png").write_bytes(b"secret")
    (folder / "images" / "0a" / "out.png").symlink_to(tmp_path / "outside.png")
    (folder / "images" / "0a" / "up.png").symlink_to("../../metadata.jsonl")
    (folder / "images" / "away").symlink_to(tmp_path)
    return folder


@asynccontextmanager
async def served(folder: Path, run: Any = None) -> AsyncIterator[tuple[LiveGallery, Any]]:
    """Serve a folder; yields the server and a client that knows it."""
    async with LiveGallery(folder, run) as server, aiohttp.ClientSession() as client:
        yield server, client


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield the events of an answer with their ids."""
    place = ""
    async for line in answer.content:
        if line.startswith(b"id: "):
            place = line[4:].decode().strip()
        if line.startswith(b"data: "):
            yield place, json.loads(line[6:])


def prompts(event: dict[str, Any]) -> list[str]:
    """Return the prompts of the cards that an event brings."""
    found = []
    for page in event["pages"]:
        found += unpacked(page["columns"]["prompt"], page["rows"])
    return found


async def test_only_the_address_opens_it(shots: Path) -> None:
    """Without the token there is nothing, neither page nor image nor button."""
    buttons = Buttons()
    async with served(shots, buttons) as (server, client):
        origin = str(URL(server.url).origin())
        for token in ("", "x", server.url.split("/")[3][:-1], "%00", "%F0%9F%A6%8A", ".."):
            for rest in ("", "events", "images/0a/one.png"):
                async with client.get(URL(f"{origin}/{token}/{rest}", encoded=True)) as answer:
                    assert answer.status == 404
            url = URL(f"{origin}/{token}/stop", encoded=True)
            async with client.post(url, headers={"Origin": origin}) as answer:
                assert answer.status == 404
        async with client.get(server.url) as answer:
            assert answer.status == 200
            assert "connect-src &#x27;self&#x27;" in await answer.text()
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert buttons.pressed == []


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "localhost:{port}", ""])
async def test_another_name_is_refused(shots: Path, host: str) -> None:
    """A name that was made to point here, as DNS rebinding does, brings nothing."""
    async with served(shots) as (server, client):
        named = host.format(port=URL(server.url).port)
        for rest in ("", "events", "images/0a/one.png"):
            async with client.get(server.url + rest, headers={"Host": named}) as answer:
                assert answer.status == 403


async def test_other_origins_press_nothing(shots: Path) -> None:
    """A page of another origin, or what does not say where it comes from, cannot press a button."""
    buttons = Buttons()
    async with served(shots, buttons) as (server, client):
        origin = str(URL(server.url).origin())
        for foreign in ("http://evil.example", "null", f"{origin}0", "http://localhost:80", None):
            headers = {} if foreign is None else {"Origin": foreign}
            for action in ("pause", "resume", "stop"):
                async with client.post(server.url + action, headers=headers) as answer:
                    assert answer.status == 403
        async with client.get(server.url, headers={"Origin": "http://evil.example"}) as answer:
            assert answer.status == 403
        assert buttons.pressed == []
        for action in ("pause", "resume", "stop"):
            async with client.get(server.url + action) as answer:
                assert answer.status == 404
            async with client.post(server.url + action, headers={"Origin": origin}) as answer:
                assert answer.status == 204
    assert buttons.pressed == ["pause", "resume", "stop"]


async def test_without_a_run_there_are_no_buttons(shots: Path) -> None:
    """Whoever looks at another process's run cannot act on it."""
    async with served(shots) as (server, client):
        origin = str(URL(server.url).origin())
        async with client.post(f"{server.url}stop", headers={"Origin": origin}) as answer:
            assert answer.status == 404


OUTSIDE = (
    *("secret.png", "images/../secret.png", "images/%2e%2e/secret.png", "images/..%2Fsecret.png"),
    *("images//etc/hosts.png", "images/%2Fetc%2Fhosts.png", "images/..%5Csecret.png", "images/"),
    *("images/0a/out.png", "images/0a/up.png", "images/away/outside.png", "images/0a/page.svg"),
    *("images/0a/.two.png.part", "images/0a", "images/0a/none.png", "images/0a/one.png%00"),
    *("metadata.jsonl", "journal.sqlite3", "index.html", "shard-0-of-2/images/../../secret.png"),
    *("images/0a/one.png/", f"images/{'a' * 5000}.png", "images/%ff.png", "images/0a/%2e/one.png"),
)


async def test_only_images_are_given(shots: Path) -> None:
    """No path and no link leads out of the images, and only what a browser shows is given."""
    async with served(shots) as (server, client):
        for name in OUTSIDE:
            async with client.get(URL(server.url + name, encoded=True)) as answer:
                assert (answer.status, await answer.read()) != (200, b"secret"), name
                assert answer.status == 404, name
        async with client.get(f"{server.url}images/0a/one.png") as answer:
            assert (answer.status, await answer.read()) == (200, b"\x89PNG one")
            assert answer.headers["Content-Type"] == "image/png"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_cards_come_as_they_settle(tmp_path: Path) -> None:
    """Each settled item comes once, whatever markup is in it; a reader that returns misses none."""
    hostile = "</script><script>alert(1)</script>\n\nevent: x\ndata: {}\r\u2028"
    async with Emulator(draw="tiny") as emulator:
        core = core_on(emulator, concurrency=1)
        run = Run(core, b64("a", hostile, "c"), tmp_path / "out")
        async with asyncio.timeout(20), served(run.folder, run) as (server, client), run:
            found: list[str] = []
            async with client.get(f"{server.url}events") as answer:
                await anext(run)
                stream = events(answer)
                while not found:
                    place, event = await anext(stream)
                    found += prompts(event)
            async for _ in run:
                pass
            headers = {"Last-Event-ID": place}
            async with client.get(f"{server.url}events", headers=headers) as answer:
                async for _, event in events(answer):
                    assert "replaced" not in event
                    found += prompts(event)
                    if len(found) >= 3:
                        break
        await core.aclose()
    assert sorted(found) == sorted(["a", hostile, "c"])


async def test_the_end_is_told(shots: Path) -> None:
    """A reader hears that the run has ended, after all cards; then the server is gone."""
    async with aiohttp.ClientSession() as client:
        async with LiveGallery(shots, Buttons()) as server:
            answer = await client.get(f"{server.url}events")
            reading = asyncio.create_task(collect(answer))
            await asyncio.sleep(0)
        told = await asyncio.wait_for(reading, 5)
        assert told[-1]["ended"]
        assert [prompts(event) for event in told if event["pages"]] == [["shot 1", "shot 2"]]
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get(server.url)


async def collect(answer: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    """Return all events of an answer."""
    return [event async for _, event in events(answer)]


async def test_lists_that_were_made_anew_are_told(shots: Path) -> None:
    """A page of another process's run is told to begin anew when the lists were replaced."""
    async with asyncio.timeout(10), served(shots) as (server, client):
        async with client.get(f"{server.url}events") as answer:
            stream = events(answer)
            place, event = await anext(stream)
            assert len(prompts(event)) == 2
            (shots / "new").write_bytes((shots / "metadata.jsonl").read_bytes())
            (shots / "new").replace(shots / "metadata.jsonl")
            while "replaced" not in event:
                _, event = await anext(stream)
        # One that was away meanwhile hears it too, and is not sent what it has.
        async with client.get(f"{server.url}events", headers={"Last-Event-ID": place}) as answer:
            told = await collect(answer)
    assert told[-1]["replaced"]
    assert not any(map(prompts, told))


async def test_readers_are_few(shots: Path, monkeypatch: Any) -> None:
    """Beyond a number of open pages another one is turned away, until one of them leaves."""
    monkeypatch.setattr(live, "READERS", 2)
    async with served(shots) as (server, client):
        first = await client.get(f"{server.url}events")
        second = await client.get(f"{server.url}events")
        async with client.get(f"{server.url}events") as third:
            assert third.status == 503
        first.close()
        async with asyncio.timeout(5):
            while server._readers == 2:
                await asyncio.sleep(0.02)
        async with client.get(f"{server.url}events") as third:
            assert third.status == 200
        second.close()


async def test_a_reader_that_never_reads_is_let_go(tmp_path: Path, monkeypatch: Any) -> None:
    """One that takes nothing is sent a bounded part, holds up no other and is let go in the end."""
    monkeypatch.setattr(live, "SLOW", 0.3)
    shown = "x" * 9000
    folder = fill(tmp_path / "shots", [row(n, prompt=f"{shown}{n}") for n in range(1200)])
    async with asyncio.timeout(20), served(folder) as (server, client):
        url = URL(server.url)
        _, writer = await asyncio.open_connection(url.host, url.port, limit=1024)
        request = f"GET {url.path}events HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n\r\n"
        writer.transport.pause_reading()
        writer.write(request.encode())
        while not server._readers:
            await asyncio.sleep(0.01)
        async with client.get(server.url) as answer:
            assert answer.status == 200
        while server._readers:
            await asyncio.sleep(0.02)
        writer.transport.abort()


async def test_a_cancellation_closes_it(shots: Path) -> None:
    """A block that is cancelled leaves neither the port open nor a reader waiting."""
    async with aiohttp.ClientSession() as client:
        with anyio.CancelScope() as scope:
            async with LiveGallery(shots) as server:
                answer = await client.get(f"{server.url}events")
                scope.cancel()
                await asyncio.sleep(60)
        answer.close()
        assert server._readers == 0
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get(server.url)


async def test_each_server_has_a_place_and_a_token_of_its_own(shots: Path) -> None:
    """Two servers at once get in each other's way nowhere, and one's token opens not the other."""
    async with served(shots) as (one, client), served(shots) as (two, _):
        assert URL(one.url).host == URL(two.url).host == "127.0.0.1"
        assert URL(one.url).port != URL(two.url).port
        async with client.get(URL(two.url).with_path(URL(one.url).path)) as answer:
            assert answer.status == 404


@given(st.text("0123456789:-x", max_size=40) | st.text(max_size=60))
@example("7:7-7:999999999999999-0:0")
def test_any_place_can_be_claimed(place: str) -> None:
    """Whatever a reader says of where it stopped, it is only a place to read from."""
    tail = Tail(Path("/nonexistent"), place)
    assert tail.read() == []
    assert not tail.waiting
    tail.close()


def test_a_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    """A line that is being written is read once it is whole."""
    folder = fill(tmp_path / "shots", [row(1)])
    tail = Tail(folder)
    assert len(tail.read()) == 1
    line = json.dumps(row(2)).encode() + b"\n"
    with (folder / "metadata.jsonl").open("ab", buffering=0) as file:
        file.write(line[:20])
        assert (tail.read(), tail.waiting) == ([], True)
        file.write(line[20:] + b"junk\n")
        assert [card["prompt"] for card in tail.read()] == [row(2)["prompt"]]
        assert not tail.waiting
    tail.close()
