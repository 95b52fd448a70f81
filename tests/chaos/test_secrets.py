"""Keys and signatures: on the wire and nowhere else."""

import asyncio
import copy
import io
import logging
import pickle
import sys
import traceback
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
from tests.chaos.faults import CHARGED, FREE, error, status
from tests.chaos.harness import KEY, chaos
from tests.chaos.server import fine

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
    return told(error, own)


def told(error: BaseException, trace: TracebackType | None) -> str:
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
    assert KEY in told(caught.value, caught.value.__traceback__)


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
