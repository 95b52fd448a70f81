"""AsyncImagen: what goes over the wire, what comes back, and what is refused."""

import base64
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from imagen_async import (
    AspectRatio,
    AsyncImagen,
    Charge,
    ConfigurationError,
    DownloadError,
    Generation,
    GenerationRequest,
    Image,
    ImagenError,
    InvalidRequestError,
    Limits,
    ResponseFormat,
    RetryPolicy,
    Timeouts,
)
from tests.chaos.faults import document, error, status
from tests.chaos.harness import KEY, chaos, client
from tests.chaos.server import PNG, Exchange, fine

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def sent(server: Any, prompt: str = "p") -> Any:
    """Return the body of a prompt's only request."""
    (body,) = server.ledger.bodies[prompt]
    return json.loads(body)


def header(server: Any, name: str) -> str | None:
    """Return a header of the latest request."""
    lines = server.ledger.heads[-1].split("\r\n")
    found = [line for line in lines if line.lower().startswith(f"{name.lower()}:")]
    assert len(found) < 2
    return found[0].partition(":")[2].strip() if found else None


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({}, {}),
        ({"model": "m"}, {"model": "m"}),
        ({"aspect_ratio": "16:9"}, {"aspect_ratio": "16:9"}),
        ({"aspect_ratio": AspectRatio.PORTRAIT_3_4}, {"aspect_ratio": "3:4"}),
        ({"response_format": ResponseFormat.B64_JSON}, {"response_format": "b64_json"}),
        ({"n": 4}, {"n": 4}),
        ({"extra": {"seed": 7, "n": 2}}, {"seed": 7, "n": 2}),
    ],
)
async def test_the_body(fields: dict[str, Any], body: dict[str, Any]) -> None:
    """A field that was given goes over the wire under its name, extra last; None is not sent."""
    async with chaos() as (server, imagen):
        await imagen.generate("p", **fields)
        assert sent(server) == {"prompt": "p", **body}


async def test_the_head() -> None:
    """A request names its type, its key and its own id once, and asks for no compression."""
    async with chaos(options={"headers": {"X-Team": "red"}}) as (server, imagen):
        generation = await imagen.generate("p")
        assert server.ledger.heads[0].startswith("POST /v1/images/generations HTTP/1.1\r\n")
        assert header(server, "authorization") == f"Bearer {KEY}"
        assert header(server, "content-type") == "application/json"
        assert header(server, "accept-encoding") == "identity"
        assert header(server, "idempotency-key") == generation.idempotency_key
        assert header(server, "x-team") == "red"
        assert header(server, "cookie") is None


async def test_the_clients_model() -> None:
    """The client's model fills in for requests that name none."""
    async with chaos(options={"model": "imagen4"}) as (server, imagen):
        await imagen.generate("a")
        await imagen.generate(GenerationRequest("b"))
        await imagen.generate(GenerationRequest("c", model="own"))
        async with imagen.generate_many(["d"]) as outcomes:
            assert [outcome.ok async for outcome in outcomes] == [True]
        models = [sent(server, prompt)["model"] for prompt in "abcd"]
        assert models == ["imagen4", "imagen4", "own", "imagen4"]


async def test_what_comes_back() -> None:
    """A generation holds the request, the image with what its bytes say, and the call's facts."""
    extras = {"usage": {"total_tokens": 5}, "created": 1_700_000_000}
    item = {"b64_json": base64.b64encode(PNG).decode(), "revised_prompt": "a tree"}
    async with chaos({}, document(data=[item], **extras)) as (_, imagen):
        generation = await imagen.generate("p")
    assert isinstance(generation, Generation)
    assert generation.request == GenerationRequest("p")
    (image,) = generation.images
    assert (image.data, image.media_type) == (PNG, "image/png")
    assert (image.width, image.height, image.revised_prompt) == (1, 1, "a tree")
    assert (image.url, image.path) == (None, None)
    assert (generation.created, generation.attempts) == (1_700_000_000, 1)
    assert generation.extras == {"usage": {"total_tokens": 5}}
    assert generation.problems == ()


async def test_the_request_id() -> None:
    """The gateway's own id of an answer is on the generation and on the error."""

    async def named(exchange: Exchange) -> None:
        await exchange.answer(exchange.generate(), 200, "x-request-id: req-1")

    script = {"p": [named], "q": [status(400, b"", "x-request-id: req-2")]}
    async with chaos(script) as (_, imagen):
        assert (await imagen.generate("p")).request_id == "req-1"
        with pytest.raises(ImagenError, match=r"request id req-2") as caught:
            await imagen.generate("q")
        assert caught.value.request_id == "req-2"


async def test_the_idempotency_key() -> None:
    """Each call has a UUID of its own, or the caller's key; errors carry it too."""
    async with chaos({"bad": [error(400)]}) as (server, imagen):
        first, second = await imagen.generate("a"), await imagen.generate("b")
        assert first.idempotency_key != second.idempotency_key
        assert UUID.fullmatch(str(first.idempotency_key))
        mine = await imagen.generate("c", idempotency_key="order 66")
        assert mine.idempotency_key == server.ledger.keys["c"][0] == "order 66"
        with pytest.raises(ImagenError) as caught:
            await imagen.generate("bad", idempotency_key="order 67")
        assert caught.value.idempotency_key == "order 67"


IDS = ("x-client-request-id", "x-litellm-call-id")


async def test_a_call_is_found_by_its_key() -> None:
    """The key goes out under both names that gateways log, in every attempt of the call."""
    async with chaos({"p": [error(429)]}) as (server, imagen):
        generation = await imagen.generate("p")
        assert server.ledger.requests["p"] == 2
        for head in server.ledger.heads:
            sent_ids = [line for line in head.split("\r\n") if line.lower().startswith(IDS)]
            assert [line.partition(": ")[2] for line in sent_ids] == [
                generation.idempotency_key,
                generation.idempotency_key,
            ]


async def test_an_id_of_the_users_own_wins() -> None:
    """A header of that name that the user gave goes out once, as given; the other has the key."""
    async with chaos(options={"headers": {"X-CLIENT-request-id": "mine"}}) as (server, imagen):
        generation = await imagen.generate("p")
        assert server.ledger.heads[0].lower().count("x-client-request-id") == 1
        assert header(server, "x-client-request-id") == "mine"
        assert header(server, "x-litellm-call-id") == generation.idempotency_key


async def test_downloads_carry_no_id(tmp_path: Path) -> None:
    """The host of an image's link learns no key of a call, not even on the API's own host."""

    async def linked(exchange: Exchange) -> None:
        exchange.generate()
        items = [{"url": f"{server.base_url.removesuffix('/v1')}/files/1.png"}]
        await exchange.answer(json.dumps({"data": items}).encode())

    async def picture(exchange: Exchange) -> None:
        await exchange.answer(PNG)

    async with chaos({}, linked) as (server, imagen):
        server.gets = picture
        generation = await imagen.generate_to(tmp_path, "p")
        assert generation.images[0].path is not None
        assert server.ledger.heads[1].startswith("GET ")
        for name in ("idempotency-key", *IDS):
            assert name not in server.ledger.heads[1].lower()


async def test_without_idempotency_keys() -> None:
    """With idempotency=False no such header is sent; calls still have a name of their own."""
    async with chaos(options={"idempotency": False}) as (server, imagen):
        generation = await imagen.generate("p")
        for name in ("idempotency-key", *IDS):
            assert header(server, name) is None
        assert generation.idempotency_key


@pytest.mark.parametrize("key", ["", "a\nb", "ключ", "k" * 256, 7])
async def test_a_key_that_no_header_carries(key: Any) -> None:
    """An Idempotency-Key that cannot be sent is refused before anything is."""
    async with chaos() as (server, imagen):
        with pytest.raises(ConfigurationError, match="idempotency_key"):
            await imagen.generate("p", idempotency_key=key)
        assert server.ledger.connections == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"aspect_ratio": "2:1"}, "16:9"),
        ({"response_format": "png"}, "b64_json"),
        ({"n": 0}, "1 or more"),
        ({"n": True}, "1 or more"),
        ({"model": ""}, "model"),
        ({"extra": {"x": object()}}, "extra"),
        ({"extra": {"x": float("nan")}}, "extra"),
        ({"extra": {1: 2}}, "extra"),
    ],
)
async def test_a_request_that_is_wrong(fields: dict[str, Any], words: str) -> None:
    """A field that the page does not know is refused before sending, with what is allowed."""
    async with chaos() as (server, imagen):
        with pytest.raises(InvalidRequestError, match=words):
            await imagen.generate("p", **fields)
        assert server.ledger.connections == 0


@pytest.mark.parametrize("to", [(), ("shots",)], ids=["generate", "generate_to"])
async def test_a_field_that_only_a_gateway_knows(to: tuple[str, ...]) -> None:
    """It is refused before anything is sent, in one line that says how to send it."""
    async with chaos() as (server, imagen):
        method: Any = imagen.generate_to if to else imagen.generate
        with pytest.raises(InvalidRequestError, match=re.escape("extra={'size': '1024x1024'}")):
            await method(*to, "p", size="1024x1024", self="x")
        assert server.ledger.connections == 0


@pytest.mark.parametrize("status_code", [401, 403])
async def test_a_refusal_without_a_key(status_code: int) -> None:
    """The error says that none was sent only if none was, and only where the key is at fault."""
    says = {}
    given: dict[str, dict[str, Any]] = {
        "none": {"api_key": ""},
        "key": {},
        "header": {"api_key": "", "headers": {"X-Api-Key": "a-long-secret"}},
    }
    for name, settings in given.items():
        script = {"p": [error(status_code, message="no")]}
        async with chaos(script, options=settings) as (_, imagen):
            with pytest.raises(ImagenError) as caught:
                await imagen.generate("p")
        says[name] = "no key was sent: set IMAGEN_API_KEY, or pass api_key." in str(caught.value)

    assert says == {"none": True, "key": False, "header": False}


async def test_a_request_and_fields_beside_it() -> None:
    """A whole request stands alone."""
    async with chaos() as (_, imagen):
        with pytest.raises(InvalidRequestError, match="alone"):
            await imagen.generate(GenerationRequest("p"), n=2)


async def test_reading_and_saving(tmp_path: Path) -> None:
    """An image is read and saved byte for byte, whether it came as bytes, link or file."""

    async def answer(exchange: Exchange) -> None:
        exchange.generate()
        link = {"url": f"{exchange.server.base_url}/i.png?sig=%2B1"}
        await exchange.answer(json.dumps({"data": [link]}).encode())

    async def get(exchange: Exchange) -> None:
        await exchange.answer(PNG)

    async with chaos({"link": [answer]}) as (server, imagen):
        server.gets = get
        embedded = (await imagen.generate("p")).images[0]
        link = (await imagen.generate("link")).images[0]
        assert link.data is None
        for name, image in (("bytes", embedded), ("link", link)):
            assert await imagen.read(image) == PNG
            path = await imagen.save(image, tmp_path / name)
            assert path == tmp_path / f"{name}.png"
            assert path.read_bytes() == PNG
            assert await imagen.read(Image(path=path)) == PNG
        gets = [head for head in server.ledger.heads if head.startswith("GET ")]
        assert gets
        assert all("?sig=%2B1 HTTP" in head for head in gets)
        assert not any(KEY in head or "Idempotency" in head for head in gets)


async def test_an_image_of_nothing() -> None:
    """An image without bytes, file and link is refused by name."""
    async with chaos() as (_, imagen):
        with pytest.raises(InvalidRequestError, match="neither bytes"):
            await imagen.read(Image())


async def test_saving_beside_a_file_of_that_name(tmp_path: Path) -> None:
    """A file that exists stays, and the new one is numbered, unless it may be replaced."""
    async with chaos() as (_, imagen):
        image = (await imagen.generate("p")).images[0]
        (tmp_path / "a.png").write_bytes(b"mine")
        second = await imagen.save(image, tmp_path / "a")
        assert second != tmp_path / "a.png"
        assert (tmp_path / "a.png").read_bytes() == b"mine"
        assert await imagen.save(image, tmp_path / "a", overwrite=True) == tmp_path / "a.png"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            odd = await imagen.save(image, tmp_path / "b.jpg")
        assert odd.name == "b.jpg"
        assert [one.category for one in caught] == [UserWarning]


async def test_a_link_that_is_dead() -> None:
    """A link that cannot be fetched orders nothing new."""
    async with chaos() as (server, imagen):
        server.gets = status(410)
        link = Image(url=f"{server.base_url}/gone.png")
        with pytest.raises(DownloadError) as caught:
            await imagen.read(link)
        assert caught.value.charge is Charge.YES
        assert server.ledger.requests.total() == 0


async def test_straight_to_files(tmp_path: Path) -> None:
    """generate_to names files after the prompt, below the folder whatever the prompt says."""
    async with chaos() as (_, imagen):
        generation = await imagen.generate_to(tmp_path / "deep" / "er", "../../A tree")
        path = generation.images[0].path
        assert path is not None
        assert path.parent == tmp_path / "deep" / "er"
        assert path.name.startswith("A-tree-")
        assert path.suffix == ".png"
        assert path.read_bytes() == PNG
        assert generation.images[0].data is None
        again = await imagen.generate_to(tmp_path / "deep" / "er", "../../A tree")
        assert again.images[0].path != path


ENVIRONMENT = ("IMAGEN_BASE_URL", "IMAGEN_API_KEY")


async def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Base URL and key come from the environment if they are not given; arguments win."""
    async with chaos() as (server, _):
        monkeypatch.setenv("IMAGEN_BASE_URL", f"{server.base_url}/")
        monkeypatch.setenv("IMAGEN_API_KEY", "from-env\n")
        async with AsyncImagen() as imagen:
            await imagen.generate("p")
            assert header(server, "authorization") == "Bearer from-env"
        async with AsyncImagen(api_key="given") as imagen:
            await imagen.generate("q")
            assert header(server, "authorization") == "Bearer given"
        monkeypatch.setenv("IMAGEN_API_KEY", "")
        async with AsyncImagen() as imagen:
            await imagen.generate("r")
            assert header(server, "authorization") is None


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "  ",
        "gateway.test/v1",
        "//gateway.test/v1",
        "ftp://gateway.test/v1",
        "https://",
        "https:///v1",
        "https://user:s3cret@gateway.test/v1",
        "https://gateway.test/v1?key=s3cret",
        "https://gateway.test/v1#s3cret",
        "https://gateway.test:0/v1",
        "https://gateway.test:99999/v1",
        "https://gateway.test:x/v1",
        "https://gateway.test/a b",
        "https://gate\nway.test/v1",
        "https://[::1/v1",
        "https://шлюз.test/v1",
        "https://..test/v1",
        "https://" + "a" * 300 + ".test/v1",
    ],
)
def test_a_base_url_that_cannot_be_used(url: str | None) -> None:
    """A base URL that cannot work is refused when the client is made, without its secrets."""
    with pytest.raises(ConfigurationError, match=r"base_url|Base URL|base URL") as caught:
        AsyncImagen(base_url=url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("end", ["", "/", "///", " \n"])
async def test_one_rule_joins_the_url(end: str) -> None:
    """Whatever slashes or blanks end the base URL, one path is asked."""
    async with chaos() as (server, _), client(server.base_url + end) as imagen:
        await imagen.generate("p")
        assert server.ledger.heads[0].startswith("POST /v1/images/generations HTTP")


def test_base_urls_that_work() -> None:
    """Ports, IPv6 and paths are fine."""
    for url in ("http://[::1]:8080/v1", "https://x.test", "https://x.test:8443/a/b/v1"):
        assert url in repr(AsyncImagen(base_url=url))


@pytest.mark.parametrize("key", ["sk-1\nsk-2", "ключ", "a\0b", "a\u2028b"])
def test_a_key_that_cannot_be_sent(key: str) -> None:
    """A key that no header carries is refused when the client is made, and is not shown."""
    with pytest.raises(ConfigurationError, match="API key") as caught:
        AsyncImagen(base_url="https://x.test/v1", api_key=key)
    assert key not in str(caught.value)


async def test_a_long_key() -> None:
    """A key of 10 KB is sent as it is, whatever the server makes of it."""
    async with chaos(options={"api_key": "k" * 10_000}) as (server, imagen):
        await imagen.generate("p")
        assert header(server, "authorization") == "Bearer " + "k" * 10_000


@pytest.mark.parametrize(
    "headers", [{"a b": "c"}, {"": "c"}, {"a": "b\r\nc: d"}, {"a": "ы"}, {"a": 1}, {"a:": "b"}]
)
def test_headers_that_cannot_be_sent(headers: dict[str, Any]) -> None:
    """A header that cannot be sent is refused when the client is made."""
    with pytest.raises(ConfigurationError, match="headers"):
        AsyncImagen(base_url="https://x.test/v1", headers=headers)


@pytest.mark.parametrize(
    "proxy", ["proxy.test:3128", "socks5://proxy.test", "http://", "http://[x"]
)
def test_a_proxy_that_cannot_be_used(proxy: str) -> None:
    """A proxy that is no URL is refused when the client is made."""
    with pytest.raises(ConfigurationError, match="proxy"):
        AsyncImagen(base_url="https://x.test/v1", proxy=proxy)


def test_values_of_the_wrong_kind() -> None:
    """Settings of another type are refused, not taken for what they are not."""
    for options in (
        {"limits": 5},
        {"retry": 5},
        {"timeouts": 5},
        {"limits": Timeouts()},
        {"retry": Limits()},
        {"timeouts": RetryPolicy()},
    ):
        with pytest.raises(ConfigurationError):
            AsyncImagen(base_url="https://x.test/v1", **options)  # type: ignore[arg-type]


async def test_no_image_is_a_request_of_its_own() -> None:
    """Downloads go to the session of files: they share neither key nor headers."""
    async with chaos(options={"headers": {"X-Team": "red"}}) as (server, imagen):
        server.gets = status(410)
        with pytest.raises(DownloadError):
            await imagen.read(Image(url=f"{server.base_url}/x"))
        assert header(server, "x-team") is None
        assert header(server, "authorization") is None


@pytest.mark.parametrize(
    "way",
    [
        lambda imagen: imagen.__aenter__(),
        lambda imagen: imagen.generate("p"),
        lambda imagen: imagen.generate_to("out", "p"),
        lambda imagen: imagen.generate_many(["p"]).__aenter__(),
        lambda imagen: imagen.batch(["p"], out="out").__aenter__(),
        lambda imagen: imagen.batch(["p"], out="out").plan(),
        lambda imagen: imagen.read(Image(data=PNG)),
        lambda imagen: imagen.read(Image(url="https://x.test/x")),
        lambda imagen: imagen.save(Image(data=PNG), "x"),
        lambda imagen: imagen.aclose(),
    ],
)
def test_another_kind_of_loop(way: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no task of asyncio's runs, as under trio, every way in says so and does nothing."""
    monkeypatch.chdir(tmp_path)
    coroutine = way(AsyncImagen(base_url="https://x.test/v1"))
    with pytest.raises(
        ConfigurationError, match=r"runs on asyncio, not on trio.*backend='asyncio'"
    ):
        coroutine.send(None)
    assert list(tmp_path.iterdir()) == []


async def test_a_block_closes_its_client() -> None:
    """Leaving ``async with`` closes the client, whatever ended the block."""
    async with chaos({}, fine) as (server, _):
        with pytest.raises(KeyError):
            async with client(server.base_url) as imagen:
                raise KeyError
        with pytest.raises(ConfigurationError, match="closed"):
            await imagen.generate("p")
