"""The commands and their flags; only click is imported, so that help and completion are quick."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from imagen_async import __version__
from imagen_async.cli.help import ARGUMENTS, Command, Group, Option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ABOVE_ZERO = click.FloatRange(min=0, min_open=True)
_COUNT = click.IntRange(min=1)
_FOLDER = click.Path(file_okay=False)

_image = partial(click.option, cls=Option, group="Image")
_gateway = partial(click.option, cls=Option, group="Gateway")
_retries = partial(click.option, cls=Option, group="Retries and charges")
_output = partial(click.option, cls=Option, group="Output")
_input = partial(click.option, cls=Option, group="Input")
_again = partial(click.option, cls=Option, group="Going on")
_money = partial(click.option, cls=Option, group="Money and limits")
_faults = partial(click.option, cls=Option, group="What goes wrong")
_times = partial(click.option, cls=Option, group="Time and limits")

_QUIET = _output("-q", "--quiet", is_flag=True, help="Errors and results only.")
_REQUEST_FLAGS = (
    _image("--model", help="The gateway's name of a model, such as imagen4."),
    _image(
        "--aspect-ratio",
        type=click.Choice(["1:1", "3:4", "4:3", "9:16", "16:9"]),
        help="The shape of the images.",
    ),
    _image("-n", type=_COUNT, help="Images for each prompt."),
    _image(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="A field that only the gateway knows, such as size=1024x1024; the value is JSON if "
        "it can be read so, else text; may be repeated.",
    ),
    _image(
        "--response-format",
        type=click.Choice(["url", "b64_json"]),
        help="Whether the answer carries links or the images themselves.",
    ),
    _gateway("--base-url", help="Where it answers, /v1 included [env: IMAGEN_BASE_URL]."),
    _gateway(
        "--emulator",
        is_flag=True,
        help="Ask a gateway emulated in this process: no key, no network, nothing is bought.",
    ),
    _gateway(
        "--timeout",
        type=_ABOVE_ZERO,
        metavar="SECONDS",
        help="For a whole call, its retries included [default: 600].",
    ),
    _gateway(
        "--header",
        multiple=True,
        metavar="NAME:VALUE",
        help="Sent with every request to the gateway; may be repeated.",
    ),
    _gateway("--proxy", metavar="URL", help="Such as http://proxy.example:3128."),
    _gateway("--allow-private", is_flag=True, help="Follow links to private addresses, too."),
    _retries(
        "--max-attempts",
        type=_COUNT,
        help="How often a prompt is tried that fails or does not get through [default: 4].",
    ),
    _retries(
        "--max-sends",
        type=_COUNT,
        help="How often a prompt may go out in all, whatever comes back but a 429 or the "
        "gateway's own refusal [default: 4].",
    ),
    _retries(
        "--max-charges",
        type=_COUNT,
        help="Send again what may have been charged, until so many charges [default: 1].",
    ),
    _retries(
        "--server-errors-free",
        is_flag=True,
        help="State that this gateway does not charge for its 500, 503 and 529.",
    ),
    _output("--json", "as_json", is_flag=True, help="Results as JSON."),
    _QUIET,
    _output("-v", "--verbose", count=True, help="Log retries and failures; -vv logs every event."),
)
_ENVIRONMENT = (
    ("IMAGEN_BASE_URL", "Where the gateway answers, /v1 included."),
    ("IMAGEN_API_KEY", "Its key; there is no flag for it, which would show in lists of processes."),
    ("IMAGEN_DEBUG=1", "Show where an error came from."),
    ("NO_COLOR=1", "No colours."),
)
_EXIT_CODES = (
    ("0", "done"),
    ("1", "an error, such as a full disk"),
    ("2", "wrong usage; nothing was sent"),
    ("3", "a batch, or its dry run, with anything not done"),
    ("4", "rejected, or no quota"),
    ("5", "the server failed, or its answer is lost"),
    ("6", "the network, or a busy server"),
    ("130", "interrupted"),
)


def _add(options: Iterable[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed([*options]):
            command = option(command)
        return command

    return decorate


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=(
        'imagen-async generate "a red fox" --emulator     # no key, nothing is bought',
        'imagen-async generate "a red fox" -o fox.png',
        "imagen-async batch prompts.txt --out shots",
        "imagen-async serve                               # a gateway to try things on",
    ),
    sections={
        "Environment": _ENVIRONMENT,
        "Exit codes": _EXIT_CODES,
        "Shell completion, in ~/.bashrc (zsh_source and fish_source likewise)": (
            ('eval "$(_IMAGEN_ASYNC_COMPLETE=bash_source imagen-async)"', ""),
        ),
    },
)
@click.version_option(__version__, prog_name="imagen-async", message="%(prog)s %(version)s")
def imagen_async() -> None:
    """Generate images; none is bought twice in silence, none is lost once paid."""


@imagen_async.command(
    cls=Command,
    examples=(
        'imagen-async generate "a red fox" -o fox.png',
        'imagen-async generate "a red fox" "a hare" -n 2 -o shots/',
        'imagen-async generate "a red fox" --model imagen4 --aspect-ratio 16:9 --set seed=7',
        'imagen-async generate "a red fox" -o - | magick - fox.webp',
        "head -3 prompts.txt | imagen-async generate - -o shots/ --json",
    ),
)
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@_output(
    "-o",
    "--output",
    default=".",
    metavar="FILE|DIR|-",
    help="A file, or a folder if it exists, ends with a slash or serves several prompts "
    "[default: the current folder]; - writes one image to standard output. Nothing is "
    "overwritten.",
)
@_add(_REQUEST_FLAGS)
def generate(**flags: Any) -> int:
    """Generate images from prompts.

    Each PROMPT is one; - reads more from standard input, one a line. Prints the path of each
    image, one a line, or with --json an object of each.
    """
    from imagen_async.cli.generate import GenerateFlags, generate

    return generate(GenerateFlags(**flags))


@imagen_async.command(
    cls=Command,
    examples=(
        "imagen-async batch prompts.txt --out shots --dry-run   # what would be done",
        "imagen-async batch prompts.txt --out shots             # again: goes on",
        "imagen-async batch rows.csv --out shots --prompt-column text --model imagen4",
        "imagen-async batch prompts.txt --out shots --price-per-image 0.04 --budget 20",
        "imagen-async batch prompts.txt --out shots --retry-failed",
    ),
)
@click.argument("source", metavar="INPUT")
@_input("--prompt-column", default="prompt", show_default=True, help="Holds the prompts.")
@_input("--id-column", default="id", show_default=True, help="Holds ids of your own.")
@_input("--limit", type=_COUNT, help="Take only the first rows.")
@_output("--out", required=True, type=_FOLDER, metavar="DIR", help="The batch's folder.")
@_output("--ordered", is_flag=True, help="Settle items in the order of the input.")
@_again("--dry-run", is_flag=True, help="Say what would be done and send nothing.")
@_again(
    "--retry-failed",
    is_flag=True,
    help="Try failed items again, which count as not charged; their sends are counted anew.",
)
@_again(
    "--on-unknown",
    type=click.Choice(["hold", "resend", "drop"]),
    default="hold",
    show_default=True,
    help="Items that may have been charged and brought no image: list them, buy them again, "
    "or close them.",
)
@_again(
    "--new-options",
    is_flag=True,
    help="Go on although --model, -n, --aspect-ratio or --set are not as before: buys prompts "
    "again.",
)
@_money("--price-per-image", type=_ABOVE_ZERO, help="For --budget and --dry-run.")
@_money("--budget", type=_ABOVE_ZERO, help="Stop before more than this may be spent.")
@_money("--concurrency", type=_COUNT, default=8, show_default=True, help="Calls at once.")
@_money("--rpm", type=_ABOVE_ZERO, help="Requests per minute at most.")
@_money("--max-failures", type=_COUNT, help="Stop after so many failed items.")
@_money(
    "--give-up-after",
    type=_ABOVE_ZERO,
    metavar="SECONDS",
    help="Stop if nothing comes but refusals for so long [default: 60 if nothing was ever "
    "reached, else 1800].",
)
@_add(_REQUEST_FLAGS)
def batch(**flags: Any) -> int:
    r"""Generate images from a file of prompts.

    Run it again to go on where it stopped. INPUT is a .txt, .jsonl, .csv or .tsv file, each also
    .gz, or - for lines on standard input. Lines of text are a prompt each; one that begins with #
    is a comment, and \# begins a prompt with #. Prints the path of the gallery, or with --json
    the report.
    """
    from imagen_async.cli.batch import BatchFlags, batch

    return batch(BatchFlags(arguments=click.get_current_context().meta[ARGUMENTS], **flags))


@imagen_async.command(cls=Command, examples=("imagen-async gallery shots",))
@click.argument("folder", type=_FOLDER, metavar="DIR")
def gallery(folder: str) -> int:
    """Write the gallery of a batch's folder.

    Prints the path of the page.
    """
    from imagen_async.cli.gallery import gallery

    return gallery(folder)


def _fault_table() -> list[tuple[str, str]]:
    from imagen_async.emulator import FAULTS

    return list(FAULTS.items())


@imagen_async.command(
    cls=Command,
    examples=(
        "imagen-async serve",
        "imagen-async serve --port 0 --ready-file url.txt --profile fast",
        "imagen-async serve --fault 400,probability=0.2 --fault 504,times=1,prompt=cat",
    ),
    sections={"Faults": _fault_table},
    epilog="RULE is a fault, with conditions if you like: 504,times=2 or "
    "drop,probability=0.1,prompt=cat; or a JSON object. Conditions: prompt (a part of it), "
    "pattern (the whole of it, such as A*cat), key, number (of the request), probability, times.",
)
@_gateway(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="On 127.0.0.1; 0 takes a free one.",
)
@_gateway(
    "--dialect",
    type=click.Choice(["page", "openai", "newapi"]),
    default="page",
    show_default=True,
    help="Whose words and fields it answers with.",
)
@_times(
    "--profile",
    type=click.Choice(["instant", "fast", "standard", "ultra"]),
    default="instant",
    show_default=True,
    help="How long a generation takes.",
)
@_times(
    "--latency",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Of every generation, in place of the profile.",
)
@_times(
    "--time-scale",
    type=_ABOVE_ZERO,
    default=1.0,
    show_default=True,
    help="Divides latencies, --front-timeout and the minute of --rpm.",
)
@_times(
    "--front-timeout",
    type=_ABOVE_ZERO,
    metavar="SECONDS",
    help="After that it answers 504, while the generation goes on and is charged.",
)
@_times("--rpm", type=_COUNT, help="Requests of a key in a minute; more get 429.")
@_times("--concurrency", type=_COUNT, help="Generations of a key at once.")
@_gateway(
    "--key", "keys", multiple=True, help="A key that is let in; may be repeated. Without, any is."
)
@_gateway(
    "--call-log",
    type=click.Choice(["newapi", "litellm", "aimlapi"]),
    help="Show the key's calls in the log of such a gateway, for settle.",
)
@_gateway(
    "--call-log-lateness",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="From the end of a request until the log shows it.",
)
@_gateway(
    "--tasks",
    type=click.Choice(["202", "200"]),
    help="Answer orders with a task to poll, under this status.",
)
@_gateway(
    "--honour-idempotency",
    is_flag=True,
    help="Answer a repeated Idempotency-Key with the first answer, charged once.",
)
@_gateway(
    "--report-cost",
    type=click.Choice(["aimlapi", "litellm", "xai", "openrouter"]),
    help="Say in each answer what it cost, as this gateway does.",
)
@_faults(
    "--fault", "faults", multiple=True, metavar="RULE", help="What goes wrong; may be repeated."
)
@_faults("--seed", type=int, default=0, help="Decides pictures, latencies and faults.")
@_output(
    "--ready-file",
    type=click.Path(dir_okay=False),
    metavar="PATH",
    help="Written when it listens, with its base URL.",
)
@_QUIET
def serve(**flags: Any) -> int:
    """Run an emulated gateway.

    It listens on loopback until Ctrl-C and prints its base URL; each request is logged in a line,
    and the ledger comes at the end.
    """
    from imagen_async.cli.serve import ServeFlags, serve

    return serve(ServeFlags(**flags))
