"""``imagen-async settle``: what the gateway's log says of a batch's items in doubt."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from imagen_async.batch import recovery
from imagen_async.batch.settling import folders_of
from imagen_async.cli.client import RequestFlags, open_client, run_loop
from imagen_async.cli.console import note, result
from imagen_async.cli.exits import DONE, PARTIAL
from imagen_async.cli.words import cut
from imagen_async.errors import Charge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imagen_async.batch.settling import Settled
    from imagen_async.policy.settlement import LogName

_LINE = 100


@attrs.frozen(kw_only=True)
class SettleFlags(RequestFlags):
    """The flags of ``settle``."""

    folder: str
    log: LogName | None = None
    horizon: float = 900.0
    dry_run: bool = False


def settle(flags: SettleFlags) -> int:
    """Settle what a batch has in doubt, and return the exit code: 3 if anything stays so.

    Raises:
        ImagenError: If the log cannot be read.
    """
    if flags.base_url is None:
        flags = attrs.evolve(
            flags, base_url=recovery.endpoint_of(folders_of(Path(flags.folder))[0])
        )
    return run_loop(_settle(flags))


async def _settle(flags: SettleFlags) -> int:
    async with open_client(flags) as imagen:
        settled = await imagen.settle(
            flags.folder, log=flags.log, horizon=flags.horizon, dry_run=flags.dry_run
        )
    if flags.as_json:
        result(json.dumps(attrs.asdict(settled)))
    for line in _lines(settled):
        note(line)
    return PARTIAL if settled.count(Charge.MAYBE) else DONE


def _lines(settled: Settled) -> Iterator[str]:
    """Yield what became of the items, in lines that say what to do next."""
    if not settled.items:
        yield "Nothing there is in doubt by a send that a log could show."
    if settled.problem:
        yield settled.problem
    for item in settled.items:
        if settled.dry_run or item.charge is Charge.YES:
            known = f" as {item.request_id}" if item.request_id else ""
            name = f"id {item.id}" if item.id else f'"{item.prompt}"'
            word = {Charge.NO: "free", Charge.YES: f"charged{known}"}.get(item.charge, "in doubt")
            yield cut(f"{word}: {name}: {item.why}", _LINE)
    yield from settled.groups
    free, charged = settled.count(Charge.NO), settled.count(Charge.YES)
    would = "would be " if settled.dry_run else ""
    if free:
        yield f"{free:,} {would}settled as not charged: run the batch again to send them."
    if charged:
        yield (
            f"{charged:,} {would}settled as charged, and stay in unknown.jsonl with the gateway's "
            "id: ask its support for the images or the money, or buy again with --on-unknown "
            "resend."
        )
    left = Counter(item.why for item in settled.items if item.charge is Charge.MAYBE)
    for why, number in left.most_common():
        yield f"{number:,} stay in doubt: {why}."
