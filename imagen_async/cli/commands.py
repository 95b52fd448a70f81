"""The commands and their flags; only click is imported, so that help and completion are quick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from imagen_async import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

_ABOVE_ZERO = click.FloatRange(min=0, min_open=True)
_COUNT = click.IntRange(min=1)
_FOLDER = click.Path(file_okay=False)

_REQUEST_FLAGS = (
    click.option("--model", help="The gateway's name of a model, such as imagen4."),
    click.option(
        "--aspect-ratio",
        type=click.Choice(["1:1", "3:4", "4:3", "9:16", "16:9"]),
        help="The shape of the images.",
    ),
    click.option(
        "--response-format",
        type=click.Choice(["url", "b64_json"]),
        help="Whether the answer carries links or the images themselves.",
    ),
    click.option("-n", type=_COUNT, help="Images for each prompt."),
    click.option(
        "--base-url", help="Where the gateway answers, /v1 included [env: IMAGEN_BASE_URL]."
    ),
    click.option(
        "--timeout",
        type=_ABOVE_ZERO,
        metavar="SECONDS",
        help="For a whole call, its retries included [default: 600].",
    ),
    click.option(
        "--header",
        multiple=True,
        metavar="NAME:VALUE",
        help="Sent with every request to the gateway; may be repeated.",
    ),
    click.option(
        "--max-attempts",
        type=_COUNT,
        help="How often a prompt is tried that fails or does not get through [default: 4].",
    ),
    click.option(
        "--max-sends",
        type=_COUNT,
        help="How often a prompt may go out in all, whatever comes back but a 429 or the "
        "gateway's own refusal [default: 4].",
    ),
    click.option(
        "--max-charges",
        type=_COUNT,
        help="Send again what may have been charged, until so many charges [default: 1].",
    ),
    click.option(
        "--server-errors-free",
        is_flag=True,
        help="State that this gateway does not charge for its 500, 503 and 529.",
    ),
    click.option("--proxy", metavar="URL", help="Such as http://proxy.example:3128."),
    click.option("--allow-private", is_flag=True, help="Follow links to private addresses, too."),
    click.option(
        "--emulator",
        is_flag=True,
        help="Ask a gateway emulated in this process: no key, no network, nothing is bought.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Results as JSON."),
)


def _request_flags(command: Callable[..., int]) -> Callable[..., int]:
    for option in reversed(_REQUEST_FLAGS):
        command = option(command)
    return command


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The key is read from IMAGEN_API_KEY alone: a flag would show in the list of "
    "processes. IMAGEN_DEBUG=1 shows where an error came from. Exit codes: 0 done, 1 error, "
    "2 usage, 3 a batch with anything not done, 4 rejected or no quota, 5 the server failed or "
    "its answer is lost, 6 the network or a busy server, 130 interrupted.",
)
@click.version_option(__version__, prog_name="imagen-async", message="%(prog)s %(version)s")
def imagen_async() -> None:
    """Generate images; none is bought twice in silence, none is lost once paid."""


@imagen_async.command()
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@click.option(
    "-o",
    "--output",
    default=".",
    metavar="FILE|DIR",
    help="Where the images go: a folder that exists, ends with a slash, or serves several "
    "prompts; else a file [default: the current folder]. Nothing is overwritten.",
)
@_request_flags
def generate(**flags: Any) -> int:
    """Generate images from prompts.

    Each PROMPT is one; - reads more from standard input, one a line. Prints the path of each
    image, one a line, or with --json an object of each.
    """
    from imagen_async.cli.generate import GenerateFlags, generate

    return generate(GenerateFlags(**flags))


@imagen_async.command()
@click.argument("source", metavar="INPUT")
@click.option("--out", required=True, type=_FOLDER, metavar="DIR", help="The batch's folder.")
@_request_flags
@click.option("--concurrency", type=_COUNT, default=8, show_default=True, help="Calls at once.")
@click.option("--rpm", type=_ABOVE_ZERO, help="Requests per minute at most.")
@click.option("--prompt-column", default="prompt", show_default=True, help="Holds the prompts.")
@click.option("--id-column", default="id", show_default=True, help="Holds ids of your own.")
@click.option("--limit", type=_COUNT, help="Take only the first rows.")
@click.option("--ordered", is_flag=True, help="Settle items in the order of the input.")
@click.option(
    "--on-unknown",
    type=click.Choice(["hold", "resend", "drop"]),
    default="hold",
    show_default=True,
    help="Items that may have been charged and brought no image: list them, buy them again, "
    "or close them.",
)
@click.option(
    "--new-options",
    is_flag=True,
    help="Go on although --model, -n or --aspect-ratio are not as before: buys prompts again.",
)
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Try failed items again, which count as not charged; their sends are counted anew.",
)
@click.option("--price-per-image", type=_ABOVE_ZERO, help="For --budget and --dry-run.")
@click.option("--budget", type=_ABOVE_ZERO, help="Stop before more than this may be spent.")
@click.option("--max-failures", type=_COUNT, help="Stop after so many failed items.")
@click.option(
    "--give-up-after",
    type=_ABOVE_ZERO,
    metavar="SECONDS",
    help="Stop if nothing comes but refusals for so long [default: 60 if nothing was ever "
    "reached, else 1800].",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done and send nothing.")
@click.option(
    "--shards",
    type=_COUNT,
    metavar="N",
    help="Divide the rows into N parts, each in a folder of its own below DIR: run the same "
    "command on any number of machines, and each takes parts until none is free. --budget and "
    "--rpm are divided, too.",
)
@click.option(
    "--shard",
    type=click.IntRange(min=0),
    metavar="K",
    help="Only this part, counted from 0, such as a scheduler's index of the task.",
)
@click.option(
    "--workers",
    type=_COUNT,
    metavar="W",
    help="How many processes may work on the shards at once: --rpm is divided among so many "
    "[default: N].",
)
def batch(**flags: Any) -> int:
    """Generate images from a file of prompts.

    Run it again to go on where it stopped. INPUT is a .txt (one prompt a line), .jsonl, .csv or
    .tsv file, each also .gz, or - for lines on standard input. Prints the path of the gallery,
    or with --json the report.
    """
    from imagen_async.cli.batch import BatchFlags, batch

    return batch(BatchFlags(**flags))


@imagen_async.command()
@click.argument("folder", type=_FOLDER, metavar="DIR")
def gallery(folder: str) -> int:
    """Write the gallery of a batch's folder.

    Prints the path of the page.
    """
    from imagen_async.cli.gallery import gallery

    return gallery(folder)


@imagen_async.command()
@click.argument("folder", type=_FOLDER, metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
def status(folder: str, as_json: bool) -> int:
    """Say how a batch stands.

    DIR is its folder, with or without shards, while it runs or after. Nothing is sent.
    """
    from imagen_async.cli.status import status

    return status(folder, as_json=as_json)


@imagen_async.command()
@click.argument("folder", type=_FOLDER, metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def merge(folder: str, as_json: bool) -> int:
    """Write the lists, the report and the gallery over all shards of a batch.

    Run it as often as you like. Nothing is sent. Prints the path of the gallery.
    """
    from imagen_async.cli.status import merge

    return merge(folder, as_json=as_json)


class _WithFaults(click.Command):
    """Lists the faults after the flags; the table is read only when it is shown."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from imagen_async.emulator import FAULTS

        super().format_epilog(ctx, formatter)
        with formatter.section("Faults"):
            formatter.write_dl(list(FAULTS.items()))


@imagen_async.command(
    cls=_WithFaults,
    epilog="RULE is a fault, with conditions if you like: 504,times=2 or "
    "drop,probability=0.1,prompt=cat; or a JSON object. Conditions: prompt (a part of it), "
    "pattern (the whole of it, such as A*cat), key, number (of the request), probability, times.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="On 127.0.0.1; 0 takes a free one.",
)
@click.option(
    "--dialect",
    type=click.Choice(["page", "openai", "newapi"]),
    default="page",
    show_default=True,
    help="Whose words and fields it answers with.",
)
@click.option(
    "--profile",
    type=click.Choice(["instant", "fast", "standard", "ultra"]),
    default="instant",
    show_default=True,
    help="How long a generation takes.",
)
@click.option(
    "--latency",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Of every generation, in place of the profile.",
)
@click.option(
    "--time-scale",
    type=_ABOVE_ZERO,
    default=1.0,
    show_default=True,
    help="Divides latencies, --front-timeout and the minute of --rpm.",
)
@click.option(
    "--front-timeout",
    type=_ABOVE_ZERO,
    metavar="SECONDS",
    help="After that it answers 504, while the generation goes on and is charged.",
)
@click.option("--rpm", type=_COUNT, help="Requests of a key in a minute; more get 429.")
@click.option("--concurrency", type=_COUNT, help="Generations of a key at once.")
@click.option(
    "--key", "keys", multiple=True, help="A key that is let in; may be repeated. Without, any is."
)
@click.option(
    "--call-log",
    type=click.Choice(["newapi", "litellm", "aimlapi"]),
    help="Show the key's calls in the log of such a gateway, for settle.",
)
@click.option(
    "--call-log-lateness",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="From the end of a request until the log shows it.",
)
@click.option(
    "--tasks",
    type=click.Choice(["202", "200"]),
    help="Answer orders with a task to poll, under this status.",
)
@click.option(
    "--honour-idempotency",
    is_flag=True,
    help="Answer a repeated Idempotency-Key with the first answer, charged once.",
)
@click.option(
    "--report-cost",
    type=click.Choice(["aimlapi", "litellm", "xai", "openrouter"]),
    help="Say in each answer what it cost, as this gateway does.",
)
@click.option(
    "--fault", "faults", multiple=True, metavar="RULE", help="What goes wrong; may be repeated."
)
@click.option("--seed", type=int, default=0, help="Decides pictures, latencies and faults.")
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False),
    metavar="PATH",
    help="Written when it listens, with its base URL.",
)
def serve(**flags: Any) -> int:
    """Run an emulated gateway.

    It listens on loopback until Ctrl-C and prints its base URL.
    """
    from imagen_async.cli.serve import ServeFlags, serve

    return serve(ServeFlags(**flags))
