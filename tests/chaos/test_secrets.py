"""Keys and signatures: on the wire and nowhere else."""

import asyncio
import base64
import copy
import io
import json
import logging
import os
import pickle
import stat
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs
import pytest
from rich.console import Console
from rich.traceback import Traceback

import imagen_async
from imagen_async import (
    AsyncImagen,
    Charge,
    ConfigurationError,
    Image,
    Imagen,
    ImagenError,
    Verdict,
)
from imagen_async.policy.config import Secret
from tests.chaos.faults import CHARGED, FREE, document, error, raw, status
from tests.chaos.harness import KEY, QUICK, chaos
from tests.chaos.server import PNG, Fault, fine

ours = [
    kind
    for name in imagen_async.__all__
    if isinstance(kind := getattr(imagen_async, name), type) and issubclass(kind, ImagenError)
]


def shown(error: BaseException) -> str:
    """Return all that tracebacks with locals tell of our own frames: the stdlib's and rich's."""
    ends = [error.__traceback__]
    while ends[-1] is not None:
        ends.append(ends[-1].tb_next)
    own = next(
        (one for one in ends if one and "/imagen_async/" in one.tb_frame.f_code.co_filename), None
    )
    return error_to_row(error, own)


def error_to_row(error: BaseException, trace: TracebackType | None) -> str:
    plain = traceback.TracebackException(type(error), error, trace, capture_locals=True)
    console = Console(file=io.StringIO(), width=300)
    pretty = Traceback.from_exception(
        type(error), error, trace, show_locals=True, locals_max_length=None, locals_max_string=None
    )
    console.print(pretty)
    assert isinstance(console.file, io.StringIO)
    return "".join(plain.format()) + console.file.getvalue()


@pytest.mark.parametrize(
    "fault",
    [
        *("RST after the request", "half the headers", "cut by length", "502", "SSH banner"),
        *("429", "500", "bad base64", "401"),
    ],
)
async def test_no_error_tells_the_key(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """No text, log, pickle or traceback with locals of a failed call holds key or header."""
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    play = (CHARGED | FREE | {"401": error(401, message="no such key")})[fault]
    headers = {"X-Api-Token": "canary-in-a-header"}
    async with chaos({}, play, options={"headers": headers}) as (server, imagen):
        with pytest.raises(ImagenError) as caught:
            await imagen.generate("p")
        assert f"Bearer {KEY}" in server.ledger.heads[0]
        assert "canary-in-a-header" in server.ledger.heads[0]
        raised = caught.value
        texts = [
            str(raised),
            repr(raised),
            str(vars(raised)),
            repr(pickle.dumps(raised)),
            shown(raised),
            caplog.text,
            repr(imagen),
            repr(vars(imagen)),
            repr(vars(imagen._core)),
        ]
        for text in texts:
            assert KEY not in text
            assert "canary-in-a-header" not in text
        assert raised.__cause__ is None
        assert raised.__context__ is None or isinstance(raised.__context__, ImagenError)


async def test_a_tracebacks_locals_would_tell() -> None:
    """The look at tracebacks sees a key that lies in a frame: it can fail."""

    def fails(key: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        fails(KEY)
    assert KEY in error_to_row(caught.value, caught.value.__traceback__)


@pytest.mark.parametrize("kind", [AsyncImagen, Imagen])
@pytest.mark.parametrize(
    "options",
    [
        {"api_key": f"{KEY}\n{KEY}", "base_url": "https://x.test/v1"},
        {"api_key": KEY, "base_url": "x.test"},
        {"api_key": KEY, "base_url": "https://x.test/v1", "headers": {"a": f"{KEY}\n"}},
        {"api_key": KEY, "base_url": "https://x.test/v1", "proxy": f"socks://u:{KEY}@p.test"},
        {"api_key": KEY, "base_url": f"https://u:{KEY}@x.test/v1"},
        {"api_key": KEY, "base_url": f"https://x.test/v1?key={KEY}"},
    ],
)
def test_no_refused_setting_tells_the_key(kind: Any, options: dict[str, Any]) -> None:
    """A client that cannot be made tells no key, in its error's text, fields or arguments."""
    with pytest.raises(ConfigurationError) as caught:
        kind(**options)
    assert KEY not in f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("kind", [AsyncImagen, Imagen])
@pytest.mark.parametrize(
    ("base_url", "key"), [("https://x.test/v1", f"{KEY}\n{KEY}"), ("x.test", KEY)]
)
def test_a_refused_key_is_in_no_frame_of_ours(kind: Any, base_url: str, key: str) -> None:
    """The frames that refuse a key do not hold it where a traceback with locals shows them."""
    with pytest.raises(ConfigurationError) as caught:
        kind(base_url=base_url, api_key=key)
    assert KEY not in shown(caught.value)


def test_a_secret_hides() -> None:
    """A Secret shows stars wherever a value is usually shown, and does not pickle."""
    secret = Secret(KEY)

    @attrs.frozen
    class Holder:
        secret: Secret

    for text in (str(secret), repr(secret), f"{secret}", f"{secret:>30}", f"{Holder(secret)}"):
        assert KEY not in text
    assert KEY not in str(attrs.asdict(Holder(secret)))
    assert secret.reveal() == KEY
    with pytest.raises(ConfigurationError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        vars(secret)


PLAIN = "Swordfish-42/and+more=="
"""A key of no known shape."""
ESCAPED = PLAIN.replace("/", "\\/")
HELD = {
    "X-Tenant-Token": "canary-in-a-header",
    "X-Proxy-Authorization": "Basic Y2FuYXJ5OmJhc2lj",
    "Ocp-Apim-Subscription": "canary0in1an2odd3header",
}


def echoes(secret: str) -> dict[str, Fault]:
    """Return, by name, gateways that say a secret."""
    said = f"the key {secret} is wrong"
    image = {"b64_json": base64.b64encode(PNG).decode(), "revised_prompt": said}
    long = "x" * 285 + secret
    return {
        "message": error(400, message=said),
        "code": error(400, message="no", code=secret, type=secret),
        "an escaped message": status(400, b'{"error": {"message": "%s"}}' % ESCAPED.encode()),
        "request id": status(400, b"", f"X-Request-Id: {secret}"),
        "id in the message": error(400, message=f"no (request id: {secret})"),
        "a long message": error(400, message=long, code="x" * 90 + secret),
        "title": status(502, f"<html><title>{said}</title>".encode(), charged=True),
        "text": status(504, f"upstream said {secret}".encode(), charged=True),
        "cut JSON": status(400, f'{{"error": {{"message": "{secret}'.encode()),
        "Location": status(307, b"", f"Location: https://{secret[:12]}-{secret}.example/v1"),
        "user of Location": status(307, b"", f"Location: https://{secret}@gateway.example/v1"),
        "name of a field": status(422, json.dumps({"detail": [{"loc": [secret]}]}).encode()),
        "an error in a success": error(200, message=said, code=secret),
        "id of a spoiled answer": status(200, b"{}", f"cf-ray: {secret}", charged=True),
        "id of nothing": status(204, b"", f"cf-ray: {secret}", charged=True),
        "id of silence": raw(
            f"HTTP/1.1 200 OK\r\ncf-ray: {secret}\r\n\r\n ".encode(), then="reset"
        ),
        "an image": document(data=[image], usage={secret: [secret]}, id=f"{secret}-1"),
        "id of an image": status(
            200, json.dumps({"data": [image]}).encode(), f"x-request-id: {secret}", charged=True
        ),
    }


def leaks(text: str, secret: str) -> Iterator[str]:
    """Yield the ways in which a text holds a secret, or enough of one."""
    forms = (secret, secret[:14], ESCAPED[:14], base64.b64encode(secret.encode()).decode()[:14])
    return (form for form in forms if form.lower() in text.lower())


@pytest.mark.parametrize("secret", [PLAIN, *HELD.values(), "Y2FuYXJ5OmJhc2lj"])
@pytest.mark.parametrize("name", echoes(""))
async def test_a_key_that_the_gateway_echoes_is_told_nowhere(
    name: str, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever its shape and wherever it is said, no text, event, log or value holds it."""
    caplog.set_level(logging.DEBUG)
    events: list[object] = []
    options = {"api_key": PLAIN, "headers": HELD, "on_event": events.append}
    options["retry"] = QUICK
    async with chaos({}, echoes(secret)[name], options=options) as (_, imagen):
        shown: list[object] = []
        try:
            shown.append(await imagen.generate("p"))
        except ImagenError as caught:
            shown += [caught, str(caught), vars(caught), pickle.dumps(caught)]
    for text in (*map(repr, shown), *map(repr, events), caplog.text):
        assert not list(leaks(text, secret))


@pytest.mark.parametrize("where", ["path", "host", "encoding"])
async def test_a_download_tells_no_key(where: str) -> None:
    """A link that holds the key is asked as it is, and told with stars."""
    key = PLAIN.replace("/", "-").replace("+", "-").strip("=")
    async with chaos({}, options={"api_key": key}) as (server, imagen):
        server.gets = status(403 if where == "path" else 200, PNG, f"Content-Encoding: {key * 3}")
        host = f"{key}.0" if where == "host" else f"127.0.0.1:{server.port}"
        with pytest.raises(ImagenError, match="did not come") as caught:
            await imagen.read(Image(url=f"http://{host}/{key}/i.png"))
        assert where == "host" or f"/{key}/i.png" in server.ledger.heads[-1]
        assert not list(leaks(f"{caught.value} {caught.value!r}", key))


async def test_a_batch_writes_no_key_and_shows_its_lists_to_nobody_else(tmp_path: Path) -> None:
    """A gateway that says the key in every answer puts it into no file; lists are the owner's."""
    plays = {f"p{number}": [play] for number, play in enumerate(echoes(PLAIN).values())}
    out = tmp_path / "out"
    before = os.umask(0o022)
    try:
        async with (
            chaos(plays, options={"api_key": PLAIN, "retry": QUICK}) as (_, imagen),
            imagen.batch([*plays, "last"], out=out) as run,
        ):
            async for _ in run:
                pass
    finally:
        os.umask(before)
    assert run.report.total == len(plays) + 1
    assert run.report.done == 3  # the two of an image, and the last
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {
        *("metadata.jsonl", "failed.jsonl", "unknown.jsonl", "report.json", "run.json"),
        *("index.html", "journal.sqlite3", "page-0001.js"),
    }
    for path in files:
        assert not list(leaks(path.read_bytes().decode("latin-1"), PLAIN)), path
        shared = path.suffix == ".png"
        assert stat.S_IMODE(path.stat().st_mode) == (0o644 if shared else 0o600), path


@pytest.mark.parametrize("kind", [AsyncImagen, Imagen])
@pytest.mark.parametrize(
    ("base_url", "key", "warns"),
    [
        ("http://gateway.test/v1", PLAIN, True),
        ("http://10.0.0.1:8080/v1", PLAIN, True),
        ("http://127.0.0.1.evil.test/v1", PLAIN, True),
        ("http://gateway.test/v1", None, False),
        ("https://gateway.test/v1", PLAIN, False),
        ("http://127.0.0.1:8080/v1", PLAIN, False),
        ("http://127.8.8.8/v1", PLAIN, False),
        ("http://[::1]:8080/v1", PLAIN, False),
        ("http://localhost:8080/v1", PLAIN, False),
        ("http://gateway.LOCALHOST./v1", PLAIN, False),
        ("http://0.0.0.0:8000/v1", PLAIN, False),
    ],
)
def test_a_key_over_plain_http_warns(
    kind: Any, base_url: str, key: str | None, warns: bool
) -> None:
    """A key that others on the way could read is worth one line, which does not hold it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kind(base_url=base_url, api_key=key)
    assert len(caught) == warns
    for warning in caught:
        assert warning.category is UserWarning
        assert "plain http" in str(warning.message)
        assert PLAIN not in str(warning.message)
        assert kind is Imagen or warning.filename == __file__


@pytest.mark.parametrize("kind", [AsyncImagen, Imagen])
@pytest.mark.parametrize("given", [PLAIN, None])
def test_a_warning_made_an_error_tells_no_key(
    kind: Any, given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames that warn do not hold the key where a traceback with locals shows them."""
    monkeypatch.setenv("IMAGEN_API_KEY", PLAIN)
    with pytest.raises(UserWarning, match="plain http") as caught:
        kind(base_url="http://gateway.test/v1", api_key=given)
    assert PLAIN not in shown(caught.value)


@pytest.mark.parametrize("kind", ours)
def test_errors_pickle_and_copy(kind: type[ImagenError]) -> None:
    """Every error survives a pickle and a copy with all that it knows."""
    image = Image(url="https://x.test/?sig=canary")
    made = kind(
        "It broke.",
        verdict=Verdict.UNKNOWN,
        charge=Charge.MAYBE,
        status=502,
        code="c",
        request_id="r",
        attempts=3,
        idempotency_key="k",
        retry_after=1.5,
        images=[image],
    )
    for twin in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
        assert type(twin) is kind
        assert str(twin) == str(made)
        assert vars(twin) == vars(made)
    assert "canary" not in f"{made} {made!r} {vars(made)}"


async def test_a_signed_link_is_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The signature of a link that cannot be fetched is in no text and no log."""
    caplog.set_level(logging.DEBUG, "imagen_async")
    async with chaos() as (server, imagen):
        server.gets = status(403)
        with pytest.raises(ImagenError) as caught:
            await imagen.read(Image(url=f"{server.base_url}/i.png?sig=canary#canary"))
        assert "canary" not in f"{caught.value} {caught.value!r} {caplog.text}"


async def test_escapes_of_a_gateway_do_not_reach_the_terminal() -> None:
    """A gateway's words are shown without the codes that drive a terminal."""
    words = "\x1b[2J\x1b]0;owned\x07 \u202e tricky \x9b1m"
    async with chaos({}, error(400, message=words, code="\x1b[31m")) as (_, imagen):
        with pytest.raises(ImagenError, match="tricky") as caught:
            await imagen.generate("p")
        assert str(caught.value).isprintable()
        assert "\u202e" not in str(caught.value)


async def test_the_key_is_sent_to_the_gateway_alone() -> None:
    """A link to another origin is fetched without the key, even on the same host."""
    async with chaos() as (other, _), chaos({}, fine) as (_, imagen):
        other.gets = status(410)
        with pytest.raises(ImagenError):
            await imagen.read(Image(url=f"{other.base_url}/i.png"))
        assert not any(KEY in head for head in other.ledger.heads)


if sys.platform == "win32":
    pytest.skip("the harness counts descriptors", allow_module_level=True)
