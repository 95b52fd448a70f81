"""Settle what a batch has in doubt by the gateway's own log; nothing is sent but questions."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import attrs

from imagen_async.batch import lists, recovery, schema
from imagen_async.batch.journal import SqliteJournal
from imagen_async.batch.records import KeptError
from imagen_async.batch.states import Event, State, after
from imagen_async.errors import Charge
from imagen_async.policy.evidence import HORIZON, HOUR
from imagen_async.policy.settle import settle as decide
from imagen_async.policy.settlement import Decision, Doubt, KnownCall, Rule, Send
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from imagen_async.batch.ports import JournalView
    from imagen_async.batch.records import Item
    from imagen_async.policy.settlement import Settlement
    from imagen_async.session.core import Core
    from imagen_async.session.record import Trace


_OF_SHARD: Final = " If this is one shard of several, settle the folder over them."


@attrs.frozen(kw_only=True)
class SettledItem:
    """What became of one item in doubt.

    Args:
        id: The user's own name of it.
        prompt: What was asked.
        charge: NO goes back to be sent by the next run, YES stays listed, MAYBE stays in doubt.
        why: The rule that decided, in words.
        request_id: The gateway's id of its charge, if it is known.
    """

    id: str | None
    prompt: str
    charge: Charge
    why: str
    request_id: str | None = None


@attrs.frozen(kw_only=True)
class Settled:
    """What a gateway's log said of a batch's items in doubt.

    Args:
        log: The kind of log that was read; None if nothing was in doubt.
        items: Each item that was in doubt.
        groups: What can be said of items that cannot be told apart, in words.
        least: Charges of these items that are certain.
        most: Charges that they may have caused.
        problem: Why the log settles nothing, one sentence; empty if it does.
        dry_run: Whether nothing was kept.
    """

    log: str | None = None
    items: tuple[SettledItem, ...] = ()
    groups: tuple[str, ...] = ()
    least: int = 0
    most: int = 0
    problem: str = ""
    dry_run: bool = False

    def count(self, charge: Charge) -> int:
        """Return how many items were settled so."""
        return sum(item.charge is charge for item in self.items)


async def settle(
    core: Core,
    folder: Path,
    *,
    log: str | None = None,
    horizon: float = HORIZON,
    dry_run: bool = False,
) -> Settled:
    """Ask the gateway's log what was charged of what a batch has in doubt, and keep the answers.

    Args:
        core: Of a client of the gateway.
        folder: Of the batch, or over the folders of its shards, which are settled together.
        log: The kind of log: ``litellm``, ``aimlapi`` or ``newapi``; None finds out by asking.
        horizon: Seconds after a send from which a missing row means that nothing was charged.
        dry_run: Whether nothing is kept.

    Raises:
        ConfigurationError: If a journal cannot be used, or is of another gateway.
        CallLogError: If the log cannot be read; nothing is settled.
    """
    folders, base_url = folders_of(folder), core.config.base_url
    callers = {name for each in folders for name in recovery.check_endpoint(each, base_url)}
    async with AsyncExitStack() as stack:
        journals = [await _open(stack, each, dry_run=dry_run) for each in folders]
        doubts = [doubt for _, found in journals for doubt in found]
        if not doubts:
            return Settled(dry_run=dry_run)
        others = partial(_others, doubts=doubts)
        calls = [call for journal, _ in journals for call in await journal.call(others)]
        name, read = await core.read_log(doubts, calls, log)
        settlement = decide(doubts, calls, read, horizon=horizon)
        if not callers <= {core.config.caller}:
            settlement = _of_several(settlement)
        decisions = dict(zip(doubts, settlement.decisions, strict=True))
        settled: list[SettledItem] = []
        for journal, found in journals:
            decided = [(item, decisions[doubt]) for doubt, item in found.items()]
            settled += [_told(*each) for each in decided]
            if not dry_run:
                await journal.call(partial(_keep, decided, name))
                await journal.call(partial(lists.rewrite, folder=journal.folder))
    is_shard = settlement.problem and folder.name.startswith("shard-")
    return Settled(
        log=name,
        items=tuple(settled),
        groups=settlement.groups,
        least=settlement.least,
        most=settlement.most,
        problem=settlement.problem + (_OF_SHARD if is_shard else ""),
        dry_run=dry_run,
    )


async def _open(
    stack: AsyncExitStack, folder: Path, *, dry_run: bool
) -> tuple[SqliteJournal, dict[Doubt, Item]]:
    """Open a journal until the stack ends, and return it with the items that it has in doubt."""
    journal = SqliteJournal(folder)
    await journal.open(begin=not dry_run)
    stack.push_async_callback(journal.aclose)
    if not dry_run:
        await journal.call(partial(recovery.recover, folder=folder))
    return journal, await journal.call(_doubts)


def folders_of(folder: Path) -> list[Path]:
    """Return the folders of a batch's journals: itself, or those of its shards."""
    return [path.parent for path in sorted(folder.glob(f"shard-*/{schema.NAME}"))] or [folder]


def _of_several(settlement: Settlement) -> Settlement:
    """Return what the log of one key says of a batch that others sent too: nothing is free."""
    decisions = tuple(
        attrs.evolve(each, rule=Rule.OTHERS) if each.rule is Rule.FREE else each
        for each in settlement.decisions
    )
    return attrs.evolve(settlement, decisions=decisions, most=max(settlement.most, len(decisions)))


def _doubts(journal: JournalView) -> dict[Doubt, Item]:
    """Return the items that may have been charged, by those of their sends that may."""
    items = {
        item.id: item for item in journal.items((State.UNKNOWN,)) if item.charge is Charge.MAYBE
    }
    sends: defaultdict[bytes, list[Send]] = defaultdict(list)
    for identity, trace in journal.sends():
        if identity in items and trace.charge is Charge.MAYBE:
            sends[identity].append(_send(trace))
    return {
        Doubt(
            id=identity.hex(),
            key=items[identity].idempotency_key,
            sends=tuple(found),
            model=items[identity].row.request.model,
        ): items[identity]
        for identity, found in sends.items()
    }


def _others(journal: JournalView, doubts: Sequence[Doubt]) -> list[KnownCall]:
    """Return every other send within an hour of one of theirs."""
    doubtful = {bytes.fromhex(doubt.id) for doubt in doubts}
    hours = {
        send.at // HOUR + off for doubt in doubts for send in doubt.sends for off in (-1, 0, 1)
    }
    calls = []
    for identity, trace in journal.sends():
        if trace.at // HOUR not in hours or (trace.charge is Charge.MAYBE and identity in doubtful):
            continue
        if (item := journal.find(identity)) is not None:
            key, model = item.idempotency_key, item.row.request.model
            calls.append(KnownCall(send=_send(trace), charge=trace.charge, key=key, model=model))
    return calls


def _send(trace: Trace) -> Send:
    return Send(trace.at, trace.until, trace.request_id)


def _told(item: Item, decision: Decision) -> SettledItem:
    return SettledItem(
        id=item.row.id,
        prompt=item.row.request.prompt,
        charge=decision.charge,
        why=decision.rule.value,
        request_id=decision.request_id,
    )


def _keep(decisions: Iterable[tuple[Item, Decision]], log: str, journal: JournalView) -> None:
    """Keep each decision with its evidence, which comes first."""
    for item, decision in decisions:
        if decision.charge is Charge.MAYBE:
            continue
        told = {"charge": str(decision.charge), "log": log, **attrs.asdict(decision)}
        journal.decided(item, time.time(), json.dumps(told, default=attrgetter("value")))
        item.charge = decision.charge
        if decision.charge is Charge.NO:
            item.state, item.error = after(item.state, Event.CLEARED, Charge.NO), None
            journal.cleared(item)
            continue
        known = decision.request_id
        as_id = f" as {printable(known, 200)}" if known else ""
        item.error = KeptError(
            type="OutcomeUnknownError",
            message=f"By the gateway's log it was charged{as_id}, for {decision.rule.value}: ask "
            "its support for the image, or for the money.",
            charge=Charge.YES,
            idempotency_key=item.idempotency_key,
            request_id=known,
        )
        journal.settled(item)
