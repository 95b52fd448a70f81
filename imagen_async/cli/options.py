"""The options that commands share, in the groups in which help shows them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from imagen_async.cli.help import Option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_Group: TypeAlias = "Callable[..., Callable[[Any], Any]]"

ABOVE_ZERO = click.FloatRange(min=0, min_open=True)
COUNT = click.IntRange(min=1)
FOLDER = click.Path(file_okay=False)

image: _Group = partial(click.option, cls=Option, group="Image")
gateway: _Group = partial(click.option, cls=Option, group="Gateway")
retries: _Group = partial(click.option, cls=Option, group="Retries and charges")
output: _Group = partial(click.option, cls=Option, group="Output")
source: _Group = partial(click.option, cls=Option, group="Input")
again: _Group = partial(click.option, cls=Option, group="Going on")
money: _Group = partial(click.option, cls=Option, group="Money and limits")
shards: _Group = partial(click.option, cls=Option, group="Shards")
faults: _Group = partial(click.option, cls=Option, group="What goes wrong")
times: _Group = partial(click.option, cls=Option, group="Time and limits")

DIR = click.argument("folder", type=FOLDER, metavar="DIR")
JSON = output("--json", "as_json", is_flag=True, help="Results as JSON.")
PAGE = (
    output(
        "--live",
        is_flag=True,
        help="Serve the gallery on 127.0.0.1: images of a batch that runs appear as they come.",
    ),
    output("--open", "show", is_flag=True, help="Open the gallery in the browser."),
)
QUIET = output("-q", "--quiet", is_flag=True, help="Errors and results only.")
BASE_URL = gateway("--base-url", help="Where it answers, /v1 included [env: IMAGEN_BASE_URL].")
CONNECTION = (
    gateway(
        "--header",
        multiple=True,
        metavar="NAME:VALUE",
        help="Sent with every request to the gateway; may be repeated.",
    ),
    gateway("--proxy", metavar="URL", help="Such as http://proxy.example:3128."),
)
SHOWN = (
    JSON,
    QUIET,
    output("-v", "--verbose", count=True, help="Log retries and failures; -vv logs every event."),
)
REQUEST = (
    image("--model", help="The gateway's name of a model, such as imagen4."),
    image(
        "--aspect-ratio",
        type=click.Choice(["1:1", "3:4", "4:3", "9:16", "16:9"]),
        metavar="RATIO",
        help="The shape of the images: 1:1, 3:4, 4:3, 9:16 or 16:9.",
    ),
    image("-n", type=COUNT, help="Images for each prompt."),
    image(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="A field that only the gateway knows, such as size=1024x1024; the value is JSON if "
        "it can be read so, else text; may be repeated.",
    ),
    image(
        "--response-format",
        type=click.Choice(["url", "b64_json"]),
        help="Whether the answer carries links or the images themselves.",
    ),
    BASE_URL,
    gateway(
        "--emulator",
        is_flag=True,
        help="Ask a gateway emulated in this process: no key, no network, nothing is bought.",
    ),
    gateway(
        "--timeout",
        type=ABOVE_ZERO,
        metavar="SECONDS",
        help="For a whole call, its retries included [default: 900, of which 600 for an answer].",
    ),
    *CONNECTION,
    gateway("--allow-private", is_flag=True, help="Follow links to private addresses, too."),
    retries(
        "--max-attempts",
        type=COUNT,
        help="How often a prompt is tried that fails or does not get through [default: 4].",
    ),
    retries(
        "--max-sends",
        type=COUNT,
        help="How often a prompt may go out in all, whatever comes back but a 429 or the "
        "gateway's own refusal [default: 4].",
    ),
    retries(
        "--max-charges",
        type=COUNT,
        help="Send again what may have been charged, until so many charges [default: 1].",
    ),
    retries(
        "--server-errors-free",
        is_flag=True,
        help="State that this gateway does not charge for its 500, 503 and 529.",
    ),
    retries(
        "--key-honoured",
        is_flag=True,
        help="State that this gateway charges once for each Idempotency-Key: what may have been "
        "charged is sent again under its key.",
    ),
    *SHOWN,
)


def add(options: Iterable[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Return a decorator that adds options to a command, in their order."""

    def decorate(command: Any) -> Any:
        for option in reversed([*options]):
            command = option(command)
        return command

    return decorate
