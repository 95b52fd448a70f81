"""Downloads over real sockets: what is tried again, what is refused, and who is never reached."""

import asyncio
import errno
import gzip
import math
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from imagen_async.errors import Charge, DownloadError, ExpiredUrlError, SaveError, Verdict
from imagen_async.policy.config import Limits, Timeouts
from imagen_async.policy.deadline import Deadline
from imagen_async.session import download as module
from imagen_async.session.config import Config
from imagen_async.session.download import MISSING, REDIRECTS, RETRIES, Downloader, guard
from imagen_async.session.transport import Transport
from imagen_async.storage.stores import FolderStore, ImageStore, MemoryStore, Stored
from tests.storage.test_stores import PNG, names, png

DROP, HANG, PAUSE = object(), object(), object()
NEVER = Deadline(math.inf, math.inf)


def reply(status: int = 200, body: bytes = PNG, *headers: str, length: int | None = None) -> bytes:
    """Return an answer as it goes over the wire; a length of -1 leaves it out."""
    lines = [f"HTTP/1.1 {status} X", "Connection: close", *headers]
    if length != -1:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def moved(status: int, location: str) -> bytes:
    return reply(status, b"", f"Location: {location}", "Set-Cookie: a=b")


class Server:
    """Answers each path with its scripts in turn, the last one for ever; counts what it sees."""

    def __init__(self, routes: dict[str, list[Any]]) -> None:
        self.routes = routes
        self.connections = 0
        self.heads: list[str] = []
        self.active = self.peak = 0
        self.url = ""

    @property
    def targets(self) -> list[str]:
        return [head.split(" ")[1] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads.append(head)
            scripts = self.routes.get(head.split(" ")[1].partition("?")[0], [reply(404, b"")])
            steps = scripts.pop(0) if len(scripts) > 1 else scripts[0]
            for step in steps if isinstance(steps, tuple) else (steps,):
                if step is HANG:
                    await reader.read()
                elif step is PAUSE:
                    await self._pause()
                elif step is not DROP:
                    writer.write(step)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _pause(self) -> None:
        self.active += 1
        self.peak = max(self.peak, self.active)
        await asyncio.sleep(0.01)
        self.active -= 1


@asynccontextmanager
async def served(
    routes: dict[str, list[Any]] | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Server]:
    server = Server(routes or {})
    listener = await asyncio.start_server(server.serve, host, port)
    server.url = f"http://{host}:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


class Bench:
    """A fetcher with its transport; waits are noted and not made."""

    def __init__(self, base: str, guarded: bool = True, **options: Any) -> None:
        self.waits: list[float] = []
        times = Timeouts(stall=options.pop("stall", 5.0))
        limits = Limits(
            max_image_bytes=options.pop("largest", 100_000),
            concurrency=options.pop("concurrency", 8),
        )
        config = Config(
            base_url=f"{base}/v1",
            timeouts=times,
            limits=limits,
            allow_private=not guarded,
            **options,
        )
        self.fetcher = Downloader(config, sleep=self._sleep, draw=lambda: 0.5)
        self.transport = Transport(config, guard if guarded else None)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def get(
        self, url: str, shelf: ImageStore | None = None, deadline: Deadline = NEVER
    ) -> Stored:
        return await self.fetcher.fetch(self.transport, url, shelf or MemoryStore(), None, deadline)


@asynccontextmanager
async def bench(base: str, guarded: bool = True, **options: Any) -> AsyncIterator[Bench]:
    made = Bench(base, guarded, **options)
    try:
        yield made
    finally:
        await made.transport.aclose()


@asynccontextmanager
async def pair(routes: dict[str, list[Any]], **options: Any) -> AsyncIterator[tuple[Server, Bench]]:
    """Give a server, and a bench whose API it is."""
    async with served(routes) as server, bench(server.url, **options) as made:
        yield server, made


def shelf(folder: Path) -> FolderStore:
    return FolderStore(folder, "forest", "0123456789ab")


@pytest.mark.parametrize("length", [None, -1])
async def test_an_image_is_kept_with_its_link(length: int | None, tmp_path: Path) -> None:
    """A whole image reaches the shelf byte by byte, with or without a Content-Length."""
    data = png(20, 10, b"x" * 90_000)
    async with pair({"/x.png": [reply(200, data, length=length)]}) as (server, made):
        url = f"{server.url}/x.png?sig=1"
        result = await made.get(url, shelf(tmp_path))
    assert result.image.url == url
    assert result.image.path is not None
    assert result.image.path.read_bytes() == data
    assert (result.image.width, result.image.height, result.size) == (20, 10, len(data))
    assert names(tmp_path) == ["forest-0123456789ab.png"]


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("/v1/images/7/content", "/v1/images/7/content"),
        ("images/7.png", "/v1/images/7.png"),
        ("images/a:7.png", "/v1/images/a:7.png"),
        ("//HOST/x.png", "/x.png"),
        (" http://HOST/x.png ", "/x.png"),
        ("\thttp://HOST/x.png\r\n", "/x.png"),
        ("http://HOST/a b.png?c d", "/a%20b.png?c%20d"),
        ("HTTP://HOST/\u00e9/%e9?\u4e2d=%2f", "/%C3%A9/%e9?%E4%B8%AD=%2f"),
    ],
)
async def test_a_relative_link_belongs_to_the_gateway(url: str, target: str) -> None:
    """A path is the origin's, a bare name the base URL's; only what no URL can hold is mended."""
    async with served() as server, bench(server.url) as made:
        server.routes = {target.partition("?")[0]: [reply()]}
        host = server.url.removeprefix("http://")
        await made.get(url.replace("HOST", host))
    assert server.targets == [target]


@pytest.mark.parametrize(
    "query",
    [
        "sig=a%2Bb%2fc%3D&e=1+2",
        "X-Amz-Signature=%e4%b8%AD&&x",
        "a=%7e~%7E'()*!$,;:@/?",
        "q=%",
        "a=%25%32%42",
    ],
)
async def test_a_signed_query_is_sent_as_it_is(query: str) -> None:
    """Not one byte of a query changes: its signature covers the spelling."""
    async with pair({"/x": [reply()]}) as (server, made):
        await made.get(f"{server.url}/x?{query}")
    assert server.targets == [f"/x?{query}"]


@pytest.mark.parametrize(
    ("link", "host"),
    [
        ("http://b\u00fccher.example:PORT/x?sig=%2f+", "xn--bcher-kva.example:PORT"),
        ("HTTP://B\u00dcCHER.example:PORT/x?sig=%2f+", "xn--bcher-kva.example:PORT"),
        ("http://\u4e2d\u6587.example:PORT/x?sig=%2f+", "xn--fiq228c.example:PORT"),
        ("http://xn--fiq228c.example:PORT/x?sig=%2f+", "xn--fiq228c.example:PORT"),
    ],
)
async def test_a_host_of_any_script_goes_out_as_punycode(
    link: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name server and the Host header see ASCII, and the rest of the link stays as it is."""
    asked: list[str] = []

    def getaddrinfo(name: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        asked.append(str(name))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with served({"/x": [reply()]}) as server, bench("http://a.example", False) as made:
        port = server.url.rpartition(":")[2]
        await made.get(link.replace("PORT", port))
    assert server.targets == ["/x?sig=%2f+"]
    assert f"\r\nHost: {host.replace('PORT', port)}\r\n" in server.heads[0]
    assert asked == [host.partition(":")[0]]


@pytest.mark.parametrize(
    ("base", "link", "own"),
    [
        ("https://api.example", "https://api.example:443/x", True),
        ("https://api.example:443", "https://API.Example/x", True),
        ("http://api.example:80", "http://api.example/x", True),
        ("http://xn--bcher-kva.example", "http://B\u00dcCHER.example/x", True),
        ("http://[::1]:80", "http://[::1]/x", True),
        ("http://api.example", "https://api.example/x", False),
        ("https://api.example", "https://api.example:444/x", False),
        ("http://api.example", "http://api.example:8080/x", False),
        ("https://api.example", "https://api.example.:443/x", False),
        ("https://api.example", "https://api.example.evil.example/x", False),
    ],
)
async def test_the_gateways_own_origin_is_known_however_it_is_spelled(
    base: str, link: str, own: bool
) -> None:
    """A default port left out, case and script make no difference; a scheme or a port does."""
    async with bench(base) as made:
        session = made.transport._session_for(module._uri(link))
        assert (session is made.transport._own_files) is own


@pytest.mark.parametrize("guarded", [True, False])
async def test_neither_key_nor_cookie_is_ever_sent(guarded: bool) -> None:
    """A download carries only what a stranger may know, before and after a redirect."""
    async with AsyncExitStack() as stack:
        server, made = await stack.enter_async_context(pair({}, guarded=guarded))
        other = server if guarded else await stack.enter_async_context(served())
        server.routes["/x"] = [moved(302, f"{other.url}/y")]
        other.routes["/y"] = [reply()]
        await made.get(f"{server.url}/x")
    heads = server.heads if guarded else server.heads + other.heads
    assert len(heads) == 2
    for head in heads:
        lines = head.strip().split("\r\n")[1:]
        assert {line.partition(":")[0] for line in lines} == {
            "Host",
            "Accept",
            "Accept-Encoding",
            "User-Agent",
        }


@pytest.mark.parametrize(
    "answer",
    [
        DROP,
        reply(200, PNG[:-9], length=len(PNG)),
        reply(200, PNG[:-9], length=-1),
        reply(200, PNG[:-9]),
        *(reply(status, b"") for status in (408, 425, 429, 500, 502, 503, 504, 520, 599)),
        b"SSH-2.0-x\r\n\r\n",
    ],
    ids=lambda answer: "drop" if answer is DROP else repr(answer[:20]),
)
async def test_what_may_pass_is_tried_again(answer: Any, tmp_path: Path) -> None:
    """A failure that may pass costs one more request, then the image is there, whole."""
    async with pair({"/x": [answer, reply()]}) as (server, made):
        result = await made.get(f"{server.url}/x", shelf(tmp_path))
    assert result.image.media_type == "image/png"
    assert len(server.heads) == 2
    assert made.waits == [0.25]
    assert len(names(tmp_path)) == 1


@pytest.mark.parametrize(
    "answer", [DROP, reply(200, PNG[:-9]), reply(503, b"")], ids=["drop", "cut", "503"]
)
async def test_each_try_is_one_request_and_tries_end(answer: Any, tmp_path: Path) -> None:
    """No request is repeated in hiding, and the error keeps the link for another day."""
    async with pair({"/x": [answer]}) as (server, made):
        url = f"{server.url}/x?sig=secret"
        with pytest.raises(DownloadError, match=r"4 tries") as caught:
            await made.get(url, shelf(tmp_path))
    error = caught.value
    assert len(server.heads) == 1 + RETRIES
    assert made.waits == [0.25, 0.5, 1.0]
    assert error.charge is Charge.YES
    assert [image.url for image in error.images] == [url]
    assert "secret" not in str(error)
    assert "127.0.0.1" in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None
    assert names(tmp_path) == []


async def test_a_stalled_download_is_tried_again(tmp_path: Path) -> None:
    """A server that stops halfway is given up after the stall timeout, not after the total."""
    half = reply(200, PNG[:20], length=len(PNG))
    async with pair({"/x": [(half, HANG), reply()]}, stall=0.04) as (server, made):
        result = await made.get(f"{server.url}/x", shelf(tmp_path))
    assert isinstance(result, Stored)
    assert len(server.heads) > 1


async def test_a_refused_connection_is_tried_again() -> None:
    """Nothing listens: four tries, then an error that says so."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{closed.getsockname()[1]}"
    async with bench(base) as made:
        with pytest.raises(DownloadError, match="ECONNREFUSED"):
            await made.get("/x")
    assert len(made.waits) == RETRIES


async def test_a_server_that_asks_to_wait_is_obeyed() -> None:
    """Retry-After is the least that is waited."""
    async with pair({"/x": [reply(429, b"", "Retry-After: 7"), reply()]}) as (server, made):
        await made.get(f"{server.url}/x")
    assert made.waits == [7.35]


async def test_a_wait_that_ends_too_late_is_not_begun() -> None:
    """A server that asks for more than is left ends the download at once, with its word."""
    clock = asyncio.get_running_loop().time()
    deadline = Deadline(clock + 60, 60)
    answer = reply(503, b"", "Retry-After: 3600")
    async with pair({"/x": [answer]}) as (server, made):
        with pytest.raises(DownloadError, match="no time is left") as caught:
            await made.get(f"{server.url}/x", deadline=deadline)
        assert caught.value.retry_after == 3600
        assert caught.value.status == 503
        assert made.waits == []
        with pytest.raises(DownloadError, match="no time is left"):
            await made.get(f"{server.url}/x", deadline=Deadline(clock, 60))
    assert len(server.heads) == 1


@pytest.mark.parametrize("status", [401, 403, 410])
async def test_a_dead_link_is_told_at_once(status: int) -> None:
    """A refusal of the link itself is not asked twice."""
    async with pair({"/x": [reply(status, b"no")]}) as (server, made):
        with pytest.raises(ExpiredUrlError, match=str(status)) as caught:
            await made.get(f"{server.url}/x")
    assert caught.value.status == status
    assert len(server.heads) == 1


async def test_a_missing_file_is_given_three_seconds() -> None:
    """Fresh links answer 404 for a moment; old ones for ever."""
    async with pair({"/x": [reply(404, b""), reply()], "/y": [reply(404, b"")]}) as (server, made):
        await made.get(f"{server.url}/x")
        assert made.waits == [MISSING[0]]
        made.waits.clear()
        with pytest.raises(ExpiredUrlError, match="404"):
            await made.get(f"{server.url}/y")
    assert made.waits == list(MISSING)
    assert sum(MISSING) == 3
    assert server.targets == ["/x"] * 2 + ["/y"] * 4


@pytest.mark.parametrize("status", [206, 204, 300, 304, 400, 402, 405, 406, 416, 451, 999])
async def test_any_other_answer_is_final(status: int) -> None:
    """What is neither an image nor a passing trouble is not asked for again."""
    async with pair({"/x": [reply(status, b"")]}) as (server, made):
        with pytest.raises(DownloadError, match=f"answered {status}") as caught:
            await made.get(f"{server.url}/x")
    assert not isinstance(caught.value, ExpiredUrlError)
    assert len(server.heads) == 1


async def test_a_refusal_whose_text_is_cut_keeps_its_status() -> None:
    """The status decides even if the words after it do not all arrive."""
    async with pair({"/x": [reply(403, b"n", length=70_000)]}) as (server, made):
        with pytest.raises(ExpiredUrlError, match="403"):
            await made.get(f"{server.url}/x")
        server.routes["/x"] = [reply(403, b"n", length=100)]
        with pytest.raises(ExpiredUrlError, match="403"):
            await made.get(f"{server.url}/x")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (reply(200, b"<!doctype html><p>expired"), "an HTML page"),
        (reply(200, b'{"error": {}}'), "a JSON document"),
        (reply(200, b"Not found"), "a text came"),
        (reply(200, b"<?xml version='1.0'?><Error/>"), "an XML document"),
        (reply(200, PNG[:-1]), "cut short"),
        (reply(200, b""), "empty"),
        (reply(200, gzip.compress(PNG), "Content-Encoding: gzip"), "encoded as gzip"),
        (reply(200, b"x", "Content-Encoding: \x7fbr"), r"encoded as \\x7fbr|framing is malformed"),
        (reply(200, b"x" * 20, length=100_001), "larger than 100000 bytes"),
        (reply(200, png(1, 1, b"x" * 200_000), length=-1), "larger than 100000 bytes"),
    ],
)
async def test_what_is_not_an_image_is_named_and_not_written(
    answer: bytes, problem: str, tmp_path: Path
) -> None:
    """A page, a bomb or nothing at all is an error that says what came; the folder stays empty."""
    async with pair({"/x": [answer]}) as (server, made):
        with pytest.raises(DownloadError, match=problem):
            await made.get(f"{server.url}/x", shelf(tmp_path))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "suffix", "note"),
    [
        (b"<svg xmlns='x'></svg>", ".svg", "not a raster image that can be checked: kept as .svg"),
        (b"%PDF-1.4 ...", ".pdf", "not a raster image that can be checked: kept as .pdf"),
        (b"\0\1\2\3", ".bin", "not a raster image that can be checked: kept as .bin"),
        (png(2**31 - 1, 2), ".bin", "it claims 2147483647 x 2 pixels: kept as .bin"),
    ],
)
async def test_what_is_no_raster_image_is_kept_as_it_came(
    data: bytes, suffix: str, note: str, tmp_path: Path
) -> None:
    """A drawing behind a link is paid for like any image."""
    async with pair({"/x": [reply(200, data)]}) as (server, made):
        kept = await made.get(f"{server.url}/x", shelf(tmp_path))
    assert kept.image.path is not None
    assert (kept.image.path.suffix, kept.image.path.read_bytes()) == (suffix, data)
    assert (kept.image.width, kept.note) == (None, note)


async def test_a_body_without_end_is_left_unread() -> None:
    """Reading stops at the largest image taken, whatever the server still has."""
    endless = (reply(200, b"x" * 40, length=-1), *[b"x" * 65_536] * 200, HANG)
    async with pair({"/x": [endless]}, largest=100) as (server, made):
        with pytest.raises(DownloadError, match="larger than 100 bytes"):
            await made.get(f"{server.url}/x")
        assert made.waits == []


async def test_an_encoding_that_changes_nothing_is_fine() -> None:
    """Content-Encoding: identity is no encoding."""
    async with pair({"/x": [reply(200, PNG, "Content-Encoding: identity")]}) as (server, made):
        assert (await made.get(f"{server.url}/x")).image.data == PNG


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_by_hand(status: int) -> None:
    """Each kind leads on, relative or absolute, with its query as it was written."""
    async with pair({"/a/x": [moved(status, "../b?s=%2B")], "/b": [reply()]}) as (server, made):
        await made.get(f"{server.url}/a/x")
    assert server.targets == ["/a/x", "/b?s=%2B"]


async def test_a_ring_of_redirects_ends() -> None:
    """Five hops are followed, a sixth is not."""
    hops = {f"/{n}": [moved(302, f"/{n + 1}")] for n in range(9)} | {"/5": [reply()]}
    async with pair({"/x": [moved(302, "/x")], **hops}) as (server, made):
        with pytest.raises(DownloadError, match="more than 5 times"):
            await made.get(f"{server.url}/x")
        assert len(server.heads) == 1 + REDIRECTS
        await made.get(f"{server.url}/0")


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("file:///etc/passwd", "neither https nor http"),
        ("javascript:alert(1)", "neither https nor http"),
        ("//user:pw@HOST/x", "user name"),
        ("http://[::1/x", "not a URL"),
        ("http:/\\HOST/x", "backslash"),
    ],
)
async def test_a_redirect_to_a_dangerous_link_is_refused(location: str, problem: str) -> None:
    """Every hop is judged as the first link was."""
    async with pair({}) as (server, made):
        target = location.replace("HOST", server.url.removeprefix("http://"))
        server.routes["/x"] = [moved(302, target)]
        with pytest.raises(DownloadError, match=problem) as caught:
            await made.get(f"{server.url}/x")
    assert len(server.heads) == 1
    assert "pw" not in str(caught.value)


async def test_a_redirect_without_a_target_is_final() -> None:
    """There is nowhere to go."""
    async with pair({"/x": [reply(302, b"")]}) as (server, made):
        with pytest.raises(DownloadError, match="answered 302"):
            await made.get(f"{server.url}/x")


async def test_https_never_leads_to_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that began encrypted stays so, even where the API itself is not."""

    async def get(*args: Any) -> Any:
        return module._Failure("moved", location="http://127.0.0.1/x")

    async with bench("http://127.0.0.1:9") as made:
        monkeypatch.setattr(made.fetcher, "_get", get)
        with pytest.raises(DownloadError, match="from https to http"):
            await made.get("https://a.example/x")


SPELLINGS = [
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "127.1",
    "127.0.1",
    "0.0.0.0",
    "0",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7F.1",
    "0177.0.0.1",
    "0177.1",
    "017700000001",
    "127.0.0.1.",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "LocalHost",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::FFFF:7F00:0001]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[fe80::1%25lo]",
    "[fe80::1%lo]",
    "[fec0::1]",
    "[fc00::1]",
    "\uff11\uff12\uff17.0.0.1",
    "\u2460\u2461\u2466.0.0.1",
    "127\u30020\u30020\u30021",
    "127.0.0.1%00",
    "%31%32%37.0.0.1",
    "127.0.0.1%2e",
    "a.example@127.0.0.1",
    "127.0.0.1#@a.example",
]


@pytest.mark.parametrize("way", ["link", "redirect"])
async def test_no_spelling_of_a_private_address_is_reached(way: str) -> None:
    """Over forty ways to write this machine: not one connection arrives, by link or redirect."""
    assert len(set(SPELLINGS)) >= 40
    async with AsyncExitStack() as stack:
        canary = await stack.enter_async_context(served(host="0.0.0.0"))
        port = int(canary.url.rpartition(":")[2])
        if socket.has_dualstack_ipv6():
            await stack.enter_async_context(_sixes(canary, port))
        server, made = await stack.enter_async_context(pair({}))
        for spelling in SPELLINGS:
            host, _, rest = spelling.partition("#")
            link = f"http://{host}:{port}/x" + (f"#{rest}" if rest else "")
            server.routes["/x"] = [moved(302, link.encode().decode("latin-1"))]
            with pytest.raises(DownloadError) as caught:
                await made.get(link if way == "link" else f"{server.url}/x")
            assert caught.value.charge is Charge.YES
        assert canary.connections == 0
        if way == "link":
            assert server.connections == 0


@asynccontextmanager
async def _sixes(canary: Server, port: int) -> AsyncIterator[None]:
    listener = await asyncio.start_server(canary.serve, "::", port, family=socket.AF_INET6)
    try:
        yield
    finally:
        listener.close()
        await listener.wait_closed()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("way", ["link", "redirect"])
@pytest.mark.parametrize("told", ["proxy", "trust_env"])
async def test_no_proxy_is_asked_for_a_private_address(
    told: str, way: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy no socket shows where a link leads: what it spells is refused unasked."""
    spellings = [*SPELLINGS, *("10.0.0.1", "0xa000001", "169.254.169.254", "metadata.localhost")]
    async with served() as proxy:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        network = {"proxy": proxy.url} if told == "proxy" else {"trust_env": True}
        async with bench("http://api.example", **network) as made:
            for spelling in spellings:
                host, _, rest = spelling.partition("#")
                link = f"{scheme}://{host}:8443/x" + (f"#{rest}" if rest else "")
                proxy.routes["http://files.example/x"] = [
                    moved(302, link.encode().decode("latin-1"))
                ]
                with pytest.raises(DownloadError) as caught:
                    await made.get(link if way == "link" else "http://files.example/x")
                assert (caught.value.verdict, caught.value.charge) == (Verdict.DONE, Charge.YES)
            asked = [target for target in proxy.targets if "files.example" not in target]
            assert asked == []
            assert len(proxy.targets) == (len(spellings) if way == "redirect" else 0)


async def test_a_proxy_is_asked_for_names_and_for_what_is_permitted() -> None:
    """Names, public addresses, the gateway itself, and with leave all others, go to the proxy."""
    links = [
        *("http://files.example/x", "http://10.0.0.1.nip.io/x", "http://localhost.example/x"),
        *("http://8.8.8.8/x", "http://[2606:4700::1]/x", "http://my_files.example./x"),
        *("http://api.10/x", "/x", "http://127.0.0.1/x"),
    ]
    async with served() as proxy:
        proxy.routes = {link: [reply()] for link in links} | {"http://10.1.1.1/x": [reply()]}
        network = {"proxy": proxy.url}
        async with bench("http://10.1.1.1", **network) as made:
            for link in links[:6]:
                await made.get(link)
            await made.get("/x")
        async with bench("http://10.1.1.1", False, **network) as made:
            for link in links[6:]:
                await made.get(link)
    own = "http://10.1.1.1/x"
    assert proxy.targets == [*links[:6], own, links[6], own, links[8]]


async def test_the_canary_would_have_sung() -> None:
    """Without the guard the same link does arrive, so the silence above means something."""
    async with served({"/x": [reply()]}) as canary, pair({}, guarded=False) as (_, made):
        await made.get(f"{canary.url}/x")
        assert canary.connections == 1


async def test_a_refused_address_is_named_and_not_tried_again() -> None:
    """The error says where the link led and why that is refused; waiting would not help."""
    async with served() as canary, bench("https://api.example") as made:
        url = canary.url.replace("http:", "https:")
        with pytest.raises(DownloadError, match=r"leads to 127\.0\.0\.1, which is not") as caught:
            await made.get(f"{url}/x?sig=secret")
        assert "allow_private=True or --allow-private permits it" in str(caught.value)
        assert caught.value.verdict is Verdict.DONE
        with pytest.raises(DownloadError, match="is not https"):
            await made.get(f"{canary.url}/x")
        assert canary.connections == 0
    assert made.waits == []


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no 127.0.0.2 by default")
async def test_a_name_that_changes_its_address_reaches_only_public_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rebinding and mixed answers: each socket is judged by the address it is opened to."""
    resolved = {"public.example": ["127.0.0.2"], "mixed.example": ["127.0.0.1", "127.0.0.2"]}
    resolved["rebound.example"] = ["127.0.0.1"]

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (address, port)) for address in resolved[str(host)]]

    def problem(address: str) -> str | None:
        return None if address == "127.0.0.2" else "is not public"

    async with served({}, "127.0.0.2") as public, AsyncExitStack() as stack:
        port = int(public.url.rpartition(":")[2])
        canary = await stack.enter_async_context(served({}, "127.0.0.1", port))
        made = await stack.enter_async_context(bench("http://api.example"))
        monkeypatch.setattr(module, "address_problem", problem)
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        public.routes["/x"] = [reply()]
        public.routes["/y"] = [moved(302, f"http://rebound.example:{port}/x")]
        for host in ("public", "mixed"):
            assert await made.get(f"http://{host}.example:{port}/x")
        with pytest.raises(DownloadError, match=r"not public \(allow_private=True"):
            await made.get(f"http://public.example:{port}/y")
        assert canary.connections == 0
        assert len(public.heads) == 3


@pytest.mark.parametrize(
    "url",
    [
        "",
        "~/x.png",
        "C:\\x.png",
        "\\\\server\\x.png",
        "file:///x.png",
        "javascript:alert(1)",
        "http://127.0.0.1:9/x\n.png",
        "http://user:pw@127.0.0.1:9/x",
        "http://127.0.0.1:9/" + "x" * 65_536,
    ],
)
async def test_a_link_that_cannot_be_one_is_refused(url: str) -> None:
    """A local path or a dangerous form costs no connection, and its text shows no control."""
    async with bench("http://127.0.0.1:9") as made:
        with pytest.raises(DownloadError, match="did not come: the link") as caught:
            await made.get(url)
    assert made.waits == []
    assert str(caught.value).isprintable()
    assert "pw" not in str(caught.value)


async def test_a_link_that_only_the_http_client_refuses_is_our_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What slips through our reading of a link still ends as a DownloadError."""
    monkeypatch.setattr(module, "url_problem", lambda url, api_scheme: None)
    async with bench("http://127.0.0.1:9") as made:
        for url in ("http://[::1/x", "gopher://a.example/x"):
            with pytest.raises(DownloadError, match=r"the link is not a URL|the URL is bad"):
                await made.get(url)
    assert made.waits == []


async def test_a_disk_that_refuses_is_a_save_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image came and the disk did not take it: that is not tried again."""

    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    async with pair({"/x": [reply()]}) as (server, made):
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(SaveError, match="ENOSPC") as caught:
            await made.get(f"{server.url}/x", shelf(tmp_path))
        monkeypatch.undo()
    assert str(tmp_path) in str(caught.value)
    assert caught.value.charge is Charge.YES
    assert caught.value.verdict is Verdict.DONE
    assert [image.url for image in caught.value.images] == [f"{server.url}/x"]
    assert len(server.heads) == 1
    assert names(tmp_path) == []


async def test_a_cancelled_download_leaves_nothing(tmp_path: Path) -> None:
    """Half an image is removed with the task that fetched it, and its slot is free again."""
    half = reply(200, PNG[:20] + bytes(90_000), length=99_999)  # too big to wait in memory
    async with pair({"/x": [(half, HANG), reply()]}, concurrency=1) as (server, made):
        task = asyncio.create_task(made.get(f"{server.url}/x", shelf(tmp_path)))
        while not names(tmp_path):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert names(tmp_path) == []
        await made.get(f"{server.url}/x", shelf(tmp_path))


async def test_downloads_queue_for_their_own_slots() -> None:
    """No more downloads than the limit are under way at once, and all of them end."""
    async with pair({"/x": [(PAUSE, reply())]}, concurrency=3) as (server, made):
        results = await asyncio.gather(*(made.get(f"{server.url}/x") for _ in range(12)))
    assert len(results) == 12
    assert 1 <= server.peak <= 3
    assert len(server.heads) == 12


def test_a_fetcher_outlives_its_loop() -> None:
    """Slots are each loop's own, so a second asyncio.run works, even after waiting in the first."""
    made: list[Downloader] = []

    async def use() -> None:
        async with pair({"/x": [reply()]}, guarded=False, concurrency=1) as (server, bench):
            made.append(bench.fetcher)
            transport = bench.transport
            url = f"{server.url}/x"
            await asyncio.gather(
                *(made[0].fetch(transport, url, MemoryStore(), None, NEVER) for _ in range(3))
            )

    asyncio.run(use())
    asyncio.run(use())
    assert len(made) == 2


def test_the_guard_is_quiet_outside_a_download() -> None:
    """Asked by hand, the guard just refuses or lets pass."""
    guard("8.8.8.8")
    with pytest.raises(PermissionError):
        guard("10.0.0.1")
