"""The commands and their flags; only click is imported, so that help and completion are quick."""

from __future__ import annotations

from typing import Any

import click

from imagen_async import __version__
from imagen_async.cli import options
from imagen_async.cli.help import ARGUMENTS, SECTIONS, Command, Group


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=(
        'imagen-async generate "a red fox" --emulator     # no key, nothing is bought',
        'imagen-async generate "a red fox" -o fox.png',
        "imagen-async batch prompts.txt --out shots",
        "imagen-async serve                               # a gateway to try things on",
    ),
    sections=SECTIONS,
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
@options.output(
    "-o",
    "--output",
    default=".",
    metavar="FILE|DIR|-",
    help="A file, or a folder if it exists, ends with a slash or serves several prompts; - writes "
    "one image to standard output. Nothing is overwritten.",
)
@options.add(options.REQUEST)
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
@options.source("--prompt-column", default="prompt", help="Holds the prompts.")
@options.source("--id-column", default="id", help="Holds ids of your own.")
@options.source("--limit", type=options.COUNT, help="Take only the first rows.")
@options.output(
    "--out", required=True, type=options.FOLDER, metavar="DIR", help="The batch's folder."
)
@options.output("--ordered", is_flag=True, help="Settle items in the order of the input.")
@options.add(options.PAGE)
@options.again("--dry-run", is_flag=True, help="Say what would be done and send nothing.")
@options.again(
    "--retry-failed",
    is_flag=True,
    help="Try failed items again, which count as not charged; their sends are counted anew.",
)
@options.again(
    "--on-unknown",
    type=click.Choice(["hold", "resend", "drop"]),
    default="hold",
    help="Items that may have been charged and brought no image: list them, buy them again, "
    "or close them.",
)
@options.again(
    "--new-options",
    is_flag=True,
    help="Go on although --model, -n, --aspect-ratio or --set are not as before: buys prompts "
    "again.",
)
@options.money("--price-per-image", type=options.ABOVE_ZERO, help="For --budget and --dry-run.")
@options.money("--budget", type=options.ABOVE_ZERO, help="Stop before more than this may be spent.")
@options.money("--concurrency", type=options.COUNT, default=8, help="Calls at once.")
@options.money("--rpm", type=options.ABOVE_ZERO, help="Requests per minute at most.")
@options.money("--max-failures", type=options.COUNT, help="Stop after so many failed items.")
@options.money(
    "--give-up-after",
    type=options.ABOVE_ZERO,
    metavar="SECONDS",
    help="Stop if nothing comes but refusals for so long [default: 60 if nothing was ever "
    "reached, else 1800].",
)
@options.shards(
    "--shards",
    type=options.COUNT,
    metavar="N",
    help="Divide the rows into N parts, each in a folder of its own below DIR: run the same "
    "command on any number of machines, and each takes parts until none is free. --budget and "
    "--rpm are divided, too.",
)
@options.shards(
    "--shard",
    type=click.IntRange(min=0),
    metavar="K",
    help="Only this part, counted from 0, such as a scheduler's index of the task.",
)
@options.shards(
    "--workers",
    type=options.COUNT,
    metavar="W",
    help="How many processes may work on the shards at once: --rpm is divided among so many "
    "[default: N].",
)
@options.add(options.REQUEST)
def batch(**flags: Any) -> int:
    r"""Generate images from a file of prompts.

    Run it again to go on where it stopped. INPUT is a .txt, .jsonl, .csv or .tsv file, each also
    .gz, or - for lines on standard input. Lines of text are a prompt each; one that begins with #
    is a comment, and \# begins a prompt with #. Columns that are no field of a request are kept
    beside each image, for the gallery and the export. Prints the path of the gallery, or with
    --json the report.
    """
    from imagen_async.cli.batch import BatchFlags, batch

    return batch(BatchFlags(arguments=click.get_current_context().meta[ARGUMENTS], **flags))


@imagen_async.command(
    cls=Command,
    examples=(
        "imagen-async settle shots --dry-run   # what the gateway's log says",
        "imagen-async settle shots",
        "imagen-async settle shots --log newapi --horizon 1800",
    ),
)
@options.DIR
@options.gateway(
    "--log",
    type=click.Choice(["litellm", "aimlapi", "newapi"]),
    help="The kind of its log [default: found out by asking].",
)
@options.money(
    "--horizon",
    type=options.ABOVE_ZERO,
    default=900.0,
    metavar="SECONDS",
    help="How old a send must be before a missing row means that it was free.",
)
@options.again("--dry-run", is_flag=True, help="Say what would be settled and keep nothing.")
@options.add((options.BASE_URL, *options.CONNECTION, *options.SHOWN))
def settle(**flags: Any) -> int:
    """Ask the gateway's log about what is in doubt.

    Nothing is bought. What was not charged is sent by the next run of the batch; what was charged
    stays listed with the gateway's id of it; what the log does not prove stays in doubt (exit 3).
    """
    from imagen_async.cli.settle import SettleFlags, settle

    return settle(SettleFlags(**flags))


@imagen_async.command(cls=Command, examples=("imagen-async gallery shots --live --open",))
@options.DIR
@options.add(options.PAGE)
def gallery(folder: str, live: bool, show: bool) -> int:
    """Write the gallery of a batch's folder.

    Prints the path of the page; with --live nothing is written, and it is that of a server.
    """
    from imagen_async.cli.gallery import gallery

    return gallery(folder, live=live, show=show)


@imagen_async.command(cls=Command, examples=("imagen-async status shots",))
@options.DIR
@options.JSON
def status(folder: str, as_json: bool) -> int:
    """Say how a batch stands.

    DIR is its folder, with or without shards, while it runs or after. Nothing is sent.
    """
    from imagen_async.cli.status import status

    return status(folder, as_json=as_json)


@imagen_async.command(cls=Command, examples=("imagen-async merge shots",))
@options.DIR
@options.JSON
def merge(folder: str, as_json: bool) -> int:
    """Write lists, report and gallery over all shards.

    Prints the path of the gallery.
    """
    from imagen_async.cli.status import merge

    return merge(folder, as_json=as_json)


@imagen_async.command(
    cls=Command,
    examples=(
        "imagen-async export shots --to webdataset",
        "imagen-async export shots --to hf --out dataset",
    ),
)
@options.DIR
@options.output(
    "--to",
    type=click.Choice(["webdataset", "parquet", "hf"]),
    required=True,
    help="Tar files; Parquet files; or a Hugging Face data set: Parquet and its card.",
)
@options.output(
    "--out",
    type=options.FOLDER,
    metavar="DIR",
    help="Where it goes, in place of an earlier export [default: export/FORMAT in DIR].",
)
@options.output(
    "--shard-size",
    type=options.COUNT,
    default=1024,
    metavar="MIB",
    help="Images in one file at most.",
)
@options.JSON
def export(**flags: Any) -> int:
    """Export the images of a batch's folder for training.

    DIR may also hold the folders of several batches. Takes whole images of settled items, with
    their metadata. Prints the path of the export.
    """
    from imagen_async.cli.export import export_batch

    return export_batch(**flags)


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
@options.gateway(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    help="On 127.0.0.1; 0 takes a free one.",
)
@options.gateway(
    "--dialect",
    type=click.Choice(["page", "openai", "newapi"]),
    default="page",
    help="Whose words and fields it answers with.",
)
@options.times(
    "--profile",
    type=click.Choice(["instant", "fast", "standard", "ultra"]),
    default="instant",
    help="How long a generation takes.",
)
@options.times(
    "--latency",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Of every generation, in place of the profile.",
)
@options.times(
    "--time-scale",
    type=options.ABOVE_ZERO,
    default=1.0,
    help="Divides latencies, --front-timeout and the minute of --rpm.",
)
@options.times(
    "--front-timeout",
    type=options.ABOVE_ZERO,
    metavar="SECONDS",
    help="After that it answers 504, while the generation goes on and is charged.",
)
@options.times("--rpm", type=options.COUNT, help="Requests of a key in a minute; more get 429.")
@options.times("--concurrency", type=options.COUNT, help="Generations of a key at once.")
@options.gateway(
    "--key", "keys", multiple=True, help="A key that is let in; may be repeated. Without, any is."
)
@options.gateway(
    "--call-log",
    type=click.Choice(["newapi", "litellm", "aimlapi"]),
    help="Show the key's calls in the log of such a gateway, for settle.",
)
@options.gateway(
    "--call-log-lateness",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="From the end of a request until the log shows it.",
)
@options.gateway(
    "--tasks",
    type=click.Choice(["202", "200"]),
    help="Answer orders with a task to poll, under this status.",
)
@options.gateway(
    "--honour-idempotency",
    is_flag=True,
    help="Answer a repeated Idempotency-Key with the first answer, charged once.",
)
@options.gateway(
    "--report-cost",
    type=click.Choice(["aimlapi", "litellm", "xai", "openrouter"]),
    help="Say in each answer what it cost, as this gateway does.",
)
@options.faults(
    "--fault", "faults", multiple=True, metavar="RULE", help="What goes wrong; may be repeated."
)
@options.gateway(
    "--image-format",
    type=click.Choice(["png", "jpeg", "webp"]),
    default="png",
    help="What is drawn; jpeg and webp need Pillow.",
)
@options.faults("--seed", type=int, default=0, help="Decides pictures, latencies and faults.")
@options.output(
    "--ready-file",
    type=click.Path(dir_okay=False),
    metavar="PATH",
    help="Written when it listens, with its base URL.",
)
@options.QUIET
def serve(**flags: Any) -> int:
    """Run an emulated gateway.

    It listens on loopback until Ctrl-C and prints its base URL; each request is logged in a line,
    and the ledger comes at the end.
    """
    from imagen_async.cli.serve import serve

    return serve(**flags)
