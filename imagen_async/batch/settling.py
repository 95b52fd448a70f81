"""Settle what a batch has in doubt by the gateway's own log; nothing is sent but questions."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs

from imagen_async.batch import lists, recovery
from imagen_async.batch.journal import SqliteJournal
from imagen_async.batch.records import KeptError
from imagen_async.batch.states import Event, State, after
from imagen_async.errors import Charge
from imagen_async.policy.evidence import HORIZON, HOUR
from imagen_async.policy.settle import settle as decide
from imagen_async.policy.settlement import Decision, Doubt, KnownCall, Rule, Send
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from imagen_async.batch.ports import JournalView
    from imagen_async.batch.records import Item
    from imagen_async.policy.settlement import Settlement
    from imagen_async.session.core import Core
    from imagen_async.session.record import Trace

_CHARGED: Final = (
    "The gateway's log shows that it was charged{as_id}: ask its support for the image, or for the "
    "money."
)


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
        folder: Of the batch.
        log: The kind of log: ``litellm``, ``aimlapi`` or ``newapi``; None finds out by asking.
        horizon: Seconds after a send from which a missing row means that nothing was charged.
        dry_run: Whether nothing is kept.

    Raises:
        ConfigurationError: If the folder's journal cannot be used, or is of another gateway.
        CallLogError: If the log cannot be read; nothing is settled.
    """
    callers = recovery.check_endpoint(folder, core.config.base_url)
    journal = SqliteJournal(folder)
    await journal.open(begin=not dry_run)
    try:
        if not dry_run:
            await journal.call(partial(recovery.recover, folder=folder))
        doubts, calls = await journal.call(_gather)
        if not doubts:
            return Settled(dry_run=dry_run)
        name, read = await core.read_log(doubts, calls, log)
        settlement = decide(doubts, calls, read, horizon=horizon)
        if not callers <= {core.config.caller}:
            settlement = _of_several(settlement)
        kept = partial(_keep, settlement=settlement, log=name, dry_run=dry_run)
        items = await journal.call(kept)
        if not dry_run:
            await journal.call(partial(lists.rewrite, folder=folder))
    finally:
        await journal.aclose()
    return Settled(
        log=name,
        items=items,
        groups=tuple(map(str, settlement.groups)),
        least=settlement.least,
        most=settlement.most,
        problem=settlement.problem,
        dry_run=dry_run,
    )


def _of_several(settlement: Settlement) -> Settlement:
    """Return what the log of one key says of a batch that others sent too: nothing is free."""
    decisions = [
        attrs.evolve(each, charge=Charge.MAYBE, rule=Rule.OTHERS)
        if each.charge is Charge.NO
        else each
        for each in settlement.decisions
    ]
    return attrs.evolve(
        settlement, decisions=tuple(decisions), most=max(settlement.most, len(decisions))
    )


def _gather(journal: JournalView) -> tuple[list[Doubt], list[KnownCall]]:
    """Return the items in doubt, and every other send within an hour of one of theirs."""
    doubtful = {
        item.id: item for item in journal.items((State.UNKNOWN,)) if item.charge is Charge.MAYBE
    }
    sends: defaultdict[bytes, list[Send]] = defaultdict(list)
    for identity, trace in journal.sends():
        if identity in doubtful and trace.charge is Charge.MAYBE:
            sends[identity].append(_send(trace))
    doubts = [_doubt(doubtful[identity], found) for identity, found in sends.items()]
    hours = {_hour(send.at) for doubt in doubts for send in doubt.sends}
    return doubts, list(_others(journal, frozenset(sends), hours))


def _others(
    journal: JournalView, doubtful: frozenset[bytes], hours: set[float]
) -> Iterator[KnownCall]:
    for identity, trace in journal.sends():
        if trace.charge is Charge.MAYBE and identity in doubtful:
            continue
        hour = _hour(trace.at)
        if hours.isdisjoint((hour - 1, hour, hour + 1)):
            continue
        if (item := journal.find(identity)) is not None:
            yield KnownCall(
                send=_send(trace),
                charge=trace.charge,
                key=item.idempotency_key,
                model=item.row.request.model,
            )


def _doubt(item: Item, sends: Sequence[Send]) -> Doubt:
    return Doubt(
        id=item.id.hex(),
        key=item.idempotency_key,
        sends=tuple(sends),
        model=item.row.request.model,
    )


def _send(trace: Trace) -> Send:
    return Send(trace.at, trace.until, trace.request_id)


def _hour(at: float) -> float:
    return at // HOUR


def _keep(
    journal: JournalView, settlement: Settlement, log: str, *, dry_run: bool
) -> tuple[SettledItem, ...]:
    """Keep each decision with its evidence, and return what became of the items."""
    settled: list[SettledItem] = []
    now = time.time()
    for decision in settlement.decisions:
        item = journal.find(bytes.fromhex(decision.id))
        if item is None:
            continue
        if not dry_run and decision.charge is not Charge.MAYBE:
            _move(journal, item, decision)
            journal.decided(item, now, _evidence(decision, log))
        settled.append(
            SettledItem(
                id=item.row.id,
                prompt=item.row.request.prompt,
                charge=decision.charge,
                why=settlement.problem or decision.rule.value,
                request_id=decision.request_id,
            )
        )
    return tuple(settled)


def _move(journal: JournalView, item: Item, decision: Decision) -> None:
    item.charge = decision.charge
    if decision.charge is Charge.NO:
        item.state, item.error = after(item.state, Event.CLEARED, Charge.NO), None
        journal.cleared(item)
        return
    known = decision.request_id
    message = _CHARGED.format(as_id=f" as {printable(known, 200)}" if known else "")
    item.error = KeptError(
        type="OutcomeUnknownError",
        message=message,
        charge=Charge.YES,
        idempotency_key=item.idempotency_key,
        request_id=known,
    )
    journal.settled(item)


def _evidence(decision: Decision, log: str) -> str:
    rows: list[Any] = [
        attrs.asdict(row, value_serializer=lambda _, __, value: getattr(value, "value", value))
        for row in decision.rows
    ]
    told = {"charge": str(decision.charge), "rule": decision.rule.value, "log": log, "rows": rows}
    return json.dumps(told)
